"""The blocking calls: the ideas of CPython's test_queue, where the semantics are shared."""

import asyncio
import itertools
import os
import pickle
import queue
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from bounds import run

import parkline


def wait_for_waiters(q: parkline.Queue[Any], getters: int = 0, putters: int = 0) -> None:
    while (q.waiting_getters, q.waiting_putters) != (getters, putters):
        time.sleep(0.001)


def test_items_come_in_the_order_of_their_puts() -> None:
    q = parkline.Queue[int](2)
    assert q.empty() and not q.full() and q.qsize() == 0 and q.maxsize == 2
    q.put(111)
    q.put(222)
    assert not q.empty() and q.full() and q.qsize() == 2
    assert [q.get(), q.get()] == [111, 222]
    assert q.empty()


@pytest.mark.parametrize("full", [queue.Full, asyncio.QueueFull, parkline.Full])
def test_a_full_queue_raises_what_everybody_catches(full: type[Exception]) -> None:
    q = parkline.Queue[int](1)
    q.put(1)
    with pytest.raises(full):
        q.put_nowait(2)
    for block, timeout in ((False, None), (True, 0.01), (True, 0)):
        with pytest.raises(full):
            q.put(2, block, timeout)
    assert q.qsize() == 1


@pytest.mark.parametrize("empty", [queue.Empty, asyncio.QueueEmpty, parkline.Empty])
def test_an_empty_queue_raises_what_everybody_catches(empty: type[Exception]) -> None:
    q = parkline.Queue[int](1)
    with pytest.raises(empty):
        q.get_nowait()
    for block, timeout in ((False, None), (True, 0.01), (True, 0)):
        with pytest.raises(empty):
            q.get(block, timeout)


def test_a_negative_timeout_is_refused_whether_the_call_has_to_wait_or_not() -> None:
    """Fails if it is read only for a wait (seen failing). Without a wait it counts for nothing, as in the
    standard library."""
    q = parkline.Queue[int](4)
    semaphore, event = parkline.Semaphore(1), parkline.Event()
    event.set()
    for items in (0, 1):
        calls: list[Callable[[], object]] = [
            lambda: q.get(timeout=-1),
            lambda: q.get(True, -1e-9),
            lambda: q.lease(timeout=float("nan")),
            lambda: q.get_many(1, timeout=-1),
            lambda: q.put(2, timeout=-1),
            lambda: q.put_many([], -1),
            lambda: semaphore.acquire(timeout=-1),
            lambda: event.wait(-1),
        ]
        for call in calls:
            with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
                call()
        assert q.qsize() == items and semaphore.value == 1
        q.put(1, False, -1)
    assert q.get(False, -1) == 1


def test_any_object_says_whether_a_call_waits() -> None:
    """Fails if it has to be a bool (seen failing): it is a `TypeError`."""
    q = parkline.Queue[int](1)
    semaphore = parkline.Semaphore(1)
    q.put(1, 1)
    falsy: list[object] = [0, None, "", []]
    for no in falsy:
        with pytest.raises(parkline.Full):
            q.put(2, no)
    assert q.get(1) == 1 and semaphore.acquire(1)
    for no in falsy:
        with pytest.raises(parkline.Empty):
            q.get(no)
        with pytest.raises(parkline.Empty):
            q.lease(no)
        with pytest.raises(parkline.Empty):
            q.get_many(1, no)
        assert not semaphore.acquire(no)
        assert not semaphore.acquire(blocking=no)


UNBOUNDED = r"this queue is bounded: maxsize says how many .* Queue\(1024\).*parkline.multiprocessing"


@pytest.mark.parametrize(
    ("call", "error", "told"),
    [
        (lambda: parkline.Queue(), TypeError, UNBOUNDED),  # type: ignore[call-arg]
        (lambda: parkline.Queue(0), ValueError, "maxsize is 0; " + UNBOUNDED),
        (lambda: parkline.Queue(-1), ValueError, "maxsize is -1; " + UNBOUNDED),
        (lambda: parkline.Queue(1 << 80), ValueError, "maxsize is 1208925819614629174706176, it is too"),
        (lambda: parkline.Queue("4"), TypeError, "interpreted as an integer"),  # type: ignore[arg-type]
        (lambda: parkline.Queue.memory(-1), ValueError, "maxsize is -1; " + UNBOUNDED),
        (lambda: parkline.Queue(4, max_message=-1), ValueError, "max_message is -1, it must not be neg"),
        (lambda: parkline.Queue(4, handles=-1), ValueError, "handles is -1, it must not be negative"),
        (lambda: parkline.Queue(4, leases=-1), ValueError, "leases is -1, it must not be negative"),
        (lambda: parkline.Queue(4, max_attempts=-1), ValueError, "max_attempts is -1, it must not be"),
        (lambda: parkline.Queue[int](4).get_many(-1), ValueError, "max_items is -1, it must not be"),
        (lambda: parkline.Semaphore(-1), ValueError, "value is -1, it must not be negative"),
        (lambda: parkline.Semaphore(0), ValueError, "value is 0; .*, use an Event for a signal"),
        (lambda: parkline.Semaphore(handles=-1), ValueError, "handles is -1, it must not be negative"),
        (lambda: parkline.Semaphore().release(-1), ValueError, "n is -1, it must not be negative"),
        (lambda: parkline.Semaphore().release(0), ValueError, "n must be one or more"),
    ],
)
def test_a_number_that_cannot_be_is_refused_with_its_name(
    call: Callable[[], object], error: type[Exception], told: str
) -> None:
    """Fails if the conversion to a number of Rust raises (seen failing): `OverflowError`, or "missing 1
    required positional argument"."""
    with pytest.raises(error, match=told):
        call()


def test_the_view_for_tasks_tells_what_the_queue_tells() -> None:
    q = parkline.Queue[int](4, joinable=True)
    q.put(1)
    assert (q.aio.unfinished_tasks, q.aio.is_shutdown, q.aio.closed) == (1, False, False)
    q.aio.get_nowait()
    assert (q.aio.last_attempts, q.aio.last_redelivered) == (1, False)
    assert (q.unfinished_tasks, q.aio.unfinished_tasks) == (1, 1)
    q.shutdown()
    assert q.aio.is_shutdown
    q.aio.task_done()
    assert q.unfinished_tasks == 0
    q.close()
    assert q.aio.closed and q.closed
    q.join_thread()
    q.cancel_join_thread()
    event, semaphore = parkline.Event(), parkline.Semaphore()
    assert not event.aio.closed and not semaphore.aio.closed
    event.close()
    semaphore.close()
    assert event.aio.closed and semaphore.aio.closed


@pytest.mark.parametrize("make", [lambda: parkline.Queue(4), parkline.Event, parkline.Semaphore])
def test_no_handle_is_a_file(make: Callable[[], Any]) -> None:
    """Of its memfd the kernel says that it is always ready. Fails if a handle has a `fileno` (seen
    failing): the select returns at once."""
    made = make()
    with pytest.raises(TypeError, match="fileno"):
        select.select([made], [], [], 0)
    assert os.fstat(made.share_fd()).st_size > 0
    same = type(made).from_fd(made.share_fd())
    assert same.id == made.id


def test_the_bound_is_a_power_of_two() -> None:
    assert parkline.Queue[int](1000).maxsize == 1024


def test_a_get_waits_for_a_put_of_another_thread() -> None:
    q = parkline.Queue[str](1)
    got: list[str] = []
    thread = threading.Thread(target=lambda: got.append(q.get()))
    thread.start()
    wait_for_waiters(q, getters=1)
    q.put("here")
    thread.join()
    assert got == ["here"]


def test_a_put_waits_for_a_get_of_another_thread() -> None:
    q = parkline.Queue[str](1)
    q.put("first")
    thread = threading.Thread(target=q.put, args=("second",))
    thread.start()
    wait_for_waiters(q, putters=1)
    assert q.get() == "first"
    thread.join()
    assert q.get() == "second"


def test_many_threads_take_each_item_once() -> None:
    """Fails if a blocked get takes an item and drops it (seen failing)."""
    q = parkline.Queue[int](4)
    got: list[int] = []
    threads = [threading.Thread(target=lambda: got.extend(q)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for number in range(10_000):
        q.put(number)
    q.shutdown()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(10_000))


def test_shutdown_lets_the_rest_be_got() -> None:
    q = parkline.Queue[int](4)
    q.put(1)
    q.shutdown()
    q.shutdown()
    with pytest.raises(parkline.ShutDown):
        q.put(2)
    with pytest.raises(parkline.ShutDown):
        q.put_nowait(2)
    assert q.get() == 1
    with pytest.raises(parkline.ShutDown):
        q.get()
    with pytest.raises(parkline.ShutDown):
        q.get_nowait()


def test_an_immediate_shutdown_empties_the_queue_and_ends_joins() -> None:
    q = parkline.Queue[int](4, joinable=True)
    q.put(1)
    q.put(2)
    q.shutdown(immediate=True)
    with pytest.raises(parkline.ShutDown):
        q.get()
    q.join(timeout=10)


def test_shutdown_wakes_who_waits() -> None:
    q = parkline.Queue[int](1)
    errors: list[Exception] = []

    def get() -> None:
        try:
            q.get()
        except parkline.ShutDown as error:
            errors.append(error)

    threads = [threading.Thread(target=get) for _ in range(5)]
    for thread in threads:
        thread.start()
    wait_for_waiters(q, getters=5)
    q.shutdown()
    for thread in threads:
        thread.join()
    assert len(errors) == 5


if sys.version_info >= (3, 13):

    def test_shutdown_raises_what_everybody_catches() -> None:
        assert issubclass(parkline.ShutDown, queue.ShutDown)
        assert issubclass(parkline.ShutDown, asyncio.QueueShutDown)


def test_join_waits_until_all_is_done() -> None:
    q = parkline.Queue[int](8, joinable=True)
    for number in range(4):
        q.put(number)
    with pytest.raises(TimeoutError):
        q.join(timeout=0.01)
    for _ in range(4):
        q.get()
    with pytest.raises(TimeoutError):
        q.join(timeout=0.01)
    for _ in range(4):
        q.task_done()
    q.join()


def test_task_done_once_too_often_is_refused() -> None:
    q = parkline.Queue[int](8, joinable=True)
    with pytest.raises(ValueError):
        q.task_done()
    q.put(1)
    q.get()
    q.task_done()
    with pytest.raises(ValueError):
        q.task_done()


@pytest.mark.parametrize("leases", [None, 0])
def test_task_done_of_a_queue_that_is_not_joinable_does_nothing(leases: int | None) -> None:
    """As a program expects that was written to the standard library, logging's `QueueListener` for one.
    Fails if it is refused (seen failing)."""
    q = parkline.Queue[int](8, leases=leases)
    q.put(1)
    q.get()
    q.task_done()
    q.aio.task_done()


def test_each_thread_is_done_with_its_own_item() -> None:
    """The other's item stays out. Fails if `done` takes the oldest of all (seen failing)."""
    q = parkline.Queue[str](8, joinable=True)
    q.put("of the main thread")
    q.put("of the other")
    q.get()

    def other() -> None:
        q.get()
        q.task_done()

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    same = parkline.Queue[str].from_fd(q.share_fd(), joinable=True)
    q.close()
    assert same.get(timeout=10) == "of the main thread"
    assert same.last_redelivered


@pytest.mark.parametrize("in_task", [False, True])
def test_an_item_of_one_that_ended_is_not_done_by_one_that_has_its_number(in_task: bool) -> None:
    """Threads and tasks are numbered by the address of what is freed at their end. Fails if a number
    stands for the holder (seen failing, each): the failed item is done, and the other comes again."""
    q = parkline.Queue[str](8, joinable=True)
    q.put_many(["failed", "done"])
    failed, tries = 0, itertools.count()

    def number() -> int:
        return id(asyncio.current_task()) if in_task else threading.get_ident()

    def fail() -> None:
        nonlocal failed
        failed = number()
        q.get()

    def work() -> None:
        if number() == failed or next(tries) == 1000:
            q.get()
            q.task_done()

    def call(one: Callable[[], None]) -> None:
        thread = threading.Thread(target=one)
        thread.start()
        thread.join()

    async def call_in_task(one: Callable[[], None]) -> None:
        async def main() -> None:
            one()

        await asyncio.create_task(main())

    async def main() -> None:
        await call_in_task(fail)
        while q.qsize():
            await call_in_task(work)

    if in_task:
        asyncio.run(main())
    else:
        call(fail)
        while q.qsize():
            call(work)
    same = parkline.Queue[str].from_fd(q.share_fd(), joinable=True)
    q.close()
    assert same.get_many(8) == ["failed"]


def test_a_handle_that_is_closed_refuses() -> None:
    q = parkline.Queue[int](1)
    with q:
        q.put(1)
    assert q.closed
    for call in (q.get, q.qsize, q.task_done, q.shutdown, q.share_fd):
        with pytest.raises(ValueError, match="closed"):
            call()
    q.close()
    assert repr(q) == "<parkline.Queue closed>"


def test_what_a_closed_handle_had_not_done_comes_again() -> None:
    """Fails if closing acknowledges (seen failing)."""
    q = parkline.Queue[str](4, joinable=True)
    same = parkline.Queue[str].from_fd(q.share_fd(), joinable=True)
    q.put("job")
    q.get()
    assert q.last_attempts == 1 and not q.last_redelivered
    q.close()
    assert same.get(timeout=10) == "job"
    assert same.last_attempts == 2 and same.last_redelivered
    same.task_done()
    same.join()


def test_with_all_leases_out_a_get_waits_for_a_task_done() -> None:
    """Fails, with a `LONGEST_SLEEP` of an hour, if `task_done` wakes no get (seen failing)."""
    q = parkline.Queue[int](8, joinable=True, leases=1)
    q.put(1)
    q.put(2)
    assert q.get() == 1
    with pytest.raises(parkline.Empty):
        q.get(timeout=0.01)
    
    def get_and_be_done() -> None:
        q.get()
        q.task_done()

    thread = threading.Thread(target=get_and_be_done)
    thread.start()
    wait_for_waiters(q, getters=1)
    q.task_done()
    thread.join()
    q.join()


def test_without_leases_an_item_is_done_when_it_is_got() -> None:
    """Fails if a get leases its item (seen failing): it waits for ever beside the items."""
    q = parkline.Queue[Any](8, leases=0)
    q.put_many([1, [2], 3, b"4", "five", 6])
    assert q.get(timeout=10) == 1
    assert q.get_nowait() == [2]
    assert q.get_many(2, timeout=10) == [3, b"4"]
    assert [q.get(timeout=10), q.get(timeout=10)] == ["five", 6]
    q.join(timeout=10)
    q.put_many([8, 9])
    q.shutdown()
    assert list(q) == [8, 9]
    same = parkline.Queue[Any](8, leases=0)
    same.put(1)
    same.shutdown(immediate=True)
    same.join(timeout=10)


def test_without_leases_a_task_gets_what_is_there_and_what_comes(run: Any) -> None:
    """Fails if a get leases its item (seen failing): it waits for ever beside the items."""

    async def main() -> None:
        import anyio

        q = parkline.Queue[Any](8, leases=0)
        got: list[Any] = []

        async def wait() -> None:
            got.append(await q.aio.get())
            got.extend(await q.aio.get_many(4))
            async for item in q.aio:
                got.append(item)

        with anyio.fail_after(30):
            q.put_many(["one", 2, [3]])
            assert await q.aio.get() == "one"
            assert await q.aio.get_many(8) == [2, [3]]
            with anyio.move_on_after(0):
                await q.aio.get()
            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                for number in range(3):
                    while not q.waiting_getters:
                        await anyio.sleep(0)
                    await q.aio.put(number)
                    while len(got) <= number:
                        await anyio.sleep(0)
                group.cancel_scope.cancel()
            assert got == [0, 1, 2]
            await q.aio.join()

    run(main)


def test_a_joinable_queue_without_leases_is_refused() -> None:
    with pytest.raises(ValueError, match="joinable=True needs leases"):
        parkline.Queue[int](8, joinable=True, leases=0)
    q = parkline.Queue[int](8, leases=0)
    with pytest.raises(ValueError, match="joinable=True needs leases"):
        parkline.Queue[int].from_fd(q.share_fd(), joinable=True)


def test_the_end_waits_for_what_others_are_not_done_with() -> None:
    """Another process's, or another handle's: it may come again. Fails if a queue has ended when it is
    empty (seen failing)."""
    q = parkline.Queue[str](8, joinable=True)
    other = parkline.Queue[str].from_fd(q.share_fd(), joinable=True)
    q.put_many(["done", "comes again"])
    assert [other.get(), other.get()] == ["done", "comes again"]
    other.task_done()
    q.shutdown()
    got: list[str] = []
    threads = [threading.Thread(target=lambda: got.extend(one(q))) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_for_waiters(q, getters=2)
    with pytest.raises(parkline.Empty):
        q.get_nowait()
    other.close()
    for thread in threads:
        thread.join()
    assert got == ["comes again"]


def one(q: parkline.Queue[str]) -> list[str]:
    """What a worker gets that is done with each item."""
    got = []
    for item in q:
        got.append(item)
        q.task_done()
    return got


@pytest.mark.parametrize("leases", [2, 256])
def test_the_end_does_not_wait_for_what_this_handle_is_not_done_with(leases: int) -> None:
    """The caller may have it, also where another thread or task got it for it. Fails if a get waits for
    all items (seen failing): it waits for itself."""
    q = parkline.Queue[int](8, joinable=True, leases=leases)
    q.put_many([1, 2])
    q.shutdown()
    assert [q.get(), q.get()] == [1, 2]
    for block, timeout in ((False, None), (True, 10)):
        with pytest.raises(parkline.ShutDown):
            q.get(block, timeout)
    with pytest.raises(parkline.ShutDown):
        q.get_many(2, timeout=10)

    async def main() -> None:
        await q.aio.get()
        await q.aio.get()
        with pytest.raises(parkline.ShutDown):
            await asyncio.wait_for(q.aio.get(), 10)

    q.task_done()
    q.task_done()
    q = parkline.Queue[int](8, joinable=True, leases=leases)
    q.put_many([1, 2])
    q.shutdown()
    asyncio.run(main())


def test_the_repr_tells_what_goes_on() -> None:
    q = parkline.Queue[int](1000, max_message=64)
    q.put(1)
    assert repr(q).startswith("<parkline.Queue 1/1024 items of up to 64 bytes, 0 getters and 0 put")
    assert parkline.backend()[0] in repr(q)


def test_batches_go_in_and_come_out_in_order() -> None:
    q = parkline.Queue[int](16)
    assert q.put_many(range(10)) == 10
    assert q.get_many(4) == [0, 1, 2, 3]
    assert q.get_many(100) == [4, 5, 6, 7, 8, 9]
    with pytest.raises(parkline.Empty):
        q.get_many(1, block=False)
    with pytest.raises(parkline.Full, match="16 of 20") as full:
        q.put_many(range(20), timeout=0.01)
    assert full.value.count == 16 and parkline.Full().count == 0
    assert q.get_many(100) == list(range(16))


TOO_LARGE = [1, 2, b"x" * 9000, 4]


def test_of_a_batch_with_an_item_that_is_too_large_nothing_is_put() -> None:
    """Fails if the sizes are compared as the items are put (seen failing): two are in the queue."""
    q = parkline.Queue[Any](8)
    with pytest.raises(parkline.MessageTooLarge) as told:
        q.put_many(TOO_LARGE)
    assert (told.value.size, told.value.limit, told.value.count) == (9008, 8192, 0)
    assert q.qsize() == 0
    # An item of several parts has the size that it takes in the block.
    with pytest.raises(parkline.MessageTooLarge) as parts:
        q.put_many([bytearray(8192)])
    with pytest.raises(parkline.MessageTooLarge) as alone:
        q.put(bytearray(8192))
    assert parts.value.size == alone.value.size
    assert q.put_many([b"x" * (8192 - 8)]) == 1


@pytest.mark.parametrize(
    ("bad", "error"), [(b"x" * 9000, parkline.MessageTooLarge), (lambda: 0, AttributeError)]
)
def test_an_awaited_batch_says_how_many_were_put_before_its_error(
    bad: Any, error: type[Exception], run: Any
) -> None:
    """Fails if the error does not say it (seen failing)."""

    async def main() -> None:
        q = parkline.Queue[Any](8)
        with pytest.raises((error, pickle.PicklingError)) as told:
            await q.aio.put_many([1, 2, bad, 4])
        assert (vars(told.value)["count"], q.qsize()) == (2, 2)

    run(main)


def test_a_batch_that_a_shutdown_ends_says_how_many_were_put() -> None:
    """Fails if the error does not say it (seen failing)."""
    q = parkline.Queue[int](4)
    told: list[int] = []

    def put() -> None:
        try:
            q.put_many(range(6))
        except parkline.ShutDown as error:
            told.append(error.count)

    thread = threading.Thread(target=put)
    thread.start()
    wait_for_waiters(q, putters=1)
    q.shutdown()
    thread.join()
    assert told == [4] and list(q) == [0, 1, 2, 3]


def test_a_batch_that_does_not_fit_goes_on_as_there_is_room() -> None:
    q = parkline.Queue[int](4)
    thread = threading.Thread(target=q.put_many, args=(range(1000),))
    thread.start()
    got: list[int] = []
    while len(got) < 1000:
        got += q.get_many(7)
    thread.join()
    assert got == list(range(1000))


def test_ctrl_c_ends_a_blocked_get_at_once() -> None:
    """The signal comes while the thread sleeps. Fails, with a `LONGEST_SLEEP` of an hour, if the signal
    does not end the sleep (seen failing)."""
    program = """
        import os, signal, threading, time, parkline
        # A shell has its background jobs ignore it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        q = parkline.Queue(1)
        def interrupt():
            while not q.waiting_getters:
                time.sleep(0.001)
            with open(f"/proc/self/task/{os.getpid()}/wchan") as asleep:
                while "futex" not in asleep.read():
                    asleep.seek(0)
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt, daemon=True).start()
        try:
            q.get()
        except KeyboardInterrupt:
            print("interrupted", q.waiting_getters)
    """
    assert run(program) == "interrupted 0\n"


def test_an_interpreter_exits_whatever_waits() -> None:
    """A daemon thread, another thread, and one of an executor wait in get, one more in put. Fails if
    blocking calls are not ended at exit (seen failing): the interpreter waits for its threads."""
    program = """
        import concurrent.futures, threading, time, parkline
        q, full = parkline.Queue(1), parkline.Queue(1)
        full.put(1)
        threading.excepthook = lambda args: None
        threading.Thread(target=q.get, daemon=True).start()
        threading.Thread(target=q.get).start()
        threading.Thread(target=full.put, args=(2,)).start()
        concurrent.futures.ThreadPoolExecutor().submit(q.get)
        while (q.waiting_getters, full.waiting_putters) != (3, 1):
            time.sleep(0.001)
        print("done")
    """
    assert run(program) == "done\n"


def test_signals_are_handled_while_a_get_blocks() -> None:
    q = parkline.Queue[str](1)
    signal.signal(signal.SIGALRM, lambda *_: q.put("from the handler"))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert q.get(timeout=60) == "from the handler"
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
