"""How the descriptor of a queue, an event or a semaphore goes to another process within a pickle.

multiprocessing passes it on to a process that is being started (`spawn`, `forkserver`, `fork`). For a
process that runs already the pickle names the descriptor, and that process opens it through `/proc`.
This needs no thread in the sender, and works any number of times. So the sender must keep its own
descriptor until the other process has opened it.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import context, reduction
from typing import Any


@dataclass(frozen=True)
class Named:
    """The descriptor `fd` of the process `pid`. It names the file `inode` of `device`."""

    pid: int
    fd: int
    device: int
    inode: int

    def open(self) -> int:
        """Opens it here."""
        path = f"/proc/{self.pid}/fd/{self.fd}"
        try:
            # O_NONBLOCK: does not wait for the end of a lease on the file.
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise OSError(error.errno, self._refusal(error)) from error
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) != (self.device, self.inode):
            os.close(fd)
            raise FileNotFoundError(errno.ENOENT, self._gone())
        return fd

    def _refusal(self, error: OSError) -> str:
        """What happened, and what to do."""
        match error.errno:
            case errno.ENOENT:
                return self._gone()
            case errno.EACCES | errno.EPERM:
                return f"{self._barrier()}; or {_PASS_IT}"
            case errno.EMFILE | errno.ENFILE:
                return (
                    f"no descriptor is left to open what process {self.pid} sent: {error.strerror};"
                    " close some, or raise RLIMIT_NOFILE (`ulimit -n`)"
                )
            case errno.EWOULDBLOCK:
                return (
                    f"a process has a lease (F_SETLEASE) on the memfd that process {self.pid} sent:"
                    " try again later, the kernel ends the lease"
                )
        return f"cannot open what process {self.pid} sent: {error.strerror}; {_PASS_IT}"

    def _gone(self) -> str:
        if not os.path.isdir("/proc/self/fd"):
            return f"/proc is not mounted, through which it is opened: mount it, or {_PASS_IT}"
        if os.path.isdir(f"/proc/{self.pid}"):
            what = f"process {self.pid} has closed what it sent"
        else:
            what = f"process {self.pid}, which sent it, has ended"
        return f"{what}, or is in another pid namespace: it has to keep it until it has arrived"

    def _barrier(self) -> str:
        """Why this process may not open a descriptor of that process."""
        try:
            with open(f"/proc/{self.pid}/status") as status:
                user = next(int(line.split()[2]) for line in status if line.startswith("Uid:"))
                # root owns the /proc files of a process that is not dumpable.
                owner = os.fstat(status.fileno()).st_uid
        except (OSError, StopIteration):
            return f"this process may not see process {self.pid}, which sent it (/proc is hidden)"
        if owner != user:
            return (
                f"process {self.pid}, which sent it, has dropped privileges, and is closed to others"
                " since: let it call prctl(PR_SET_DUMPABLE, 1) after that"
            )
        return (
            f"process {self.pid}, which sent it, runs as user {user}, this one as user {os.geteuid()},"
            " or has privileges that this one lacks: run both as the same user"
        )


_PASS_IT = "pass on the descriptor itself: to a child, or by socket.send_fds, and from_fd() there"


def send(fd: int) -> Any:
    """What stands for the descriptor in a pickle."""
    if context.get_spawning_popen() is not None:
        return reduction.DupFd(fd)
    found = os.fstat(fd)
    return Named(os.getpid(), fd, found.st_dev, found.st_ino)


@contextmanager
def receive(handle: Any) -> Iterator[int]:
    """The descriptor that `handle` stands for, open here until the end of the block."""
    fd = handle.open() if isinstance(handle, Named) else handle.detach()
    try:
        yield fd
    finally:
        os.close(fd)
