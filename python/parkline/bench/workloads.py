"""What is measured: each workload gives operations a second of one peer, once."""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import parkline

from .peers import (
    FORK,
    ROOM,
    Maker,
    aio_peers,
    bytes_peers,
    object_peers,
    shared_peers,
    threads_peers,
)

RECORD = {"id": 17, "name": "a record", "tags": ["a", "b"], "value": 1.5}
BATCH = 100


class Measured:
    """The result of one peer."""

    def __init__(self, operations: int, seconds: float, note: str = "") -> None:
        self.rate = operations / seconds
        self.note = note


def processes(bodies: list[Callable[[], None]]) -> float:
    """Seconds until processes that begin together have all ended their work."""
    start, ready = FORK.Event(), FORK.Semaphore(0)
    receiving, sending = FORK.Pipe(duplex=False)

    def run(body: Callable[[], None]) -> None:
        ready.release()
        start.wait()
        body()
        sending.send_bytes(b".")

    crew = [FORK.Process(target=run, args=(body,), daemon=True) for body in bodies]
    for process in crew:
        process.start()
    for _ in crew:
        ready.acquire()
    began = time.perf_counter()
    start.set()
    try:
        for _ in crew:
            if not receiving.poll(60):
                raise TimeoutError("it did not end within a minute")
            receiving.recv_bytes()
        return time.perf_counter() - began
    finally:
        for process in crew:
            process.join(0.5)
            process.kill()
            process.join()


def stream(make: Maker, item: Any, items: int, putters: int = 1, getters: int = 1) -> Measured:
    """A call for each item."""
    peer = make()

    def put() -> None:
        put_one = peer.put
        for _ in range(items // putters):
            put_one(item)
        peer.flush()

    def get() -> None:
        get_one = peer.get
        for _ in range(items // getters):
            get_one()

    return Measured(items, processes([put] * putters + [get] * getters))


def batches(name: str, items: int) -> Measured:
    """Small items, many a call."""
    many = [{**RECORD, "id": n} for n in range(BATCH)]
    if name == "quick-queue":
        from .peers import QuickQueue

        quick = QuickQueue()

        def put() -> None:
            for _ in range(items // BATCH):
                quick.queue.put_iterable(many)
            quick.flush()

        def get() -> None:
            for _ in range(items):
                quick.get()

    else:
        from .peers import FasterFifo, Ours

        peer: Any = Ours("pickle") if name == "parkline" else FasterFifo()

        def put() -> None:
            for _ in range(items // BATCH):
                peer.queue.put_many(many)

        def get() -> None:
            left = items
            while left:
                if name == "parkline":
                    left -= len(peer.queue.get_many(left))
                else:
                    left -= len(peer.queue.get_many(timeout=60.0, max_messages_to_get=left))

    return Measured(items, processes([put, get]))


def round_trips(make: Maker, item: Any, trips: int) -> Measured:
    """Round trips: both sides sleep in between."""
    there, back = make(), make()

    def ask() -> None:
        for _ in range(trips):
            there.put(item)
            back.get()

    def answer() -> None:
        for _ in range(trips):
            back.put(there.get())

    return Measured(trips, processes([ask, answer]))


def aio_stream(make: Maker, item: bytes, items: int) -> Measured:
    peer = make()

    async def put() -> None:
        for _ in range(items):
            await peer.put(item)

    async def get() -> None:
        for _ in range(items):
            await peer.get()

    return Measured(items, processes([lambda: asyncio.run(put()), lambda: asyncio.run(get())]))


def aio_round_trips(make: Maker, item: bytes, trips: int) -> Measured:
    there, back = make(), make()

    async def ask() -> None:
        for _ in range(trips):
            await there.put(item)
            await back.get()

    async def answer() -> None:
        for _ in range(trips):
            await back.put(await there.get())

    return Measured(trips, processes([lambda: asyncio.run(ask()), lambda: asyncio.run(answer())]))


def threads(make: Maker, item: bytes, items: int) -> Measured:
    """A thread puts, and a task of the same process gets."""

    async def main() -> float:
        peer = make()

        def put() -> None:
            for _ in range(items):
                peer.put(item)

        thread = threading.Thread(target=put)
        began = time.perf_counter()
        thread.start()
        for _ in range(items):
            await peer.get()
        took = time.perf_counter() - began
        thread.join()
        await peer.aclose()
        return took

    return Measured(items, asyncio.run(main()))


def waiting(make: Maker, waiters: int) -> Measured:
    """Tasks wait, then each is given an item by another process."""
    peer = make()
    go = FORK.Event()

    def give() -> None:
        go.wait()

        async def put() -> None:
            for _ in range(waiters):
                await peer.put(b"x" * 64)

        asyncio.run(put())

    process = FORK.Process(target=give, daemon=True)
    process.start()
    note = ""

    async def wait() -> float:
        nonlocal note
        before, threads = _resident(), threading.active_count()
        tasks = [asyncio.create_task(peer.get()) for _ in range(waiters)]
        await asyncio.sleep(0.2)
        more, size = threading.active_count() - threads, (_resident() - before) // waiters
        note = f"{more} threads more, {max(size, 0)} bytes a waiter"
        began = time.perf_counter()
        go.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 60)
        return time.perf_counter() - began

    try:
        seconds = asyncio.run(wait())
    finally:
        process.kill()
        process.join()
    return Measured(waiters, seconds, note)


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


Workload = dict[str, Callable[[], Measured]]


def _fast(name: str) -> int:
    """How many times as many items as for `multiprocessing.Queue` are measured."""
    return 10 if name in ("parkline", "hyperq", "os.pipe", "Pipe", "add_reader on a pipe") else 1


def workloads(scale: float) -> dict[str, Workload]:
    """All of them; `scale` is how many items, 1 for a run of minutes."""

    def each(peers: dict[str, Maker], measure: Callable[[Maker, int], Measured], n: int) -> Workload:
        def one(name: str, make: Maker) -> Callable[[], Measured]:
            return lambda: measure(make, max(int(n * scale) // 40 * 40, 40) * _fast(name))

        return {name: one(name, make) for name, make in peers.items()}

    small = b"x" * 64
    table: dict[str, Workload] = {
        "64-byte bytes, 1+1": each(bytes_peers(64), lambda it, n: stream(it, small, n), 20_000),
        "small dicts, 1+1": each(object_peers(), lambda it, n: stream(it, RECORD, n), 10_000),
        "small dicts, put_many": {
            name: lambda name=name: batches(name, max(int(100_000 * scale) // BATCH, 1) * BATCH)  # type: ignore[misc]
            for name in ("parkline", "quick-queue", "faster-fifo")
        },
    }
    for sides in (2, 4):
        table[f"64-byte bytes, {sides}+{sides}"] = each(
            shared_peers(), lambda it, n, k=sides: stream(it, small, n, k, k), 20_000  # type: ignore[misc]
        )
    table["awaited, 1+1"] = each(aio_peers(), lambda it, n: aio_stream(it, small, n), 4_000)
    table["a thread to a task"] = each(
        threads_peers(), lambda it, n: threads(it, small, n), 4_000
    )
    trips = {k: v for k, v in bytes_peers(64).items() if k not in ("iceoryx2", "faster-fifo")}
    table["round trip"] = each(trips, lambda it, n: round_trips(it, small, n), 2_000)
    table["round trip, awaited"] = each(
        aio_peers(), lambda it, n: aio_round_trips(it, small, n), 1_000
    )
    for size, n in ((4096, 10_000), (65536, 2_000), (1 << 20, 200)):
        item = b"x" * size
        table[f"{size // 1024} KiB bytes, 1+1"] = each(
            bytes_peers(size), lambda it, n, item=item: stream(it, item, n), n  # type: ignore[misc]
        )
    for waiters in (100, 1000, 10_000):
        peers = aio_peers() if waiters == 100 else {"parkline": aio_peers()["parkline"]}
        table[f"{waiters} wait"] = {
            name: lambda make=make, n=waiters: waiting(make, n)  # type: ignore[misc]
            for name, make in peers.items()
            if name != "add_reader on a pipe"
        }
    return table


__all__ = ["ROOM", "Measured", "Workload", "parkline", "workloads"]
