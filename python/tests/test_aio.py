"""The awaited calls: the ideas of CPython's test_asyncio/test_queues, where the semantics are shared,
in asyncio, uvloop and trio."""

import asyncio
import contextlib
import gc
import select
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

import parkline
from parkline import _parkline

Runner = Callable[[Coroutine[Any, Any, Any]], Any]


def uvloop_run(main: Coroutine[Any, Any, Any]) -> Any:
    uvloop = pytest.importorskip("uvloop")
    loop = uvloop.new_event_loop()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.close()


def asyncio_run(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(main, debug=True)


RUNNERS = [asyncio_run, uvloop_run]


@pytest.fixture(params=RUNNERS, ids=lambda it: it.__name__)
def run(request: pytest.FixtureRequest) -> Runner:
    runner: Runner = request.param
    return runner


def unhealed(maxsize: int, joinable: bool = False, **options: Any) -> parkline.Queue[Any]:
    """A queue in which a lost wake is not healed: the period of its watchdog is an hour, and both handles
    of this process are attached, because a handle that attaches wakes all waiters."""
    q = parkline.Queue[Any](maxsize, joinable=joinable, watchdog=3600, **options)
    q.put(0)
    assert q.get() == 0
    if joinable:
        q.task_done()
    return q


async def waiters(q: parkline.Queue[Any], getters: int = 0, putters: int = 0) -> None:
    while (q.waiting_getters, q.waiting_putters) != (getters, putters):
        await asyncio.sleep(0)


def test_a_get_waits_for_a_put(run: Runner) -> None:
    async def main() -> None:
        q = unhealed(1)
        task = asyncio.create_task(q.aio.get())
        await waiters(q, getters=1)
        await q.aio.put("here")
        assert await task == "here"
        assert q.aio.empty() and not q.aio.full() and q.aio.qsize() == 0 and q.aio.maxsize == 1

    run(main())


def test_a_put_waits_for_a_get(run: Runner) -> None:
    async def main() -> None:
        q = unhealed(1)
        await q.aio.put("first")
        with pytest.raises(asyncio.QueueFull):
            q.aio.put_nowait("refused")
        task = asyncio.create_task(q.aio.put("second"))
        await waiters(q, putters=1)
        assert q.aio.get_nowait() == "first"
        await task
        assert await q.aio.get() == "second"
        with pytest.raises(asyncio.QueueEmpty):
            q.aio.get_nowait()

    run(main())


def test_what_is_there_is_got_without_the_loop(run: Runner) -> None:
    async def main() -> None:
        q = parkline.Queue[int](4)
        put = q.aio.put(1)
        with pytest.raises(StopIteration):
            put.send(None)
        get = q.aio.get()
        with pytest.raises(StopIteration) as got:
            get.send(None)
        assert got.value.value == 1

    run(main())


def test_many_tasks_get_each_item_once(run: Runner) -> None:
    async def main() -> None:
        q = unhealed(4)
        got: list[int] = []

        async def work() -> None:
            async for item in q.aio:
                got.append(item)

        tasks = [asyncio.create_task(work()) for _ in range(100)]
        await waiters(q, getters=100)
        assert await q.aio.put_many(range(5000)) == 5000
        q.aio.shutdown()
        await asyncio.gather(*tasks)
        assert sorted(got) == list(range(5000))

    run(main())


def test_batches_wait_for_the_first(run: Runner) -> None:
    async def main() -> None:
        q = unhealed(8)
        task = asyncio.create_task(q.aio.get_many(10))
        await waiters(q, getters=1)
        q.put_many([1, 2, 3])
        assert await task == [1, 2, 3]
        assert await q.aio.get_many(0) == []

    run(main())


def test_a_cancelled_get_has_taken_nothing(run: Runner) -> None:
    async def main() -> None:
        q = unhealed(4)
        tasks = [asyncio.create_task(q.aio.get()) for _ in range(10)]
        await waiters(q, getters=10)
        for task in tasks[:-1]:
            task.cancel()
        await waiters(q, getters=1)
        await q.aio.put(7)
        assert await tasks[-1] == 7

    run(main())


def test_whoever_is_cancelled_when_woken_passes_the_wake_on(run: Runner) -> None:
    """One of two is cancelled in the very step in which it is woken. Fails if `Wait::give_up` forgets
    its task (seen failing): the other then waits for the watchdog, an hour."""

    async def main() -> None:
        q = unhealed(4)
        first, second = (asyncio.create_task(q.aio.get()) for _ in range(2))
        await waiters(q, getters=2)
        q.put(7)
        while not first.done() and not second.done():
            first.cancel()
            await asyncio.sleep(0)
        assert await second == 7
        assert first.cancelled()

    run(main())


def test_a_cancelled_put_has_put_nothing(run: Runner) -> None:
    async def main() -> None:
        q = unhealed(1)
        await q.aio.put(1)
        tasks = [asyncio.create_task(q.aio.put(n)) for n in (2, 3)]
        await waiters(q, putters=2)
        tasks[0].cancel()
        assert await q.aio.get() == 1
        await tasks[1]
        assert await q.aio.get() == 3
        assert q.empty() and tasks[0].cancelled()

    run(main())


def test_timeouts_lose_and_repeat_nothing(run: Runner) -> None:
    """A storm of tiny timeouts against a putting thread."""
    rounds = 1000

    async def main() -> None:
        q = unhealed(4)
        thread = threading.Thread(target=q.put_many, args=(range(rounds),))
        thread.start()
        got: list[int] = []

        async def work(timeout: float) -> None:
            while True:
                try:
                    got.append(await asyncio.wait_for(q.aio.get(), timeout))
                except asyncio.TimeoutError:
                    continue
                except parkline.ShutDown:
                    return

        tasks = [asyncio.create_task(work(n * 0.0001)) for n in range(1, 6)]
        while len(got) < rounds:
            await asyncio.sleep(0.001)
        q.shutdown()
        await asyncio.gather(*tasks)
        thread.join()
        assert sorted(got) == list(range(rounds))

    asyncio.run(main(), debug=False)


def test_join_waits_for_all_to_be_done(run: Runner) -> None:
    async def main() -> None:
        q = unhealed(16, joinable=True)
        done = 0

        async def work() -> None:
            nonlocal done
            async for _ in q.aio:
                await asyncio.sleep(0.001)
                done += 1
                q.aio.task_done()

        tasks = [asyncio.create_task(work()) for _ in range(10)]
        await q.aio.put_many(range(100))
        await q.aio.join()
        assert done == 100
        with pytest.raises(ValueError):
            q.aio.task_done()
        q.shutdown()
        await asyncio.gather(*tasks)

    run(main())


def test_each_task_is_done_with_its_own_item(run: Runner) -> None:
    """What comes again after the close is what the second got. Fails if `holder` tells the thread
    alone (seen failing)."""

    async def main() -> None:
        q = parkline.Queue[str](4, joinable=True)
        same = parkline.Queue[str].from_fd(q.share_fd(), joinable=True)
        release = asyncio.Event()

        async def work(is_done: bool) -> None:
            await q.aio.get()
            await release.wait()
            if is_done:
                q.task_done()

        await q.aio.put_many(["left", "done"])
        tasks = [asyncio.create_task(work(is_done)) for is_done in (False, True)]
        while q.qsize():
            await asyncio.sleep(0)
        release.set()
        await asyncio.gather(*tasks)
        q.close()
        assert await same.aio.get() == "left"
        assert same.last_redelivered

    run(main())


def test_with_all_leases_out_tasks_take_turns(run: Runner) -> None:
    async def main() -> None:
        q = unhealed(64, joinable=True, leases=3)
        got: list[int] = []

        async def work() -> None:
            async for item in q.aio:
                await asyncio.sleep(0)
                got.append(item)
                q.task_done()

        tasks = [asyncio.create_task(work()) for _ in range(20)]
        for task in tasks[::3]:
            task.cancel()
        await q.aio.put_many(range(500))
        await q.aio.join()
        q.shutdown()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert sorted(got) == list(range(500))

    run(main())


def test_shutdown_wakes_all_that_wait(run: Runner) -> None:
    async def main() -> None:
        q, full = unhealed(1), unhealed(1)
        full.put(1)
        tasks: list[Awaitable[Any]] = [asyncio.create_task(q.aio.get()) for _ in range(50)]
        tasks += [asyncio.create_task(full.aio.put(2)) for _ in range(50)]
        await waiters(q, getters=50)
        await waiters(full, putters=50)
        q.shutdown()
        full.shutdown()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(it, parkline.ShutDown) for it in results)

    run(main())


def test_several_loops_in_one_process(run: Runner) -> None:
    q, results = unhealed(8), unhealed(8)

    async def work() -> None:
        async def one() -> None:
            async for item in q.aio:
                await results.aio.put(item * 2)

        await asyncio.gather(*(one() for _ in range(10)))

    threads = [threading.Thread(target=run, args=(work(),)) for _ in range(4)]
    for thread in threads:
        thread.start()

    async def main() -> None:
        async def put() -> None:
            await q.aio.put_many(range(1000))

        putting = asyncio.create_task(put())
        got = [await results.aio.get() for _ in range(1000)]
        await putting
        assert sorted(got) == [2 * n for n in range(1000)]

    run(main())
    q.shutdown()
    for thread in threads:
        thread.join()


def test_loops_one_after_the_other_on_the_same_queue(run: Runner) -> None:
    q = unhealed(1)
    for number in range(20):

        async def main(number: int = number) -> None:
            task = asyncio.create_task(q.aio.get())
            await waiters(q, getters=1)
            await q.aio.put(number)
            assert await task == number

        run(main())


def test_a_loop_that_is_closed_takes_no_wake_with_it() -> None:
    """Its task is still there, and was never cancelled. Fails if `EventLoop` is dropped without giving
    up what waits in it (seen failing)."""
    q = unhealed(1)
    loop = asyncio.new_event_loop()
    task = loop.create_task(q.aio.get())
    loop.run_until_complete(waiters(q, getters=1))
    loop.close()

    async def main() -> None:
        get = asyncio.create_task(q.aio.get())
        await waiters(q, getters=1)
        threading.Thread(target=q.put, args=(7,)).start()
        assert await get == 7

    asyncio.run(main())
    task._log_destroy_pending = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("is_seen", [True, False])
def test_a_loop_that_is_closed_passes_on_the_wake_of_a_task(is_seen: bool) -> None:
    """The first of two that wait was woken, in a loop that is closed before it gets to run: whether
    that loop has seen the wake or not, it goes on to the second, which otherwise waits for the
    watchdog. Fails if `EventLoop` is dropped without giving up what waits in it (seen failing)."""
    q = unhealed(1)
    loop = asyncio.new_event_loop()
    task = loop.create_task(q.aio.get())
    loop.run_until_complete(waiters(q, getters=1))
    got: list[int] = []

    async def second() -> None:
        got.append(await asyncio.wait_for(q.aio.get(), 30))

    thread = threading.Thread(target=asyncio.run, args=(second(),))
    thread.start()
    while q.waiting_getters < 2:
        pass
    q.put(7)

    def leave_once_woken() -> None:
        # The task is the next to run.
        if task._fut_waiter.done():  # type: ignore[attr-defined]
            raise SystemExit
        loop.call_soon(leave_once_woken)

    if is_seen:
        loop.call_soon(leave_once_woken)
        with pytest.raises(SystemExit):
            loop.run_forever()
    loop.close()
    thread.join()
    assert got == [7]
    task._log_destroy_pending = False  # type: ignore[attr-defined]


class Future:
    """A future of a loop. With `interrupts`, a signal handler interrupts its Python code, as in trio."""

    def __init__(self, interrupts: bool = False) -> None:
        self.interrupts, self.is_done = interrupts, False

    def done(self) -> bool:
        if self.interrupts:
            raise KeyboardInterrupt
        return self.is_done

    def set_result(self, result: None, /) -> None:
        self.is_done = True


def drive_until(event_loop: _parkline.EventLoop, future: Future) -> None:
    """Does what a loop does: it reports a descriptor, and the call has it silent again."""
    callbacks = dict(event_loop.sources())
    while not future.is_done:
        readable, _, _ = select.select(list(callbacks), [], [], 30)
        assert readable, "nothing wakes it"
        for fd in readable:
            with contextlib.suppress(KeyboardInterrupt):
                callbacks[fd]()


def test_where_the_wake_of_one_is_interrupted_the_others_are_woken() -> None:
    """One set wakes them all at once. Fails if those that come after the interrupted one are forgotten
    (seen failing): they sleep for ever."""
    event_loop, event = _parkline.EventLoop(), parkline.Event(watchdog=3600)
    futures = [Future(interrupts=True), Future(), Future()]
    waits = [event._begin_wait() for _ in futures]
    for wait, future in zip(waits, futures):
        assert wait.poll(event_loop, future) is _parkline.PENDING
    event.set()
    for future in futures[1:]:
        drive_until(event_loop, future)


@pytest.mark.parametrize("leases", [None, 0])
def test_an_interrupt_of_the_wake_of_another_loses_no_item(leases: int | None) -> None:
    """The first has its item, and wakes the second, since there is one more. Fails if what a poll got is
    dropped then (seen failing: without leases)."""
    event_loop = _parkline.EventLoop()
    q = parkline.Queue[int](4, leases=leases, watchdog=3600)
    q.put(0)  # the first put attaches, and wakes all waiters
    assert q.get() == 0
    first, second = q._begin_get(), q._begin_get()
    future = Future()
    assert first.poll(event_loop, future) is _parkline.PENDING
    assert second.poll(event_loop, Future(interrupts=True)) is _parkline.PENDING
    q.put_many([1, 2])
    drive_until(event_loop, future)
    with pytest.raises(KeyboardInterrupt):
        first.poll(event_loop, Future())
    second.close(event_loop)
    assert sorted(q.get_many(4)) == [1, 2]


def test_an_interrupt_of_the_wake_of_another_keeps_no_permit() -> None:
    """Fails if the handle keeps a permit that its caller does not know of (seen failing)."""
    event_loop, semaphore = _parkline.EventLoop(), parkline.Semaphore(2, watchdog=3600)
    assert semaphore.acquire() and semaphore.acquire()
    waits = [semaphore._begin_acquire() for _ in range(2)]
    first, second = (wait for wait in waits if wait is not None)
    future = Future()
    assert first.poll(event_loop, future) is _parkline.PENDING
    assert second.poll(event_loop, Future(interrupts=True)) is _parkline.PENDING
    semaphore.release(2)
    drive_until(event_loop, future)
    with pytest.raises(KeyboardInterrupt):
        first.poll(event_loop, Future())
    second.close(event_loop)
    assert semaphore.value == 2


def test_a_cycle_of_stages_goes_on() -> None:
    """Thousands of coroutines get from and put into the same two queues."""

    async def main() -> None:
        there, back = unhealed(8), unhealed(8)
        tokens, hops, hopped = 12, 5_000, 0
        finished = asyncio.Event()

        async def stage(source: parkline.Queue[int], target: parkline.Queue[int]) -> None:
            nonlocal hopped
            async for token in source.aio:
                hopped += 1
                if hopped == hops:
                    finished.set()
                await target.aio.put(token)

        tasks = [asyncio.create_task(stage(there, back)) for _ in range(2000)]
        tasks += [asyncio.create_task(stage(back, there)) for _ in range(2000)]
        for token in range(tokens):
            await there.aio.put(token)
        await finished.wait()
        there.shutdown()
        back.shutdown()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())


def test_async_with_closes_the_handle(run: Runner) -> None:
    async def main() -> None:
        async with parkline.Queue[int](1).aio as aio:
            await aio.put(1)
            assert "aio view of <parkline.Queue 1/1" in repr(aio)
        with pytest.raises(ValueError):
            await aio.get()

    run(main())


def test_errors_are_raised_in_the_caller(run: Runner) -> None:
    async def main() -> None:
        q = parkline.Queue[Any](1, max_message=64)
        with pytest.raises(parkline.MessageTooLarge):
            await q.aio.put("x" * 100)
        with pytest.raises(Exception, match="pickle|local object"):
            await q.aio.put(lambda: 0)
        assert q.empty()

    run(main())


def test_trio_waits_and_cancels() -> None:
    trio = pytest.importorskip("trio")

    async def main() -> None:
        q = unhealed(2)
        got: list[int] = []

        async def work() -> None:
            async for item in q.aio:
                got.append(item)

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(work)
                while q.waiting_getters < 20:
                    await trio.sleep(0)
                with trio.move_on_after(0.01):
                    await parkline.Queue[int](1).aio.get()
                await q.aio.put_many(range(1000))
                q.shutdown()
        assert sorted(got) == list(range(1000))

    trio.run(main)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_anyio_waits_and_cancels(backend: str) -> None:
    anyio = pytest.importorskip("anyio")
    pytest.importorskip(backend)

    async def main() -> None:
        q = unhealed(2, joinable=True)
        got: list[int] = []

        async def work() -> None:
            async for item in q.aio:
                got.append(item)
                q.task_done()

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(work)
                with anyio.move_on_after(0.01):
                    await parkline.Queue[int](1).aio.get()
                await q.aio.put_many(range(1000))
                await q.aio.join()
                group.cancel_scope.cancel()
        assert sorted(got) == list(range(1000))

    anyio.run(main, backend=backend)


def test_the_view_is_made_once_and_holds_no_handle() -> None:
    """Fails if the view refers to the handle that keeps it (seen failing): only a collection would let
    go of the memory then."""
    gc.disable()
    try:
        q = parkline.Queue[int](4)
        aio = q.aio
        assert q.aio is aio
        gone = weakref.ref(q)
        del q
        assert gone() is None
    finally:
        gc.enable()
    aio.put_nowait(1)
    assert aio.get_nowait() == 1
    same = parkline.Queue[int](4)
    same.aio.close()
    assert same.closed
