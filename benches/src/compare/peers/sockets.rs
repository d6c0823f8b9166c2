//! The kernel's own: Unix SEQPACKET, by blocking calls and over tokio's `AsyncFd`, and pipes.
#![expect(unsafe_code, reason = "tokio has its callers vouch for descriptors")]

use std::io;
use std::os::fd::OwnedFd;

use anyhow::{Result, anyhow, ensure};
use rustix::io::{read, write};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair, sockopt,
};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd as TokioFd;
use zerocopy::{FromBytes, IntoBytes};

use super::super::ends::{BATCH, Bytes, End, Many, OnTokio, Process, Task};
use super::super::link::Link;
use super::super::peer::Peer;
use super::super::spec::Spec;
use super::super::spec::Workload::{Batch, Copy, Crowd, Idle, Oneway, Parked, Roundtrip, Tokio};
use super::super::{crowd, pairs};
use crate::Message;

pub(crate) const PEERS: &[Peer] = &[
    Peer {
        name: "Unix SEQPACKET",
        package: "rustix",
        does: &[
            (&[Oneway, Roundtrip, Parked, Idle], pairs::processes::<SeqPacket>),
            (&[Crowd], crowd::processes::<SeqPacket>),
            (&[Copy], pairs::bytes_between::<SeqPacket>),
        ],
    },
    Peer {
        name: "SEQPACKET over AsyncFd",
        package: "tokio",
        does: &[
            (&[Parked, Idle], pairs::processes::<OnTokio<AsyncFd>>),
            (&[Tokio], pairs::tasks_between::<AsyncFd>),
        ],
    },
    Peer {
        name: "pipe",
        package: "rustix",
        does: &[
            (&[Oneway, Roundtrip, Parked], pairs::processes::<Pipe>),
            (&[Batch], pairs::many_between::<Pipe>),
            (&[Crowd], crowd::processes::<Pipe>),
            (&[Copy], pairs::bytes_between::<Pipe>),
        ],
    },
];

/// Asked for; the kernel gives what `net.core.wmem_max` allows.
const BUFFER: usize = 4 << 20;

fn pair(flags: SocketFlags) -> io::Result<[OwnedFd; 2]> {
    let flags = flags | SocketFlags::CLOEXEC;
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    for end in [&near, &far] {
        if sockopt::set_socket_send_buffer_size_force(end, BUFFER).is_err() {
            sockopt::set_socket_send_buffer_size(end, BUFFER)?;
        }
    }
    Ok([near, far])
}

fn one(link: &Link, index: usize) -> Result<OwnedFd> {
    let fd = link.fds.get(index).ok_or_else(|| anyhow!("no descriptor came"))?;
    Ok(fd.try_clone()?)
}

/// One socket, both ways.
#[derive(Debug)]
struct SeqPacket(OwnedFd);

impl Process for SeqPacket {
    fn create(_: &Spec) -> Result<Link> {
        Ok(Link::fds(pair(SocketFlags::empty())?))
    }

    fn open(link: &mut Link, _: &Spec, near: bool) -> Result<Self> {
        Ok(Self(one(link, usize::from(!near))?))
    }
}

impl End for SeqPacket {
    fn send(&mut self, message: &Message) {
        send(&self.0, message.as_bytes(), SendFlags::empty()).expect("the far end lives");
    }

    fn recv(&mut self) -> Message {
        let mut message = [0; 8];
        recv(&self.0, message.as_mut_bytes(), RecvFlags::empty()).expect("the far end lives");
        message
    }
}

impl Bytes for SeqPacket {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        send(&self.0, bytes, SendFlags::empty())?;
        Ok(())
    }

    fn recv(&mut self, bytes: &mut [u8]) -> Result<()> {
        let len = bytes.len();
        ensure!(recv(&self.0, bytes, RecvFlags::empty())?.0 == len, "a message of another length");
        Ok(())
    }
}

/// A pipe each way.
#[derive(Debug)]
struct Pipe {
    there: OwnedFd,
    back: OwnedFd,
}

impl Process for Pipe {
    fn create(_: &Spec) -> Result<Link> {
        let pipe = || -> io::Result<[OwnedFd; 2]> {
            let (back, there) = pipe_with(PipeFlags::CLOEXEC)?;
            fcntl_setpipe_size(&there, 1 << 20)?;
            Ok([there, back])
        };
        Ok(Link::fds([pipe()?, pipe()?].into_iter().flatten()))
    }

    fn open(link: &mut Link, _: &Spec, near: bool) -> Result<Self> {
        let (there, back) = if near { (0, 3) } else { (2, 1) };
        Ok(Self { there: one(link, there)?, back: one(link, back)? })
    }
}

impl Pipe {
    fn write(&self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            bytes = &bytes[write(&self.there, bytes)?..];
        }
        Ok(())
    }

    fn read(&self, mut bytes: &mut [u8]) -> Result<()> {
        while !bytes.is_empty() {
            let got = read(&self.back, &mut *bytes)?;
            ensure!(got > 0, "the far end is gone");
            bytes = &mut bytes[got..];
        }
        Ok(())
    }
}

/// Of up to 4096 bytes the kernel makes one piece, also among many writers.
impl End for Pipe {
    fn send(&mut self, message: &Message) {
        self.write(message.as_bytes()).expect("the far end lives");
    }

    fn recv(&mut self) -> Message {
        let mut message = [0; 8];
        self.read(message.as_mut_bytes()).expect("the far end lives");
        message
    }
}

impl Many for Pipe {
    fn send_many(&mut self, messages: &[Message]) {
        self.write(messages.as_bytes()).expect("the far end lives");
    }

    fn recv_many(&mut self, into: &mut Vec<Message>) {
        let mut bytes = [0; BATCH * 64];
        let mut got = read(&self.back, &mut bytes).expect("the far end lives");
        let whole = got.next_multiple_of(64);
        self.read(&mut bytes[got..whole]).expect("the far end lives");
        got = whole;
        let messages = <[Message]>::ref_from_bytes(&bytes[..got]);
        if let Ok(messages) = messages {
            into.extend_from_slice(messages);
        } else {
            into.extend(
                bytes[..got].chunks_exact(64).filter_map(|it| Message::read_from_bytes(it).ok()),
            );
        }
    }
}

impl Bytes for Pipe {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.write(bytes)
    }

    fn recv(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.read(bytes)
    }
}

/// A nonblocking SEQPACKET socket that a tokio runtime polls.
#[derive(Debug)]
struct AsyncFd(TokioFd<OwnedFd>);

impl Process for AsyncFd {
    fn create(_: &Spec) -> Result<Link> {
        Ok(Link::fds(pair(SocketFlags::NONBLOCK)?))
    }

    /// Called within a runtime.
    fn open(link: &mut Link, _: &Spec, near: bool) -> Result<Self> {
        // SAFETY: `OwnedFd` gives out the one descriptor that it owns until it is dropped.
        let fd = unsafe { TokioFd::register(one(link, usize::from(!near))?) }?;
        Ok(Self(fd))
    }
}

impl Task for AsyncFd {
    async fn send(&mut self, message: &Message) {
        let send = |fd: &OwnedFd| Ok(send(fd, message.as_bytes(), SendFlags::empty()).map(drop)?);
        self.0.async_io(Interest::WRITABLE, send).await.expect("the far end lives");
    }

    async fn recv(&mut self) -> Message {
        let receive = |fd: &OwnedFd| {
            let mut message = [0; 8];
            recv(fd, message.as_mut_bytes(), RecvFlags::empty())?;
            Ok(message)
        };
        self.0.async_io(Interest::READABLE, receive).await.expect("the far end lives")
    }
}
