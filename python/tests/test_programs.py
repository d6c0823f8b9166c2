"""Whole programs: the usual first program, and the remains of a process."""

import os
import subprocess
import time

import pytest
from bounds import command, run

# Ten workers await the queue, five items, all workers are cancelled.
CLASSIC = """
    import asyncio, sys
    {imports}

    async def worker(q, got):
        while True:
            got.append(await {get})

    async def main():
        q = {queue}
        got = []
        workers = [asyncio.create_task(worker(q, got)) for _ in range(10)]
        for item in range(5):
            await {put}
        while len(got) < 5:
            await asyncio.sleep(0.001)
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        print("main done", sorted(got), flush=True)

    asyncio.run(main())
"""
THEIRS = CLASSIC.format(
    imports="import multiprocessing",
    queue="multiprocessing.Queue()",
    get="asyncio.get_running_loop().run_in_executor(None, q.get)",
    put="asyncio.sleep(0, q.put(item))",
)
OURS = CLASSIC.format(
    imports="import parkline",
    queue="parkline.Queue(8)",
    get="q.aio.get()",
    put="q.aio.put(item)",
)
DONE = "main done [0, 1, 2, 3, 4]\n"


def start(program: str, *options: str) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    return subprocess.Popen(command(program, *options), stdout=pipe, stderr=pipe, text=True)


def test_the_classic_program_hangs_at_exit_with_an_executor_and_ends_at_once_with_ours() -> None:
    with start(THEIRS) as theirs, start(OURS, "-X", "dev", "-W", "error") as ours:
        assert ours.stdout and theirs.stdout
        assert ours.stdout.readline() == DONE
        said = time.monotonic()
        assert ours.wait(timeout=30) == 0
        took = time.monotonic() - said
        assert theirs.stdout.readline() == DONE
        with pytest.raises(subprocess.TimeoutExpired):
            theirs.wait(timeout=3)
        theirs.kill()
        assert took < 1, "it ends with its main"
        assert ours.stderr and ours.stderr.read() == ""


def test_a_thousand_queues_leave_no_descriptor_and_no_mapping() -> None:
    """Fails if `Wait::give_up` forgets its task (seen failing)."""
    program = """
        import asyncio, gc, os, parkline, pickle

        def count():
            gc.collect()
            with open("/proc/self/maps") as file:
                maps = file.read().count("memfd:parkline")
            return len(os.listdir("/proc/self/fd")), maps

        async def use(q):
            get = asyncio.create_task(q.aio.get())
            while not q.waiting_getters:
                await asyncio.sleep(0)
            await q.aio.put(1)
            assert await get == 1
            cancelled = asyncio.create_task(q.aio.get())
            while not q.waiting_getters:
                await asyncio.sleep(0)
            cancelled.cancel()
            q.put(2)
            assert q.get() == 2
            q.put(pickle.loads(pickle.dumps(q)).qsize())

        asyncio.run(use(parkline.Queue(4)), debug=False)
        before = count()

        async def main():
            for n in range(900):
                q = parkline.Queue(4)
                await use(q)
                if n % 2:
                    q.close()

        asyncio.run(main(), debug=False)
        for _ in range(100):
            asyncio.run(use(parkline.Queue(4)), debug=False)
        after = count()
        print(after[0] - before[0], after[1], before[1])
    """
    assert run(program) == "0 0 0\n"


def test_processes_leave_nothing_to_the_resource_tracker() -> None:
    program = """
        import multiprocessing, os, sys, parkline
        sys.path.insert(0, os.environ["TESTS"])
        import children
        if __name__ == "__main__":
            spawn = multiprocessing.get_context("spawn")
            jobs, results = parkline.Queue(4), parkline.Queue(4)
            child = spawn.Process(target=children.echo, args=(jobs, results))
            child.start()
            jobs.put("job")
            print(results.get())
            jobs.shutdown()
            child.join()
    """
    os.environ["TESTS"] = os.path.dirname(__file__)
    assert run(program) == "job\n"


def test_a_program_that_ends_in_the_midst_of_a_wait_ends() -> None:
    program = """
        import asyncio, parkline
        q = parkline.Queue(1)

        async def main():
            tasks = [asyncio.create_task(q.aio.get()) for _ in range(100)]
            while q.waiting_getters < 100:
                await asyncio.sleep(0)
            print("ends")
            raise SystemExit(0)

        asyncio.run(main())
    """
    assert run(program) == "ends\n"
