//! Processes that can open nothing any more: one that left `/proc` by `chroot`, and one that has used
//! up its descriptors. They hear of the dead all the same.

use std::fs::File;
use std::io;
use std::thread;
use std::time::Duration;

use parkline_core::{AttachError, Queue, Recovered};
use rustix::process::{Resource, Rlimit, chroot, getrlimit, setrlimit};

use crate::player::{HOUR, Player, say, until_somebody_waits};
use crate::required::not_tried;

const SOON: Duration = Duration::from_millis(5);
const CHROOT: u32 = 0;
const DESCRIPTORS: u32 = 1;
const DEAD: usize = 1000;

/// What `how` leaves open.
fn deprive(how: u32) -> io::Result<Vec<File>> {
    if how == CHROOT {
        // No file can be opened there.
        chroot("/proc/self/fdinfo")?;
        return Ok(Vec::new());
    }
    let null = File::open("/dev/null")?;
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: most })?;
    let mut all = vec![null];
    while let Ok(more) = all[0].try_clone() {
        all.push(more);
    }
    Ok(all)
}

/// Waits for a job although nothing can be opened.
pub(crate) fn wait(queue: &Queue, how: u32) {
    let mut receiver = queue.receiver().unwrap();
    let _open = match deprive(how) {
        Ok(open) => open,
        Err(error) => return say(format_args!("not tried: {error}")),
    };
    let refused = queue.sender().unwrap_err();
    assert!(matches!(refused, AttachError::Proc { .. }), "{refused:?}");
    say(refused);
    let job = receiver.lease_blocking().unwrap();
    assert!(job.redelivered());
    say(String::from_utf8(job.read().unwrap()).unwrap());
    job.ack();
}

fn survive(how: u32, remedy: &str) {
    let queue = Queue::builder().capacity(2).max_message(8).watchdog(SOON).create().unwrap();
    queue.sender().unwrap().try_send(b"job").unwrap();
    let mut holder = Player::start(&queue, "lease and hang", 0);
    assert_eq!(holder.says().as_deref(), Some("ready"));
    // Arriving later it would wake the waiter.
    let side = queue.receiver().unwrap().side();
    let mut waiter = Player::start(&queue, "wait deprived", how);
    let refused = waiter.says().unwrap();
    if refused.starts_with("not tried") {
        return not_tried("chroot", refused);
    }
    assert!(refused.contains(remedy), "{refused}");
    until_somebody_waits(&side);
    holder.kill();
    assert_eq!(waiter.says().as_deref(), Some("job"));
    assert!(waiter.process.wait().unwrap().success());
}

/// Fails if no description is kept for this (seen failing: it waits for ever).
#[test]
fn a_waiter_that_left_proc_by_chroot_gets_what_the_killed_had() {
    survive(CHROOT, "before `chroot`");
}

/// Fails if no description is kept for this (seen failing: it waits for ever).
#[test]
fn a_waiter_that_used_up_its_descriptors_gets_what_the_killed_had() {
    survive(DESCRIPTORS, "ulimit -n");
}

/// Recovers in four threads at once, which have one description.
pub(crate) fn recover(queue: &Queue) {
    let _open = deprive(DESCRIPTORS).unwrap();
    let recover = || {
        let mut sum = 0;
        loop {
            let Recovered { messages, postponed, unseen, .. } = queue.recover().unwrap();
            sum += messages;
            if postponed == 0 && unseen == 0 {
                return sum;
            }
        }
    };
    let sums = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(recover)).collect();
        threads.into_iter().map(|it| it.join().unwrap()).collect::<Vec<usize>>()
    });
    say(sums.iter().sum::<usize>());
}

/// Fails if two audits go through one description at once (seen failing: 1,101 messages): the
/// kernel grants both of them the lock of a record.
#[test]
fn one_audit_at_a_time_goes_through_the_spare_description() {
    for _ in 0..4 {
        let queue = Queue::builder().capacity(2 * DEAD).max_message(8).handles(DEAD + 8).leases(2);
        let queue = queue.watchdog(HOUR).create().unwrap();
        let mut dead = Player::start(&queue, "lease many and hang", DEAD as u32);
        assert_eq!(dead.says().as_deref(), Some("ready"));
        dead.kill();
        let mut auditor = Player::start(&queue, "recover deprived", 0);
        assert_eq!(auditor.says(), Some(DEAD.to_string()));
        assert_eq!((queue.len(), queue.stats().recovered), (DEAD, DEAD as u64));
    }
}
