"""Handles in other processes: by every way to start one, before and after it runs."""

import asyncio
import concurrent.futures
import gc
import os
import pickle
import subprocess
import threading
from typing import Any

import children
import pytest
from bounds import command, run
from required import not_tried

import parkline
from parkline import _handles, _parkline


def test_a_handle_goes_into_a_child_of_every_kind(start: Any) -> None:
    jobs, results = parkline.Queue[Any](8), parkline.Queue[Any](8)
    child = start.Process(target=children.echo, args=(jobs, results))
    child.start()
    for item in (1, "two", {"three": [3]}):
        jobs.put(item)
        assert results.get(timeout=60) == item
    jobs.shutdown()
    child.join()
    assert child.exitcode == 0


def test_tasks_of_several_processes_share_the_work(start: Any) -> None:
    jobs, results = parkline.Queue[int](16), parkline.Queue[int](16)
    args = (jobs, results, 50)
    crew = [start.Process(target=children.echo_in_tasks, args=args) for _ in range(2)]
    for child in crew:
        child.start()

    async def main() -> None:
        putting = asyncio.create_task(jobs.aio.put_many(range(3000)))
        got = [await results.aio.get() for _ in range(3000)]
        await putting
        assert sorted(got) == list(range(3000))

    asyncio.run(main())
    jobs.shutdown()
    for child in crew:
        child.join()
        assert child.exitcode == 0


def test_a_handle_goes_to_workers_of_a_pool_that_run_already(start: Any) -> None:
    """Where `multiprocessing.Queue` says that it can only be inherited."""
    q = parkline.Queue[int](64)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=start) as pool:
        pool.submit(os.getpid).result()
        pids = {future.result() for future in [pool.submit(children.square, q, n) for n in range(20)]}
    assert os.getpid() not in pids
    assert sorted(q.get_many(64)) == [n * n for n in range(20)]
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=start) as pool:
        with pytest.raises(RuntimeError, match="inheritance"):
            pool.submit(children.square, start.Queue(), 1).result()


def test_a_handle_goes_through_a_queue(spawn: Any) -> None:
    handles = parkline.Queue[Any](8)
    child = spawn.Process(target=children.use_sent_handles, args=(handles,))
    child.start()
    answers = [parkline.Queue[int](1) for _ in range(5)]
    handles.put_many(answers)
    assert [answer.get(timeout=60) for answer in answers] == list(range(5))
    handles.shutdown()
    child.join()


def test_a_sent_handle_can_be_opened_as_often_as_one_likes() -> None:
    q = parkline.Queue[str](4, joinable=True, codec=(str.encode, bytes.decode))
    sent = pickle.dumps(q)
    copies = [pickle.loads(sent) for _ in range(3)]
    copies[0].put("text")
    assert copies[1].get() == "text"
    assert copies[2].joinable and copies[2].codec == (str.encode, bytes.decode)
    copies[1].task_done()
    q.join(timeout=10)


def test_the_schema_is_checked_wherever_a_queue_is_opened(spawn: Any) -> None:
    """Fails if `from_fd` does not pass it on, or a pickle loses it, or a forked child names none (each
    seen failing)."""
    q = parkline.Queue[str](4, schema=("orders", 3))
    assert q.schema == ("orders", 3)
    assert parkline.Queue[str](4).schema is None
    for other in (None, ("orders", 2), ("order", 3), ("", 0), ("x" * 65, 3)):
        with pytest.raises(ValueError, match=r'schema is "orders" version 3, you asked for .*; name'):
            parkline.Queue[str].from_fd(q.share_fd(), schema=other)
    with parkline.Queue[str](4) as plain, pytest.raises(ValueError, match="schema is none"):
        parkline.Queue[str].from_fd(plain.share_fd(), schema=("orders", 3))
    for wrong in (("", 3), ("x" * 65, 3)):
        with pytest.raises(ValueError, match="length of the schema's name"):
            parkline.Queue[str](4, schema=wrong)
    for same in (
        parkline.Queue[str].from_fd(q.share_fd(), schema=("orders", 3)),
        pickle.loads(pickle.dumps(q)),
    ):
        assert (same.schema, same.id) == (("orders", 3), q.id)
        same.put("here")
        assert q.get() == "here"
    child = spawn.Process(target=children.put_through_handle, args=(q, "there"))
    child.start()
    assert q.get(timeout=60) == "there"
    child.join()
    forked = os.fork()
    if forked == 0:
        status = 1
        try:
            q.put("forked")
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(forked, 0)[1] == 0
    assert q.get() == "forked"


def test_each_has_a_number_of_its_own_wherever_it_is_opened() -> None:
    queues = [parkline.Queue[str](4) for _ in range(2)]
    all: list[Any] = [*queues, parkline.Event(), parkline.Semaphore(1)]
    ids = [one.id for one in all]
    assert 0 < min(ids) and max(ids) < 1 << 128 and len(set(ids)) == 4
    assert [pickle.loads(pickle.dumps(one)).id for one in all] == ids


def test_a_sent_handle_that_is_gone_says_so() -> None:
    q = parkline.Queue[str](4)
    sent = pickle.dumps(q)
    q.close()
    with pytest.raises(OSError, match="keep it until it has arrived"):
        pickle.loads(sent)
    # Something else has the number now.
    with open(os.devnull) as other:
        named = _handles.Named(os.getpid(), other.fileno(), 1, 1)
        with pytest.raises((OSError, FileNotFoundError), match="keep it until it has arrived"):
            named.open()


def test_a_forked_child_goes_on_with_the_handle_it_has() -> None:
    """Fails if `after_fork` never opens anew (seen failing): the handles say that they are the
    parent's."""
    there, back = parkline.Queue[Any](8), parkline.Queue[Any](8)
    for q in (there, back):
        q.put("before")
        assert q.get() == "before"
    child = os.fork()
    if child == 0:
        status = 1
        try:
            back.put("from the child")
            back.put(there.get(timeout=30) == "for the child")
            asyncio.run(back.aio.put("from a task"))
            status = 0
        finally:
            os._exit(status)
    assert back.get(timeout=30) == "from the child"
    there.put("for the child")
    assert os.waitpid(child, 0)[1] == 0
    assert back.get_many(4) == [True, "from a task"]


def test_a_fork_while_a_loop_waits_leaves_both_whole() -> None:
    async def main() -> None:
        q, results = parkline.Queue[int](8), parkline.Queue[int](8)
        task = asyncio.create_task(q.aio.get())
        while not q.waiting_getters:
            await asyncio.sleep(0)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                # A loop of its own: no other may run in this thread.
                thread = threading.Thread(target=lambda: asyncio.run(both(results)))
                thread.start()
                thread.join()
                status = 0
            finally:
                os._exit(status)
        assert await results.aio.get() == 1
        q.put(7)
        assert await task == 7
        assert os.waitpid(child, 0)[1] == 0

    async def both(results: parkline.Queue[int]) -> None:
        q = parkline.Queue[int](1)
        get = asyncio.create_task(q.aio.get())
        while not q.waiting_getters:
            await asyncio.sleep(0)
        await q.aio.put(1)
        await results.aio.put(await get)

    asyncio.run(main())


def test_a_forked_child_can_drop_what_waits_in_its_parent() -> None:
    """Fails if `LoopRing` or `Wait` end in the child what is the parent's (seen failing)."""
    q = parkline.Queue[str](1)
    loop = asyncio.new_event_loop()

    async def wait() -> None:
        while not q.waiting_getters:
            await asyncio.sleep(0)

    task = loop.create_task(q.aio.get())
    loop.run_until_complete(wait())
    child = os.fork()
    if child == 0:
        loop._ready.clear()  # type: ignore[attr-defined]
        loop.close()
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        del task, loop
        gc.collect()
        q.put("from the child")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert loop.run_until_complete(task) == "from the child"
    loop.close()


def test_a_forked_child_leaves_the_numbers_alone_that_its_parents_loops_have() -> None:
    """As a daemon it closes all descriptors that it inherited, and has other files by those numbers.
    Fails if `EventLoop` closes its number in a child (seen failing)."""
    loop: _parkline.EventLoop | None = _parkline.EventLoop()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.closerange(3, 256)
            files = [os.open(os.devnull, os.O_RDONLY) for _ in range(64)]
            loop = None
            gc.collect()
            for file in files:
                os.fstat(file)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert loop is not None and loop.sources()


DAEMON = """
    import asyncio, errno, os, parkline, sys
    q, stop, turns = parkline.Queue(4), parkline.Event(), parkline.Semaphore(1)
    child = os.fork()
    if child == 0:
        os.closerange(3, 256)
        if {reuse}:
            files = [os.open(os.devnull, os.O_RDWR) for _ in range(64)]
        for call in (lambda: q.put(1), q.get, q.share_fd, lambda: asyncio.run(q.aio.get()), stop.set,
                     stop.share_fd, turns.acquire, turns.share_fd):
            try:
                call()
            except OSError as error:
                assert error.errno == errno.EBADF, error
                assert "this process has closed the descriptor" in str(error), error
                assert "or make or open this after that" in str(error), error
            else:
                raise AssertionError(call)
        if {reuse}:
            del q, stop, turns, call
            for file in files:
                os.fstat(file)
        print("told", flush=True)
        os._exit(0)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("reuse", [False, True])
def test_what_a_daemon_closed_is_told_and_left_alone(reuse: bool) -> None:
    """Fails if the error is the kernel's alone, or one of what has the number now, or if that is closed
    (seen failing)."""
    assert run(DAEMON.format(reuse=reuse)) == "told\n"


def test_what_another_user_sent_says_who_has_to_do_what(spawn: Any) -> None:
    """A process that dropped privileges sends a handle through a queue: the kernel lets no other process
    open its descriptors, unless it says that others may. The getter is told so, and has the item.
    Fails if the error is the kernel's alone, or the item gone (seen failing)."""
    if os.geteuid() != 0:
        assert "PARKLINE_REQUIRE" not in os.environ
        print("not tried: to drop privileges takes some")
        return
    handles, results = parkline.Queue[Any](8, max_message=4096), parkline.Queue[str](8)
    go = parkline.Queue[str](8)
    sender = spawn.Process(target=children.send_a_handle_unprivileged, args=(handles, go))
    getter = spawn.Process(target=children.get_handles_unprivileged, args=(handles, results))
    for child in (sender, getter):
        child.start()
    refused = results.get(timeout=60)
    go.put("make it accessible")
    assert results.get(timeout=60) == "opened"
    go.put("end")
    handles.shutdown()
    for child in (sender, getter):
        child.join()
        assert child.exitcode == 0
    assert f"process {sender.pid}, which sent it, has dropped privileges" in refused
    assert "let it call prctl(PR_SET_DUMPABLE, 1) after that" in refused


def test_what_is_sent_by_a_process_that_ended_says_so() -> None:
    """Fails if the error is the kernel's alone (seen failing)."""
    q = parkline.Queue[Any](1)
    child = os.fork()
    if child == 0:
        own = parkline.Queue[Any](1)
        q.put(own)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(parkline.Undecodable, match=f"process {child}, which sent it, has ended") as told:
        q.get()
    assert isinstance(told.value.__cause__, FileNotFoundError)


def test_a_descriptor_is_all_that_is_needed() -> None:
    q = parkline.Queue[str](1)
    fd = q.share_fd()
    program = f"import parkline; parkline.Queue.from_fd({fd}).put('from elsewhere')"
    subprocess.run(command(program), pass_fds=[fd], check=True)
    assert q.get() == "from elsewhere"


def test_what_is_no_queue_is_refused() -> None:
    with open(os.devnull) as other, pytest.raises(ValueError, match="no memfd"):
        parkline.Queue[Any].from_fd(other.fileno())
    with pytest.raises(ValueError, match="negative"):
        parkline.Queue[Any].from_fd(-1)
    with pytest.raises(OSError):
        parkline.Queue[Any].from_fd(1 << 30)


def test_ten_thousand_tasks_wait_for_nothing_at_all(spawn: Any) -> None:
    """No thread more, no CPU, and each gets one item of another process."""
    tasks = 10_000

    async def main() -> None:
        q, ready, go = parkline.Queue[int](256), parkline.Queue[str](1), parkline.Queue[str](1)
        child = spawn.Process(target=children.put_after, args=(q, range(tasks), ready, go))
        child.start()
        assert await ready.aio.get() == "ready"
        threads, kernel_tasks = threading.active_count(), len(os.listdir("/proc/self/task"))
        gets = [asyncio.create_task(q.aio.get()) for _ in range(tasks)]
        while q.waiting_getters < tasks:
            await asyncio.sleep(0)
        assert threading.active_count() == threads
        if parkline.backend()[0] == "io_uring":
            assert len(os.listdir("/proc/self/task")) == kernel_tasks
        else:
            not_tried("io_uring", parkline.backend()[1])
            assert len(os.listdir("/proc/self/task")) <= kernel_tasks + 1
        before = os.times()
        await asyncio.sleep(0.5)
        after = os.times()
        assert after.user + after.system - before.user - before.system < 0.05
        go.put("go")
        assert sorted(await asyncio.gather(*gets)) == list(range(tasks))
        child.join()

    asyncio.run(main(), debug=False)


def test_a_storm_of_timeouts_loses_and_repeats_nothing(spawn: Any) -> None:
    """100,000 rounds of `wait_for(q.aio.get(), tiny)` against two putters. Fails if
    `complete` awaits anything between a poll that is over and its return (seen failing)."""
    rounds = 100_000
    numbers = [range(0, 20_000), range(20_000, 40_000)]

    async def main() -> None:
        q = parkline.Queue[int](8)
        crew = [spawn.Process(target=children.put_numbers, args=(q, part)) for part in numbers]
        for child in crew:
            child.start()
        got: list[int] = []
        tries = 0

        async def work(timeout: float) -> None:
            nonlocal tries
            while tries < rounds or len(got) < 40_000:
                tries += 1
                try:
                    got.append(await asyncio.wait_for(q.aio.get(), timeout))
                except asyncio.TimeoutError:
                    pass

        await asyncio.gather(*(work(n * 0.00003) for n in range(1, 21)))
        assert sorted(got) == list(range(40_000))
        assert q.empty()
        for child in crew:
            child.join()

    asyncio.run(main(), debug=False)
