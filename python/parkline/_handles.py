"""How a queue, an event or a semaphore goes to another process within a pickle: its descriptor, its class
and its attributes.

multiprocessing passes it on to a process that is being started (`spawn`, `forkserver`, `fork`). For a
process that runs already the pickle names the descriptor, and that process opens it through `/proc`.
This needs no thread in the sender, and works any number of times. So the sender must keep its own
descriptor until the other process has opened it.

If it did not, unpickling raises. That would break what reads the pipes of multiprocessing: a
`ProcessPoolExecutor` whose worker returns a queue breaks as a whole, and a `Pool` hangs. So a handle that
went through such a pipe arrives all the same, and each call of it raises that error.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import context, reduction
from typing import Any, TypeVar


@dataclass(frozen=True)
class Named:
    """The descriptor `fd` of the process `pid`. It names the file `inode` of `device`."""

    pid: int
    fd: int
    device: int
    inode: int

    def open(self, mode: int = os.O_RDWR) -> int:
        """Opens it here."""
        path = f"/proc/{self.pid}/fd/{self.fd}"
        try:
            # O_NONBLOCK: does not wait for the end of a lease on the file.
            fd = os.open(path, mode | os.O_CLOEXEC | os.O_NONBLOCK)
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
def receive(handle: Any, mode: int = os.O_RDWR) -> Iterator[int]:
    """The descriptor that `handle` stands for, open here until the end of the block."""
    fd = handle.open(mode) if isinstance(handle, Named) else handle.detach()
    try:
        yield fd
    finally:
        os.close(fd)


H = TypeVar("H")


def unmade(kind: type[H]) -> H:
    """A handle whose `__init__` has not run. That of a subclass may want arguments."""
    made: H = kind.__new__(kind)
    return made


def attributes(handle: Any, own: frozenset[str]) -> Any:
    """What a subclass added to the handle, as pickle takes it; `own` are the slots of the base class."""
    custom = getattr(type(handle), "__getstate__", None)
    if custom is not None and custom is not getattr(object, "__getstate__", None):
        return custom(handle)
    in_dict = dict(getattr(handle, "__dict__", ()))
    in_slots = {}
    for kind in type(handle).__mro__:
        names = kind.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if name not in own and not name.startswith("__") and hasattr(handle, name):
                in_slots[name] = getattr(handle, name)
    if in_slots:
        return in_dict or None, in_slots
    return in_dict or None


def for_pipes(kind: type[Any]) -> None:
    """Has multiprocessing's pickler, which writes to its pipes, send handles of this class so that they
    arrive in any case."""
    reduction.ForkingPickler.register(kind, _reduce_for_pipe)


def reduce(handle: Any, how: dict[str, Any], own: frozenset[str] = frozenset()) -> tuple[Any, ...]:
    """What pickle makes of a handle, which `from_fd` opens with `how`."""
    return rebuild, (type(handle), send(handle.share_fd()), how), attributes(handle, own)


def rebuild(kind: Any, handle: Any, how: dict[str, Any]) -> Any:
    """The handle, open here."""
    with receive(handle) as fd:
        return kind.from_fd(fd, **how)


def rebuild_or_lose(kind: Any, handle: Any, how: dict[str, Any]) -> Any:
    """The handle, or one that raises why it did not arrive."""
    try:
        return rebuild(kind, handle, how)
    except OSError as error:
        lost = unmade(kind)
        lost._lose(error.errno, error.strerror, **how)
        return lost


def _reduce_for_pipe(handle: Any) -> Any:
    reduced = handle.__reduce__()
    # A child that is started gets the descriptor itself; a subclass can have another `__reduce__`.
    if context.get_spawning_popen() is None and reduced[0] is rebuild:
        return (rebuild_or_lose, *reduced[1:])
    return reduced
