"""The queue's view for programs that were written to `collections.deque`."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from ._errors import Empty, Full

if TYPE_CHECKING:
    from ._queue import Queue

T = TypeVar("T")


def _refuse(what: str, why: str) -> NoReturn:
    raise TypeError(f"{what}: {why}")


_ONE_WAY = "a queue between processes goes one way: items enter at the right and leave at the left"
_IN_PLACE = "an item in the queue belongs to no process, so none can reach into the middle"


class Deque(Generic[T]):
    """A queue with the methods of `collections.deque`, for several processes: `Deque(queue)`.

    As a deque with a `maxlen` does, `append` to a full one discards the oldest items, and no call waits. In
    the queue itself, `put` waits or raises `Full` instead.

    `popleft` takes an item as `queue.get_nowait` does: in a joinable queue it is done at
    `queue.task_done()`. `len()` is the number of items that wait. Other processes append and take
    meanwhile, so a deque that had an item may be empty at the next call: catch `IndexError` instead of
    asking before.

    Iterating takes nothing: it decodes copies of the items that wait when it begins, and leaves out those
    that are taken before it comes to them. `in`, `count`, `copy` and `deque == [..]` go through the items in
    this way.

    What needs the other end or the middle of the queue raises `TypeError` and says why: `appendleft`,
    `extendleft`, `pop`, `insert`, `remove`, `rotate`, `reverse`, and reading or assigning by an index.
    """

    __slots__ = ("queue",)

    def __init__(self, queue: "Queue[T]") -> None:
        self.queue = queue
        """The queue that this is a view of."""

    @property
    def maxlen(self) -> int:
        """For how many items there is room."""
        return self.queue.maxsize

    def append(self, item: T) -> None:
        """Appends an item. If there is no room, the oldest item is discarded, until there is. Raises
        `MessageTooLarge`, `ShutDown`, and what the encoding raises."""
        while True:
            try:
                return self.queue.put(item, False)
            except Full:
                self.queue._discard()

    def extend(self, items: Iterable[T]) -> None:
        """Appends each of the items."""
        for item in list(items) if items is self else items:
            self.append(item)

    def popleft(self) -> T:
        """Takes the oldest item. Raises `IndexError` if there is none, `LeasesOut` if items wait and all
        leases of this handle are out, and `Undecodable`."""
        try:
            return self.queue.get(False)
        except Empty as empty:
            if type(empty) is not Empty:
                raise
            raise IndexError("pop from an empty deque") from None

    def clear(self) -> None:
        """Discards the items that wait now. Those that other processes append meanwhile may stay."""
        for _ in range(len(self)):
            if not self.queue._discard():
                return

    def __len__(self) -> int:
        return self.queue.qsize()

    def __iter__(self) -> Iterator[T]:
        return self.queue._items()

    def __contains__(self, item: object) -> bool:
        return any(one is item or one == item for one in self)

    def count(self, item: T) -> int:
        """How many items that wait are equal to this one."""
        return sum(one is item or one == item for one in self)

    def copy(self) -> list[T]:
        """The items that wait, as a list."""
        return list(self)

    def __eq__(self, other: object) -> bool:
        """Whether the items that wait are those of another deque, or of a list."""
        if isinstance(other, Deque):
            return self.queue.id == other.queue.id or list(self) == list(other)
        return list(self) == list(other) if isinstance(other, Iterable) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __iadd__(self, items: Iterable[T]) -> "Deque[T]":
        self.extend(items)
        return self

    def __repr__(self) -> str:
        return f"Deque({self.queue!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.queue,)

    def appendleft(self, item: T) -> NoReturn:
        """Raises `TypeError`."""
        _refuse("appendleft", _ONE_WAY)

    def extendleft(self, items: Iterable[T]) -> NoReturn:
        """Raises `TypeError`."""
        _refuse("extendleft", _ONE_WAY)

    def pop(self) -> NoReturn:
        """Raises `TypeError`."""
        _refuse("pop", _ONE_WAY + "; popleft() takes the oldest")

    def insert(self, index: int, item: T) -> NoReturn:
        """Raises `TypeError`."""
        _refuse("insert", _IN_PLACE)

    def remove(self, item: T) -> NoReturn:
        """Raises `TypeError`."""
        _refuse("remove", _IN_PLACE)

    def rotate(self, n: int = 1) -> NoReturn:
        """Raises `TypeError`."""
        _refuse("rotate", _ONE_WAY)

    def reverse(self) -> NoReturn:
        """Raises `TypeError`."""
        _refuse("reverse", _ONE_WAY)

    def index(self, item: T) -> NoReturn:
        """Raises `TypeError`."""
        _refuse("index", "other processes take items meanwhile, so a place means nothing; use `in`")

    def __getitem__(self, index: int) -> NoReturn:
        _refuse("reading by an index", _IN_PLACE + "; list(deque) has copies of all")

    def __setitem__(self, index: int, item: T) -> NoReturn:
        _refuse("assigning by an index", _IN_PLACE)

    def __delitem__(self, index: int) -> NoReturn:
        _refuse("deleting by an index", _IN_PLACE)
