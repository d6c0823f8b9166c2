//! ipc-channel, by its channels of bytes. They have no bound but the sockets below.

use anyhow::{Result, anyhow, ensure};
use ipc_channel::ipc::{self, IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender};
use zerocopy::{FromBytes, IntoBytes};

use super::super::ends::{Bytes, End, Process};
use super::super::link::Link;
use super::super::pairs;
use super::super::peer::Peer;
use super::super::spec::Spec;
use super::super::spec::Workload::{Copy, Oneway, Parked, Roundtrip};
use crate::Message;

pub(crate) const PEERS: &[Peer] = &[Peer {
    name: "ipc-channel",
    package: "ipc-channel",
    does: &[
        (&[Oneway, Roundtrip, Parked], pairs::processes::<IpcChannel>),
        (&[Copy], pairs::bytes_between::<IpcChannel>),
    ],
}];

struct IpcChannel {
    there: IpcBytesSender,
    back: IpcBytesReceiver,
}

/// The far end makes both channels and sends the near one's ends.
type Server = IpcOneShotServer<(IpcBytesSender, IpcBytesReceiver)>;

impl Process for IpcChannel {
    fn create(_: &Spec) -> Result<Link> {
        let (server, name) = Server::new()?;
        Ok(Link { name, kept: Some(Box::new(server)), ..Link::default() })
    }

    fn open(link: &mut Link, _: &Spec, near: bool) -> Result<Self> {
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
