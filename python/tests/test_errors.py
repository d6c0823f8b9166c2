"""What core refuses, and as what it arrives in Python. The errors of full, empty and closed queues, of
codecs and of handles that were sent are tested beside these."""

import asyncio
import errno
import fcntl
import mmap
import os
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from bounds import run
from required import not_tried

import parkline

F_OFD_SETLK = 37
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
# Of `docs/layout.md`.
VERSION, CAPACITY, FLAGS, SLOTS = 8, 12, 52, 4096
LOCKS_AT = 1 << 40


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"handles": 0}, "handles is 0, it must be at least 1"),
        ({"max_attempts": 0}, "max_attempts is 0"),
        ({"maxsize": 1 << 40}, "capacity is 1099511627776, at most"),
        ({"max_message": 1 << 40}, "max_message is 1099511627776, at most"),
        ({"handles": 16384, "leases": 1000}, "are more than .* blocks; ask for fewer"),
        ({"watchdog": 1e-6}, "watchdog is 1µs, it must be between 1 ms and 1 h"),
        ({"watchdog": -1}, "watchdog"),
        ({"watchdog": float("nan")}, "watchdog"),
    ],
    ids=str,
)
def test_a_shape_that_cannot_be_is_a_value_error(asked: dict[str, Any], told: str) -> None:
    """Fails if it is another error (seen failing: each)."""
    with pytest.raises(ValueError, match=told):
        parkline.Queue[int](**{"maxsize": 4, **asked})


def test_an_event_and_a_semaphore_refuse_what_cannot_be() -> None:
    """Fails if it is another error (seen failing)."""
    with pytest.raises(ValueError, match="between 1 ms and 1 h"):
        parkline.Event(watchdog=7200)
    with pytest.raises(ValueError, match="at most"):
        parkline.Semaphore(1 << 40)


def test_more_memory_than_there_is_is_a_memory_error_that_tells_both_numbers() -> None:
    """512 GiB, of which nothing is allocated. Fails if it is another error (seen failing)."""
    told = r"\d{12} bytes of shared memory are asked for, and \d+ are left by .*lazy_memory"
    with pytest.raises(MemoryError, match=told):
        parkline.Queue[int](1 << 19, max_message=1 << 20, lazy_memory=False)


@pytest.mark.parametrize(
    ("shape", "mib"),
    [
        ({"maxsize": 1024}, 10),
        ({"maxsize": 8, "max_message": 1 << 20}, 328),
        # If all memory is reserved, numbers that the caller did not give are made smaller, and given ones
        # are not.
        ({"maxsize": 8, "max_message": 1 << 20, "lazy_memory": False}, 62),
        ({"maxsize": 8, "max_message": 1 << 20, "lazy_memory": False, "handles": 64, "leases": 4}, 328),
        ({"maxsize": 8, "max_message": 1 << 16, "lazy_memory": False, "joinable": True}, 1029),
    ],
    ids=str,
)
def test_what_a_queue_takes_can_be_asked_before(shape: dict[str, Any], mib: int) -> None:
    """Fails if a default is passed on as if it were asked for (seen failing)."""
    memory = parkline.Queue.memory(**shape)
    assert memory >> 20 == mib
    if memory < 100 << 20:
        shape = {"lazy_memory": True} | shape
        with parkline.Queue[int](**shape) as q:
            assert os.fstat(q.share_fd()).st_size == memory
            is_reserved = os.fstat(q.share_fd()).st_blocks * 512 >= memory
            assert is_reserved != shape["lazy_memory"]
    with pytest.raises(ValueError, match="at most"):
        parkline.Queue.memory(1 << 40)
    with pytest.raises(ValueError, match="bounded"):
        parkline.Queue.memory(0)


def memfd_like(q: parkline.Queue[Any], *, seals: int = SEALS, hugetlb: bool = False) -> int:
    """A memfd with the header of `q`, and as long."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    fd = os.memfd_create("like", flags | (os.MFD_HUGETLB if hugetlb else 0))
    if not hugetlb:
        os.ftruncate(fd, os.fstat(q.share_fd()).st_size)
        os.pwrite(fd, os.pread(q.share_fd(), SLOTS, 0), 0)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


@pytest.mark.parametrize(
    ("at", "word", "told"),
    [
        (0, 0, "holds no parkline queue"),
        (VERSION, 4, "layout version 4, this library speaks"),
        (FLAGS, 1, "was made with .* 0x1, which this version of the library does not know"),
        (CAPACITY, 60, "claims an impossible shape"),
        (CAPACITY, 5, r"bytes long, its header needs \d+"),
    ],
)
def test_a_segment_that_is_not_as_it_must_be_is_a_value_error(at: int, word: int, told: str) -> None:
    """Fails if it is another error (seen failing: each)."""
    q = parkline.Queue[int](4)
    fd = memfd_like(q)
    try:
        parkline.Queue[int].from_fd(fd).close()
        os.pwrite(fd, struct.pack("=I", word), at)
        with pytest.raises(ValueError, match=told):
            parkline.Queue[int].from_fd(fd)
    finally:
        os.close(fd)


def test_a_memfd_that_could_shrink_is_a_value_error() -> None:
    """Fails if it is another error (seen failing)."""
    fd = memfd_like(parkline.Queue[int](4), seals=fcntl.F_SEAL_GROW)
    try:
        with pytest.raises(ValueError, match="lacks the seals .*SHRINK"):
            parkline.Queue[int].from_fd(fd)
    finally:
        os.close(fd)


def test_a_memfd_of_huge_pages_is_a_value_error() -> None:
    """Fails if it is another error (seen failing)."""
    try:
        fd = memfd_like(parkline.Queue[int](4), hugetlb=True)
    except OSError as error:
        return not_tried("hugetlb", error)
    try:
        with pytest.raises(ValueError, match="huge pages"):
            parkline.Queue[int].from_fd(fd)
    finally:
        os.close(fd)


def test_a_descriptor_that_cannot_be_written_is_the_kernels_error() -> None:
    """Fails if it loses its number (seen failing)."""
    q = parkline.Queue[int](4)
    fd = os.open(f"/proc/self/fd/{q.share_fd()}", os.O_RDONLY)
    try:
        with pytest.raises(PermissionError, match="pass one that can") as told:
            parkline.Queue[int].from_fd(fd)
        assert told.value.errno == errno.EACCES
    finally:
        os.close(fd)


Attach = Callable[[parkline.Queue[int]], None]


def put(q: parkline.Queue[int]) -> None:
    q.put(1)


def get(q: parkline.Queue[int]) -> None:
    q.get_nowait()


def put_in_a_task(q: parkline.Queue[int]) -> None:
    asyncio.run(q.aio.put(1))


def get_in_a_task(q: parkline.Queue[int]) -> None:
    asyncio.run(q.aio.get())


each_attach = pytest.mark.parametrize(
    "attach", [put, get, put_in_a_task, get_in_a_task], ids=lambda it: it.__name__
)


@each_attach
def test_a_queue_without_a_free_handle_says_so(attach: Attach) -> None:
    """Fails if it is a `RuntimeError` alone (seen failing)."""
    q = parkline.Queue[int](4, handles=1)
    same = parkline.Queue[int].from_fd(q.share_fd())
    same.put(1)
    with pytest.raises(parkline.NoFreeHandle, match="all 1 handles of the queue are taken"):
        attach(q)
    same.close()
    attach(q) if "put" in attach.__name__ else q.put(1)


@contextmanager
def leased(fd: int) -> Iterator[None]:
    """A lease on the file of `fd`. Its holder does not end it when others wait for that."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    file = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield
    finally:
        os.close(file)
        signal.signal(signal.SIGIO, before)


@each_attach
def test_a_lease_on_the_memfd_is_an_error_that_says_try_again(attach: Attach) -> None:
    """Fails if it is a `RuntimeError` (seen failing): no caller could tell it from others."""
    first = parkline.Queue[int](4)
    fd = os.dup(first.share_fd())
    # Closed, because the kernel grants no lease while a description is open for writing.
    first.close()
    with leased(fd):
        q = parkline.Queue[int].from_fd(fd)
        with pytest.raises(BlockingIOError, match="F_SETLEASE.* try again: .*lease-break-time") as told:
            attach(q)
        assert told.value.errno == errno.EAGAIN == errno.EWOULDBLOCK
    q.put(1)
    assert q.get() == 1
    os.close(fd)


def test_a_lease_on_the_memfd_of_a_semaphore_is_the_same_error() -> None:
    """Fails if it is a `RuntimeError` (seen failing)."""
    semaphore = parkline.Semaphore(1)
    fd = os.dup(semaphore.share_fd())
    # Its handle is gone, and with it what keeps the kernel from giving leases.
    semaphore.close()
    try:
        with leased(fd), pytest.raises(BlockingIOError, match="try again"):
            parkline.Semaphore.from_fd(fd)
        parkline.Semaphore.from_fd(fd).close()
    finally:
        os.close(fd)


@each_attach
@pytest.mark.parametrize("reuse", [False, True])
def test_a_descriptor_that_this_process_closed_is_told(attach: Attach, reuse: bool) -> None:
    """Fails if it is a `RuntimeError` (seen failing)."""
    q = parkline.Queue[int](4)
    number = q.share_fd()
    if reuse:
        with open(os.devnull) as other:
            os.dup2(other.fileno(), number)
    else:
        os.close(number)
    try:
        with pytest.raises(OSError, match="this process has closed the queue's descriptor") as told:
            attach(q)
        assert told.value.errno == errno.EBADF
        with pytest.raises(OSError, match="this process has closed the descriptor") as told:
            q.share_fd()
        assert told.value.errno == errno.EBADF
    finally:
        q.close()
        if reuse:
            # It is not the queue's.
            os.close(number)


def test_a_search_that_takes_too_long_is_no_free_handle() -> None:
    """A process that has the memfd locks all records, and many other bytes, so that each lock call takes
    the kernel long. Fails if it is a `RuntimeError` (seen failing)."""
    handles = 16384
    q = parkline.Queue[int](1, max_message=8, handles=handles, leases=0)
    files = [os.open(f"/proc/self/fd/{q.share_fd()}", os.O_RDWR) for _ in range(2)]

    def lock(file: int, start: int, length: int) -> None:
        flock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, start, length, 0)
        fcntl.fcntl(file, F_OFD_SETLK, flock)

    try:
        for n in range(4000):
            lock(files[0], 2 * n, 1)
        lock(files[1], LOCKS_AT, 2 * handles)
        with pytest.raises(parkline.NoFreeHandle, match="none of .* call again: the search goes on"):
            q.put(1)
    finally:
        for file in files:
            os.close(file)
    q.put(1)


def scribble(q: Any) -> None:
    """Into each slot what no honest process writes."""
    with mmap.mmap(q.share_fd(), 0) as segment:
        segment[SLOTS : SLOTS + 8 * q.maxsize] = b"\xff" * 8 * q.maxsize


@pytest.mark.parametrize(
    "call",
    [
        lambda q: q.put(1),
        lambda q: q.get(),
        lambda q: q.get_many(2),
        lambda q: q.put_many([1]),
        lambda q: q.join(),
        lambda q: asyncio.run(q.aio.put(1)),
        lambda q: asyncio.run(q.aio.get()),
        lambda q: asyncio.run(q.aio.get_many(2)),
        lambda q: asyncio.run(q.aio.join()),
    ],
)
def test_a_segment_that_was_scribbled_over_is_corrupt(call: Any) -> None:
    """A get attaches after that was found. Fails if either is a `RuntimeError` alone (seen failing)."""
    q = parkline.Queue[int](4)
    q.put(1)
    scribble(q)
    with pytest.raises(parkline.Corrupt, match="the segment is corrupt: .* use a new queue"):
        q.put(1)
    with pytest.raises(parkline.Corrupt, match="the segment is corrupt: .* use a new queue"):
        call(q)


NO_DESCRIPTOR_LEFT = """
    import asyncio, errno, os, parkline, pickle, resource

    q, turns = parkline.Queue(4), parkline.Semaphore(1)
    event = parkline.Event()
    sent = pickle.dumps(q)

    async def wait():
        files = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        try:
            while True:
                files.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass

        def tries():
            yield lambda: parkline.Queue(4)
            yield parkline.Event
            yield parkline.Semaphore
            yield lambda: parkline.Queue.from_fd(q.share_fd())
            yield lambda: pickle.loads(sent)
            yield q.share_fd
            yield lambda: q.put(1)
            yield q.get

        for call in tries():
            try:
                call()
            except OSError as error:
                print(error.errno == errno.EMFILE, "RLIMIT_NOFILE" in str(error))
            else:
                print("no error", call)
        for call in (q.aio.put(1), q.aio.get(), q.aio.join(), event.aio.wait()):
            try:
                await asyncio.wait_for(call, 5)
            except OSError as error:
                print(error.errno == errno.EMFILE, "RLIMIT_NOFILE" in str(error))
            else:
                print("no error", call)
        for file in files:
            os.close(file)
        # Nothing was lost, and nothing is left in between.
        await q.aio.put(1)
        await q.aio.get()
        await q.aio.join()
        event.set()
        await event.aio.wait()
        await turns.aio.acquire()
        print("done")

    asyncio.run(wait())
"""


def test_descriptors_used_up_keep_their_number_and_say_what_to_raise() -> None:
    """Fails if an error of ours becomes one of Python by `?` (seen failing): the number is lost."""
    lines = run(NO_DESCRIPTOR_LEFT).splitlines()
    assert len(lines) == 13
    assert lines == ["True True"] * 12 + ["done"]


LIMITED = """
    import errno, parkline, resource
    q = parkline.Queue(4)
    fd = parkline.Queue(1 << 16).share_fd()
    big = lambda: parkline.Queue(1 << 16)
    for limit, value, number, remedy, call in (
        (resource.RLIMIT_FSIZE, 1 << 16, errno.EFBIG, "`ulimit -f`", big),
        (resource.RLIMIT_AS, 1 << 28, errno.ENOMEM, "RLIMIT_AS", big),
        (resource.RLIMIT_AS, 1 << 20, errno.ENOMEM, "RLIMIT_AS", lambda: q.put(1)),
    ):
        before = resource.getrlimit(limit)
        resource.setrlimit(limit, (value, before[1]))
        try:
            call()
        except OSError as error:
            print(error.errno == number, remedy in str(error))
        resource.setrlimit(limit, before)
    q.put(1)
    print(q.get())
"""


def test_limits_of_the_process_keep_their_number_and_say_what_to_raise() -> None:
    """Fails if an error loses its number (seen failing)."""
    assert run(LIMITED).splitlines() == ["True True"] * 3 + ["1"]
