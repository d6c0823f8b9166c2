"""Who is running: the task of an event loop, or outside of one the thread."""

import asyncio
import sys
import threading


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


def holder() -> int:
    """A number that no other running task or thread of this process has."""
    library = async_library()
    if library == "trio":
        import trio

        return id(trio.lowlevel.current_task())
    if library == "asyncio":
        task = asyncio.current_task()
        if task is not None:
            return id(task)
    return threading.get_ident()
