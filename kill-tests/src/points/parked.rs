//! A handle that sleeps on a thread of its own until it can send or receive one message.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use anyhow::Result;
use parkline_core::{Receiver, Sender};

use super::victim::LEN;
use crate::asleep::Sleeper;
use crate::message;

/// A survivor: it sleeps beside the victim until it gets the message, or the room, that the victim's
/// death must not keep from it.
pub(crate) enum Survivor {
    Receiver(Receiver),
    Sender(Sender),
}

impl Survivor {
    /// The survivor's thread may not sleep yet when this returns.
    pub(crate) fn sleep(self) -> Result<(JoinHandle<Result<()>>, Sleeper)> {
        let (tell, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            tell.send(Sleeper::this_thread())?;
            match self {
                Self::Receiver(mut receiver) => drop(receiver.recv_blocking()?),
                Self::Sender(mut sender) => sender.send_blocking(&message::of(7, LEN))?,
            }
            Ok(())
        });
        Ok((thread, told.recv()?))
    }
}
