"""What the processes of the tests do; a spawned one imports it."""

import asyncio
import ctypes
import logging
import logging.handlers
import os
import signal
import threading
from typing import Any

import bounds  # noqa: F401  it bounds this process

import parkline


def echo(jobs: parkline.Queue[Any], results: parkline.Queue[Any]) -> None:
    """Hands on what it gets until the queue is shut down."""
    for job in jobs:
        results.put(job)


def echo_in_tasks(jobs: parkline.Queue[Any], results: parkline.Queue[Any], tasks: int) -> None:
    async def work() -> None:
        async for job in jobs.aio:
            await results.aio.put(job)

    async def main() -> None:
        await asyncio.gather(*(work() for _ in range(tasks)))

    asyncio.run(main())


def put_numbers(queue: parkline.Queue[int], numbers: range) -> None:
    for number in numbers:
        queue.put(number)


def die_in_get(queue: parkline.Queue[Any], ready: parkline.Queue[int]) -> None:
    ready.put(os.getpid())
    queue.get()


def die_in_put(queue: parkline.Queue[Any], ready: parkline.Queue[int]) -> None:
    ready.put(os.getpid())
    while True:
        queue.put("from the dead")


def die_before_done(queue: parkline.Queue[Any], ready: parkline.Queue[Any]) -> None:
    item = queue.get()
    ready.put(item)
    os.kill(os.getpid(), signal.SIGKILL)


def hold_an_item(queue: parkline.Queue[Any], ready: parkline.Queue[Any]) -> None:
    ready.put(queue.get())
    signal.pause()


class Deadly:
    """Kills the process that decodes it, but for one."""

    def __init__(self, spared: int) -> None:
        self.spared = spared

    def __reduce__(self) -> Any:
        return kill_but, (self.spared,)


def kill_but(spared: int) -> str:
    if os.getpid() != spared:
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def get_one(queue: parkline.Queue[Any]) -> None:
    queue.get()


def die_waiting_in_get(queue: Any, ready: Any) -> None:
    """These three with any queue."""
    queue.get()
    queue.task_done()
    ready.send("ready")
    queue.get()


def die_waiting_in_put(queue: Any, ready: Any) -> None:
    ready.send("ready")
    while True:
        queue.put(b"x" * (1 << 20))


def die_with_a_job(queue: Any, ready: Any) -> None:
    queue.get()
    ready.send("ready")
    ready.recv()


def work(queue: Any) -> None:
    while True:
        queue.get()
        queue.task_done()


def put_through_handle(queue: parkline.Queue[Any], item: Any) -> None:
    queue.put(item)


def use_sent_handles(handles: parkline.Queue[Any]) -> None:
    """Answers in the queue that comes through a queue."""
    for number, handle in enumerate(handles):
        with handle:
            handle.put(number)


def square(queue: parkline.Queue[int], number: int) -> int:
    queue.put(number * number)
    return os.getpid()


def send_a_handle_unprivileged(handles: parkline.Queue[Any], go: parkline.Queue[str]) -> None:
    """Once as it is after it dropped its privileges, and once as the error says."""
    os.setuid(65534)
    handle = parkline.Queue[Any](4)
    handles.put(handle)
    go.get()
    pr_set_dumpable = 4
    assert ctypes.CDLL(None, use_errno=True).prctl(pr_set_dumpable, 1, 0, 0, 0) == 0
    handles.put(handle)
    # It keeps its handle until that has arrived.
    go.get()


def get_handles_unprivileged(handles: parkline.Queue[Any], results: parkline.Queue[str]) -> None:
    os.setuid(65534)
    while True:
        try:
            handles.get().close()
            results.put("opened")
        except parkline.Undecodable as error:
            assert isinstance(error.__cause__, PermissionError) and error.encoded
            results.put(str(error))
        except parkline.ShutDown:
            return


def put_after(
    queue: parkline.Queue[int],
    numbers: range,
    ready: parkline.Queue[str],
    go: parkline.Queue[str],
) -> None:
    """Puts when it is told to."""
    ready.put("ready")
    go.get()
    put_numbers(queue, numbers)


def wait_then_release(start: parkline.Event, semaphore: parkline.Semaphore, results: Any) -> None:
    """Tells how it was released, and that it had the permit."""
    results.put(start.wait(60))
    with semaphore:
        results.put(semaphore.permits)


def wait_in_tasks(start: parkline.Event, ready: parkline.Queue[int], tasks: int) -> None:
    async def main() -> None:
        waits = [asyncio.create_task(start.aio.wait()) for _ in range(tasks)]
        while start.waiting < tasks:
            await asyncio.sleep(0)
        await ready.aio.put(os.getpid())
        assert all(await asyncio.gather(*waits))

    asyncio.run(main())


def acquire_and_hang(semaphore: Any, ready: Any) -> None:
    """With any semaphore, and any connection."""
    semaphore.acquire()
    ready.send("acquired")
    ready.recv()


def be_inside(semaphore: parkline.Semaphore, inside: Any, rounds: int, tasks: int) -> None:
    """`inside` counts, in shared memory, the tasks that have a permit. More than the permits is an error."""

    async def work() -> None:
        for _ in range(rounds):
            async with semaphore.aio:
                with inside.get_lock():
                    inside.value += 1
                    assert inside.value <= semaphore.permits
                await asyncio.sleep(0)
                with inside.get_lock():
                    inside.value -= 1

    async def main() -> None:
        await asyncio.gather(*(work() for _ in range(tasks)))

    asyncio.run(main())


def put_until_shut_down(queue: parkline.Queue[int], ready: parkline.Queue[int]) -> None:
    ready.put(os.getpid())
    try:
        while True:
            queue.put(1)
    except parkline.ShutDown:
        pass


def get_until_shut_down(queue: parkline.Queue[int], ready: parkline.Queue[int]) -> None:
    ready.put(os.getpid())
    for _ in queue:
        pass


def finish_the_second_of_three_and_die(queue: parkline.Queue[str], in_tasks: bool) -> None:
    """Three leases at once. One ends as done, two are out at the death."""

    async def main() -> None:
        leases = [await queue.aio.lease() for _ in range(3)]
        leases[1].done()
        os.kill(os.getpid(), signal.SIGKILL)

    if in_tasks:
        asyncio.run(main())
    leases = [queue.lease() for _ in range(3)]
    leases[1].done()
    os.kill(os.getpid(), signal.SIGKILL)


def bury(queue: parkline.Queue[Any], letters: parkline.Queue[Any]) -> None:
    """Hands each dead letter on, until one item comes that is none."""
    queue.on_dead_letter(lambda letter: letters.put((letter.encoded, letter.attempts)))
    letters.put(queue.get())


class Named(parkline.Queue[Any]):
    """A subclass as programs write them: an `__init__` of its own, attributes, a method."""

    def __init__(self, name: str) -> None:
        super().__init__(8, joinable=True)
        self.name = name

    def put_named(self, item: Any) -> None:
        self.put((self.name, item))


class Slotted(parkline.Queue[Any]):
    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        super().__init__(8)
        self.name = name


class Counting(parkline.Queue[Any]):
    """It says itself what of it is pickled."""

    def __init__(self) -> None:
        super().__init__(8)
        self.puts, self.lock = 0, threading.Lock()

    def __getstate__(self) -> Any:
        return {"puts": self.puts}

    def __setstate__(self, state: Any) -> None:
        self.puts, self.lock = state["puts"], threading.Lock()


class NamedEvent(parkline.Event):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


class NamedSemaphore(parkline.Semaphore):
    def __init__(self, name: str) -> None:
        super().__init__(2)
        self.name = name


def tell_of(handles: list[Any], results: parkline.Queue[Any]) -> None:
    """As what the handles arrived."""
    for handle in handles:
        results.put((type(handle), getattr(handle, "name", None), handle.id))


class Closing:
    """Closes a handle when it is pickled itself, and is 0 then."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def __reduce__(self) -> Any:
        self.handle.close()
        return int, ()


def make(kind: str) -> Any:
    """A handle that is closed after it was pickled, and before it arrives."""
    makers: dict[str, Any] = {
        "queue": lambda: parkline.Queue[int](4),
        "named": lambda: Named("x"),
        "event": parkline.Event,
        "semaphore": parkline.Semaphore,
    }
    made = makers[kind]()
    return made, Closing(made)


def use_the_drop_in(
    jobs: Any, joinable: Any, simple: Any, go: Any, semaphore: Any, connection: Any
) -> None:
    """A worker as programs write them, with any multiprocessing's."""
    assert go.wait(60)
    with semaphore:
        jobs.put(jobs.get() + 1)
    while True:
        item = joinable.get()
        simple.put(item and item * 2)
        joinable.task_done()
        if item is None:
            break
    connection.send(connection.recv().upper())
    jobs.close()
    jobs.join_thread()


def send_and_die(connection: Any, other: Any, items: int) -> None:
    other.close()
    for number in range(items):
        connection.send(number)
    os.kill(os.getpid(), signal.SIGKILL)


def log(queue: Any, records: int) -> None:
    logger = logging.getLogger("of the child")
    logger.addHandler(logging.handlers.QueueHandler(queue))
    for number in range(records):
        logger.warning("record %d", number)


def load(indices: Any, data: Any) -> None:
    while (index := indices.get()) is not None:
        data.put((index, bytes([index % 256]) * 1000))


def fill_the_deque(deque: parkline.Deque[int], count: int) -> None:
    for number in range(count):
        deque.append(number)


def read_the_deque(deque: parkline.Deque[int], results: parkline.Queue[Any]) -> None:
    results.put(list(deque))
