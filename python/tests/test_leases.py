"""Items on leases of their own, which say which item is done; and dead letters."""

import asyncio
import contextlib
import gc
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import children
import pytest
from bounds import run as run_program
from children import Deadly
from test_queue import wait_for_waiters

import parkline


def left_of(q: parkline.Queue[Any]) -> list[Any]:
    """The items that are delivered again when the handle is closed."""
    same = parkline.Queue[Any].from_fd(q.share_fd(), joinable=True)
    q.close()
    return same.get_many(64) if same.qsize() else []


@pytest.mark.parametrize("joinable", [False, True])
def test_the_end_of_the_block_says_that_the_item_is_done(joinable: bool) -> None:
    """Fails if leaving a block returns the item (seen failing)."""
    q = parkline.Queue[str](4, joinable=joinable)
    q.put("job")
    with q.lease() as job:
        assert (job.item, job.attempts, job.redelivered) == ("job", 1, False)
        assert q.unfinished_tasks == 1 and q.empty()
    q.join(timeout=10)
    assert q.unfinished_tasks == 0 and left_of(q) == []


def test_an_exception_that_leaves_the_block_returns_the_item() -> None:
    """Fails if leaving a block is always done (seen failing)."""
    q = parkline.Queue[str](4)
    q.put("job")
    with pytest.raises(ZeroDivisionError), q.lease() as job:
        assert 1 // 0
    with q.lease(timeout=10) as again:
        assert (again.item, again.attempts, again.redelivered) == ("job", 2, True)
        assert repr(again) == "<parkline.Lease of 'job', attempt 2>"
    assert repr(again) == "<parkline.Lease of 'job', attempt 2, ended>"
    assert job is not again and q.unfinished_tasks == 0


def test_a_cancel_that_leaves_the_block_returns_the_item(run: Any) -> None:
    """Fails if leaving a block is always done (seen failing)."""

    async def main() -> None:
        import anyio

        q = parkline.Queue[str](4)
        await q.aio.put("job")
        with anyio.CancelScope() as scope:
            async with q.aio.lease() as job:
                assert job.item == "job"
                scope.cancel()
                await anyio.sleep(3600)
        with anyio.fail_after(30):
            async with q.aio.lease() as job:
                assert job.redelivered
        assert q.aio.unfinished_tasks == 0

    run(main)


def test_a_task_that_is_cancelled_while_it_waits_for_a_lease_has_taken_nothing(run: Any) -> None:
    """Fails if the wait is not given up (seen failing): it counts as a getter."""

    async def main() -> None:
        import anyio

        q = parkline.Queue[int](4)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:

                async def cancel() -> None:
                    while not q.waiting_getters:
                        await anyio.sleep(0)
                    scope.cancel()

                group.start_soon(cancel)
                await q.aio.lease()
        await q.aio.put(1)
        assert q.get_nowait() == 1 and not q.waiting_getters

    run(main)


def test_each_lease_is_done_with_its_own_item() -> None:
    """A fetcher starts a task for each item, and they end in another order. Fails if `done` acknowledges
    the oldest item that is out (seen failing)."""
    q = parkline.Queue[int](16)
    q.put_many(range(3))
    ended: list[int] = []

    async def work(job: parkline.Lease[int], turn: asyncio.Event, next_turn: asyncio.Event) -> None:
        await turn.wait()
        if job.item != 0:
            job.done()
        ended.append(job.item)
        next_turn.set()

    async def main() -> None:
        turns = [asyncio.Event() for _ in range(4)]
        tasks = []
        for number in range(3):
            job = await q.aio.lease()
            tasks.append(asyncio.create_task(work(job, turns[number + 1], turns[number])))
            del job
        turns[3].set()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert ended == [2, 1, 0]
    # Its lease was dropped with its task.
    assert q.get(timeout=10) == 0 and q.last_redelivered
    assert q.unfinished_tasks == 0


def test_a_lease_of_one_thread_ends_in_another() -> None:
    """As with `run_in_executor(None, q.lease)`. Fails if the oldest of the handle is done instead, as
    `task_done` has it (seen failing)."""
    q = parkline.Queue[int](16, joinable=True)
    q.put_many(range(4))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        first, second = [await loop.run_in_executor(None, q.lease) for _ in range(2)]
        second.done()
        await loop.run_in_executor(None, first.nack)

    asyncio.run(main())
    assert left_of(q) == [2, 3, 0]


def test_task_done_leaves_leases_alone() -> None:
    """Fails if they are among the items of the handle (seen failing)."""
    q = parkline.Queue[str](4, joinable=True)
    q.put_many(["on lease", "plain"])
    job = q.lease()
    q.get()
    q.task_done()
    with pytest.raises(ValueError, match="too many times"):
        q.task_done()
    assert q.unfinished_tasks == 1
    job.done()
    assert q.unfinished_tasks == 0


def test_a_lease_that_is_dropped_returns_its_item() -> None:
    """Fails if only the handle's close returns it (seen failing)."""
    q = parkline.Queue[str](4)
    q.put("job")
    q.lease()
    gc.collect()
    assert q.get(timeout=10) == "job"


def test_a_lease_ends_once() -> None:
    q = parkline.Queue[str](4)
    q.put("job")
    job = q.lease()
    job.done()
    for end in (job.done, job.nack):
        with pytest.raises(ValueError, match="has ended"):
            end()
    q.put("job")
    with pytest.raises(KeyError), q.lease() as job:
        job.done()
        raise KeyError
    assert q.unfinished_tasks == 0


def test_a_closed_handle_has_returned_what_was_on_lease() -> None:
    """And the lease says so, because its work may be done twice. Fails if a lease outlives its handle (seen
    failing)."""
    q = parkline.Queue[str](4)
    same = parkline.Queue[str].from_fd(q.share_fd())
    q.put_many(["one", "two", "three"])
    one, two, three = q.lease(), q.lease(), q.lease()
    q.close()
    assert sorted(same.get_many(4, timeout=10)) == ["one", "three", "two"]
    with pytest.raises(ValueError, match="delivered again"):
        one.done()
    with pytest.raises(ValueError, match="delivered again"), two:
        pass
    with pytest.raises(KeyError), three:
        raise KeyError


def test_a_lease_keeps_its_queue_open() -> None:
    """Fails if the lease does not (seen failing): the handle is dropped with the last variable."""

    def take() -> parkline.Lease[str]:
        q = parkline.Queue[str](4)
        q.put("job")
        return q.lease()

    job = take()
    gc.collect()
    job.done()


def test_a_delayed_return_waits_for_its_time() -> None:
    """Fails if the delay is ignored (seen failing)."""
    q = parkline.Queue[str](4)
    same = parkline.Queue[str].from_fd(q.share_fd())
    q.put("job")
    began = time.monotonic()
    q.lease().nack(delay=0.05)
    assert q.lease(timeout=30).attempts == 2
    assert time.monotonic() - began >= 0.05
    q.lease(timeout=30).nack(delay=1e300)
    with pytest.raises(parkline.Empty):
        same.get(timeout=0.01)
    q.close()
    assert same.get(timeout=30) == "job"
    same.put("job")
    for delay in (-1, float("nan")):
        with pytest.raises(ValueError, match="'delay' must be"):
            same.lease().nack(delay)


def test_a_forked_child_cannot_end_the_leases_of_its_parent() -> None:
    """Fails if the child may (seen failing): it says that the item is done, and it is not."""
    program = """
        import os, parkline
        q = parkline.Queue(4)
        q.put_many(["one", "two"])
        job = q.lease()
        with q.lease() as other:
            child = os.fork()
            if child == 0:
                try:
                    job.done()
                except RuntimeError as error:
                    print(error, flush=True)
                del job
        if child == 0:
            print(q.qsize(), flush=True)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        print(q.unfinished_tasks, flush=True)
        job.done()
        print(q.unfinished_tasks)
    """
    told = "this lease is the parent process's: only that can end it\n0\n1\n0\n"
    assert run_program(program) == told


@pytest.mark.parametrize("in_tasks", [False, True])
def test_of_a_killed_process_what_was_done_stays_done(start: Any, in_tasks: bool) -> None:
    """Fails if `done` acknowledges the oldest item that is out (seen failing): then it is the first."""
    q = parkline.Queue[str](8)
    q.put_many(["first", "second", "third"])
    child = start.Process(
        target=children.finish_the_second_of_three_and_die, args=(q, in_tasks)
    )
    child.start()
    child.join()
    assert child.exitcode == -9
    with q.lease(timeout=30) as job:
        assert job.redelivered
        with q.lease(timeout=30) as other:
            assert {job.item, other.item} == {"first", "third"}
    q.join(timeout=30)


def test_without_leases_there_is_none_to_take() -> None:
    q = parkline.Queue[int](4, leases=0)
    q.put(1)
    with pytest.raises(ValueError, match="needs leases"):
        q.lease()

    async def main() -> None:
        with pytest.raises(ValueError, match="needs leases"):
            await q.aio.lease()

    asyncio.run(main())
    assert q.get() == 1


def test_a_get_beside_items_says_that_all_leases_are_out() -> None:
    """Fails if it is a bare `Empty` (seen failing). That it is when no item waits."""
    q = parkline.Queue[int](8, joinable=True, leases=2)
    q.put_many(range(3))
    jobs = [q.lease(), q.lease()]
    calls: list[Callable[[], object]] = [
        q.get_nowait,
        lambda: q.get(timeout=0.01),
        lambda: q.lease(timeout=0),
        lambda: q.get_many(2, False),
        lambda: q.get_many(2, timeout=0.01),
        q.aio.get_nowait,
    ]
    for call in calls:
        with pytest.raises(parkline.LeasesOut, match="all 2 leases of this handle are out"):
            call()
    same = parkline.Queue[int].from_fd(q.share_fd())
    same.get()
    for call in calls:
        with pytest.raises(parkline.Empty) as told:
            call()
        assert type(told.value) is parkline.Empty
    same.put(3)
    jobs[0].done()
    assert q.get_nowait() == 3


def test_the_end_does_not_wait_for_the_leases_of_this_handle() -> None:
    """Fails if they do not count as held by the caller (seen failing): it waits for itself."""
    q = parkline.Queue[int](8)
    q.put(1)
    q.shutdown()
    with q.lease():
        with pytest.raises(parkline.ShutDown):
            q.get(timeout=30)
        with pytest.raises(parkline.ShutDown):
            q.lease(timeout=30)


class Unreadable:
    def __reduce__(self) -> Any:
        return int, ("no number",)


def test_what_a_lease_cannot_decode_goes_back() -> None:
    """In any queue. Fails if it is acknowledged (seen failing)."""
    q = parkline.Queue[Any](4, max_attempts=2)
    q.put(Unreadable())
    for attempt in (1, 2):
        with pytest.raises(parkline.Undecodable, match="comes again") as told:
            q.lease(timeout=30)
        assert told.value.attempts == attempt
    with pytest.raises(parkline.Empty):
        q.lease(block=False)
    assert q.stats()["dead_lettered"] == 1


class Interrupting:
    def __reduce__(self) -> Any:
        return interrupt, ()


interrupts = 1


def interrupt() -> str:
    global interrupts
    interrupts -= 1
    if interrupts >= 0:
        raise KeyboardInterrupt
    return "after the interrupt"


def test_an_item_that_an_interrupt_left_can_be_leased() -> None:
    """It was done before: the process has the only copy. Fails if a lease hands it over bare, or a returned
    one is lost (seen failing, each)."""
    q = parkline.Queue[Any](8)
    q.put_many([1, Interrupting(), 3])
    with pytest.raises(KeyboardInterrupt):
        q.get_many(8)
    with pytest.raises(ZeroDivisionError), q.lease() as job:
        assert job.item // 0
    with q.lease() as job:
        assert (job.item, job.attempts) == (1, 1)
    assert sorted(map(str, q.get_many(8))) == ["3", "after the interrupt"]


def die(q: parkline.Queue[Any]) -> None:
    """Uses up the attempts of the oldest item of a queue with `max_attempts=1`."""
    q.lease(timeout=30).nack()


def get_in_a_task(q: parkline.Queue[Any]) -> Any:
    return asyncio.run(asyncio.wait_for(q.aio.get(), 30))


def lease_in_a_task(q: parkline.Queue[Any]) -> Any:
    async def main() -> Any:
        async with q.aio.lease() as job:
            return job.item

    return asyncio.run(main())


def lease(q: parkline.Queue[Any]) -> Any:
    with q.lease(timeout=30) as job:
        return job.item


Get = Callable[[parkline.Queue[Any]], Any]

WAITING: dict[str, Get] = {
    "get": lambda q: q.get(timeout=30),
    "many": lambda q: q.get_many(4, timeout=30)[0],
    "task": get_in_a_task,
    "many_in_a_task": lambda q: asyncio.run(q.aio.get_many(4))[0],
    "lease": lease,
    "lease_in_a_task": lease_in_a_task,
    "iter": lambda q: next(iter(q)),
}
each_waiting_get = pytest.mark.parametrize("get", WAITING.values(), ids=WAITING)
each_get = pytest.mark.parametrize(
    "get", [*WAITING.values(), lambda q: q.get_nowait()], ids=[*WAITING, "nowait"]
)


def test_an_item_has_an_id_of_its_own_at_every_delivery() -> None:
    """Fails if a lease or a letter tells another id (seen failing, each)."""
    q = parkline.Queue[str](4, max_attempts=2)
    q.put_many(["first", "second"])
    ids: dict[str, int | None] = {}
    for _ in range(4):
        with contextlib.suppress(ZeroDivisionError), q.lease(timeout=10) as job:
            assert ids.setdefault(job.item, job.id) == job.id
            assert 1 // 0
    assert set(map(type, ids.values())) == {int} and len(set(ids.values())) == 2
    letters: list[parkline.DeadLetter] = []
    q.on_dead_letter(letters.append)
    q.put("last")
    with q.lease(timeout=10) as job:
        assert job.item == "last" and job.id not in ids.values()
    assert {letter.decode(): letter.id for letter in letters} == ids


@each_get
def test_a_dead_letter_goes_to_its_handler_and_the_get_to_the_next_item(get: Get) -> None:
    """Fails if the get returns it, or if the handler gets none (seen failing, each)."""
    q = parkline.Queue[Any](8, max_attempts=1)
    letters: list[parkline.DeadLetter] = []
    q.on_dead_letter(letters.append)
    q.put("poison")
    die(q)
    q.put("item")
    assert get(q) == "item"
    (letter,) = letters
    assert (letter.decode(), letter.attempts) == ("poison", 2)
    assert repr(letter).startswith("<parkline.DeadLetter of ")
    assert q.stats()["dead_lettered"] == 1 and q.unfinished_tasks == 0


@each_waiting_get
def test_a_get_that_a_dead_letter_wakes_waits_again(get: Get) -> None:
    """Fails if it returns what the handler had (seen failing: `AGAIN`)."""
    q = parkline.Queue[Any](8, max_attempts=1)
    same = parkline.Queue[Any].from_fd(q.share_fd())
    letters = parkline.Queue[Any](4)
    q.on_dead_letter(lambda letter: letters.put(letter.decode()))
    same.put("poison")
    job = same.lease()
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(get(q)))
    thread.start()
    wait_for_waiters(q, getters=1)
    job.nack()
    assert letters.get(timeout=30) == "poison"
    same.put("item")
    thread.join()
    assert got == ["item"]


def test_a_dead_letter_comes_again_if_its_handler_raises() -> None:
    """The get raises that. Fails if the letter is done (seen failing)."""
    q = parkline.Queue[str](8, max_attempts=1)
    attempts: list[int] = []

    def fail_once(letter: parkline.DeadLetter) -> None:
        attempts.append(letter.attempts)
        assert len(attempts) > 1, "no disk"

    q.on_dead_letter(fail_once)
    q.put("poison")
    die(q)
    with pytest.raises(AssertionError, match="no disk"):
        q.get(timeout=30)
    with pytest.raises(parkline.Empty):
        q.get_nowait()
    assert attempts == [2, 3] and q.stats()["dead_lettered"] == 1


def test_a_handler_can_use_its_queue() -> None:
    """Fails if it is called with a lock held (it then waits for itself)."""
    q = parkline.Queue[str](8, max_attempts=1)

    def put_back(letter: parkline.DeadLetter) -> None:
        q.put(letter.decode() + " again")
        q.on_dead_letter(letters.append)

    letters: list[parkline.DeadLetter] = []
    q.on_dead_letter(put_back)
    q.put("poison")
    die(q)
    assert q.get(timeout=30) == "poison again" and letters == []
    with pytest.raises(TypeError, match="callable"):
        q.on_dead_letter("no handler")  # type: ignore[arg-type]


def test_what_kills_each_process_that_decodes_it_reaches_a_handler(start: Any) -> None:
    """As bytes, which do no harm. Fails if the handler gets the item (seen failing): it kills one more."""
    q = parkline.Queue[Any](8, max_attempts=2)
    q.put(Deadly(os.getpid()))
    for _ in range(2):
        victim = start.Process(target=children.get_one, args=(q,))
        victim.start()
        victim.join()
        assert victim.exitcode == -9
    # It goes back before the next item comes.
    q.recover()
    q.put("item")
    letters = parkline.Queue[Any](8)
    child = start.Process(target=children.bury, args=(q, letters))
    child.start()
    encoded, attempts = letters.get(timeout=60)
    assert (b"kill_but" in encoded, attempts) == (True, 3)
    assert letters.get(timeout=60) == "item"
    child.join()
    assert child.exitcode == 0 and q.unfinished_tasks == 0


@each_get
def test_dead_letters_go_to_a_second_queue(get: Get) -> None:
    """Fails if they are discarded (seen failing)."""
    q, dead = parkline.Queue[Any](8, max_attempts=1), parkline.Queue[Any](1)
    q.forward_dead_letters(dead)
    q.put("poison")
    die(q)
    q.put("item")
    assert get(q) == "item"
    with dead.lease(timeout=30) as letter:
        assert letter.item == "poison"
    assert q.stats()["dead_lettered"] == 1


def test_a_dead_letter_that_finds_no_room_is_got_after_all() -> None:
    """Fails if it is lost (seen failing)."""
    q, dead = parkline.Queue[str](8, max_attempts=1), parkline.Queue[str](1)
    q.forward_dead_letters(dead)
    dead.put("there already")
    q.put("poison")
    die(q)
    assert q.get(timeout=30) == "poison" and q.last_attempts == 2


def test_a_second_queue_has_the_same_codec() -> None:
    q = parkline.Queue[Any](8)
    with pytest.raises(ValueError, match="has the codec 'raw', this one has 'pickle'"):
        q.forward_dead_letters(parkline.Queue[Any](8, codec="raw"))
    closed = parkline.Queue[Any](8)
    closed.close()
    with pytest.raises(ValueError, match="closed"):
        q.forward_dead_letters(closed)


def test_the_place_of_dead_letters_can_change_at_any_time() -> None:
    """Fails if the receiver keeps the place that it was made with (seen failing)."""
    q, dead = parkline.Queue[str](8, max_attempts=1), parkline.Queue[str](8)
    letters: list[parkline.DeadLetter] = []

    def poison(name: str) -> None:
        q.put(name)
        die(q)
        with pytest.raises(parkline.Empty):
            q.get_nowait()

    poison("discarded")
    q.on_dead_letter(letters.append)
    poison("handled")
    q.forward_dead_letters(dead)
    poison("forwarded")
    q.on_dead_letter(letters.append)
    poison("handled again")
    q.discard_dead_letters()
    poison("discarded again")
    assert [letter.decode() for letter in letters] == ["handled", "handled again"]
    assert dead.get_many(8) == ["forwarded"]
    assert q.stats()["dead_lettered"] == 5


@pytest.mark.parametrize("how", ["handled", "forwarded"])
def test_a_forked_child_goes_on_with_the_place_of_its_parent(how: str) -> None:
    """Fails if it discards (seen failing, each)."""
    program = f"""
        import os, parkline
        q, dead = parkline.Queue(8, max_attempts=1), parkline.Queue(8)
        if {how == "handled"}:
            q.on_dead_letter(lambda letter: dead.put(letter.decode()))
        else:
            q.forward_dead_letters(dead)
        q.put("poison")
        q.lease().nack()
        child = os.fork()
        if child == 0:
            try:
                q.get_nowait()
            except parkline.Empty:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        print(dead.get(timeout=30))
    """
    assert run_program(program) == "poison\n"
