"""The queue's view for tasks: `asyncio.Queue`'s methods."""

from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

from ._errors import ShutDown
from ._loops import complete
from ._parkline import PENDING, _turn_is_over
from ._turn import pause

if TYPE_CHECKING:
    from ._parkline import Queue

T = TypeVar("T")


class AioQueue(Generic[T]):
    """`queue.aio`: the same queue, awaited.

    Works in every event loop that has `add_reader` (asyncio's, uvloop's), in several of them at once,
    and in trio. A waiting task costs no thread. A cancelled `get` has taken no item, a cancelled `put`
    has put none.

    A call that need not wait goes on at once. Where the loop has not run for a millisecond or two, the
    next call lets it run once before it takes or puts anything: timeouts, signal handlers and other
    tasks go on while another process keeps the queue busy. In trio such a call is a checkpoint then,
    and whenever it waits, not each time: use `trio.lowlevel.checkpoint()` where each has to be one.
    """

    __slots__ = ("_queue",)

    def __init__(self, queue: "Queue[T]") -> None:
        self._queue = queue

    async def put(self, item: T) -> None:
        """Puts an item, waiting while the queue is full. It is encoded now, before the wait."""
        wait = self._queue._begin_put(item)
        if wait is not None:
            await complete(wait)

    async def get(self) -> T:
        """Takes the oldest item, waiting while there is none.

        It is acknowledged after it was decoded, that of a joinable queue by `task_done`. Raises `ShutDown`
        when the queue was shut down, and nothing is left that could come again."""
        item: T = self._queue._take()
        if item is PENDING:
            item = await complete(self._queue._begin_get())
        return item

    async def put_many(self, items: Iterable[T]) -> int:
        """Puts items one after the other, each encoded when it is its turn, waiting where there is no room.
        Returns how many.

        Cancelled, it has put those that it came to."""
        count = 0
        for item in items:
            await self.put(item)
            count += 1
        if count == 0 and _turn_is_over():
            await pause()
        return count

    async def get_many(self, max_items: int) -> list[T]:
        """Takes up to `max_items` and `maxsize`, in order: what is there, but waits for the first.
        `get_many(0)` is `[]` at once."""
        items = self._queue._take_many(max_items, False)
        if items:
            return items
        if max_items > 0:
            items = [await complete(self._queue._begin_get())]
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
        """Waits until all that was put before is got, and, if the queue is joinable, done."""
        await complete(self._queue._begin_join())

    def task_done(self) -> None:
        """Says that this task is done with the oldest item that it got."""
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

    def shutdown(self, immediate: bool = False) -> None:
        """Shuts the queue down for everybody: see `Queue.shutdown`."""
        self._queue.shutdown(immediate)

    def close(self) -> None:
        """Lets go of this handle: see `Queue.close`."""
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
