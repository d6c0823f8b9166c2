//! What the ends of a queue are opened from, and how it reaches another process.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// At most so many descriptors go with one link.
const MOST: usize = 140;

/// Descriptors for both ends, and a name that the near end was given.
#[derive(Debug, Default)]
pub(crate) struct Link {
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) name: String,
    /// What the near end alone needs besides.
    #[cfg(feature = "peers")]
    pub(crate) kept: Option<Box<dyn std::any::Any>>,
}

impl Link {
    pub(crate) fn fds(fds: impl IntoIterator<Item = OwnedFd>) -> Self {
        Self { fds: fds.into_iter().collect(), ..Self::default() }
    }

    /// Sends all of it, and `first` before.
    pub(crate) fn send(&self, first: BorrowedFd<'_>, to: impl AsFd) -> io::Result<()> {
        let mut fds = vec![first];
        fds.extend(self.fds.iter().map(AsFd::as_fd));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::Error::other("too many descriptors for one message"));
        }
        let name = format!("{}\n", self.name);
        sendmsg(to, &[IoSlice::new(name.as_bytes())], &mut control, SendFlags::empty())?;
        Ok(())
    }

    /// What [`send`](Self::send) sent.
    pub(crate) fn recv(from: impl AsFd) -> io::Result<(OwnedFd, Self)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut name = [0; 256];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = recvmsg(from, &mut [IoSliceMut::new(&mut name)], &mut control, flags)?.bytes;
        let name = String::from_utf8_lossy(&name[..got]).trim_end().to_owned();
        let mut fds = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
            _ => Vec::new(),
        });
        let first = fds.next().ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut link = Self::fds(fds);
        link.name = name;
        Ok((first, link))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Fails if the first descriptor is not taken off the others (seen failing).
    #[test]
    fn a_link_arrives_with_its_name_and_descriptors_in_order() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let memfd = |len| {
            let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
            rustix::fs::ftruncate(&fd, len).unwrap();
            fd
        };
        let mut link = Link::fds((1..=65).map(memfd));
        link.name = "name".into();
        link.send(memfd(100).as_fd(), &ours).unwrap();
        let (first, link) = Link::recv(&theirs).unwrap();
        let len = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_size;
        assert_eq!((len(&first), link.name.as_str()), (100, "name"));
        assert!(link.fds.iter().map(len).eq(1..=65));
    }
}
