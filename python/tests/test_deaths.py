"""Killed processes: the others go on, and their work comes again. Beside it what `multiprocessing`
does."""

import asyncio
import os
import signal
import subprocess
import sys
from typing import Any

import children
import pytest

import parkline


def kill(child: Any) -> None:
    os.kill(child.pid, signal.SIGKILL)
    child.join()


def test_a_child_killed_in_get_takes_nothing_with_it(spawn: Any) -> None:
    q, ready = parkline.Queue[Any](4), parkline.Queue[int](4)
    child = spawn.Process(target=children.die_in_get, args=(q, ready))
    child.start()
    assert ready.get(timeout=60) == child.pid
    while q.stats()["parks"] == 0:
        pass
    kill(child)
    q.put("for the living")
    assert q.get(timeout=60) == "for the living"


def test_children_killed_in_put_leave_whole_items_and_a_queue_that_works(spawn: Any) -> None:
    q, ready = parkline.Queue[Any](4), parkline.Queue[int](4)
    for _ in range(3):
        child = spawn.Process(target=children.die_in_put, args=(q, ready))
        child.start()
        assert ready.get(timeout=60) == child.pid
        for _ in range(100):
            assert q.get(timeout=60) == "from the dead"
        kill(child)
    left = q.qsize()
    for _ in range(left):
        assert q.get() == "from the dead"
    q.put("alive")
    assert q.get(timeout=60) == "alive"


def test_what_a_killed_child_had_not_done_comes_again_and_join_waits(spawn: Any) -> None:
    q, ready = parkline.Queue[Any](4, joinable=True), parkline.Queue[Any](4)
    q.put("job")
    child = spawn.Process(target=children.die_before_done, args=(q, ready))
    child.start()
    assert ready.get(timeout=60) == "job"
    child.join()
    with pytest.raises(TimeoutError):
        q.join(timeout=0.3)
    assert q.get(timeout=60) == "job"
    assert q.last_redelivered and q.last_attempts == 2
    q.task_done()
    q.join(timeout=60)


def test_a_join_in_a_task_waits_for_the_retry(spawn: Any) -> None:
    async def main() -> None:
        q, ready = parkline.Queue[Any](4, joinable=True), parkline.Queue[Any](4)
        await q.aio.put("job")
        child = spawn.Process(target=children.die_before_done, args=(q, ready))
        child.start()
        joining = asyncio.create_task(q.aio.join())
        assert await ready.aio.get() == "job"
        child.join()
        assert await q.aio.get() == "job"
        assert not joining.done()
        q.aio.task_done()
        await joining

    asyncio.run(main())


def test_a_get_in_a_task_learns_of_a_death_by_itself(spawn: Any) -> None:
    """Nobody puts anything after the death."""

    async def main() -> None:
        q, ready = parkline.Queue[Any](4, joinable=True), parkline.Queue[Any](4)
        q.put("job")
        child = spawn.Process(target=children.die_before_done, args=(q, ready))
        child.start()
        assert await ready.aio.get() == "job"
        assert await asyncio.wait_for(q.aio.get(), 60) == "job"
        child.join()

    asyncio.run(main())


def test_what_kills_every_worker_is_given_up(spawn: Any) -> None:
    q, ready = parkline.Queue[Any](4, joinable=True, max_attempts=2), parkline.Queue[Any](4)
    q.put("poison")
    for _ in range(2):
        child = spawn.Process(target=children.die_before_done, args=(q, ready))
        child.start()
        assert ready.get(timeout=60) == "poison"
        child.join()
    with pytest.raises(parkline.Empty):
        q.get(timeout=0.5)
    assert q.stats()["dead_lettered"] == 1
    q.join(timeout=60)


PROGRAM = """
import multiprocessing, os, signal, sys, parkline
sys.path.insert(0, {tests!r})
import children

if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    q = {queue}
    here, there = spawn.Pipe()
    q.put("job")
    child = spawn.Process(target=children.{victim}, args=(q, there), daemon=True)
    child.start()
    here.recv()
    while not ({is_there}):
        pass
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    print("killed", flush=True)
    {then}
    print("went on", flush=True)
"""
THEIRS, OURS = "spawn.JoinableQueue()", "parkline.Queue(4, max_message=1 << 21, joinable=True)"
PARKED = "q.stats()['parks'] > 0"
TAKEN = "not q.{0}.acquire(False) or q.{0}.release()"
WORKER = "spawn.Process(target=children.work, args=(q,), daemon=True).start()"


@pytest.mark.parametrize(
    ("victim", "theirs", "ours", "then"),
    [
        ("die_waiting_in_get", TAKEN.format("_rlock"), PARKED, "q.put(1); assert q.get() == 1"),
        ("die_waiting_in_put", TAKEN.format("_wlock"), PARKED, f"{WORKER}; q.put(1); q.join()"),
        ("die_with_a_job", "True", "True", f"{WORKER}; q.join()"),
    ],
    ids=["in get", "in put", "between get and task_done"],
)
def test_a_killed_child_leaves_multiprocessing_hanging_and_ours_going_on(
    victim: str, theirs: str, ours: str, then: str
) -> None:
    """The same program with both queues. The child waits for an item with the queue's lock for reading
    in its hand, or for room with that for writing, or it has a job that nobody else gets."""

    def start(queue: str, is_there: str) -> "subprocess.Popen[str]":
        program = PROGRAM.format(
            tests=os.path.dirname(__file__), queue=queue, victim=victim, is_there=is_there, then=then
        )
        command = [sys.executable, "-c", program]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)

    with start(THEIRS, theirs) as hanging, start(OURS, ours) as going_on:
        try:
            assert hanging.stdout and going_on.stdout
            assert going_on.stdout.readline() == "killed\n"
            assert going_on.wait(timeout=60) == 0
            assert going_on.stdout.read() == "went on\n"
            assert hanging.stdout.readline() == "killed\n"
            with pytest.raises(subprocess.TimeoutExpired):
                hanging.wait(timeout=3)
        finally:
            for program in (hanging, going_on):
                if program.poll() is None:
                    os.killpg(program.pid, signal.SIGKILL)
