//! A client's connection to the server of a name.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::error::MeetError;
use crate::lock::{has_holders, last_server};
use crate::patience::Failed;
use crate::place::{Place, Trusted, candidates, name_uid, own_uid};
use crate::private::Private;
use crate::record::{self, Received};

/// A connection on which the server has not answered yet, or has.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) socket: Arc<Private>,
    pub(crate) place: Place,
    pub(crate) server: String,
}

impl Call {
    /// Connects to the server of a name, without waiting.
    pub(crate) fn begin(name: &str, trusted: Trusted) -> Result<Self, Failed> {
        let mut looked = Vec::new();
        let mut gone = None;
        for candidate in candidates(name)? {
            looked.push(candidate.0.join(&candidate.1));
            let Some(place) = Place::open(&candidate, trusted)? else { continue };
            match dial(&place) {
                Ok(socket) => return Self::check(socket, place, trusted),
                Err(Errno::NOENT) => {}
                Err(Errno::CONNREFUSED) => gone = gone.or(Some(place)),
                // The queue of connections is full.
                Err(Errno::WOULDBLOCK) => return Err(silent(&place)),
                Err(Errno::PROTOTYPE | Errno::NOTSOCK) => {
                    return Err(Failed::ForGood(MeetError::Foreign {
                        from: place.path().display().to_string(),
                        what: "it belongs to another program; take another name".to_owned(),
                    }));
                }
                Err(error) => {
                    return Err(MeetError::os("connect", place.path().display())(error).into());
                }
            }
        }
        Err(match gone {
            None => Failed::until_asked(MeetError::NotServed { name: name.to_owned(), looked }),
            Some(place) => without_server(&place),
        })
    }

    fn check(socket: Private, place: Place, trusted: Trusted) -> Result<Self, Failed> {
        let (pid, uid) = peer(&socket, &place)?;
        if !trusted.has(uid) {
            return Err(Failed::ForGood(MeetError::Stranger {
                path: place.path().to_owned(),
                what: format!(
                    "the server is {}, not a user that this process trusts",
                    name_uid(uid)
                ),
                remedy: "if you know this user, say so with `Connect::trust_uid`",
            }));
        }
        let server = format!("process {pid}, {}", name_uid(uid));
        Ok(Self { socket: Arc::new(socket), place, server })
    }

    /// What the server sent; `None` if it has not sent anything yet.
    pub(crate) fn answer(&self) -> Result<Option<OwnedFd>, Failed> {
        let path = self.place.path();
        match record::receive(&*self.socket, &path.display().to_string()) {
            Ok(Received::Object(object)) => Ok(Some(object)),
            Ok(Received::Refused) => {
                let refused = MeetError::Refused { path: path.to_owned(), uid: own_uid() };
                Err(Failed::ForGood(refused))
            }
            // It died before it accepted the connection, and an heir may follow.
            Ok(Received::End) => Err(without_server(&self.place)),
            Err(MeetError::Os { cause, .. }) if cause.kind() == std::io::ErrorKind::WouldBlock => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Connects without waiting, and checks nothing.
pub(crate) fn dial(place: &Place) -> rustix::io::Result<Private> {
    let address = place.address("").map_err(|_| Errno::NAMETOOLONG)?;
    let make = || {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let kind = SocketType::SEQPACKET;
        Ok(rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?)
    };
    let socket =
        Private::make(make).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address))?;
    Ok(socket)
}

/// The pid and the uid of the other side. Not rustix's `socket_peercred`: a pid has no value 0
/// there, and the kernel says 0 for a process of a pid namespace that this one cannot see.
pub(crate) fn peer(socket: &Private, place: &Place) -> Result<(i32, u32), MeetError> {
    let peer = getsockopt(socket, PeerCredentials)
        .map_err(MeetError::os("getsockopt", place.path().display()))?;
    Ok((peer.pid(), peer.uid()))
}

/// Why a socket without a listener is of no use now.
fn without_server(place: &Place) -> Failed {
    if has_holders(place) {
        Failed::under_way(MeetError::HeirsSilent { path: place.path().to_owned() })
    } else {
        let last = last_server(place);
        Failed::until_asked(MeetError::Gone { path: place.path().to_owned(), last })
    }
}

fn silent(place: &Place) -> Failed {
    Failed::under_way(MeetError::Silent {
        path: place.path().to_owned(),
        server: last_server(place),
        waited: std::time::Duration::ZERO,
    })
}
