"""The exceptions: each is both what `queue` raises and what `asyncio` raises."""

import asyncio
import queue
import sys

if sys.version_info >= (3, 13):

    class ShutDown(queue.ShutDown, asyncio.QueueShutDown):
        """The queue was shut down. A get raises it only when no item is left."""

        count: int = 0
        """How many items of a `put_many` were put before."""

else:

    class ShutDown(Exception):
        """The queue was shut down. A get raises it only when no item is left."""

        count: int = 0
        """How many items of a `put_many` were put before."""


class Empty(queue.Empty, asyncio.QueueEmpty):
    """No item is waiting."""


class LeasesOut(Empty):
    """Items wait, but this handle can take none: as many items as it has `leases` are out, and not done."""


class Full(queue.Full, asyncio.QueueFull):
    """As many items are waiting as the queue has room for."""

    count: int = 0
    """How many items of a `put_many` were put before."""


class MessageTooLarge(ValueError):
    """An encoded item is longer than the queue's `max_message`. It was not put, and of a `put_many` none."""

    count: int = 0
    """How many items of an awaited `put_many`, which encodes one after the other, were put before."""

    def __init__(self, text: str, size: int, limit: int) -> None:
        super().__init__(text, size, limit)
        self.size = size
        """The encoded item's length in bytes."""
        self.limit = limit
        """The queue's `max_message`."""

    def __str__(self) -> str:
        return str(self.args[0])


class Undecodable(ValueError):
    """A get took an item and cannot decode it. The exception of the decoding is the `__cause__`.

    The item is not lost. In a joinable queue it went back, and is delivered again, to any getter, until
    it was delivered `max_attempts` times. In another queue it was done, and `encoded` is its only copy."""

    def __init__(self, text: str, encoded: bytes, attempts: int) -> None:
        super().__init__(text, encoded, attempts)
        self.encoded = encoded
        """The item as it was in the queue, as a get of a queue with `codec="raw"` returns it."""
        self.attempts = attempts
        """How often the item was delivered, this time included. 0 if it was only read, by iterating over a
        `Deque`."""

    def __str__(self) -> str:
        return str(self.args[0])


class NoFreeHandle(RuntimeError):
    """All of the queue's `handles` are taken, by all processes together. Or the memfd has very many file
    locks, and no free handle was found in time: call again."""


class Corrupt(RuntimeError):
    """A process wrote values into the shared memory that the protocol does not allow."""
