//! What to do about a refusal of the kernel.

use core::fmt::{self, Display, Formatter};
use std::io;

/// Shows the error of a system call, and what to do about it where that is known.
pub(crate) struct Refusal<'a> {
    pub(crate) call: &'static str,
    pub(crate) cause: &'a io::Error,
}

impl Display for Refusal<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { call, cause } = self;
        write!(f, "{call} failed: {cause}")?;
        let remedy = match (*call, cause.raw_os_error().unwrap_or(0)) {
            (_, libc::EMFILE) => {
                "this process has no descriptor left: close some, or raise RLIMIT_NOFILE (`ulimit -n`)"
            }
            (_, libc::ENFILE) => "the machine has no descriptor left: raise the sysctl fs.file-max",
            (_, libc::EFBIG) => {
                "RLIMIT_FSIZE (`ulimit -f`) counts for shared memory too: raise it, or ask for less"
            }
            ("open /proc/thread-self/fd", libc::ENOENT) => {
                "/proc is not mounted here: mount it, or attach before `chroot`"
            }
            ("mmap", libc::ENOMEM) => {
                "each handle maps the whole queue: ask for less, or raise RLIMIT_AS (`ulimit -v`) or the sysctl vm.max_map_count"
            }
            ("mmap", libc::EAGAIN) => {
                "after `mlockall` each mapping is locked: raise RLIMIT_MEMLOCK (`ulimit -l`)"
            }
            ("mmap", libc::EACCES) => "the descriptor cannot be written: pass one that can",
            ("mmap", libc::EPERM) => "the memfd is sealed against writing: no queue can be in it",
            ("MADV_POPULATE_WRITE", libc::EINVAL) => "`prefault` needs Linux 5.14: leave it out",
            ("fallocate", libc::ENOMEM | libc::ENOSPC) => {
                "the machine or the control group has too little memory: ask for less, raise the limit, or use `lazy_memory`"
            }
            ("fallocate", libc::EPERM | libc::ENOSYS) => {
                "a seccomp filter may refuse `fallocate`: allow it, or use `lazy_memory`"
            }
            (call, libc::EPERM | libc::ENOSYS) => {
                let name = match call {
                    fcntl if fcntl.starts_with("F_") => "fcntl",
                    advice if advice.starts_with("MADV_") => "madvise",
                    other => other,
                };
                return write!(f, "; a seccomp filter may refuse `{name}`: allow it");
            }
            _ => return Ok(()),
        };
        write!(f, "; {remedy}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These are the refusals that a test cannot provoke without harm to other processes.
    #[test]
    fn a_machine_without_descriptors_or_memory_names_what_to_raise() {
        for (call, errno, remedy) in [
            ("memfd_create", libc::ENFILE, "fs.file-max"),
            ("fallocate", libc::ENOMEM, "lazy_memory"),
            ("MADV_POPULATE_WRITE", libc::EINVAL, "5.14"),
            ("mmap", libc::ENOMEM, "vm.max_map_count"),
            ("mmap", libc::EAGAIN, "`ulimit -l`"),
            ("F_GET_SEALS", libc::EPERM, "`fcntl`"),
            ("MADV_DONTFORK", libc::ENOSYS, "`madvise`"),
            ("getrandom", libc::EPERM, "`getrandom`"),
        ] {
            let cause = &io::Error::from_raw_os_error(errno);
            let text = Refusal { call, cause }.to_string();
            assert!(text.contains(remedy) && text.contains(call), "{text}");
        }
    }
}
