"""Turns: a task that never has to wait lets its loop run now and then. `src/turn.rs` decides when."""

import asyncio
import threading
import weakref
from typing import Any

from ._parkline import _begin_turn
from ._tasks import async_library


class _Asked(threading.local):
    """The loop of this thread that was asked to call `_ran` when it runs, and has not called it."""

    loop: "weakref.ref[Any] | None" = None


_asked = _Asked()


def _ran() -> None:
    """The loop runs."""
    _asked.loop = None
    _begin_turn()


def must_pause() -> bool:
    """Whether the loop has not run since the last call of this function, which asked it to call `_ran`.

    Without a loop, False: a coroutine that is driven by hand keeps no loop from running.
    """
    library = async_library()
    if library is None:
        return False
    if library == "trio":
        import trio

        token = trio.lowlevel.current_trio_token()
        return _has_not_run(token) or _ask(token, token.run_sync_soon)
    loop = asyncio.get_running_loop()
    return _has_not_run(loop) or _ask(loop, loop.call_soon)


def _has_not_run(loop: Any) -> bool:
    return _asked.loop is not None and _asked.loop() is loop


def _ask(loop: Any, call_soon: Any) -> bool:
    call_soon(_ran)
    _asked.loop = weakref.ref(loop)
    return False


async def pause() -> None:
    """Lets the loop run once."""
    if async_library() == "trio":
        import trio

        await trio.lowlevel.checkpoint()
    else:
        await asyncio.sleep(0)
    _ran()
