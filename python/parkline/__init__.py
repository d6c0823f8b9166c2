"""A queue between the processes of one Linux host: awaitable in asyncio, blocking in threads.

    >>> import parkline
    >>> q = parkline.Queue(100)
    >>> q.put({"id": 1})
    >>> q.get()
    {'id': 1}

Its own methods are those of `queue.Queue`. They block the calling thread without the GIL. The methods
of its view `q.aio` are those of `asyncio.Queue`. A handle can be pickled into another process at any
time. `Queue` lists the differences from the standard library's queues. Processes share an `Event` and a
`Semaphore` in the same way.
"""

from ._aio import AioQueue, Leasing
from ._deque import Deque
from ._errors import (
    Corrupt,
    Empty,
    Full,
    LeasesOut,
    MessageTooLarge,
    NoFreeHandle,
    ShutDown,
    Undecodable,
)
from ._event import AioEvent, Event
from ._parkline import DeadLetter, Lease, backend
from ._queue import Queue
from ._semaphore import AioSemaphore, Semaphore

__all__ = [
    "AioEvent",
    "AioQueue",
    "AioSemaphore",
    "Corrupt",
    "DeadLetter",
    "Deque",
    "Empty",
    "Event",
    "Full",
    "Lease",
    "LeasesOut",
    "Leasing",
    "MessageTooLarge",
    "NoFreeHandle",
    "Queue",
    "Semaphore",
    "ShutDown",
    "Undecodable",
    "backend",
]
