//! What keeps a queue under its name: a server, or an heir that becomes one.
//!
//! It is a state machine that never blocks. A thread or a task of tokio calls [`Keeping::turn`]
//! when its epoll is readable or a pause is over.
//!
//! * **Serving**: holds `jobs.lock`, accepts, sends the descriptor, and keeps the connection until
//!   the client ends it. Nothing is received from a client. A client that hangs costs one
//!   descriptor, and beyond [`MOST_CLIENTS`] none, because the server then ends the connection
//!   itself.
//! * **Watching**: an heir's connection to the server. It ends when the server dies.
//! * **Searching**: the server is gone. The first heir that gets `jobs.lock` serves; the others
//!   connect to it.
//!
//! Which queue the name has is settled by `jobs.heirs`, see `lock.rs`: the server and all heirs
//! hold it together. So each of them may serve, and no process may put another queue in its place.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fs::{AtFlags, FileType, Gid, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
use tracing::warn;

use crate::call::{Call, dial, peer};
use crate::error::MeetError;
use crate::lock::{Lock, last_server, manners};
use crate::object::Object;
use crate::patience::{FIRST_PAUSE, Failed, next_pause};
use crate::place::{Place, Trusted};
use crate::private::Private;
use crate::record;

/// How many connections a server keeps. The others end as soon as their record is sent: a client
/// has all that it needs then, and an heir asks for the lock every 50 ms.
const MOST_CLIENTS: usize = 256;
/// An heir's connection that lived this long was one that the server keeps.
const LASTING: Duration = Duration::from_secs(1);
/// The kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 1024;

const STOP: u64 = 0;
const LISTENER: u64 = 1;
const SERVER: u64 = 2;
const FIRST_CLIENT: u64 = 3;

/// What the owner of a [`Keeping`] has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Wait until the epoll is readable.
    Wait,
    /// The same, for this long at most.
    WaitFor(Duration),
    /// End.
    Stop,
}

pub(crate) struct Keeping {
    role: Role,
    /// The next pause between two attempts.
    pause: Duration,
    /// When the next attempt is due: of an heir to connect, of a server to accept again.
    not_before: Instant,
    /// When to recover again, and the pause before that.
    next_recovery: Option<(Instant, Duration)>,
    /// Whether a failure was reported since it last served or watched.
    has_warned: bool,
    object: OwnedFd,
    recovery: Option<Box<dyn Fn() + Send>>,
    holders: Lock,
    place: Place,
    pub(crate) epoll: Arc<Private>,
    pub(crate) is_serving: Arc<AtomicBool>,
    /// Whether the last turn found an event.
    pub(crate) was_busy: bool,
}

enum Role {
    Serving(Host),
    Watching { server: Arc<Private>, since: Instant },
    Searching,
}

/// What a server has.
struct Host {
    listener: Private,
    clients: HashMap<u64, Private>,
    next_client: u64,
    /// Whether the socket's mode admits other users: then the kernel checks them.
    admits_others: bool,
    /// Whether the listener is out of the epoll, because no descriptor was left.
    is_paused: bool,
    /// Given up last.
    _lock: Lock,
}

impl Keeping {
    /// Begins to serve `object`.
    pub(crate) fn serve<T: Object>(
        name: &str,
        object: &T,
        mode: u32,
        group: Option<Gid>,
    ) -> Result<Self, Failed> {
        let place = Place::create(name)?;
        let lock = Lock::of_server(&place)?;
        if !lock.try_exclusive()? {
            let by = last_server(&place);
            let path = place.path().to_owned();
            return Err(Failed::ForGood(MeetError::InUse { path, by }));
        }
        let holders = Lock::of_holders(&place)?;
        let number = format!("{:032x}", object.number());
        let is_alone = holders.try_exclusive()?;
        if is_alone {
            holders.write(&number)?;
        }
        // The others may hold this very queue: a server whose memfd came back from systemd.
        if !holders.try_shared()? || holders.text() != number {
            return Err(Failed::under_way(MeetError::HeirsSilent {
                path: place.path().to_owned(),
            }));
        }
        let epoll = new_epoll()?;
        let host = Host::begin(&place, lock, &epoll, mode, group)?;
        holders.admit(mode, group);
        Self::new(Role::Serving(host), object, holders, place, epoll).map_err(Failed::ForGood)
    }

    /// Begins to be an heir of the server that answered `call` with `object`.
    pub(crate) fn inherit<T: Object>(call: Call, object: &T) -> Result<Self, Failed> {
        let Call { socket, place, .. } = call;
        if !place.is_writable() {
            return Err(Failed::ForGood(MeetError::os(
                "an heir makes a socket, access",
                place.path().display(),
            )(Errno::ACCESS)));
        }
        let holders = Lock::to_ask(&place)?;
        // The server may have died since it sent the record, and another queue may have the name.
        // From here on, none can get it.
        if !holders.try_shared()? || holders.text() != format!("{:032x}", object.number()) {
            return Err(Failed::under_way(MeetError::HeirsSilent {
                path: place.path().to_owned(),
            }));
        }
        let epoll = new_epoll()?;
        let role = Role::watch(socket, &epoll).map_err(MeetError::os("epoll_ctl", ""))?;
        Self::new(role, object, holders, place, epoll).map_err(Failed::ForGood)
    }

    fn new<T: Object>(
        role: Role,
        object: &T,
        holders: Lock,
        place: Place,
        epoll: Private,
    ) -> Result<Self, MeetError> {
        let is_serving = Arc::new(AtomicBool::new(matches!(role, Role::Serving(_))));
        Ok(Self {
            role,
            pause: FIRST_PAUSE,
            not_before: Instant::now(),
            next_recovery: None,
            has_warned: false,
            object: object.descriptor().map_err(MeetError::os("dup", "the queue"))?,
            recovery: object.recovery(),
            holders,
            place,
            epoll: Arc::new(epoll),
            is_serving,
            was_busy: false,
        })
    }

    /// Makes `turn` return [`Next::Stop`] when `stop` is readable.
    pub(crate) fn stop_at(&self, stop: impl AsFd) -> Result<(), MeetError> {
        epoll::add(&*self.epoll, stop, EventData::new_u64(STOP), EventFlags::IN)
            .map_err(MeetError::os("epoll_ctl", ""))
    }

    /// Waits for events for at most `timeout`, and acts on them.
    pub(crate) fn turn(&mut self, timeout: Option<Duration>) -> Next {
        let timeout = timeout.and_then(|it| it.try_into().ok());
        let mut space = [const { MaybeUninit::uninit() }; 64];
        let events = match epoll::wait(&*self.epoll, &mut space, timeout.as_ref()) {
            Ok((events, _)) => events,
            // Interrupted: as if the time was over.
            Err(_) => &mut [],
        };
        self.was_busy = !events.is_empty();
        let (mut has_client_ended, mut has_paused) = (false, false);
        for event in events {
            match ({ event.data }.u64(), &mut self.role) {
                (STOP, _) => return Next::Stop,
                (LISTENER, Role::Serving(host)) => {
                    host.accept_all(&self.place, &self.object, &self.epoll);
                    has_paused = host.is_paused;
                }
                (SERVER, Role::Watching { server, since }) => {
                    if { event.flags }.intersects(EventFlags::RDHUP | EventFlags::HUP) {
                        // A server that has no room for this heir ends each connection at once.
                        if since.elapsed() > LASTING {
                            self.pause = FIRST_PAUSE;
                        }
                        self.role = Role::Searching;
                        self.put_off();
                    } else {
                        // Its record. Unread, it would count against the server's limits.
                        let _ = record::receive(&**server, "");
                    }
                }
                (client, Role::Serving(host)) => {
                    has_client_ended |= host.clients.remove(&client).is_some();
                }
                _ => {}
            }
        }
        self.recover(has_client_ended);
        let is_due = Instant::now() >= self.not_before;
        let is_put_off = match &mut self.role {
            Role::Serving(host) if host.is_paused && is_due => {
                has_paused || !host.resume(&self.epoll)
            }
            Role::Searching => {
                self.search(is_due);
                is_due
            }
            _ => false,
        };
        if is_put_off {
            self.put_off();
        }
        let attempt = match &self.role {
            Role::Serving(host) if !host.is_paused => None,
            Role::Watching { .. } => None,
            _ => Some(self.not_before),
        };
        let recovery = self.next_recovery.map(|(at, _)| at);
        match [attempt, recovery].into_iter().flatten().min() {
            None => Next::Wait,
            Some(at) => Next::WaitFor(at.saturating_duration_since(Instant::now())),
        }
    }

    /// Recovers what dead clients had. The kernel may free the locks of a dead process some time
    /// after it ended its connections, so this recovers again after 1 ms, 2 ms and so on, up to 1
    /// s.
    fn recover(&mut self, has_client_ended: bool) {
        let Some(recover) = &self.recovery else { return };
        let now = Instant::now();
        let pause = match self.next_recovery {
            _ if has_client_ended => FIRST_PAUSE,
            Some((at, pause)) if at <= now => pause * 2,
            _ => return,
        };
        recover();
        self.next_recovery = (pause <= Duration::from_secs(1)).then_some((now + pause, pause));
    }

    /// Puts the next attempt off, however soon the next call of `turn` is.
    fn put_off(&mut self) {
        self.not_before = Instant::now() + self.pause;
        self.pause = next_pause(self.pause);
    }

    /// Serves, if no other heir was faster; else connects to that one, if that is due.
    fn search(&mut self, is_due: bool) {
        match self.succeed(is_due) {
            Ok(Some(role)) => {
                self.is_serving.store(matches!(role, Role::Serving(_)), Relaxed);
                self.role = role;
                self.has_warned = false;
            }
            Ok(None) => {}
            Err(error) if !self.has_warned => {
                self.has_warned = true;
                warn!("an heir of {} cannot serve it yet: {error}", self.place.path().display());
            }
            Err(_) => {}
        }
    }

    /// The next role; `None` if another heir serves or is about to. Connects to it after a pause
    /// alone: it needs a moment at first, and if it has no room it ends each connection at once.
    fn succeed(&self, is_due: bool) -> Result<Option<Role>, MeetError> {
        let lock = Lock::of_server(&self.place)?;
        if lock.try_exclusive()? {
            let (mode, group) = match manners(&self.place) {
                Some((mode, group)) => (mode, Some(group)),
                None => (0o600, None),
            };
            let host = Host::begin(&self.place, lock, &self.epoll, mode, group)?;
            return Ok(Some(Role::Serving(host)));
        }
        if !is_due {
            return Ok(None);
        }
        match dial(&self.place) {
            Ok(socket) => Role::watch(Arc::new(socket), &self.epoll)
                .map(Some)
                .map_err(MeetError::os("epoll_ctl", self.place.path().display())),
            Err(_) => Ok(None),
        }
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        if self.epoll.is_forked() {
            return;
        }
        // An heir may end after the server did and before it could serve.
        let lock = match &self.role {
            Role::Serving(_) => None,
            _ => match Lock::of_server(&self.place) {
                Ok(lock) if matches!(lock.try_exclusive(), Ok(true)) => Some(lock),
                _ => return,
            },
        };
        // With heirs the socket stays, so that clients find that it is about to be served.
        if matches!(self.holders.try_exclusive(), Ok(true)) {
            let _ =
                rustix::fs::unlinkat(self.place.directory(), self.place.file(""), AtFlags::empty());
        }
        drop(lock);
    }
}

impl Role {
    /// Watches for the end of the server.
    fn watch(server: Arc<Private>, epoll: &Private) -> rustix::io::Result<Self> {
        epoll::add(
            epoll,
            &*server,
            EventData::new_u64(SERVER),
            EventFlags::IN | EventFlags::RDHUP,
        )?;
        Ok(Self::Watching { server, since: Instant::now() })
    }
}

impl Host {
    /// Makes the socket. It appears under its name in one step, ready to accept and with its mode.
    fn begin(
        place: &Place,
        lock: Lock,
        epoll: &Private,
        mode: u32,
        group: Option<Gid>,
    ) -> Result<Self, MeetError> {
        let directory = place.directory();
        let (new, own) = (place.file(".new"), place.file(""));
        if let Ok(about) = rustix::fs::statat(directory, &own, AtFlags::SYMLINK_NOFOLLOW)
            && FileType::from_raw_mode(about.st_mode) != FileType::Socket
        {
            return Err(MeetError::Foreign {
                from: place.path().display().to_string(),
                what: "it is no socket; take another name".to_owned(),
            });
        }
        let os = |call| MeetError::os(call, place.path().display());
        lock.write(&format!("{:010}", std::process::id()))?;
        // Left by a server that died just here.
        let _ = rustix::fs::unlinkat(directory, &new, AtFlags::empty());
        let address = place.address(".new")?;
        let make = || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let kind = SocketType::SEQPACKET;
            Ok(rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?)
        };
        let listener = Private::make(make).map_err(MeetError::os("socket", ""))?;
        rustix::net::bind(&listener, &address).map_err(os("bind"))?;
        rustix::fs::chownat(directory, &new, None, group, AtFlags::empty()).map_err(os("chown"))?;
        rustix::fs::chmodat(directory, &new, Mode::from_raw_mode(mode), AtFlags::empty())
            .map_err(os("chmod"))?;
        // Before this a client is refused, whatever the mode was.
        rustix::net::listen(&listener, BACKLOG).map_err(os("listen"))?;
        rustix::fs::renameat(directory, &new, directory, &own).map_err(os("rename"))?;
        let mut host = Self {
            listener,
            clients: HashMap::new(),
            next_client: FIRST_CLIENT,
            admits_others: mode & 0o077 != 0,
            is_paused: true,
            _lock: lock,
        };
        host.resume(epoll);
        Ok(host)
    }

    /// Whether it accepts again.
    fn resume(&mut self, epoll: &Private) -> bool {
        let listener = EventData::new_u64(LISTENER);
        self.is_paused = epoll::add(epoll, &self.listener, listener, EventFlags::IN).is_err();
        !self.is_paused
    }

    fn accept_all(&mut self, place: &Place, object: &OwnedFd, epoll: &Private) {
        // A bound, so that clients who come and go do not keep this from other events.
        for _ in 0..64 {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let accept = || Ok(rustix::net::accept_with(&self.listener, flags)?);
            match Private::make(accept) {
                Ok(client) => self.welcome(client, place, object, epoll),
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::WOULDBLOCK) => return,
                    Some(Errno::INTR | Errno::CONNABORTED) => {}
                    // No descriptor or no memory is left. A client that hangs may have one.
                    _ => {
                        if let Some(&oldest) = self.clients.keys().min() {
                            self.clients.remove(&oldest);
                        } else {
                            let _ = epoll::delete(epoll, &self.listener);
                            self.is_paused = true;
                            return;
                        }
                    }
                },
            }
        }
    }

    /// Answers a client. The record fits into the empty buffer of its socket, so this does not
    /// wait.
    fn welcome(&mut self, client: Private, place: &Place, object: &OwnedFd, epoll: &Private) {
        let Ok((_, uid)) = peer(&client, place) else { return };
        let is_admitted = self.admits_others || Trusted::default().has(uid);
        let answer = is_admitted.then(|| object.as_fd());
        if record::send(&client, answer, SendFlags::DONTWAIT).is_err() || !is_admitted {
            return;
        }
        let id = self.next_client;
        if self.clients.len() < MOST_CLIENTS
            && epoll::add(epoll, &client, EventData::new_u64(id), EventFlags::RDHUP).is_ok()
        {
            self.next_client += 1;
            self.clients.insert(id, client);
        }
    }
}

fn new_epoll() -> Result<Private, MeetError> {
    let make = || Ok(epoll::create(epoll::CreateFlags::CLOEXEC)?);
    Private::make(make).map_err(MeetError::os("epoll_create", ""))
}

#[cfg(test)]
mod tests {
    use parkline_core::{OpenOptions, Queue};

    use super::*;

    /// Fails if an heir for which the server has no room connects without a pause (seen failing
    /// with the pause begun anew at each connection).
    #[test]
    fn an_heir_without_room_pauses_longer_and_longer() {
        let directory = tempfile::tempdir().unwrap();
        let name = directory.path().join("jobs").display().to_string();
        let queue = Queue::builder().create().unwrap();
        let mut server = Keeping::serve(&name, &queue, 0o600, None).ok().unwrap();
        let call = Call::begin(&name, Trusted::default()).unwrap();
        server.turn(None);
        call.answer().unwrap().unwrap();
        let mut heir = Keeping::inherit(call, &queue).ok().unwrap();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            pauses.push(heir.pause);
            let Role::Serving(host) = &mut server.role else { panic!("it serves") };
            host.clients.clear();
            heir.turn(None);
            assert!(matches!(heir.role, Role::Searching), "the server has the lock");
            // A turn that comes early does not connect.
            let due = heir.not_before;
            heir.not_before += Duration::from_secs(3600);
            assert!(matches!(heir.turn(Some(Duration::ZERO)), Next::WaitFor(_)));
            heir.not_before = due;
            while heir.turn(Some(Duration::from_millis(1))) != Next::Wait {}
            server.turn(None);
            // The record.
            assert_eq!(heir.turn(None), Next::Wait);
        }
        assert!(pauses.is_sorted(), "{pauses:?}");
        assert_eq!(pauses.last(), Some(&Duration::from_millis(50)));
    }

    /// Fails if a client becomes an heir of a server that died before it could, while another queue
    /// has the name (seen failing with the text of the lock left uncompared).
    #[test]
    fn no_client_is_an_heir_of_a_queue_that_lost_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let name = directory.path().join("jobs").display().to_string();
        let serve = |queue: &Queue| Keeping::serve(&name, queue, 0o600, None);
        let (first, second) =
            (Queue::builder().create().unwrap(), Queue::builder().create().unwrap());
        let mut server = serve(&first).ok().unwrap();
        let call = Call::begin(&name, Trusted::default()).unwrap();
        assert_eq!(server.turn(None), Next::Wait);
        let sent = call.answer().unwrap().unwrap();
        let sent: Queue = Queue::open_with(sent, OpenOptions::default()).unwrap();
        assert_eq!(sent.id(), first.id());
        // As if it was killed: the socket stays.
        let Keeping { role, holders, .. } = &mut server;
        *role = Role::Searching;
        *holders = Lock::to_ask(&call.place).unwrap();
        let _server = serve(&second).ok().unwrap();
        let inherited = Keeping::inherit(call, &sent);
        assert!(matches!(inherited, Err(Failed::NotYet { is_under_way: true, .. })));
    }
}
