"""The exceptions: each is both what `queue` raises and what `asyncio` raises."""

import asyncio
import queue
import sys

if sys.version_info >= (3, 13):

    class ShutDown(queue.ShutDown, asyncio.QueueShutDown):
        """The queue was shut down, and, for a get, all that was put before has been got."""

else:

    class ShutDown(Exception):
        """The queue was shut down, and, for a get, all that was put before has been got."""


class Empty(queue.Empty, asyncio.QueueEmpty):
    """No item is waiting."""


class Full(queue.Full, asyncio.QueueFull):
    """As many items are waiting as the queue has room for."""


class MessageTooLarge(ValueError):
    """An encoded item is longer than the queue's `max_message`. Nothing was put."""

    def __init__(self, text: str, size: int, limit: int) -> None:
        super().__init__(text, size, limit)
        self.size = size
        """The encoded item's length in bytes."""
        self.limit = limit
        """The queue's `max_message`."""

    def __str__(self) -> str:
        return str(self.args[0])


class Undecodable(ValueError):
    """An item was got and cannot be decoded: what the decoding raised is the `__cause__`.

    It is not lost. That of a joinable queue went back, and comes again, to any getter, until it was
    handed out `max_attempts` times. That of another queue is this call's."""

    def __init__(self, text: str, encoded: bytes, attempts: int) -> None:
        super().__init__(text, encoded, attempts)
        self.encoded = encoded
        """The item as it was in the queue: what a queue with `codec="raw"` would have got."""
        self.attempts = attempts
        """How often the item was handed out, this time included."""

    def __str__(self) -> str:
        return str(self.args[0])


class NoFreeHandle(RuntimeError):
    """All of the queue's `handles` are taken, by all processes together; or, beside very many file locks,
    none was found free in time: call again."""


class Corrupt(RuntimeError):
    """Some process wrote into the shared memory what no honest peer writes."""
