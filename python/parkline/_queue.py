"""The queue."""

import concurrent.futures.thread  # noqa: F401  its exit hook has to come after ours
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

from . import _handles, _parkline
from ._aio import AioQueue
from ._errors import ShutDown

T = TypeVar("T")

# The interpreter waits for all threads when it exits, so no thread may stay blocked in a queue.
threading._register_atexit(_parkline._end_blocking_calls)  # type: ignore[attr-defined]


class Queue(_parkline.Queue[T], Generic[T]):
    """A bounded queue, for any number of putters and getters in any number of processes.

    Its methods are those of `queue.Queue`; `aio` is the same queue with those of `asyncio.Queue`. A
    handle can be pickled into any process of this host. The queue lives as long as one process has it.

    `maxsize`: the number of items that the queue has room for, rounded up to a power of two. It has to be
        bounded.
    `max_message`: the longest encoded item in bytes. Every item takes the room of the longest. The
        kernel allocates that memory when it is first used. `lazy_memory=False` allocates it now, and
        raises `MemoryError` if the machine or the control group has less left, before it allocates any.
    `codec`: "pickle" (protocol 5; large buffers are copied once on each side), "raw" (bytes in, bytes
        out, no pickle: for peers that you do not trust), or a pair of callables, to bytes and back.
    `joinable`: an item is out on lease until `task_done()`. If its process dies first, or its handle is
        closed, the item is delivered again; after `max_attempts` deliveries it is a dead letter, which is
        discarded unless `on_dead_letter` or `forward_dead_letters` says otherwise. A task or thread that is
        cancelled or raises leaves its item with the handle; `lease()` says which item is done, and returns
        it then. Without `joinable` an item that `get` returns is done once it is decoded.
    `leases`: how many items one handle can have out; 256 for a joinable queue, up to 4 for others. While
        all are out, a `get` waits for a `task_done`. A queue that is not joinable has an item on lease
        while it decodes it. With 0 an item is done before it is decoded, and lost if the process dies
        while it decodes. A joinable queue needs at least 1.
    `handles`: how many processes can put, and how many can get, at a time: a process takes one handle for
        each of the two. 64. With `lazy_memory=False` a queue that is not joinable has fewer, at least 2,
        if it would take more than 64 MiB otherwise.
    `Queue.memory(..)` returns the bytes that a shape takes.
    `watchdog`: seconds after which a waiting call or task checks whether other processes have died.
    `schema`: a name of 1 to 64 bytes and a version, `("orders", 3)`, that say what the items are. Every
        opener has to name the same one, a Rust program too. A pickled handle carries it.
    """

    __slots__ = ("_aio",)
    _aio: AioQueue[T]

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        _handles.for_pipes(cls)

    @classmethod
    def from_fd(
        cls,
        fd: int,
        *,
        codec: Any = "pickle",
        joinable: bool = False,
        schema: tuple[str, int] | None = None,
    ) -> "Queue[T]":
        """Opens the queue of a descriptor (`share_fd()`), for example one from a Rust program. The
        descriptor is duplicated and stays yours. Raises `ValueError` if `schema` is not the one that the
        queue was made with. `None` opens a queue that was made with none. The `__init__` of a subclass does
        not run."""
        made = _handles.unmade(cls)
        _parkline.Queue.__init__(made, 1, codec=codec, joinable=joinable, schema=schema, _fd=fd)
        return made

    @property
    def aio(self) -> AioQueue[T]:
        """The same queue for tasks."""
        try:
            return self._aio
        except AttributeError:
            self._aio = AioQueue(self._same())
            return self._aio

    def __iter__(self) -> Iterator[T]:
        """Takes items until the queue is shut down."""
        while True:
            try:
                yield self.get()
            except ShutDown:
                return

    def __enter__(self) -> "Queue[T]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def join_thread(self) -> None:
        """Does nothing, because no thread stands behind a put: what was put is in shared memory. It is here
        for programs that were written to `multiprocessing.Queue`."""

    def cancel_join_thread(self) -> None:
        """Does nothing: see `join_thread`."""

    def __reduce__(self) -> tuple[Any, ...]:
        how = {"codec": self.codec, "joinable": self.joinable, "schema": self.schema}
        return _handles.reduce(self, how, frozenset(Queue.__slots__))


_handles.for_pipes(Queue)
