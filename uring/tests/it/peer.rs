//! Another process: this test binary again, by exec, with the queues' descriptors inherited.

use std::env;
use std::fmt::Display;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use parkline_uring::{Message, Queue};

const ROLE: &str = "PARKLINE_TEST_ROLE";
const FIRST_FD: i32 = 10;

/// A child process; killed when it is dropped before it has ended.
pub(crate) struct Peer(pub(crate) Child);

impl Peer {
    /// Starts a process in `role`, which finds the queues by [`inherited`] in this order.
    pub(crate) fn start(role: &str, queues: &[&dyn AsFd]) -> Self {
        Self(Self::prepare(role, queues).spawn().unwrap())
    }

    /// What starts it.
    pub(crate) fn prepare(role: &str, queues: &[&dyn AsFd]) -> Command {
        let mappings = (FIRST_FD..).zip(queues).map(|(child_fd, queue)| FdMapping {
            parent_fd: queue.as_fd().try_clone_to_owned().unwrap(),
            child_fd,
        });
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["peer::child", "--exact", "--ignored", "--nocapture"]);
        command.env(ROLE, role).stdin(Stdio::null()).stdout(Stdio::null());
        command.fd_mappings(mappings.collect()).unwrap();
        command
    }

    pub(crate) fn assert_success(mut self) {
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A case that the machine refuses: fails if the environment says that it must be there.
pub(crate) fn not_tried(what: &str, why: &dyn Display) {
    let required = env::var("PARKLINE_REQUIRE").unwrap_or_default();
    let is_required = required.split(',').any(|it| it.trim() == what);
    assert!(!is_required, "{what} must be there: {why}");
    println!("not tried: {what}: {why}");
}

/// What the parent passed at place `n`.
#[expect(unsafe_code, reason = "takes over inherited descriptors")]
pub(crate) fn inherited_fd(n: i32) -> OwnedFd {
    // SAFETY: the parent mapped its queues to these numbers, and each is taken once.
    unsafe { OwnedFd::from_raw_fd(FIRST_FD + n) }
}

/// The queue that the parent passed at place `n`.
pub(crate) fn inherited<M: Message + ?Sized>(n: i32) -> Queue<M> {
    Queue::open_typed(inherited_fd(n)).unwrap()
}

#[test]
#[ignore = "the child process of other tests"]
fn child() {
    match env::var(ROLE).as_deref() {
        Ok("ten_thousand_tasks") => crate::many_tasks::child(),
        Ok("cancelling") => crate::cancel::child(),
        Ok("lease_and_hang") => crate::deaths::child(),
        Ok("lease and obey") => crate::the_end::child(),
        Ok("receive again") => crate::owed::receive_again(),
        Ok("hold back") => crate::owed::hold_back(),
        Ok("acquire and obey") => crate::permits::child(),
        Ok("acquire and hang") => crate::signals::child(),
        Ok("fork with rings") => crate::forked::child(),
        Ok("cancelled unasked") => crate::traps::cancelled_unasked(),
        Ok("interrupted") => crate::traps::interrupted(),
        Ok("bare runtimes") => crate::coop::bare_runtimes(),
        Ok("many pids") => crate::pids::many_pids(),
        Ok("not named any more") => crate::pids::not_named_any_more(),
        Ok("shared places") => crate::pids::shared_places(),
        Ok("impossible pids") => crate::pids::impossible_pids(),
        Ok("idle") => crate::pids::idle(),
        Ok("zombies") => crate::pids::zombies(),
        Ok("one more death") => crate::pids::one_more_death(),
        Ok("scribbled pids") => crate::pids::scribbled_pids(),
        Ok("scribbler") => crate::pids::scribbler(),
        Ok("a namesake") => crate::pids::a_namesake(),
        Ok("init of a namespace") => crate::pids::init_of_a_namespace(),
        Ok("quiet") => crate::pids::quiet(),
        Ok("no calls") => crate::refusals::no_calls(),
        Ok("no rings") => crate::deprived::no_rings(),
        Ok("no ring and no thread") => crate::deprived::no_ring_and_no_thread(),
        Ok(role) if role.starts_with("deprived of ") => {
            crate::deprived::child(role.trim_start_matches("deprived of "));
        }
        Ok("echo") => crate::runtimes::child(),
        Ok(role) if role.starts_with("worker in ") => {
            crate::endings::child(role.trim_start_matches("worker in "));
        }
        Ok(role) => crate::refusals::child(role),
        Err(_) => {}
    }
}
