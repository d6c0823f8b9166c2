"""The event loops of this process: each has a ring, and polls the ring's descriptor beside its others.

The loops of asyncio and uvloop poll it by `add_reader`, trio by a system task. The waits are in Rust;
this file only registers the callbacks of readable descriptors.
"""

import asyncio
import logging
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, Protocol

from ._parkline import PENDING, EventLoop, _begin_turn, _turn_is_over, backend
from ._tasks import async_library
from ._turn import pause

if TYPE_CHECKING:
    import trio


class Future(Protocol):
    """The future that a waiting task awaits, and that its loop resolves."""

    def done(self) -> bool: ...
    def set_result(self, result: None, /) -> None: ...


# Weak on both sides: a loop keeps its ring alive by the callbacks, and drops them when it is closed.
_by_loop: "weakref.WeakKeyDictionary[Any, weakref.ref[EventLoop]]" = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def _forget() -> None:
    """A forked child has no loop that runs, and no ring."""
    global _by_loop, _lock
    _by_loop, _lock = weakref.WeakKeyDictionary(), threading.Lock()


os.register_at_fork(after_in_child=_forget)


def _find(key: Any) -> "weakref.ref[EventLoop] | None":
    with _lock:
        known = _by_loop.get(key)
    return None if known is None or known() is None else known


def _remember(key: Any, made: EventLoop) -> "weakref.ref[EventLoop]":
    _say_how()
    with _lock:
        known = _by_loop[key] = weakref.ref(made)
    return known


_is_said = False


def _say_how() -> None:
    global _is_said
    if _is_said:
        return
    _is_said = True
    _, why = backend()
    if why is not None and os.environ.get("PARKLINE_BACKEND") != "futex":  # the user chose "futex"
        logging.getLogger("parkline").warning("tasks wait on a helper thread, not in io_uring: %s", why)


def _for_asyncio(loop: asyncio.AbstractEventLoop) -> "weakref.ref[EventLoop]":
    known = _find(loop)
    if known is not None:
        return known
    made = EventLoop()
    for fd, callback in made.sources():
        loop.add_reader(fd, callback)
    return _remember(loop, made)


def _for_trio() -> "weakref.ref[EventLoop]":
    import trio

    token = trio.lowlevel.current_trio_token()
    known = _find(token)
    if known is not None:
        return known
    made = EventLoop()
    for fd, callback in made.sources():
        trio.lowlevel.spawn_system_task(_poll_for_trio, fd, callback)
    return _remember(token, made)


async def _poll_for_trio(fd: int, callback: Any) -> None:
    import trio

    while True:
        await trio.lowlevel.wait_readable(fd)
        callback()


class _TrioFuture:
    """The future of a task of trio."""

    def __init__(self) -> None:
        self._is_done = False
        # Once it sleeps. A task that still runs must not be rescheduled.
        self._task: trio.lowlevel.Task | None = None

    def done(self) -> bool:
        return self._is_done

    def set_result(self, result: None, /) -> None:
        import trio

        self._is_done = True
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    async def wait(self) -> None:
        import trio

        def abort(_: object) -> "trio.lowlevel.Abort":
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)


async def complete(wait: Any) -> Any:
    """Polls `wait` until it is over, in the running loop. If it is cancelled, it has done nothing."""
    if async_library() == "trio":
        return await _complete_in_trio(wait)
    loop = asyncio.get_running_loop()
    event_loop = _for_asyncio(loop)
    try:
        while True:
            if _turn_is_over():
                await pause()
            future = loop.create_future()
            result = wait.poll(event_loop(), future)
            if result is not PENDING:
                return result
            if not future.done():
                await future
                _begin_turn()
    finally:
        wait.close(event_loop())


async def _complete_in_trio(wait: Any) -> Any:
    event_loop = _for_trio()
    try:
        while True:
            if _turn_is_over():
                await pause()
            future = _TrioFuture()
            result = wait.poll(event_loop(), future)
            if result is not PENDING:
                return result
            if not future.done():
                await future.wait()
                _begin_turn()
    finally:
        wait.close(event_loop())
