"""The queue."""

import concurrent.futures.thread  # noqa: F401  its exit hook has to come after ours
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

from . import _handles, _parkline
from ._aio import AioQueue
from ._errors import ShutDown

T = TypeVar("T")

# The interpreter waits at its exit for all threads: none of them may wait in a queue for ever.
threading._register_atexit(_parkline._end_blocking_calls)  # type: ignore[attr-defined]


class Queue(_parkline.Queue[T], Generic[T]):
    """A bounded queue, for any number of putters and getters in any number of processes.

    Its methods are those of `queue.Queue`; `aio` is the same queue with those of `asyncio.Queue`.
    """

    __slots__ = ()

    @classmethod
    def from_fd(
        cls,
        fd: int,
        *,
        codec: Any = "pickle",
        joinable: bool = False,
    ) -> "Queue[T]":
        """Opens the queue of a descriptor (`fileno()`) that came from somewhere, a Rust program for
        example. The descriptor is duplicated and stays yours."""
        return cls(1, codec=codec, joinable=joinable, _fd=fd)

    @property
    def aio(self) -> AioQueue[T]:
        """The same queue for tasks."""
        return AioQueue(self)

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

    def __reduce__(self) -> tuple[Callable[..., "Queue[T]"], tuple[Any, ...]]:
        return _rebuild, (_handles.send(self.fileno()), self.codec, self.joinable)


def _rebuild(handle: Any, codec: Any, joinable: bool) -> Queue[Any]:
    with _handles.receive(handle) as fd:
        return Queue.from_fd(fd, codec=codec, joinable=joinable)
