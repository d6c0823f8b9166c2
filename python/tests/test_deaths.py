"""Killed processes: the others go on, and their work comes again. Beside it what `multiprocessing`
does."""

import asyncio
import os
import signal
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


def test_the_queues_of_multiprocessing_hang_where_ours_goes_on(spawn: Any) -> None:
    """A child is killed between get and task_done of a JoinableQueue: nobody ever gets the item
    again, so its join can only be given up."""
    theirs = spawn.JoinableQueue()
    theirs.put("job")
    here, there = spawn.Pipe()
    child = spawn.Process(target=children.die_before_done_in_mp, args=(theirs, there))
    child.start()
    assert here.recv() == "got it"
    kill(child)
    assert not theirs._unfinished_tasks._semlock._is_zero(), "a join waits for ever"
    with pytest.raises(Exception):
        theirs.get(timeout=0.3)
