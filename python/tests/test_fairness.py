"""A loop runs on while its tasks find all that they ask for: no timeout, signal handler or other task waits
for a queue to become empty, or full."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import children
import pytest

import parkline

Call = Callable[[], Awaitable[Any]]

PATIENCE = 20
"""For so many seconds a busy task goes on if its loop never runs. A loop that runs ends it within
milliseconds."""


def get(q: parkline.Queue[int]) -> Call:
    async def call() -> None:
        q.put_nowait(1)
        assert await q.aio.get() == 1

    return call


def put(q: parkline.Queue[int]) -> Call:
    async def call() -> None:
        await q.aio.put(1)
        assert q.get_nowait() == 1

    return call


def get_many(q: parkline.Queue[int]) -> Call:
    async def call() -> None:
        q.put_many([1, 2])
        assert await q.aio.get_many(2) == [1, 2]

    return call


def put_many(q: parkline.Queue[int]) -> Call:
    async def call() -> None:
        assert await q.aio.put_many([1, 2]) == 2
        assert q.get_many(2) == [1, 2]

    return call


def get_none(q: parkline.Queue[int]) -> Call:
    return lambda: q.aio.get_many(0)


def put_none(q: parkline.Queue[int]) -> Call:
    return lambda: q.aio.put_many([])


def iterate(q: parkline.Queue[int]) -> Call:
    items = q.aio.__aiter__()

    async def call() -> None:
        q.put_nowait(1)
        assert await items.__anext__() == 1

    return call


def join(q: parkline.Queue[int]) -> Call:
    return q.aio.join


def wait(_: parkline.Queue[int]) -> Call:
    event = parkline.Event()
    event.set()
    return event.aio.wait


def acquire(_: parkline.Queue[int]) -> Call:
    semaphore = parkline.Semaphore(1)

    async def call() -> None:
        async with semaphore.aio:
            pass

    return call


def refused(q: parkline.Queue[int]) -> Call:
    """A task that goes on after the end of its queue."""
    closed = parkline.Queue[int](4)
    closed.shutdown()

    async def call() -> None:
        with pytest.raises(parkline.ShutDown):
            await closed.aio.get()

    return call


CALLS = [get, put, get_many, put_many, get_none, put_none, iterate, join, wait, acquire, refused]


async def go_on(call: Call, until: Callable[[], object]) -> None:
    """A task that nothing but the loop ends."""
    end = time.monotonic() + PATIENCE
    while not until():
        await call()
        assert time.monotonic() < end, "the loop never ran"


@pytest.mark.parametrize("make", CALLS, ids=lambda it: it.__name__)
def test_a_timer_goes_off_beside_a_task_that_never_has_to_wait(run: Any, make: Any) -> None:
    """Fails if the call never lets the loop run (seen failing: each of them, in each loop)."""

    async def main() -> None:
        import anyio

        call = make(parkline.Queue[int](8))
        gone_off: list[bool] = []

        async def timer() -> None:
            await anyio.sleep(0.01)
            gone_off.append(True)

        async with anyio.create_task_group() as group:
            group.start_soon(timer)
            await anyio.sleep(0)
            await go_on(call, lambda: gone_off)

    run(main)


@pytest.mark.parametrize("make", CALLS, ids=lambda it: it.__name__)
def test_a_timeout_ends_a_task_that_never_has_to_wait(run: Any, make: Any) -> None:
    """Fails if the call never lets the loop run (seen failing: each of them, in each loop)."""

    async def main() -> None:
        import anyio

        call = make(parkline.Queue[int](8))
        with anyio.move_on_after(0.05) as scope:
            await go_on(call, lambda: False)
        assert scope.cancelled_caught

    run(main)


def test_a_signal_is_handled_beside_a_task_that_never_has_to_wait() -> None:
    """Fails if the call never lets the loop run (seen failing)."""

    async def main() -> None:
        q, handled = parkline.Queue[int](8), asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, handled.set)
        os.kill(os.getpid(), signal.SIGTERM)
        await go_on(get(q), handled.is_set)

    asyncio.run(main())


def test_ctrl_c_ends_a_task_that_never_has_to_wait() -> None:
    """asyncio cancels its main task (from 3.11 on); before it raises at once."""

    async def main() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await go_on(get(parkline.Queue[int](8)), lambda: False)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(main())
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("is_getter", [True, False])
def test_a_loop_runs_on_beside_a_process_that_keeps_the_queue_busy(
    spawn: Any, is_getter: bool
) -> None:
    """It puts, or gets, as fast as it can. Fails if a call never lets the loop run (seen failing, both)."""

    async def main() -> None:
        q, ready = parkline.Queue[int](1024), parkline.Queue[int](1)
        other = children.put_until_shut_down if is_getter else children.get_until_shut_down
        child = spawn.Process(target=other, args=(q, ready))
        child.start()
        await ready.aio.get()

        async def call() -> None:
            await (q.aio.get() if is_getter else q.aio.put(1))
            # So that the other one is quicker.
            sum(range(1000))

        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(go_on(call, lambda: False), 0.1)
        q.shutdown(immediate=True)
        child.join()
        assert child.exitcode == 0

    asyncio.run(main())


def test_cancelled_where_the_loop_runs_a_get_has_taken_nothing(run: Any) -> None:
    """A storm of cancels of a task that hardly ever has to wait. Fails if a call takes its item before it
    lets the loop run (seen failing), and with `PARKLINE_BACKEND=futex` if trio is told to run a task that
    has not gone to sleep yet (seen failing)."""
    count = 40_000

    async def main() -> None:
        import anyio

        q = parkline.Queue[int](8)
        got: list[int] = []

        def put_all() -> None:
            q.put_many(range(count))
            q.shutdown()

        thread = threading.Thread(target=put_all)
        thread.start()
        cancelled, is_over = 0, False
        while not is_over:
            with anyio.move_on_after(0.002) as scope:
                async for item in q.aio:
                    got.append(item)
                is_over = True
            cancelled += scope.cancelled_caught
        thread.join()
        assert got == list(range(count)) and cancelled > 0

    run(main)


def test_cancelled_where_the_loop_runs_a_put_has_put_nothing(run: Any) -> None:
    """Fails if a call puts its item before it lets the loop run (seen failing)."""

    async def main() -> None:
        import anyio

        q = parkline.Queue[int](8)
        put = cancelled = 0
        while cancelled < 10:
            with anyio.move_on_after(0.002) as scope:
                while True:
                    await q.aio.put(put)
                    put += 1
                    assert q.get_nowait() == put - 1
            cancelled += scope.cancelled_caught
            assert q.empty()

    run(main)


def test_a_call_that_finds_what_it_wants_goes_on_at_once_where_the_loop_ran(run: Any) -> None:
    """A task that polls a queue by `timeout(0)` gets an item that is there, however long the loop slept
    before. Fails if a call lets the loop run only because time has passed (seen failing)."""

    async def main() -> None:
        import anyio

        q = parkline.Queue[int](8)
        for number in range(50):
            await anyio.sleep(0.002)
            q.put_nowait(number)
            get = q.aio.get()
            with pytest.raises(StopIteration) as got:
                get.send(None)
            assert got.value.value == number

    run(main)


def test_without_a_loop_what_is_there_is_got() -> None:
    """A coroutine that is driven by hand, for longer than a loop would have its tasks go on. Fails if
    such a call asks for a loop (seen failing)."""
    q = parkline.Queue[int](8)
    end = time.monotonic() + 0.02
    while time.monotonic() < end:
        put, get = q.aio.put(1), q.aio.get()
        for call in (put, get):
            with pytest.raises(StopIteration):
                call.send(None)


def test_a_loop_that_ended_does_not_stop_the_next() -> None:
    """It was asked to say when it runs, and never ran again. Fails if what one loop has not said counts
    for another, or for no loop at all (seen failing)."""
    q = parkline.Queue[int](8)

    async def main(loop: asyncio.AbstractEventLoop) -> None:
        # The last iteration of this loop.
        loop.stop()
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            q.put_nowait(1)
            get = q.aio.get()
            try:
                get.send(None)
            except StopIteration:
                continue
            get.close()
            assert q.get_nowait() == 1
            return
        raise AssertionError("no call has let the loop run")

    loop = asyncio.new_event_loop()
    task = loop.create_task(main(loop))
    loop.run_forever()
    loop.close()
    assert task.done() and task.exception() is None
    q.put_nowait(2)
    get = q.aio.get()
    with pytest.raises(StopIteration) as got:
        get.send(None)
    assert got.value.value == 2
