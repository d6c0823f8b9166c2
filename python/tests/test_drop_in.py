"""`parkline.multiprocessing` in the place of `multiprocessing`: the same program with each."""

import logging
import logging.handlers
import multiprocessing
import os
import pickle
import queue
import signal
import threading
from typing import Any

import children
import pytest
from test_handles import for_a_pipe
from test_queue import wait_for_waiters

import parkline
import parkline.multiprocessing as mp


@pytest.fixture(params=[multiprocessing, mp], ids=["multiprocessing", "parkline"])
def library(request: pytest.FixtureRequest) -> Any:
    """Both, so that a test asks for nothing that multiprocessing does not do."""
    return request.param


def test_every_other_name_is_multiprocessings_own() -> None:
    own = {"Event", "JoinableQueue", "Pipe", "Queue", "Semaphore", "SimpleQueue"}
    assert set(multiprocessing.__all__) | {"Connection"} == set(mp.__all__)
    for name in multiprocessing.__all__:
        assert (getattr(mp, name) is getattr(multiprocessing, name)) == (name not in own), name
    from parkline.multiprocessing import shared_memory

    assert shared_memory is multiprocessing.shared_memory
    with pytest.raises(AttributeError):
        mp.nothing_of_the_kind


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_an_existing_program_runs(library: Any, method: str) -> None:
    """Each kind of object, the arguments by place and by name as programs give them."""
    context = library.get_context(method)
    if library is multiprocessing:
        library = context
    jobs, joinable, simple = library.Queue(), library.JoinableQueue(10), library.SimpleQueue()
    go, semaphore = library.Event(), library.Semaphore(2)
    here, there = library.Pipe()
    child = context.Process(
        target=children.use_the_drop_in, args=(jobs, joinable, simple, go, semaphore, there)
    )
    child.start()
    jobs.put(41, 1, 5)
    go.set()
    for item in (1, 2, None):
        joinable.put(item)
    assert [simple.get() for _ in range(3)] == [2, 4, None]
    assert jobs.get(1, 60) == 42
    joinable.join()
    here.send("done")
    assert here.poll(60) and here.recv() == "DONE"
    child.join()
    assert child.exitcode == 0 and semaphore.get_value() == 2
    assert simple.empty() and not jobs.full()
    with pytest.raises(queue.Empty):
        jobs.get(0)
    assert semaphore.acquire(1) and semaphore.acquire(block=True, timeout=1)
    assert not semaphore.acquire(False, 5) and not semaphore.acquire(0)
    for made in (jobs, joinable):
        made.close()
        made.join_thread()
        made.cancel_join_thread()
    simple.close()


def test_a_queue_listener_of_logging_takes_every_record(start: Any) -> None:
    """Fails if `task_done` of a plain queue is refused (seen failing): the listener's thread ends after one
    record."""
    to_log = mp.Queue[logging.LogRecord]()
    records: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record.getMessage())

    listener = logging.handlers.QueueListener(to_log, Keep())
    listener.start()
    child = start.Process(target=children.log, args=(to_log, 20))
    child.start()
    child.join()
    listener.stop()
    assert records == [f"record {number}" for number in range(20)]


def test_the_default_has_room_for_a_thousand_large_items() -> None:
    for made in (mp.Queue[int](), mp.Queue[int](0), mp.Queue[int](-1), mp.JoinableQueue[int]()):
        assert (made.maxsize, made.max_message) == (1024, 1 << 20)
        assert made.joinable == isinstance(made, mp.JoinableQueue)
    # Of the gigabyte nothing is allocated but a page for each lease of each handle.
    with mp.Queue[bytes]() as q:
        assert os.fstat(q.share_fd()).st_blocks * 512 < 4 << 20
    with mp.JoinableQueue[bytes]() as q:
        assert os.fstat(q.share_fd()).st_blocks * 512 < 20 << 20
    assert mp.Queue[int](maxsize=6).maxsize == 8


@pytest.mark.parametrize("kind", [mp.Queue, mp.JoinableQueue, mp.SimpleQueue, mp.Event, mp.Semaphore])
def test_each_kind_arrives_as_what_it_is(kind: Any) -> None:
    made = kind()
    same = pickle.loads(pickle.dumps(made))
    assert (type(same), same.id) == (kind, made.id)


def test_a_loader_with_an_index_queue_and_a_data_queue_runs(start: Any) -> None:
    """All indices are put before the first data are got, as multiprocessing allows it. Fails with a room of 8
    each (seen failing): each side waits for the other."""
    indices, data = mp.Queue[Any](), mp.Queue[Any]()
    crew = [start.Process(target=children.load, args=(indices, data)) for _ in range(2)]
    for child in crew:
        child.start()
    for index in range(200):
        indices.put(index)
    assert {data.get(timeout=60)[0] for _ in range(200)} == set(range(200))
    for _ in crew:
        indices.put(None)
    for child in crew:
        child.join()


def test_items_go_through_a_pipe_both_ways(library: Any) -> None:
    here, there = library.Pipe()
    here.send({"a": 1})
    there.send([b"x"] * 3)
    assert there.poll() and there.poll(1) and there.poll(None)
    assert (there.recv(), here.recv()) == ({"a": 1}, [b"x"] * 3)
    assert not there.poll() and not here.poll(0.01) and not here.poll(-1)
    here.send_bytes(b"abcdef", 1, 3)
    here.send_bytes(memoryview(b"abcdef"), 4)
    buffer = bytearray(8)
    assert there.recv_bytes() == b"bcd" and there.recv_bytes_into(buffer, 1) == 2
    assert buffer == b"\0ef\0\0\0\0\0"
    for wrong in ((b"abc", 4), (b"abc", -1), (b"abc", 1, 3), (b"abc", 0, -1)):
        with pytest.raises(ValueError):
            here.send_bytes(*wrong)
    here.send_bytes(b"abc")
    with pytest.raises(multiprocessing.BufferTooShort) as short:
        there.recv_bytes_into(bytearray(2))
    assert short.value.args == (b"abc",)
    here.send_bytes(b"abc")
    with pytest.raises(OSError):
        there.recv_bytes(2)
    assert not there.readable and there.writable
    there.send("still")
    assert here.recv() == "still"


def test_each_end_of_a_pipe_of_one_way_does_its_part(library: Any) -> None:
    reads, writes = library.Pipe(duplex=False)
    assert (reads.readable, reads.writable) == (True, False)
    assert (writes.readable, writes.writable) == (False, True)
    with pytest.raises(OSError, match="read-only"):
        reads.send(1)
    for call in (writes.recv, writes.poll):
        with pytest.raises(OSError, match="write-only"):
            call()
    with writes:
        writes.send(1)
    with pytest.raises(OSError, match="closed"):
        writes.send(1)
    assert reads.poll() and reads.recv() == 1
    assert reads.poll()
    with pytest.raises(EOFError):
        reads.recv()


def test_who_sends_into_a_pipe_without_a_reader_is_told(library: Any) -> None:
    here, there = library.Pipe()
    there.close()
    with pytest.raises(BrokenPipeError):
        here.send(1)
    with pytest.raises(EOFError):
        here.recv()
    assert repr(here)


@pytest.mark.parametrize("items", [0, 3])
def test_the_end_of_the_last_process_of_an_end_is_the_end_of_the_pipe(
    library: Any, start: Any, items: int
) -> None:
    """By SIGKILL; what it sent is received before. Fails if the hang-up is not asked for (seen failing): the
    recv waits for ever."""
    here, there = library.Pipe()
    child = start.Process(target=children.send_and_die, args=(there, here, items))
    child.start()
    there.close()
    assert [here.recv() for _ in range(items)] == list(range(items))
    with pytest.raises(EOFError):
        here.recv()
    with pytest.raises(BrokenPipeError):
        here.send(1)
    child.join()
    assert child.exitcode == -signal.SIGKILL


def test_a_recv_that_waits_learns_of_the_end(library: Any) -> None:
    """Fails if the hang-up is asked for only before the wait (seen failing)."""
    here, there = library.Pipe()
    errors: list[Exception] = []

    def receive() -> None:
        try:
            here.recv()
        except EOFError as error:
            errors.append(error)

    thread = threading.Thread(target=receive)
    thread.start()
    if isinstance(here, mp.Connection):
        assert here._inbox is not None
        wait_for_waiters(here._inbox, getters=1)
    there.close()
    thread.join()
    assert len(errors) == 1


def test_a_send_that_waits_learns_of_the_end() -> None:
    """Fails if the hang-up is asked for only before the wait (seen failing)."""
    here, there = mp.Pipe()
    for number in range(64):
        here.send(number)
    errors: list[Exception] = []

    def send() -> None:
        try:
            here.send(64)
        except BrokenPipeError as error:
            errors.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    assert here._outbox is not None
    wait_for_waiters(here._outbox, putters=1)
    there.close()
    thread.join()
    assert len(errors) == 1


def send_numbers(there: mp.Connection, count: int) -> None:
    for number in range(count):
        there.send(number)


def test_a_send_that_waits_goes_on_when_there_is_room() -> None:
    here, there = mp.Pipe(duplex=False)
    thread = threading.Thread(target=send_numbers, args=(there, 1000))
    thread.start()
    assert [here.recv() for _ in range(1000)] == list(range(1000))
    thread.join()


def test_what_a_poll_found_is_received_once_and_in_order() -> None:
    """Fails if the item that `poll` found goes back to the end (seen failing)."""
    here, there = mp.Pipe()
    for number in range(3):
        there.send(number)
    assert here.poll() and here.poll()
    assert [here.recv(), here.recv(), here.recv()] == [0, 1, 2]
    there.send("found before the end")
    assert here.poll()
    there.close()
    assert here.recv() == "found before the end"


def test_a_forked_child_leaves_what_its_parent_found() -> None:
    """Fails if the child receives it too (seen failing): `RuntimeError`, because the lease is the parent's."""
    here, there = mp.Pipe()
    there.send("the parent's")
    assert here.poll()
    there.send("the child's")
    child = os.fork()
    if child == 0:
        try:
            os._exit(here.recv() != "the child's")
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert here.recv() == "the parent's"


@pytest.mark.parametrize("dumps", [pickle.dumps, for_a_pipe])
def test_an_end_goes_through_any_pickle_and_is_the_same_end(dumps: Any) -> None:
    """Fails if the descriptors are opened for reading and writing (seen failing): an end then holds the
    other one too, and never sees its end."""
    here, there = mp.Pipe()
    same = pickle.loads(dumps(there))
    there.close()
    same.send(1)
    assert here.recv() == 1
    here.send(2)
    assert same.recv() == 2
    same.close()
    with pytest.raises(EOFError):
        here.recv()
    with pytest.raises(OSError, match="closed"):
        dumps(same)
    here, there = mp.Pipe()
    same = pickle.loads(dumps(there))
    here.close()
    with pytest.raises(EOFError):
        same.recv()


def test_an_end_that_did_not_arrive_says_so() -> None:
    """Fails if unpickling raises (seen failing), which breaks what reads multiprocessing's pipes."""
    here, there = mp.Pipe()
    sent, plain = for_a_pipe(there), pickle.dumps(there)
    there.close()
    lost = pickle.loads(sent)
    with pytest.raises(OSError, match="keep it until it has arrived"):
        lost.send(1)
    with pytest.raises(OSError, match="keep it until it has arrived"):
        pickle.loads(plain)
    with pytest.raises(EOFError):
        here.recv()


def test_no_descriptor_of_a_pipe_is_left() -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    mp.Pipe()
    before = count()
    for _ in range(10):
        here, there = mp.Pipe()
        pickle.loads(pickle.dumps(here)).close()
        here.close()
        del there
    assert count() == before
