//! What goes over a socket: one record of 16 bytes, with the descriptor beside it.
//!
//! Only the server sends. So it parses nothing that a client wrote, and it never waits for a
//! client: the record lies in the socket until the client takes it, or until it goes.
//!
//! | bytes | what |
//! |---|---|
//! | 0-7 | `parkmeet` |
//! | 8-11 | the version of this record, 1 (little-endian) |
//! | 12-15 | the answer: 0 with the descriptor, 1 not admitted |
//!
//! What the descriptor holds is not in the record, because the opener checks the memfd itself.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::error::MeetError;

const MAGIC: [u8; 8] = *b"parkmeet";
const VERSION: u32 = 1;
const HERE: u32 = 0;
const REFUSED: u32 = 1;

/// What came.
#[derive(Debug)]
pub(crate) enum Received {
    Object(OwnedFd),
    /// The server does not admit this user.
    Refused,
    /// The other side closed the connection before it sent anything.
    End,
}

/// Sends `object`, or the refusal.
pub(crate) fn send(
    socket: impl AsFd,
    object: Option<BorrowedFd<'_>>,
    flags: SendFlags,
) -> rustix::io::Result<()> {
    let answer = if object.is_some() { HERE } else { REFUSED };
    let mut record = [0; 16];
    record[..8].copy_from_slice(&MAGIC);
    record[8..12].copy_from_slice(&VERSION.to_le_bytes());
    record[12..].copy_from_slice(&answer.to_le_bytes());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(object) = &object {
        control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(object)));
    }
    let flags = flags | SendFlags::NOSIGNAL;
    rustix::io::retry_on_intr(|| {
        sendmsg(&socket, &[IoSlice::new(&record)], &mut control, flags).map(drop)
    })
}

/// Receives what [`send`] sent. `from` names the other side in errors.
pub(crate) fn receive(socket: impl AsFd, from: &str) -> Result<Received, MeetError> {
    let mut record = [0; 16];
    // Further descriptors, which no server of ours sends, find no room and are closed.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::io::retry_on_intr(|| {
        let into = &mut [IoSliceMut::new(&mut record)];
        recvmsg(&socket, into, &mut control, RecvFlags::CMSG_CLOEXEC)
    });
    let got = match got {
        // A server that ends with clients in its backlog resets them.
        Err(Errno::CONNRESET) => return Ok(Received::End),
        got => got.map_err(MeetError::os("recvmsg", from))?,
    };
    let mut object = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            descriptors.for_each(|it| object = object.take().or(Some(it)));
        }
    }
    let foreign = |what: String| Err(MeetError::Foreign { from: from.to_owned(), what });
    if got.bytes == 0 {
        return Ok(Received::End);
    }
    if got.bytes != record.len() || got.flags.contains(ReturnFlags::TRUNC) || record[..8] != MAGIC {
        return foreign("this is no server of parkline; is the path right?".to_owned());
    }
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| record[at + byte]));
    match (word(8), word(12), object) {
        (VERSION, REFUSED, _) => Ok(Received::Refused),
        (VERSION, HERE, Some(object)) => Ok(Received::Object(object)),
        // The kernel drops a descriptor for which the receiver has no number left.
        (VERSION, HERE, None) if got.flags.contains(ReturnFlags::CTRUNC) => {
            let cause: io::Error = Errno::MFILE.into();
            Err(MeetError::os("recvmsg", from)(cause))
        }
        (VERSION, ..) => foreign("the record has no descriptor; its sender is broken".to_owned()),
        (theirs, ..) => foreign(format!(
            "it speaks version {theirs} of the meeting record, this program version {VERSION}; use the same version of parkline-meet in both"
        )),
    }
}
