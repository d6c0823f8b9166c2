"""What is running: a task of an event loop, or outside of a task the thread."""

import asyncio
import sys
import threading
import weakref
from typing import Any


def async_library() -> str | None:
    """The async library of the running task: "asyncio", "trio", or None outside of both."""
    if "trio" in sys.modules:
        import trio

        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            pass
        else:
            return "trio"
    return None if asyncio._get_running_loop() is None else "asyncio"


class _Thread(threading.local):
    """An object for each thread."""

    def __init__(self) -> None:
        self.itself = object()


_thread = _Thread()


def holder() -> Any:
    """An object that stands for the running task or thread, and never for another one: the number of a
    thread or task would be reused. It keeps no task alive."""
    library = async_library()
    if library == "trio":
        import trio

        return weakref.ref(trio.lowlevel.current_task())
    if library == "asyncio":
        task = asyncio.current_task()
        if task is not None:
            return weakref.ref(task)
    return _thread.itself
