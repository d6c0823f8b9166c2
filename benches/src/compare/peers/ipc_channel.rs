//! ipc-channel, by its channels of bytes. They have no bound but the sockets below.

use anyhow::{Result, anyhow, ensure};
use ipc_channel::ipc::{self, IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender};
use zerocopy::{FromBytes, IntoBytes};

use super::super::link::Link;
use super::super::pairs;
use super::super::process::Part;
use super::super::spec::{Outcome, Peer, Spec, Work};
use super::{Bytes, Process, Shape};
use crate::{End, Message};

/// Plays a part of a peer of this file.
pub(crate) fn play(part: Part) -> Result<Outcome> {
    match part.peer_and_work() {
        (Peer::IpcChannel, work) if work.is_awake() || work.is_asleep() => {
            pairs::processes::<IpcChannel>(part)
        }
        (Peer::IpcChannel, Work::Bytes { .. }) => pairs::bytes_between::<IpcChannel>(part),
        _ => part.refuse(),
    }
}

pub(crate) struct IpcChannel {
    there: IpcBytesSender,
    back: IpcBytesReceiver,
}

/// The far end makes both channels and sends the near one's ends.
type Server = IpcOneShotServer<(IpcBytesSender, IpcBytesReceiver)>;

impl Process for IpcChannel {
    fn create(_: &Spec) -> Result<Link> {
        let (server, name) = Server::new()?;
        let mut link = Link::named(&name);
        link.kept = Some(Box::new(server));
        Ok(link)
    }

    fn open(link: &mut Link, near: bool) -> Result<Self> {
        if near {
            let server = link.kept.take().and_then(|kept| kept.downcast::<Server>().ok());
            let server = server.ok_or_else(|| anyhow!("only one end is near"))?;
            let (_, (there, back)) = server.accept()?;
            return Ok(Self { there, back });
        }
        let (there, theirs) = ipc::bytes_channel()?;
        let (their_sender, back) = ipc::bytes_channel()?;
        IpcSender::connect(link.name.clone())?.send((their_sender, theirs))?;
        Ok(Self { there, back })
    }
}

impl End for IpcChannel {
    fn send(&mut self, message: &Message) {
        self.there.send(message.as_bytes()).expect("the far end lives");
    }

    fn recv(&mut self) -> Message {
        let bytes = self.back.recv().expect("the far end lives");
        Message::read_from_bytes(&bytes).expect("64 bytes were sent")
    }
}

impl Bytes for IpcChannel {
    fn create(spec: &Spec, _: Shape) -> Result<Link> {
        <Self as Process>::create(spec)
    }

    fn open(link: &mut Link, _: Shape, near: bool) -> Result<Self> {
        <Self as Process>::open(link, near)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.there.send(bytes)?)
    }

    /// It returns a vector, which is read in place.
    fn recv(&mut self, bytes: &mut [u8]) -> Result<()> {
        let got = self.back.recv().map_err(|error| anyhow!("{error:?}"))?;
        ensure!(got.len() == bytes.len(), "a message of another length");
        bytes[..8].copy_from_slice(&got[..8]);
        Ok(())
    }
}
