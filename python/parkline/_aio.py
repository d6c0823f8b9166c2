"""The queue's view for tasks: `asyncio.Queue`'s methods."""

from collections.abc import AsyncIterator, Generator, Iterable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ._errors import ShutDown
from ._loops import complete
from ._parkline import AGAIN, PENDING, Lease, _turn_is_over
from ._turn import pause

if TYPE_CHECKING:
    from ._parkline import Queue

T = TypeVar("T")


class Leasing(Generic[T]):
    """What `aio.lease()` returns: `await` it for the lease, or use it in `async with`."""

    __slots__ = ("_queue", "_lease")
    _lease: Lease[T]

    def __init__(self, queue: "Queue[T]") -> None:
        self._queue = queue

    async def _get(self) -> Lease[T]:
        lease: Any = self._queue._take_lease()
        while lease is PENDING or lease is AGAIN:
            lease = await complete(self._queue._begin_lease())
        taken: Lease[T] = lease
        return taken

    def __await__(self) -> Generator[Any, Any, Lease[T]]:
        return self._get().__await__()

    async def __aenter__(self) -> Lease[T]:
        self._lease = await self._get()
        return self._lease

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lease.__exit__(kind, error, traceback)


class AioQueue(Generic[T]):
    """`queue.aio`: the same queue, awaited.

    Works in every event loop that has `add_reader` (asyncio's, uvloop's), in several of them at once,
    and in trio. A waiting task costs no thread. A cancelled `get` has taken no item, a cancelled `put`
    has put none.

    A call that need not wait goes on at once. If the loop has not run for a millisecond or two, the
    next call lets it run once before it takes or puts anything. So timeouts, signal handlers and other
    tasks go on while another process keeps the queue busy. In trio a call is a checkpoint only when it
    lets the loop run or waits: use `trio.lowlevel.checkpoint()` where each call has to be one.
    """

    __slots__ = ("_queue",)

    def __init__(self, queue: "Queue[T]") -> None:
        self._queue = queue

    async def put(self, item: T) -> None:
        """Puts an item, waiting while the queue is full. The item is encoded before the wait."""
        wait = self._queue._begin_put(item)
        if wait is not None:
            await complete(wait)

    async def get(self) -> T:
        """Takes the oldest item, waiting while there is none.

        The item is acknowledged once it is decoded. In a joinable queue `task_done` acknowledges it. Raises
        `ShutDown` when the queue was shut down and no item is left that could be delivered again."""
        item: T = self._queue._take()
        while item is PENDING or item is AGAIN:
            item = await complete(self._queue._begin_get())
        return item

    def lease(self) -> Leasing[T]:
        """Takes the oldest item on lease, waiting while there is none: `async with queue.aio.lease() as
        job:`, or `job = await queue.aio.lease()`.

        `job.item` is done at the end of the block, or at `job.done()`. In every other case it is delivered
        again: if an exception or a cancel leaves the block, after `job.nack()`, when `job` is dropped, when
        its process dies or its handle is closed. A job can be handed to another task. Raises as `get`, and
        `ValueError` in a queue without leases."""
        return Leasing(self._queue)

    async def put_many(self, items: Iterable[T]) -> int:
        """Puts items one after the other, waiting while there is no room. Each is encoded just before it is
        put. Returns how many it put.

        If it is cancelled, the items before the one that waited are put. So it is if it raises: the `count`
        of the exception (`ShutDown`, `MessageTooLarge`, what the encoding raises) says how many they are."""
        count = 0
        try:
            for item in items:
                await self.put(item)
                count += 1
        except Exception as error:
            with suppress(AttributeError):  # of an exception that takes no attributes
                error.count = count  # type: ignore[attr-defined]
            raise
        if count == 0 and _turn_is_over():
            await pause()
        return count

    async def get_many(self, max_items: int) -> list[T]:
        """Takes the items that are there, in order, up to `max_items` and `maxsize`. Waits only for the
        first. `get_many(0)` returns `[]` at once."""
        items = self._queue._take_many(max_items, False)
        if items:
            return items
        if max_items > 0:
            items = [await self.get()]
            items += self._queue._take_many(max_items - 1, True)
        elif _turn_is_over():
            await pause()
        return items

    def put_nowait(self, item: T) -> None:
        """Puts an item, or raises `Full`."""
        self._queue.put(item, False)

    def get_nowait(self) -> T:
        """Takes an item, or raises `Empty`."""
        return self._queue.get(False)

    async def join(self) -> None:
        """Waits until all items that were put before are got. In a joinable queue, until they are done."""
        await complete(self._queue._begin_join())

    def task_done(self) -> None:
        """Acknowledges the oldest item that this task got."""
        self._queue.task_done()

    def qsize(self) -> int:
        """How many items wait."""
        return self._queue.qsize()

    def empty(self) -> bool:
        """Whether no item waits. Others may put one before you act on it."""
        return self._queue.empty()

    def full(self) -> bool:
        """Whether there is no room. Others may make some before you act on it."""
        return self._queue.full()

    @property
    def maxsize(self) -> int:
        """For how many items there is room."""
        return self._queue.maxsize

    @property
    def unfinished_tasks(self) -> int:
        """How many items are not done: see `Queue.unfinished_tasks`."""
        return self._queue.unfinished_tasks

    @property
    def is_shutdown(self) -> bool:
        """Whether the queue was shut down. There may still be items in it."""
        return self._queue.is_shutdown

    @property
    def closed(self) -> bool:
        """Whether this handle is closed."""
        return self._queue.closed

    @property
    def last_attempts(self) -> int:
        """How often the last item that this task got was delivered, this time included."""
        return self._queue.last_attempts

    @property
    def last_redelivered(self) -> bool:
        """Whether the last item that this task got was delivered before."""
        return self._queue.last_redelivered

    def shutdown(self, immediate: bool = False) -> None:
        """Shuts the queue down in all processes: see `Queue.shutdown`."""
        self._queue.shutdown(immediate)

    def close(self) -> None:
        """Closes this handle: see `Queue.close`."""
        self._queue.close()

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        try:
            return await self.get()
        except ShutDown:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> "AioQueue[T]":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._queue.close()

    def __repr__(self) -> str:
        return f"<aio view of {self._queue!r}>"
