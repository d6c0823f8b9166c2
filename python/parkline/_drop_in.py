"""The queues, the event and the semaphore of `parkline.multiprocessing`."""

from typing import TypeVar

from . import _event, _queue, _semaphore

T = TypeVar("T")

ITEMS = 1024
"""For how many items a queue has room if the program does not say it."""
BYTES = 1 << 20
"""The longest encoded item."""
HANDLES = 128
"""How many handles a queue or a semaphore has."""
LEASES = 64
"""How many handles a `JoinableQueue` has, and how many items each can hold: a page of memory for each pair."""


class Queue(_queue.Queue[T]):
    """`multiprocessing.Queue`. Each item is done when it is got."""

    def __init__(self, maxsize: int = 0, *, max_message: int = BYTES) -> None:
        super().__init__(maxsize if maxsize > 0 else ITEMS, max_message=max_message, handles=HANDLES)


class JoinableQueue(_queue.Queue[T]):
    """`multiprocessing.JoinableQueue`. An item is done at `task_done()`, and is delivered again if its process
    dies first."""

    def __init__(self, maxsize: int = 0, *, max_message: int = BYTES) -> None:
        super().__init__(
            maxsize if maxsize > 0 else ITEMS,
            max_message=max_message,
            joinable=True,
            handles=LEASES,
            leases=LEASES,
        )


class SimpleQueue(Queue[T]):
    """`multiprocessing.SimpleQueue`."""

    def __init__(self) -> None:
        super().__init__()


class Event(_event.Event):
    """`multiprocessing.Event`."""

    def __init__(self) -> None:
        super().__init__()


class Semaphore(_semaphore.Semaphore):
    """`multiprocessing.Semaphore`. The permits of a killed process are released."""

    def __init__(self, value: int = 1) -> None:
        super().__init__(value, handles=HANDLES)

    def acquire(self, block: object = True, timeout: float | None = None) -> bool:
        """Acquires a permit; `False` if none was free by the end of `timeout` seconds. Without `block` the
        timeout counts for nothing."""
        return super().acquire(True, timeout) if block else super().acquire(False)

    def get_value(self) -> int:
        """How many permits are free."""
        return self.value
