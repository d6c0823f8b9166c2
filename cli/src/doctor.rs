//! The verdict: how tasks can wait on this machine, why, and what to change.

use std::fmt::Write as _;
use std::io::{self, Write as _, stdout};
use std::process::ExitCode;

use anyhow::Result;
use parkline_uring::{Backend, Unavailable, backend, try_io_uring};

use crate::checks::{self, Check, Container, Mark};

pub(crate) fn run() -> Result<ExitCode> {
    let container = Container::guess();
    let seccomp = checks::has_seccomp();
    let queue = checks::queue();
    let tried = try_io_uring();
    let mut table = vec![checks::kernel()];
    table.extend(queue.iter().cloned());
    table.extend(checks::io_uring(tried));
    table.extend([
        checks::futex_waitv(),
        checks::sysctl(),
        checks::seccomp(),
        checks::container(container),
        checks::memlock(),
        checks::open_files(),
        checks::variable(),
    ]);
    let broken = queue.iter().find(|check| check.mark == Mark::Bad);
    let (code, verdict, changes) = match (broken, backend()) {
        (Some(broken), backend) => {
            (2, format!("unusable: {} fails", broken.name), repairs(broken, backend))
        }
        (None, Backend::IoUring) => {
            (0, "full: tasks wait in io_uring, without a thread of their own".into(), Vec::new())
        }
        (None, Backend::Futex(why)) => (
            1,
            format!(
                "fallback: tasks wait on one helper thread a process, because {}",
                reason(*why)
            ),
            changes(*why, seccomp, container),
        ),
    };
    let mut text = String::new();
    for Check { mark, name, found } in table {
        let mark = match mark {
            Mark::Ok => "ok",
            Mark::Bad => "NO",
            Mark::Note => "-",
        };
        writeln!(text, "{mark:<2}  {name:<16}  {found}")?;
    }
    writeln!(text, "\n{verdict}")?;
    for change in changes {
        writeln!(text, "  * {change}")?;
    }
    match stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::from(code)),
    }
}

fn reason(why: Unavailable) -> &'static str {
    match why {
        Unavailable::Asked => "PARKLINE_BACKEND asks for it",
        Unavailable::Sysctl { .. } => "a sysctl forbids io_uring",
        Unavailable::Forbidden { .. } => "io_uring is forbidden here",
        Unavailable::Memory => "there is no memory for an io_uring",
        Unavailable::Descriptors => "there is no descriptor for an io_uring",
        Unavailable::NoIoUring => "there is no io_uring here",
        Unavailable::NoFutexWait => "this io_uring cannot wait for a futex",
        _ => "io_uring does not do what it should",
    }
}

/// How to let tasks wait in io_uring.
fn changes(why: Unavailable, seccomp: bool, container: Option<Container>) -> Vec<String> {
    let host = if container.is_some() { ", on the host" } else { "" };
    let kernel = "use Linux 6.7 or newer (uname -r tells what runs)".to_owned();
    match why {
        Unavailable::Asked => vec!["unset PARKLINE_BACKEND".into()],
        Unavailable::Sysctl { value } => {
            let mut changes = vec![
                format!("sysctl -w kernel.io_uring_disabled=0{host}"),
                format!(
                    "to keep it: echo kernel.io_uring_disabled=0 > /etc/sysctl.d/60-io_uring.conf{host}"
                ),
            ];
            if value == 1 {
                changes.push(format!(
                    "or for one group only: sysctl -w kernel.io_uring_group=GID{host}, and run in that group"
                ));
            }
            changes
        }
        Unavailable::Memory => vec![
            "ulimit -l unlimited, or in a systemd unit: LimitMEMLOCK=infinity".into(),
            "or free what other processes of this user have locked: the limit is theirs, too"
                .into(),
        ],
        Unavailable::Descriptors => {
            vec!["ulimit -n 65536, or in a systemd unit: LimitNOFILE=65536".into()]
        }
        // A profile answers ENOSYS to calls that it does not know.
        Unavailable::Forbidden { .. } | Unavailable::NoIoUring | Unavailable::NoFutexWait
            if seccomp =>
        {
            let mut changes = vec![profile(container)];
            if !matches!(why, Unavailable::Forbidden { .. }) {
                changes.push(kernel);
            }
            changes
        }
        Unavailable::Forbidden { .. } => vec![
            "no seccomp filter and no sysctl does it: look for a security module, such as \
             SELinux (ausearch -m avc -c parkline)"
                .into(),
        ],
        _ => vec![kernel],
    }
}

fn profile(container: Option<Container>) -> String {
    let calls = "io_uring_setup, io_uring_enter and io_uring_register";
    let how = match container {
        Some(Container::Kubernetes) => {
            "in the pod: securityContext: {seccompProfile: {type: Localhost, localhostProfile: profile.json}}"
        }
        Some(Container::Podman) => "podman run --security-opt seccomp=profile.json",
        Some(Container::Docker) => "docker run --security-opt seccomp=profile.json",
        Some(Container::Other) | None => {
            "docker run --security-opt seccomp=profile.json, or in a systemd unit: SystemCallFilter=@aio"
        }
    };
    format!("allow {calls} in the seccomp profile: {how} (the default profile, with these allowed)")
}

/// How to let a queue be created.
fn repairs(broken: &Check, backend: &Backend) -> Vec<String> {
    match (broken.name, backend) {
        ("sealed memfd", _) => vec![
            "allow memfd_create, fallocate and fcntl in the seccomp profile, if there is one"
                .into(),
            "leave 1 MiB of memory to the control group (memory.max)".into(),
        ],
        ("/proc and locks", _) => vec![
            "mount /proc: mount -t proc proc /proc".into(),
            "allow fcntl's F_OFD_SETLK, if there is a seccomp profile".into(),
            "leave some descriptors: ulimit -n 1024".into(),
        ],
        ("waiting task", Backend::IoUring) => {
            vec!["PARKLINE_BACKEND=futex may work; please report this".into()]
        }
        _ => vec!["please report this".into()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_own_advice() {
        let said = |why, seccomp, container| changes(why, seccomp, container).join("\n");
        let forbidden = Unavailable::Forbidden { errno: 1 };
        assert!(
            said(forbidden, true, Some(Container::Docker)).contains("docker run --security-opt")
        );
        assert!(said(forbidden, true, Some(Container::Kubernetes)).contains("localhostProfile"));
        assert!(said(forbidden, false, None).contains("SELinux"));
        let by_sysctl = said(Unavailable::Sysctl { value: 2 }, true, Some(Container::Docker));
        assert!(by_sysctl.contains("sysctl -w kernel.io_uring_disabled=0, on the host"));
        assert!(!by_sysctl.contains("group"), "2 leaves no group out");
        assert!(said(Unavailable::Sysctl { value: 1 }, false, None).contains("io_uring_group"));
        assert!(said(Unavailable::NoFutexWait, false, None).contains("6.7"));
        assert!(said(Unavailable::Memory, false, None).contains("ulimit -l"));
        assert!(said(Unavailable::Descriptors, false, None).contains("ulimit -n"));
        assert!(said(Unavailable::Asked, false, None).contains("unset PARKLINE_BACKEND"));
    }
}
