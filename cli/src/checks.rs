//! The checks of `doctor`. A check tries the thing itself if it can. It reads settings only to
//! explain a refusal.

use std::env;
use std::fs;
use std::future::poll_fn;
use std::path::Path;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use parkline_uring::{AsyncReceiver, Queue, Receiver, Sender, Unavailable, block_on};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit};
use rustix::thread::ClockId;
use rustix::thread::futex::{self, WaitvFlags};

use crate::told::tell;

/// One line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    pub(crate) mark: Mark,
    pub(crate) name: &'static str,
    pub(crate) found: String,
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Ok,
    Bad,
    /// Good or bad only together with other checks.
    Note,
}

fn ok(name: &'static str, found: impl Into<String>) -> Check {
    Check { mark: Mark::Ok, name, found: found.into() }
}

fn bad(name: &'static str, found: impl Into<String>) -> Check {
    Check { mark: Mark::Bad, name, found: found.into() }
}

fn note(name: &'static str, found: impl Into<String>) -> Check {
    Check { mark: Mark::Note, name, found: found.into() }
}

/// Which kernel this is.
pub(crate) fn kernel() -> Check {
    note("kernel", rustix::system::uname().release().to_string_lossy())
}

/// The things that a queue needs, tried with a queue. Stops at the first that is missing.
pub(crate) fn queue() -> Vec<Check> {
    // The watchdog is so late that only a wake ends the sleep.
    let asked = Queue::builder().capacity(1).handles(2).watchdog(Duration::from_secs(3600));
    let queue = match asked.create() {
        Ok(queue) => queue,
        Err(error) => return vec![bad("sealed memfd", error.to_string())],
    };
    let mut checks = vec![ok("sealed memfd", "created, with its memory")];
    let again = queue.try_clone_fd().context("no descriptor");
    let opened = again.and_then(|fd| Ok(Queue::open(fd)?));
    let handles = opened.and_then(|same| Ok((queue.sender()?, same.receiver()?)));
    let (mut sender, mut receiver) = match handles {
        Ok(handles) => handles,
        Err(error) => {
            checks.push(bad("/proc and locks", tell(&error)));
            return checks;
        }
    };
    checks.push(ok("/proc and locks", "opened again, two handles attached"));
    let carried = (|| {
        sender.try_send(b"hello")?;
        ensure!(receiver.try_recv()? == b"hello", "another message arrived");
        Ok(())
    })();
    match carried {
        Ok(()) => checks.push(ok("message", "sent and received")),
        Err(error) => {
            checks.push(bad("message", tell(&error)));
            return checks;
        }
    }
    checks.push(match wake(sender, receiver) {
        Ok(threads) => {
            ok("waiting task", format!("woken; threads of the process meanwhile: {threads}"))
        }
        Err(error) => bad("waiting task", tell(&error)),
    });
    checks
}

/// Has a task wait, and wakes it. Returns how many threads the process has while it waits.
fn wake(mut sender: Sender, mut receiver: Receiver) -> Result<usize> {
    // No spin: the task waits in the kernel at once.
    receiver.set_spin(Duration::ZERO);
    block_on(async {
        let mut waiting = pin!(receiver.recv_timeout(Duration::from_secs(5)));
        let polled = poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx))).await;
        ensure!(polled.is_pending(), "there was nothing to receive, and it did not wait");
        let threads = fs::read_dir("/proc/self/task")?.count();
        sender.try_send(b"wake")?;
        ensure!(waiting.await.context("not woken")? == b"wake", "another message arrived");
        Ok(threads)
    })
}

/// The steps to a wait in io_uring, up to the first that fails.
pub(crate) fn io_uring(tried: Result<(), Unavailable>) -> [Check; 3] {
    let names = ["io_uring", "FUTEX_WAIT in it", "a trial of it"];
    let untried = |name| note(name, "not reached");
    let [setup, opcode, trial] = names;
    match tried {
        Ok(()) => [ok(setup, "set up"), ok(opcode, "supported"), ok(trial, "answers as it should")],
        Err(why @ Unavailable::NoFutexWait) => {
            [ok(setup, "set up"), bad(opcode, why.to_string()), untried(trial)]
        }
        Err(why @ Unavailable::Trial { .. }) => {
            [ok(setup, "set up"), ok(opcode, "supported"), bad(trial, why.to_string())]
        }
        Err(why) => [bad(setup, why.to_string()), untried(opcode), untried(trial)],
    }
}

/// Whether the fallback can sleep until it is woken.
pub(crate) fn futex_waitv() -> Check {
    // A kernel that has the call refuses an empty list as invalid.
    match futex::waitv(&[], WaitvFlags::empty(), None, ClockId::Monotonic) {
        Err(Errno::INVAL) => ok("futex_waitv", "there, for the fallback"),
        Err(errno) => bad(
            "futex_waitv",
            format!("refused ({errno}): the fallback has to look every millisecond"),
        ),
        Ok(_) => note("futex_waitv", "an unexpected answer"),
    }
}

/// Settings that can forbid io_uring.
pub(crate) fn sysctl() -> Check {
    let name = "io_uring sysctl";
    let read = |setting: &str| {
        fs::read_to_string(Path::new("/proc/sys/kernel").join(setting))
            .map(|it| it.trim().to_owned())
    };
    let group = read("io_uring_group").unwrap_or_default();
    match read("io_uring_disabled").as_deref() {
        Ok("0") => ok(name, "kernel.io_uring_disabled = 0"),
        Ok("1") => note(
            name,
            format!("kernel.io_uring_disabled = 1: only CAP_SYS_ADMIN and group {group} may"),
        ),
        Ok(value) => bad(name, format!("kernel.io_uring_disabled = {value}: nobody may")),
        Err(_) => {
            note(name, "kernel.io_uring_disabled is not there (older than 6.6, or no /proc/sys)")
        }
    }
}

/// Whether a seccomp filter is between this process and the kernel.
pub(crate) fn has_seccomp() -> bool {
    status("Seccomp").is_some_and(|mode| mode == "2")
}

/// The seccomp line.
pub(crate) fn seccomp() -> Check {
    let found = match status("Seccomp").as_deref() {
        None => "unknown: /proc/self/status does not tell".into(),
        Some("0") => "no filter".into(),
        Some("2") => {
            let filters = status("Seccomp_filters").unwrap_or_else(|| "some".into());
            format!("{filters} filter(s) decide which system calls are allowed")
        }
        Some(mode) => format!("mode {mode}"),
    };
    note("seccomp", found)
}

fn status(key: &str) -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(value.trim().to_owned())
}

/// The container that this process seems to run in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Container {
    Kubernetes,
    Docker,
    Podman,
    Other,
}

impl Container {
    pub(crate) fn guess() -> Option<Self> {
        if env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
            Some(Self::Kubernetes)
        } else if Path::new("/run/.containerenv").exists() {
            Some(Self::Podman)
        } else if Path::new("/.dockerenv").exists() {
            Some(Self::Docker)
        } else {
            env::var_os("container").map(|_| Self::Other)
        }
    }
}

/// The container line.
pub(crate) fn container(guess: Option<Container>) -> Check {
    note(
        "container",
        match guess {
            None => "no sign of one",
            Some(Container::Kubernetes) => "Kubernetes",
            Some(Container::Docker) => "Docker",
            Some(Container::Podman) => "Podman",
            Some(Container::Other) => "one of some kind",
        },
    )
}

/// The memory that a process may lock.
pub(crate) fn memlock() -> Check {
    let bytes =
        |limit: Option<u64>| limit.map_or("unlimited".into(), |it| format!("{} KiB", it >> 10));
    let Rlimit { current, maximum } = getrlimit(Resource::Memlock);
    note("locked memory", format!("limit {}, at most {}", bytes(current), bytes(maximum)))
}

/// The descriptors that a process may have.
pub(crate) fn open_files() -> Check {
    let count = |limit: Option<u64>| limit.map_or("unlimited".into(), |it| it.to_string());
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let used = fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count().saturating_sub(1));
    let (limit, most) = (count(current), count(maximum));
    note("descriptors", format!("{used} in use, limit {limit}, at most {most}"))
}

/// The backend that the environment asks for.
pub(crate) fn variable() -> Check {
    let name = "PARKLINE_BACKEND";
    let Some(found) = env::var_os(name) else { return note(name, "not set") };
    match found.to_str() {
        Some(known @ ("io_uring" | "futex")) => note(name, known),
        _ => bad(name, format!("{found:?} is not known and does nothing; io_uring and futex are")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_to_io_uring_end_at_the_one_that_failed() {
        let marks = |tried| io_uring(tried).map(|check| check.mark);
        use Mark::{Bad, Note, Ok as Good};
        assert_eq!(marks(Ok(())), [Good, Good, Good]);
        assert_eq!(marks(Err(Unavailable::Memory)), [Bad, Note, Note]);
        assert_eq!(marks(Err(Unavailable::NoFutexWait)), [Good, Bad, Note]);
        assert_eq!(marks(Err(Unavailable::Trial { answer: -22 })), [Good, Good, Bad]);
    }
}
