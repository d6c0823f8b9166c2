"""Handles as objects: subclasses, and what arrives of a handle that went through a pipe of
multiprocessing."""

import concurrent.futures
import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any

import children
import pytest
from children import Counting, Named, NamedEvent, NamedSemaphore, Slotted

import parkline


def for_a_pipe(made: Any) -> bytes:
    """As multiprocessing pickles what it sends."""
    return bytes(ForkingPickler.dumps(made))


SUBCLASSES: list[Any] = [Named, Slotted, NamedEvent, NamedSemaphore]


def test_a_subclass_arrives_as_what_it_is(start: Any) -> None:
    """With its attributes; its `__init__` does not run again. Fails if the class is not in the pickle, or
    the attributes are not (seen failing, each)."""
    handles = [kind("of the parent") for kind in SUBCLASSES]
    results = parkline.Queue[Any](8)
    child = start.Process(target=children.tell_of, args=(handles, results))
    child.start()
    for handle in handles:
        assert results.get(timeout=60) == (type(handle), "of the parent", handle.id)
    child.join()


@pytest.mark.parametrize("dumps", [pickle.dumps, for_a_pipe])
@pytest.mark.parametrize("kind", SUBCLASSES)
def test_a_subclass_goes_through_any_pickle(kind: Any, dumps: Any) -> None:
    """Fails as above."""
    made = kind("this")
    same = pickle.loads(dumps(made))
    assert (type(same), same.name, same.id) == (kind, "this", made.id)
    opened = kind.from_fd(made.share_fd())
    assert (type(opened), opened.id) == (kind, made.id) and not hasattr(opened, "name")


def test_a_subclass_works_as_its_own() -> None:
    """Fails if `__new__` takes the arguments (seen failing): it refuses the name."""
    made = Named("mine")
    same = pickle.loads(pickle.dumps(made))
    same.put_named(1)
    assert same.joinable and made.get() == ("mine", 1)
    made.task_done()
    counting = Counting()
    counting.puts = 3
    assert pickle.loads(pickle.dumps(counting)).puts == 3


def test_a_subclass_that_does_not_call_init_says_so() -> None:
    class Forgetful(parkline.Queue[int]):
        def __init__(self) -> None:
            pass

    class ForgetfulEvent(parkline.Event):
        def __init__(self) -> None:
            pass

    q = Forgetful()
    for call in (q.get, q.qsize, q.share_fd, lambda: q.aio.qsize(), ForgetfulEvent().is_set):
        with pytest.raises(RuntimeError, match=r"call super\(\).__init__\(\)"):
            call()
    assert q.closed
    q.close()
    with pytest.raises(RuntimeError, match="called twice"):
        parkline.Event().__init__()  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["queue", "named", "event", "semaphore"])
def test_a_worker_that_returns_a_handle_does_not_break_its_pool(start: Any, kind: str) -> None:
    """It is gone before it arrives. Fails if its unpickling raises (seen failing, each): `BrokenProcessPool`
    for all futures, and a `Pool` that never answers."""
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=start) as executor:
        lost, _ = executor.submit(children.make, kind).result(timeout=60)
        with pytest.raises(OSError, match="has closed what it sent.*has to keep it until it has arrived"):
            lost.share_fd()
        assert lost.closed
        # The pool goes on.
        assert executor.submit(abs, -1).result(timeout=60) == 1
    with start.Pool(1) as pool:
        lost, _ = pool.apply_async(children.make, (kind,)).get(timeout=60)
        with pytest.raises(OSError, match="has to keep it"):
            lost.share_fd()
        lost.close()
        with pytest.raises(ValueError, match="closed"):
            lost.share_fd()


def test_a_lost_queue_still_tells_how_it_was_made() -> None:
    q = parkline.Queue[bytes](4, codec="raw", schema=("orders", 3))
    sent = for_a_pipe(q)
    q.close()
    lost = pickle.loads(sent)
    assert (lost.codec, lost.joinable, repr(lost)) == ("raw", False, "<parkline.Queue closed>")
    with pytest.raises(FileNotFoundError):
        lost.put(b"")
    # Any other error is raised at once.
    other = parkline.Queue[bytes](4)
    reduced = other.__reduce__()
    with pytest.raises(ValueError, match="schema"):
        reduced[0](*reduced[1][:2], {"schema": ("orders", 3)})
