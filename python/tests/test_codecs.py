"""What goes in comes out."""

import asyncio
import contextlib
import os
import pickle
import signal
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import children
import pytest

import parkline

numpy = pytest.importorskip("numpy")


@pytest.mark.parametrize(
    "item",
    [
        None,
        True,
        0,
        1.5,
        "",
        "text \N{SNOWMAN}",
        b"",
        b"x",
        b"\x80" * 100,
        bytearray(b"mutable"),
        (),
        [],
        {},
        {"id": 1, "tags": ["a", "b"], "nested": {"x": (1, 2)}},
        Exception("an error"),
        {1, 2, 3},
    ],
    ids=repr,
)
def test_any_item_comes_back(item: Any) -> None:
    q = parkline.Queue[Any](2)
    q.put(item)
    got = q.get()
    assert type(got) is type(item)
    assert repr(got) == repr(item)


@pytest.mark.parametrize("size", [1, 100, 4095, 4096, 4097, 1 << 16, (1 << 20) + 3, 64 << 20])
def test_arrays_of_any_size_come_back_writable(size: int) -> None:
    """In lazy memory: the queue could hold 20 times as much."""
    q = parkline.Queue[Any](4, max_message=(64 << 20) + 4096)
    array = numpy.arange(size, dtype=numpy.uint8)
    q.put(array)
    got = q.get()
    assert (got == array).all()
    got[0] = 7


def test_a_large_array_is_not_in_the_pickle() -> None:
    """It lies in the message as it is. Fails if buffers stay in the pickle (seen failing)."""
    array = numpy.full(100_000, 1.25)
    q = parkline.Queue[Any](1, max_message=1 << 20)
    same = parkline.Queue[bytes].from_fd(q.share_fd(), codec="raw")
    q.put(array)
    message = same.get()
    assert message[0] == 2
    assert message.endswith(array.tobytes())
    assert len(message) < array.nbytes + 400


def test_nothing_of_an_earlier_item_is_in_a_later_one() -> None:
    """Fails if the gaps between the parts keep what was there (seen failing)."""
    item = [numpy.full(size, 7, numpy.uint8) for size in (20_001, 20_002, 20_003)]
    messages = []
    for before in (b"\x00", b"\xaa"):
        q = parkline.Queue[Any](1, max_message=1 << 16)
        raw = parkline.Queue[bytes].from_fd(q.share_fd(), codec="raw")
        for _ in range(4):  # there are three blocks: each is used for either
            q.put(before * 65_000)
            raw.get()
            q.put(item)
            message = raw.get()
        messages.append(message)
    assert messages[0] == messages[1]


def test_arrays_of_every_kind_come_back() -> None:
    q = parkline.Queue[Any](1, max_message=1 << 20)
    square = numpy.arange(10_000.0).reshape(100, 100)
    frozen = square.copy()
    frozen.flags.writeable = False
    for item in (square, numpy.asfortranarray(square), square[::2, ::3], frozen, [square, square]):
        q.put(item)
        numpy.testing.assert_array_equal(q.get(), item)
    q.put(frozen)
    assert not q.get().flags.writeable


def test_shared_and_several_buffers_keep_their_order() -> None:
    q = parkline.Queue[Any](1, max_message=1 << 20)
    arrays = {n: numpy.full(5000 + n, n, dtype=numpy.uint16) for n in range(9)}
    q.put(arrays)
    for n, array in q.get().items():
        numpy.testing.assert_array_equal(array, arrays[n])


def test_raw_bytes_are_what_was_put() -> None:
    q = parkline.Queue[Any](2, codec="raw")
    for item in (b"", b"bytes", bytearray(b"array"), memoryview(b"view"), numpy.arange(3)):
        q.put(item)
        assert q.get() == bytes(item)
    with pytest.raises(TypeError):
        q.put("text")
    with pytest.raises(BufferError):
        q.put(memoryview(b"strided")[::2])
    assert q.empty()


def test_a_pair_of_callables_is_a_codec() -> None:
    q = parkline.Queue[str](2, codec=(str.encode, bytes.decode))
    q.put("text")
    assert q.get() == "text"
    with pytest.raises(TypeError):
        q.put(7)  # type: ignore[arg-type]
    bad = parkline.Queue[Any](2, codec=(lambda item: item, bytes.decode))
    with pytest.raises(TypeError):
        bad.put(7)
    assert q.empty() and bad.empty()


@pytest.mark.parametrize("codec", ["json", 7, (str,), ()])
def test_other_codecs_are_refused(codec: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="codec"):
        parkline.Queue[Any](1, codec=codec)


def test_what_cannot_be_pickled_is_refused_before_anything_is_claimed() -> None:
    q = parkline.Queue[Any](1)
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        q.put(lambda: 0)
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        q.put_many([1, lambda: 0])
    assert q.empty() and q.stats()["sent"] == 0


class Unreadable:
    """Pickles, and does not come back."""

    def __reduce__(self) -> Any:
        return (int, ("no number",))


def get(q: parkline.Queue[Any]) -> list[Any]:
    return [q.get(timeout=10)]


def get_nowait(q: parkline.Queue[Any]) -> list[Any]:
    return [q.get_nowait()]


def get_many(q: parkline.Queue[Any]) -> list[Any]:
    return q.get_many(4, timeout=10)


def iterate(q: parkline.Queue[Any]) -> list[Any]:
    return [next(iter(q))]


def get_in_a_task(q: parkline.Queue[Any]) -> list[Any]:
    return [asyncio.run(q.aio.get())]


def get_many_in_a_task(q: parkline.Queue[Any]) -> list[Any]:
    return asyncio.run(q.aio.get_many(4))


def iterate_in_a_task(q: parkline.Queue[Any]) -> list[Any]:
    async def main() -> list[Any]:
        return [await q.aio.__anext__()]

    return asyncio.run(main())


def wait_for(q: parkline.Queue[Any]) -> None:
    while not q.waiting_getters:
        time.sleep(0.001)


def late(take: Callable[[parkline.Queue[Any]], list[Any]]) -> Any:
    """The same for a get that waits for its item: another thread moves that in from `of` then."""

    def take_late(q: parkline.Queue[Any]) -> list[Any]:
        with contextlib.ExitStack() as stack:
            raw = parkline.Queue[bytes].from_fd(q.share_fd(), codec="raw")
            encoded = raw.get()

            def put() -> None:
                wait_for(q)
                raw.put(encoded)

            thread = threading.Thread(target=put)
            thread.start()
            stack.callback(thread.join)
            return take(q)

    take_late.__name__ = f"late_{take.__name__}"
    return take_late


GETS = [get, get_nowait, get_many, iterate, get_in_a_task, get_many_in_a_task, iterate_in_a_task]
GETS += [late(take) for take in GETS if take is not get_nowait]
each_get = pytest.mark.parametrize("take", GETS, ids=lambda it: it.__name__)


@each_get
def test_what_cannot_be_decoded_is_in_the_hands_of_the_get_that_raises(take: Any) -> None:
    """As bytes, that it may put aside or decode in another way. Fails if the error does not have them
    (seen failing)."""
    q = parkline.Queue[Any](4)
    q.put(Unreadable())
    with pytest.raises(parkline.Undecodable, match="no number.* its bytes are in `encoded`") as caught:
        take(q)
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.encoded == pickle.dumps(Unreadable(), 5)
    assert q.empty()
    q.put("next")
    assert take(q) == ["next"]
    q.join(timeout=10)


@each_get
def test_what_cannot_be_decoded_comes_again_until_it_had_its_attempts(take: Any) -> None:
    """Of a joinable queue: another getter may be able to. Fails if it is acknowledged (seen failing)."""
    q = parkline.Queue[Any](4, joinable=True, max_attempts=3)
    same = parkline.Queue[Any].from_fd(q.share_fd(), codec="raw", joinable=True)
    q.put(Unreadable())
    for attempt in (1, 2):
        with pytest.raises(parkline.Undecodable, match="it went back into the queue") as caught:
            q.get()
        assert (caught.value.attempts, caught.value.encoded[0]) == (attempt, 0x80)
    assert same.get() == caught.value.encoded
    assert same.last_attempts == 3
    same.task_done()
    q.put("next")
    assert take(q) == ["next"]
    q.task_done()
    q.join(timeout=10)


@each_get
def test_what_is_interrupted_in_its_decoding_comes_again(take: Any) -> None:
    """Whatever is no `Exception` says nothing of the item. Fails if it is acknowledged before it is
    decoded, or when that fails (seen failing)."""
    for joinable, leases in ((False, None), (True, None), (False, 0)):
        q = parkline.Queue[Any](4, joinable=joinable, leases=leases)
        q.put(Interrupting())
        Interrupting.interrupts = 1
        with pytest.raises(KeyboardInterrupt):
            take(q)
        assert get(q) == ["decoded"]
        assert q.last_attempts == (1 if leases == 0 else 2)
        if joinable:
            q.task_done()
        q.join(timeout=10)


class Interrupting:
    """Raises what Ctrl-C raises, where it is decoded, so many times."""

    interrupts = 0

    def __reduce__(self) -> Any:
        return Interrupting.decode, ()

    @staticmethod
    def decode() -> str:
        if Interrupting.interrupts:
            Interrupting.interrupts -= 1
            raise KeyboardInterrupt
        return "decoded"


@pytest.mark.parametrize("joinable", [True, False])
def test_an_interrupted_batch_loses_nothing(joinable: bool) -> None:
    """What it had before the interrupt is got by the next. Fails if it is dropped (seen failing)."""
    q = parkline.Queue[Any](8, joinable=joinable)
    q.put_many([1, 2, Interrupting(), 3])
    Interrupting.interrupts = 1
    with pytest.raises(KeyboardInterrupt):
        q.get_many(8)
    got: list[Any] = []
    while len(got) < 4:
        got += q.get_many(8, timeout=10)
    assert sorted(got, key=str) == [1, 2, 3, "decoded"]
    for _ in range(4 if joinable else 0):
        q.task_done()
    q.join(timeout=10)


@pytest.mark.parametrize("joinable", [True, False])
def test_an_item_that_kills_where_it_is_decoded_comes_again(spawn: Any, joinable: bool) -> None:
    """The process has not got it yet. Fails if an item is acknowledged before it is decoded (seen
    failing)."""
    q = parkline.Queue[Any](4, joinable=joinable)
    q.put(children.Deadly(os.getpid()))
    child = spawn.Process(target=children.get_one, args=(q,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert q.get(timeout=10) == "survived"
    assert q.last_attempts == 2


@pytest.mark.parametrize("in_task", [True, False])
def test_a_batch_tells_late_of_what_it_cannot_decode(in_task: bool) -> None:
    """Nothing that was decoded before is lost. Fails if the error is dropped (seen failing)."""
    take = get_many_in_a_task if in_task else get_many
    q = parkline.Queue[Any](4)
    q.put_many([1, 2, Unreadable(), 3])
    assert take(q) == [1, 2]
    with pytest.raises(parkline.Undecodable, match="no number"):
        take(q)
    assert take(q) == [3]


@pytest.mark.parametrize("rest", [[Unreadable()], []], ids=["undecodable", "the end"])
def test_a_batch_in_a_task_keeps_what_it_waited_for(rest: list[Any]) -> None:
    """What comes after the first item, for which it waited, is for the next call to tell. Fails if the
    batch raises it (seen failing): the first is lost."""

    async def main() -> None:
        q = parkline.Queue[Any](4)
        task = asyncio.create_task(q.aio.get_many(4))
        while not q.waiting_getters:
            await asyncio.sleep(0)
        q.put_many([1, *rest])
        if not rest:
            q.shutdown()
        assert await task == [1]
        with pytest.raises((parkline.Undecodable, parkline.ShutDown)):
            await q.aio.get_many(4)

    asyncio.run(main())


def test_too_large_an_item_tells_both_sizes() -> None:
    q = parkline.Queue[bytes](1, max_message=10, codec="raw")
    with pytest.raises(parkline.MessageTooLarge, match="11 bytes.* at most 10") as caught:
        q.put(b"x" * 11)
    assert (caught.value.size, caught.value.limit) == (11, 10)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.size, copy.limit, str(copy)) == (11, 10, str(caught.value))
    q.put(b"x" * 10)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x00",
        b"text",
        b"\x02",
        b"\x02\0\0\0\xff\xff\xff\xff",
        b"\x02\0\0\0\x01\0\0\0" + b"\xff" * 16,
        b"\x02\0\0\0\x01\0\0\0" + (0).to_bytes(8, "little") + (1 << 40).to_bytes(8, "little"),
    ],
)
def test_messages_of_no_codec_are_refused(message: bytes) -> None:
    q = parkline.Queue[Any](1)
    parkline.Queue[bytes].from_fd(q.share_fd(), codec="raw").put(message)
    with pytest.raises(parkline.Undecodable, match="its sender uses another codec") as caught:
        q.get()
    assert caught.value.encoded == message
    q.put("goes on")
    assert q.get() == "goes on"


def test_a_cut_pickle_is_pickles_to_refuse() -> None:
    q = parkline.Queue[Any](1)
    message = pickle.dumps({"a": 1}, 5)[:-3]
    parkline.Queue[bytes].from_fd(q.share_fd(), codec="raw").put(message)
    with pytest.raises(parkline.Undecodable) as caught:
        q.get()
    assert isinstance(caught.value.__cause__, (pickle.UnpicklingError, EOFError))
    assert caught.value.encoded == message
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_an_array_that_changes_while_the_put_waits_is_put_as_it_was() -> None:
    """Fails if a waiting put keeps the buffer and not a copy (seen failing)."""
    import threading
    import time

    q = parkline.Queue[Any](1, codec="raw")
    q.put(b"first")
    array = bytearray(b"before")
    thread = threading.Thread(target=q.put, args=(array,))
    thread.start()
    while not q.waiting_putters:
        time.sleep(0.001)
    array[:] = b"after!"
    assert q.get() == b"first"
    thread.join()
    assert q.get() == b"before"


class Node:
    pass


class Nested:
    """Puts another item while it is pickled."""

    def __init__(self, queue: "parkline.Queue[Any]") -> None:
        self.queue = queue

    def __reduce__(self) -> tuple[Any, ...]:
        self.queue.put("within")
        return str, ("around",)


class Refusing:
    def __reduce__(self) -> tuple[Any, ...]:
        raise RuntimeError("not me")


def test_pickles_do_not_refer_to_each_other() -> None:
    """Fails if a pickler keeps its memo (seen failing): the second pickle refers to the first."""
    q = parkline.Queue[Any](8)
    item = ["the same", {"key": "the same"}]
    q.put_many([item, item, [item, item]])
    assert q.get_many(8) == [item, item, [item, item]]


def test_a_put_keeps_no_item_alive() -> None:
    """Fails if a pickler keeps its memo (seen failing)."""
    q = parkline.Queue[Any](8, max_message=1 << 20)
    for size in (1, 1 << 17):
        node = Node()
        node.__dict__["text"] = "x" * size
        alive = weakref.ref(node)
        q.put(node)
        del node
        assert alive() is None
    assert [len(it.text) for it in q.get_many(8)] == [1, 1 << 17]


def test_what_is_put_while_pickling_and_what_refuses_leave_others_whole() -> None:
    """Fails if a pickler is used by two calls at a time (seen failing)."""
    q = parkline.Queue[Any](8)
    for _ in range(3):
        q.put(["before", Nested(q), "after"])
        with pytest.raises(RuntimeError, match="not me"):
            q.put(["left half", Refusing()])
        assert q.get_many(8) == ["within", ["before", "around", "after"]]


@pytest.mark.parametrize("item", [b"x", bytearray(b"x"), "x"])
def test_a_pickle_in_several_pieces(item: Any) -> None:
    """Large objects are written by themselves, between frames. Fails if only the first piece is taken
    (seen failing)."""
    q = parkline.Queue[Any](2, max_message=1 << 20)
    whole = [1, item * 100_000, "between", {"key": item * 200_000}, 2]
    q.put(whole)
    assert q.get() == whole
