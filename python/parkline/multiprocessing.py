"""Drop-in for `multiprocessing`: `import parkline.multiprocessing as mp`.

`Queue`, `JoinableQueue`, `SimpleQueue`, `Event`, `Semaphore` and `Pipe` are Parkline's, with the arguments
and the methods of multiprocessing's. Every other name is multiprocessing's own: `Process`, `Pool`, `Lock`,
`Manager`. So is what a context makes: `mp.get_context("spawn").Queue()` is multiprocessing's queue, and
`mp.Queue()` works in the processes of every context.

What differs, beside what `parkline.Queue`, `Event` and `Semaphore` say:

* A queue is bounded. `Queue()` and `Queue(0)` have room for 1,024 items, `Queue(n)` for `n` or more, up to
  the next power of two. A `put` waits while there is no room.
* An item has up to 1 MiB when it is encoded; `Queue(max_message=..)` says otherwise. Memory is allocated when
  it is first used.
* Up to 128 handles are open at a time, of a `JoinableQueue` 64: a process takes one to put and one to get.
* A process can hold 64 items of a `JoinableQueue` for which it did not call `task_done`; then its `get` waits
  for one, or raises `LeasesOut`, which is an `Empty`.
* `Semaphore(0)` is refused, and a process releases what it acquired itself.
* The ends of a `Pipe` have no `fileno`.
"""

import importlib
import multiprocessing as _multiprocessing
from contextlib import suppress
from multiprocessing import (
    Array,
    AuthenticationError,
    Barrier,
    BoundedSemaphore,
    BufferTooShort,
    Condition,
    Lock,
    Manager,
    Pool,
    Process,
    ProcessError,
    RLock,
    RawArray,
    RawValue,
    TimeoutError,
    Value,
    active_children,
    allow_connection_pickling,
    cpu_count,
    current_process,
    freeze_support,
    get_all_start_methods,
    get_context,
    get_logger,
    get_start_method,
    log_to_stderr,
    parent_process,
    reducer,
    set_executable,
    set_forkserver_preload,
    set_start_method,
)
from typing import Any

from ._drop_in import Event, JoinableQueue, Queue, Semaphore, SimpleQueue
from ._pipe import Connection, Pipe

__all__ = [
    "Array",
    "AuthenticationError",
    "Barrier",
    "BoundedSemaphore",
    "BufferTooShort",
    "Condition",
    "Connection",
    "Event",
    "JoinableQueue",
    "Lock",
    "Manager",
    "Pipe",
    "Pool",
    "Process",
    "ProcessError",
    "Queue",
    "RLock",
    "RawArray",
    "RawValue",
    "Semaphore",
    "SimpleQueue",
    "TimeoutError",
    "Value",
    "active_children",
    "allow_connection_pickling",
    "cpu_count",
    "current_process",
    "freeze_support",
    "get_all_start_methods",
    "get_context",
    "get_logger",
    "get_start_method",
    "log_to_stderr",
    "parent_process",
    "reducer",
    "set_executable",
    "set_forkserver_preload",
    "set_start_method",
]


def __getattr__(name: str) -> Any:
    """The modules of multiprocessing: `mp.connection`, `from parkline.multiprocessing import shared_memory`."""
    if not hasattr(_multiprocessing, name) and not name.startswith("__"):
        with suppress(ModuleNotFoundError):
            importlib.import_module(f"multiprocessing.{name}")
    return getattr(_multiprocessing, name)
