"""Each event loop that a task can run in."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest


def run_asyncio(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(main())


def run_uvloop(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    uvloop = pytest.importorskip("uvloop")
    loop = uvloop.new_event_loop()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


def run_trio(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return pytest.importorskip("trio").run(main)


RUNS = [run_asyncio, run_uvloop, run_trio]
