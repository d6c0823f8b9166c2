"""How the descriptor of a queue, an event or a semaphore goes to another process within a pickle.

To a process that is being started (`spawn`, `forkserver`, `fork`) it is passed on by multiprocessing.
To one that runs already a pickle names it, and the other opens it through `/proc`: as often as it
likes, and without a thread that hands it out. So the sender has to keep its own until then.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import context, reduction
from typing import Any


@dataclass(frozen=True)
class Named:
    """The descriptor `fd` of the process `pid`, which is `inode` of `device`."""

    pid: int
    fd: int
    device: int
    inode: int

    def open(self) -> int:
        """Opens it here."""
        gone = f"process {self.pid} has closed what it sent, has ended, or is out of reach"
        try:
            fd = os.open(f"/proc/{self.pid}/fd/{self.fd}", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise OSError(error.errno, f"{gone}: keep it until it has arrived") from error
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) != (self.device, self.inode):
            os.close(fd)
            raise FileNotFoundError(f"{gone}: keep it until it has arrived")
        return fd


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
