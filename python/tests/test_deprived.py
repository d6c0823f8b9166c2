"""A process that has neither an io_uring nor a helper thread."""

import asyncio
import logging
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import parkline


def limit_address_space(to: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (to, resource.getrlimit(resource.RLIMIT_AS)[1]))


def used_address_space() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()


def has_helper() -> bool:
    def name(task: str) -> str:
        with open(f"/proc/self/task/{task}/comm") as comm:
            return comm.read()

    return any(name(task) == "parkline\n" for task in os.listdir("/proc/self/task"))


async def use(sleep: Callable[[float], Coroutine[Any, Any, Any]], gather: Any) -> None:
    """What the process does, in whatever loop."""
    unlimited = resource.getrlimit(resource.RLIMIT_AS)[0]
    limit_address_space(used_address_space() + (1 << 30))
    queue = parkline.Queue[str](4)

    async def get_slowly(seconds: float) -> None:
        async def put() -> None:
            await sleep(seconds)
            queue.put_nowait("here")

        async def get() -> None:
            assert await queue.aio.get() == "here"

        before = time.thread_time()
        await gather(put, get)
        used = time.thread_time() - before
        assert used < seconds / 4, f"{used} s of CPU in a wait of {seconds} s"

    await get_slowly(1)
    assert not has_helper()
    limit_address_space(unlimited)
    await get_slowly(0.1)
    assert has_helper(), "it waits in the helper thread"


async def asyncio_gather(*functions: Any) -> None:
    await asyncio.gather(*(function() for function in functions))


def run_in(loop: str) -> None:
    if loop == "trio":
        import trio

        async def trio_gather(*functions: Any) -> None:
            async with trio.open_nursery() as nursery:
                for function in functions:
                    nursery.start_soon(function)

        trio.run(use, trio.sleep, trio_gather)
    elif loop == "uvloop":
        import uvloop

        uvloop.new_event_loop().run_until_complete(use(asyncio.sleep, asyncio_gather))
    else:
        asyncio.run(use(asyncio.sleep, asyncio_gather))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
def test_without_a_ring_and_a_thread_tasks_pause_and_it_is_said_once(loop: str) -> None:
    """Fails if a task attempts again without a pause (seen failing: a second of CPU), or if its pause is
    one of the whole loop."""
    if loop != "asyncio":
        pytest.importorskip(loop)
    # The helper's stack is beyond the limit on the address space, which is far from all else.
    deprived = {"PARKLINE_BACKEND": "futex", "RUST_MIN_STACK": str(1 << 32)}
    command = [sys.executable, __file__, loop]
    done = subprocess.run(command, env=os.environ | deprived, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("neither an io_uring nor a helper thread") == 1, done.stderr


if __name__ == "__main__":
    logging.basicConfig()
    run_in(sys.argv[1])
