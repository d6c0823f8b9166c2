"""A pipe: two ends, and the end of the one is seen at the other.

Each direction is a queue. Beside the queues each end has two descriptors of the kernel's pipes, through
which no byte ever goes: the end writes into the one, and reads from the other, whose writers are the
copies of the other end. When the last process that has the other end is gone, or has closed it, the kernel
hangs that pipe up.
"""

import os
import select
import time
from collections import deque
from multiprocessing import context, reduction
from types import TracebackType
from typing import Any

from . import _handles, _parkline
from ._errors import Empty, Full, ShutDown
from ._queue import Queue

ITEMS = 64
BYTES = 1 << 20
HANDLES = 16

LATEST = 0.1
"""Seconds after which a call that waits finds that the other end is gone."""


class _Hold:
    """A descriptor, closed with the last reference."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class Connection:
    """One end of a `Pipe`, with the methods of `multiprocessing.connection.Connection`, but no `fileno`.

    It can be pickled into any process of this host, like a queue, and a forked child goes on with what it
    inherited. As with multiprocessing's, an end is gone when every process has closed it or has ended:
    a forked child has both ends, and closes the one that it does not use.

    An item has up to 1 MiB when it is encoded, else `send` raises `MessageTooLarge`. 64 items find room in
    each direction, then `send` waits. A process that is killed in a `send` has sent the item or has not, and
    leaves no lock. A `recv` that waits learns of the end within 0.1 seconds.
    """

    def __init__(
        self, inbox: Queue[Any] | None, outbox: Queue[Any] | None, other: int, own: int
    ) -> None:
        self._inbox, self._outbox = inbox, outbox
        # `other` hangs up when the other end is gone; `own` is what this end keeps open for the other.
        self._other: _Hold | None = _Hold(other)
        self._own: _Hold | None = _Hold(own)
        self._hangup = select.poll()
        self._hangup.register(other, 0)
        # An item that `poll` found, and the process that has it.
        self._found: deque[tuple[int, _parkline.Lease[Any]]] = deque()
        self._why_lost: OSError | None = None

    @property
    def closed(self) -> bool:
        """Whether this end is closed here."""
        return self._other is None

    @property
    def readable(self) -> bool:
        """Whether this end receives."""
        return self._inbox is not None

    @property
    def writable(self) -> bool:
        """Whether this end sends."""
        return self._outbox is not None

    def _check(self) -> None:
        if self._other is None:
            raise self._why_lost or OSError("handle is closed")

    def _is_alone(self) -> bool:
        """Whether the other end is gone."""
        return bool(self._hangup.poll(0))

    def send(self, obj: Any) -> None:
        """Sends an item, waiting while there is no room. Raises `BrokenPipeError` if the other end is gone,
        `MessageTooLarge`, and what the encoding raises."""
        self._check()
        if self._outbox is None:
            raise OSError("connection is read-only")
        waits = False
        while True:
            if self._is_alone():
                raise BrokenPipeError("the other end of the pipe is closed, or its last process is gone")
            try:
                return self._outbox.put(obj, waits, LATEST)
            except Full:
                waits = True

    def recv(self) -> Any:
        """Receives the next item, waiting while there is none. Raises `EOFError` when all items are received
        and the other end is gone; `Undecodable`."""
        lease = self._next(None)
        if lease is None:
            raise EOFError("the other end of the pipe is closed, or its last process is gone")
        lease.done()
        return lease.item

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Whether a `recv` would not have to wait: an item is there, or the other end is gone. Waits for that
        up to `timeout` seconds, and without end with None. The item stays with this process."""
        until = None if timeout is None else time.monotonic() + max(timeout, 0)
        try:
            lease = self._next(until)
        except Empty:
            return False
        if lease is not None:
            self._found.appendleft((os.getpid(), lease))
        return True

    def _next(self, until: float | None) -> "_parkline.Lease[Any] | None":
        """The next item. None at the end; `Empty` when it is `until`."""
        self._check()
        if self._inbox is None:
            raise OSError("connection is write-only")
        while self._found:
            pid, lease = self._found.popleft()
            # The parent's is not this child's.
            if pid == os.getpid():
                return lease
        wait = 0.0
        while True:
            try:
                return self._inbox.lease(wait > 0, wait)
            except ShutDown:
                return None
            except Empty:
                # What the other end sent is there before the end is.
                if self._is_alone():
                    return self._last()
            wait = LATEST if until is None else min(LATEST, until - time.monotonic())
            if wait <= 0:
                raise Empty

    def _last(self) -> "_parkline.Lease[Any] | None":
        assert self._inbox is not None
        try:
            return self._inbox.lease(False)
        except Empty:
            return None

    def send_bytes(self, buf: Any, offset: int = 0, size: int | None = None) -> None:
        """Sends bytes, as `send`."""
        view = memoryview(buf).cast("B")
        if offset < 0 or offset > len(view):
            raise ValueError("offset is negative, or beyond the buffer")
        if size is None:
            size = len(view) - offset
        if size < 0 or offset + size > len(view):
            raise ValueError("size is negative, or beyond the buffer")
        self.send(bytes(view[offset : offset + size]))

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Receives bytes that `send_bytes` sent. Raises as `recv`, and `OSError` if the item is not bytes, or
        if they are more than `maxlength`: then this end receives no more."""
        if maxlength is not None and maxlength < 0:
            raise ValueError("negative maxlength")
        item = self.recv()
        if not isinstance(item, bytes):
            raise OSError(f"the other end sent an object ({type(item).__name__}) by send(): use recv()")
        if maxlength is not None and len(item) > maxlength:
            # As multiprocessing does: the end can still send.
            inbox, self._inbox = self._inbox, None
            if self._outbox is None:
                self.close()
            elif inbox is not None:
                inbox.close()
            raise OSError("bad message length")
        return item

    def recv_bytes_into(self, buf: Any, offset: int = 0) -> int:
        """Receives bytes into a buffer; returns how many. Raises as `recv_bytes`, and
        `multiprocessing.BufferTooShort`, which has the bytes, if they do not fit."""
        view = memoryview(buf).cast("B")
        if offset < 0 or offset > len(view):
            raise ValueError("offset is negative, or beyond the buffer")
        item = self.recv_bytes()
        if offset + len(item) > len(view):
            raise context.BufferTooShort(item)
        view[offset : offset + len(item)] = item
        return len(item)

    def close(self) -> None:
        """Closes this end here. The other end sees its end when no process has this one."""
        self._other = self._own = None
        self._found.clear()
        for queue in (self._inbox, self._outbox):
            if queue is not None:
                queue.close()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self.closed:
            return "<parkline.multiprocessing.Connection closed>"
        which = {(True, True): "both ways", (True, False): "receives", (False, True): "sends"}
        return f"<parkline.multiprocessing.Connection {which[self.readable, self.writable]}>"

    def __reduce__(self) -> tuple[Any, ...]:
        self._check()
        assert self._other is not None and self._own is not None
        other, own = _handles.send(self._other.fd), _handles.send(self._own.fd)
        return _rebuild, (self._inbox, self._outbox, other, own)


def _rebuild(inbox: Queue[Any] | None, outbox: Queue[Any] | None, other: Any, own: Any) -> Connection:
    with _handles.receive(other, os.O_RDONLY) as reads, _handles.receive(own, os.O_WRONLY) as writes:
        return Connection(inbox, outbox, os.dup(reads), os.dup(writes))


def _rebuild_or_lose(*arguments: Any) -> Connection:
    """See `_handles`: one that did not arrive raises why."""
    try:
        return _rebuild(*arguments)
    except OSError as error:
        lost = Connection(None, None, os.open(os.devnull, os.O_RDONLY), os.open(os.devnull, os.O_RDONLY))
        lost.close()
        lost._why_lost = error
        return lost


def _reduce_for_pipe(connection: Connection) -> tuple[Any, ...]:
    rebuild, arguments = connection.__reduce__()
    if context.get_spawning_popen() is None:
        return _rebuild_or_lose, arguments
    return rebuild, arguments


reduction.ForkingPickler.register(Connection, _reduce_for_pipe)


def Pipe(duplex: bool = True) -> tuple[Connection, Connection]:
    """Two ends of a pipe. Without `duplex` the first receives and the second sends."""

    def direction() -> Queue[Any]:
        return Queue(ITEMS, max_message=BYTES, handles=HANDLES)

    def same(queue: Queue[Any] | None) -> Queue[Any] | None:
        """A handle for the other end, which is closed on its own."""
        return None if queue is None else Queue.from_fd(queue.share_fd())

    forth, back = direction(), direction() if duplex else None
    first_sees, second_keeps = os.pipe()
    second_sees, first_keeps = os.pipe()
    first = Connection(forth, back, first_sees, first_keeps)
    return first, Connection(same(back), same(forth), second_sees, second_keeps)
