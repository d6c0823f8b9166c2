"""The view for programs that were written to `collections.deque`."""

import collections
import os
import pickle
import threading
from collections.abc import Callable
from typing import Any

import children
import pytest

import parkline


def deque(maxlen: int = 4, **shape: Any) -> parkline.Deque[Any]:
    return parkline.Deque(parkline.Queue[Any](maxlen, **shape))


@pytest.mark.parametrize("make", [lambda: collections.deque(maxlen=4), deque])
def test_a_program_does_the_same_with_each(make: Callable[[], Any]) -> None:
    """Fails if a full one refuses, or discards at the right (seen failing, each)."""
    made = make()
    assert made.maxlen == 4 and len(made) == 0 and not made
    with pytest.raises(IndexError, match="empty deque"):
        made.popleft()
    made.append("a")
    made.extend(["b", "c"])
    assert made and len(made) == 3 and "b" in made and "x" not in made
    made += ["d", "e", "f"]
    assert list(made) == list(made.copy()) == ["c", "d", "e", "f"]
    assert made.count("d") == 1 and made.count("x") == 0
    assert made.popleft() == "c" and len(made) == 3
    made.extend(made)
    assert list(made) == ["f", "d", "e", "f"]
    made.clear()
    assert list(made) == [] and len(made) == 0
    with pytest.raises(TypeError):
        hash(made)


def test_what_a_queue_between_processes_cannot_do_says_why() -> None:
    """Fails if one of them does something (seen failing with `pop` as `popleft`)."""
    made = deque()
    made.append(1)

    def assign() -> None:
        made[0] = 2

    def delete() -> None:
        del made[0]

    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: made.appendleft(1), "appendleft: .* one way: items enter at the right"),
        (lambda: made.extendleft([1]), "extendleft: .* one way"),
        (made.pop, r"pop: .* one way.* popleft\(\) takes the oldest"),
        (lambda: made.rotate(1), "rotate: .* one way"),
        (made.reverse, "reverse: .* one way"),
        (lambda: made.insert(0, 1), "insert: .* belongs to no process"),
        (lambda: made.remove(1), "remove: .* belongs to no process"),
        (lambda: made.index(1), "index: other processes take items meanwhile"),
        (lambda: made[0], "reading by an index: .* list"),
        (assign, "assigning by an index: "),
        (delete, "deleting by an index: "),
    ]
    for call, told in calls:
        with pytest.raises(TypeError, match=told):
            call()
    assert list(made) == [1]


def test_iterating_takes_nothing_and_leaves_out_what_was_taken_meanwhile() -> None:
    """Fails if it takes (seen failing), or goes by slots and not by positions (seen failing in core)."""
    made = deque()
    made.extend([[1], b"two", bytearray(b"3" * 5000)])
    going = iter(made)
    assert next(going) == [1]
    assert made.popleft() == [1] and made.popleft() == b"two"
    made.append("comes later")
    assert list(going) == [bytearray(b"3" * 5000)]
    assert made.queue.stats()["received"] == 2 and len(made) == 2
    assert made == [bytearray(b"3" * 5000), "comes later"]
    assert made == pickle.loads(pickle.dumps(made)) and made != deque() and made != 3


def test_others_see_the_same_deque(start: Any) -> None:
    """A process appends until the oldest are discarded, and another one reads them while they stay."""
    made = deque(8)
    child = start.Process(target=children.fill_the_deque, args=(made, 100))
    child.start()
    child.join()
    assert child.exitcode == 0 and list(made) == list(range(92, 100))
    results = parkline.Queue[Any](4)
    child = start.Process(target=children.read_the_deque, args=(made, results))
    child.start()
    assert results.get(timeout=60) == list(range(92, 100))
    child.join()
    assert [made.popleft() for _ in range(8)] == list(range(92, 100))


def test_no_item_is_taken_twice_while_others_discard_and_read() -> None:
    """Each item comes out of a `popleft` or is discarded, once, and each copy is whole. Fails if iterating
    takes (seen failing)."""
    made = deque(4)
    got: list[int] = []
    is_over = threading.Event()

    def read() -> None:
        while not is_over.is_set():
            seen = [number for number, _ in made]
            assert seen == sorted(seen)
            assert all(blob == b"%d" % number * 500 for number, blob in made)

    def take() -> None:
        while not is_over.is_set() or made:
            try:
                got.append(made.popleft()[0])
            except IndexError:
                pass

    threads = [threading.Thread(target=read), threading.Thread(target=take)]
    for thread in threads:
        thread.start()
    for number in range(3000):
        made.append((number, b"%d" % number * 500))
    is_over.set()
    for thread in threads:
        thread.join()
    assert got == sorted(set(got)) and made.queue.stats()["received"] == 3000
    assert got[-1] == 2999 or not made


@pytest.mark.parametrize("shape", [{"joinable": True, "leases": 2}, {"leases": 0}], ids=str)
def test_a_full_one_discards_whatever_this_handle_holds(shape: dict[str, Any]) -> None:
    """Fails if it needs a lease to discard (seen failing): it tries for ever."""
    made = deque(2, **shape)
    for number in range(4):
        made.append(number)
        if number < 2 and shape["leases"]:
            assert made.popleft() == number
    if shape["leases"]:
        with pytest.raises(parkline.LeasesOut):
            made.popleft()
    made.append(4)
    assert list(made) == [3, 4]
    made.clear()
    assert not made


class Unreadable:
    def __reduce__(self) -> Any:
        return int, ("no number",)


def test_what_cannot_be_decoded_is_told_and_stays() -> None:
    """And is discarded without being decoded. Fails if the iteration raises the error bare (seen failing)."""
    made = deque(2)
    made.extend([Unreadable(), "good"])
    with pytest.raises(parkline.Undecodable, match="is in the queue still") as told:
        list(made)
    assert (told.value.attempts, b"no number" in told.value.encoded) == (0, True)
    assert isinstance(told.value.__cause__, ValueError)
    made.append("next")
    assert list(made) == ["good", "next"]


def test_a_forked_child_iterates() -> None:
    made = deque()
    made.extend([1, 2])
    child = os.fork()
    if child == 0:
        try:
            os._exit(list(made) != [1, 2])
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
