//! `parkline doctor`: its exit code is for scripts, its words are for people.

use crate::required::not_tried;
use crate::{parkline, run, run_refused, text};

const SYS_MEMFD_CREATE: i64 = libc::SYS_memfd_create;
const SYS_IO_URING_SETUP: i64 = 425;
const SYS_IO_URING_REGISTER: i64 = 427;
const SYS_FUTEX_WAITV: i64 = 449;

/// Fails if the verdict of io_uring is that of the fallback (seen failing).
#[test]
fn it_finds_what_the_library_finds() {
    let output = run(parkline(&["doctor"]));
    let said = text(&output.stdout);
    match parkline_uring::try_io_uring() {
        Ok(()) => {
            assert_eq!(output.status.code(), Some(0), "{said}");
            assert!(said.contains("\nfull: "), "{said}");
            assert!(!said.contains("NO "), "{said}");
        }
        Err(why) => {
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains(&why.to_string()), "{said}");
        }
    }
    assert!(output.stderr.is_empty());
}

/// Fails if the verdict is about what could be used, not what will be (seen failing).
#[test]
fn the_fallback_is_1_also_when_it_was_asked_for() {
    let mut command = parkline(&["doctor"]);
    command.env("PARKLINE_BACKEND", "futex");
    let output = run(command);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("\nfallback: "), "{said}");
    assert!(said.contains("unset PARKLINE_BACKEND"), "{said}");
    assert!(said.contains("threads of the process meanwhile: 2"), "{said}");
}

/// Fails if seccomp is not looked at (seen failing).
#[test]
fn a_seccomp_profile_without_io_uring_is_1_and_it_says_what_to_allow() {
    // Refused already, it is not the profile that the doctor finds.
    if let Err(why) = parkline_uring::try_io_uring() {
        return not_tried("io_uring", why);
    }
    for call in [SYS_IO_URING_SETUP, SYS_IO_URING_REGISTER] {
        let output = run_refused(parkline(&["doctor"]), &[call]);
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("io_uring_register in the seccomp profile"), "{said}");
        assert!(said.contains("ok  futex_waitv"), "{said}");
    }
}

/// The rule for containers allows just what is needed: with it alone all is there, and with any
/// call of it refused it is not.
///
/// Fails if a call is left out of the rule, or one too many is in it (each seen failing).
#[test]
fn the_seccomp_rule_allows_all_that_is_needed_and_nothing_else() {
    if let Err(why) = parkline_uring::try_io_uring() {
        return not_tried("io_uring", why);
    }
    let rule: serde_json::Value =
        serde_json::from_str(include_str!("../../../seccomp/io_uring.json")).unwrap();
    assert_eq!(rule["action"], "SCMP_ACT_ALLOW");
    let names = rule["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
    let allowed: Vec<_> = names.map(number_of).collect();
    let doctor = |refused: &[i64]| run_refused(parkline(&["doctor"]), refused).status.code();
    let all_others: Vec<_> = IO_URING.filter(|call| !allowed.contains(call)).collect();
    assert_eq!(doctor(&all_others), Some(0));
    for call in allowed {
        assert_eq!(doctor(&[call]), Some(1), "{call} is not needed");
    }
}

/// The numbers of all calls that are about io_uring.
const IO_URING: std::ops::RangeInclusive<i64> = SYS_IO_URING_SETUP..=SYS_IO_URING_REGISTER;

fn number_of(name: &str) -> i64 {
    match name {
        "io_uring_setup" => SYS_IO_URING_SETUP,
        "io_uring_enter" => 426,
        "io_uring_register" => SYS_IO_URING_REGISTER,
        other => panic!("{other} is no call of io_uring"),
    }
}

/// Fails if any error of `futex_waitv` counts as its being there (seen failing).
#[test]
fn the_fallback_without_futex_waitv_is_still_1() {
    let calls = [SYS_IO_URING_SETUP, SYS_FUTEX_WAITV];
    let output = run_refused(parkline(&["doctor"]), &calls);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("NO  futex_waitv"), "{said}");
}

/// Fails if the verdict does not heed the trial queue (seen failing).
#[test]
fn no_queue_at_all_is_2() {
    let output = run_refused(parkline(&["doctor"]), &[SYS_MEMFD_CREATE]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("NO  sealed memfd"), "{said}");
    assert!(said.contains("\nunusable: "), "{said}");
}
