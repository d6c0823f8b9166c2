"""Event loops in four processes, a thousand coroutines each, all on one queue; then one process is
killed, and the count still comes out exact.

    python -m parkline.demo [--items 40000]
"""

import argparse
import asyncio
import multiprocessing
import os
import random
import signal
import sys
import time
from typing import Any

import parkline

WORKERS = 4
COROUTINES = 1000
ROOM = 4096


def answer(number: int) -> int:
    """The work."""
    return number * number


def work(jobs: parkline.Queue[int], results: parkline.Queue[tuple[int, int, int]]) -> None:
    """A process: one event loop, a thousand coroutines."""

    async def one() -> None:
        async for number in jobs.aio:
            attempts = jobs.last_attempts
            await asyncio.sleep(random.uniform(0, 0.02))  # a database, a service
            await results.aio.put((number, answer(number), attempts))
            jobs.aio.task_done()

    async def main() -> None:
        await asyncio.gather(*(one() for _ in range(COROUTINES)))

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C, and ends the workers
    asyncio.run(main())


class Bar:
    """The progress: one line of a terminal, or a line a second elsewhere."""

    def __init__(self) -> None:
        self._is_live = sys.stderr.isatty()
        self._shown = time.monotonic()

    def show(self, jobs: parkline.Queue[Any], done: int, items: int, note: str) -> None:
        now = time.monotonic()
        if now - self._shown < (0.05 if self._is_live else 1):
            return
        self._shown = now
        width = 40
        filled = width * jobs.qsize() // jobs.maxsize
        bar = "#" * filled + "." * (width - filled)
        text = f"queue [{bar}] {jobs.qsize():5}/{jobs.maxsize}  results {done:6}/{items}  {note}"
        print(f"\r{text}\x1b[K" if self._is_live else text, end="", file=sys.stderr)
        print("" if self._is_live else "\n", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        print("\r\x1b[K" if self._is_live else "", end="", file=sys.stderr, flush=True)


async def run(items: int) -> int:
    started = time.monotonic()
    spawn = multiprocessing.get_context("spawn")
    jobs = parkline.Queue[int](
        ROOM, max_message=256, joinable=True, handles=2 * WORKERS + 4, leases=COROUTINES
    )
    results = parkline.Queue[tuple[int, int, int]](ROOM, max_message=256)
    crew = [spawn.Process(target=work, args=(jobs, results), daemon=True) for _ in range(WORKERS)]
    for worker in crew:
        worker.start()
    print(
        f"{WORKERS} processes with an event loop each, {COROUTINES} coroutines in each, on one queue"
        f" ({parkline.backend()[0]})"
    )
    putting = asyncio.create_task(jobs.aio.put_many(range(items)))
    joining: asyncio.Task[None] | None = None
    found: dict[int, int] = {}
    again, repeated, note = 0, 0, ""
    bar = Bar()
    while len(found) < items:
        number, result, attempts = await results.aio.get()
        repeated += number in found
        again += attempts > 1
        found[number] = result
        if not note and len(found) >= items // 2:
            victim = crew[0].pid
            assert victim is not None
            os.kill(victim, signal.SIGKILL)
            note = f"process {victim} was killed"
        if joining is None and putting.done():
            joining = asyncio.create_task(jobs.aio.join())
        bar.show(jobs, len(found), items, note)
    bar.end()
    await putting
    # A worker that died after it had put its result, and before its `task_done`, leaves one more result.
    joining = joining or asyncio.create_task(jobs.aio.join())
    while not joining.done():
        try:
            await asyncio.wait_for(results.aio.get(), 0.05)
            repeated, again = repeated + 1, again + 1
        except asyncio.TimeoutError:
            pass
    await joining
    jobs.shutdown()
    for worker in crew[1:]:
        worker.join()
    seconds = time.monotonic() - started
    print(f"{note} at half of it, with {jobs.stats()['redelivered']} items in its hands")
    print(f"{again} items were handed out again; {repeated} of them had a result already")
    exact = found == {number: answer(number) for number in range(items)}
    verdict = "each with its result, none missing" if exact else "AND THEY ARE NOT WHAT THEY MUST BE"
    print(f"{len(found)} of {items} items came back, {verdict}; {seconds:.1f} s")
    return 0 if exact else 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m parkline.demo", description=__doc__)
    parser.add_argument("--items", type=int, default=40_000, help="how many (default: %(default)s)")
    items = parser.parse_args().items
    if items < 2:
        parser.error("--items must be at least 2")
    return asyncio.run(run(items))


if __name__ == "__main__":
    sys.exit(main())
