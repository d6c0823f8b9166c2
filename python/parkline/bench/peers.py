"""The other queues: each is made before the fork, and used by the processes on both sides of it.

A peer that is not installed, or cannot run a workload, says so.
"""

import asyncio
import ctypes
import importlib
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable
from typing import Any

import parkline

FORK = multiprocessing.get_context("fork")
ROOM = 1024
_names = itertools.count()


class Peer:
    """Items from process to process."""

    def put(self, item: Any) -> None:
        raise NotImplementedError

    def get(self) -> Any:
        raise NotImplementedError

    def flush(self) -> None:
        """After the last put of a process."""


class Ours(Peer):
    def __init__(self, codec: str, size: int = 256, room: int = ROOM) -> None:
        self.queue = parkline.Queue[Any](room, max_message=max(size, 64), codec=codec)
        self.put = self.queue.put  # type: ignore[method-assign]
        self.get = self.queue.get  # type: ignore[method-assign]


class Wrapped(Peer):
    """An object that has `put` and `get`."""

    def __init__(self, queue: Any) -> None:
        self.queue = queue
        self.put = queue.put  # type: ignore[method-assign]
        self.get = queue.get  # type: ignore[method-assign]


class ConnectionPair(Peer):
    """`multiprocessing.Pipe`: one process on each end."""

    def __init__(self, is_bytes: bool) -> None:
        receiving, sending = FORK.Pipe(duplex=False)
        names = ("send_bytes", "recv_bytes") if is_bytes else ("send", "recv")
        self.put = getattr(sending, names[0])  # type: ignore[method-assign]
        self.get = getattr(receiving, names[1])  # type: ignore[method-assign]


class BarePipe(Peer):
    """`os.pipe`: items of one size, which is at most what the kernel transfers whole."""

    def __init__(self, size: int) -> None:
        self._reading, self._writing = os.pipe()
        self._size = size

    def put(self, item: bytes) -> None:
        os.write(self._writing, item)

    def get(self) -> bytes:
        return os.read(self._reading, self._size)

    def __del__(self) -> None:
        os.close(self._reading)
        os.close(self._writing)


class FasterFifo(Peer):
    def __init__(self) -> None:
        fifo = importlib.import_module("faster_fifo")
        self.queue = fifo.Queue(max_size_bytes=ROOM * 256)

    def put(self, item: Any) -> None:
        self.queue.put(item, timeout=60.0)

    def get(self) -> Any:
        return self.queue.get(timeout=60.0)


class HyperQ(Wrapped):
    def __init__(self, is_bytes: bool, size: int = 64) -> None:
        hyperq = importlib.import_module("hyperq")
        make = hyperq.BytesHyperQ if is_bytes else hyperq.HyperQ
        room = 1 << max(17, (8 * size).bit_length())
        super().__init__(make(room, name=f"bench{os.getpid()}_{next(_names)}"))


class QuickQueue(Wrapped):
    """Gathers items in lists, and sends those."""

    def __init__(self) -> None:
        super().__init__(importlib.import_module("quick_queue").QQueue())

    def flush(self) -> None:
        self.queue.put_remain()


class Iceoryx2(Peer):
    """Publish and subscribe, set to lose nothing. A receive polls."""

    def __init__(self, size: int) -> None:
        iox2 = importlib.import_module("iceoryx2")
        iox2.set_log_level(iox2.LogLevel.Error)
        self._iox2, self._size = iox2, size
        self._name = f"parkline/bench/{os.getpid()}/{next(_names)}"
        self._end: Any = None
        self._kept: Any = None

    def _service(self) -> Any:
        iox2 = self._iox2
        node = iox2.NodeBuilder.new().create(iox2.ServiceType.Ipc)
        builder = node.service_builder(iox2.ServiceName.new(self._name))
        builder = builder.publish_subscribe(iox2.Slice[ctypes.c_uint8])
        builder = builder.enable_safe_overflow(False).subscriber_max_buffer_size(64)
        self._kept = node
        return builder.open_or_create()

    def put(self, item: bytes) -> None:
        if self._end is None:
            iox2 = self._iox2
            service = self._service()
            publisher = service.publisher_builder().initial_max_slice_len(self._size)
            publisher = publisher.backpressure_strategy(iox2.BackpressureStrategy.RetryUntilDelivered)
            self._end, self._kept = publisher.create(), (self._kept, service)
            while service.dynamic_config.number_of_subscribers == 0:
                time.sleep(0.001)
            self._end.update_connections()
        delivered = 0
        # With that strategy too, `send` can return 0 deliveries while the buffer is full (seen with 0.10,
        # in half of the runs). The sample is then lost, and the receiver waits without end.
        while not delivered:
            sample = self._end.loan_slice_uninit(len(item))
            ctypes.memmove(sample.payload_ptr, item, len(item))
            delivered = sample.assume_init().send()

    def get(self) -> bytes:
        if self._end is None:
            service = self._service()
            self._end, self._kept = service.subscriber_builder().create(), (self._kept, service)
        while (sample := self._end.receive()) is None:
            pass
        item = ctypes.string_at(sample.payload_ptr, self._size)
        sample.delete()
        return item


class AioOurs:
    def __init__(self) -> None:
        self.queue = parkline.Queue[bytes](ROOM, max_message=64, codec="raw")
        self.put, self.get = self.queue.aio.put, self.queue.aio.get


class AioExecutor:
    """`run_in_executor` over `multiprocessing.Queue`: one thread for each waiting task."""

    def __init__(self) -> None:
        self.queue: Any = FORK.Queue(ROOM)

    async def put(self, item: bytes) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.queue.put, item)

    async def get(self) -> bytes:
        got: bytes = await asyncio.get_running_loop().run_in_executor(None, self.queue.get)
        return got


class AioProcessing:
    def __init__(self) -> None:
        self.queue = importlib.import_module("aioprocessing").AioQueue(ROOM, context=FORK)

    async def put(self, item: bytes) -> None:
        await self.queue.coro_put(item)

    async def get(self) -> bytes:
        got: bytes = await self.queue.coro_get()
        return got


class AioPipe:
    """`add_reader` and `add_writer` on a pipe, by hand."""

    SIZE = 64

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe2(os.O_NONBLOCK)

    async def put(self, item: bytes) -> None:
        while True:
            try:
                os.write(self.writing, item)
                return
            except BlockingIOError:
                await self._ready(self.writing, False)

    async def get(self) -> bytes:
        while True:
            try:
                return os.read(self.reading, self.SIZE)
            except BlockingIOError:
                await self._ready(self.reading, True)

    async def _ready(self, fd: int, is_reading: bool) -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        add, remove = (
            (loop.add_reader, loop.remove_reader)
            if is_reading
            else (loop.add_writer, loop.remove_writer)
        )

        def resolve() -> None:
            if not future.done():
                future.set_result(None)

        add(fd, resolve)
        try:
            await future
        finally:
            remove(fd)

    def __del__(self) -> None:
        os.close(self.reading)
        os.close(self.writing)


class ThreadsOurs:
    def __init__(self) -> None:
        self._queue = parkline.Queue[bytes](ROOM, max_message=64, codec="raw")
        self.put, self.get = self._queue.put, self._queue.aio.get

    async def aclose(self) -> None:
        self._queue.close()


class ThreadsOnly:
    """janus and culsans: a thread of the process puts, its loop gets. To be made within the loop."""

    def __init__(self, module: str) -> None:
        queue = importlib.import_module(module).Queue(ROOM)
        self.put, self.get, self.aclose = queue.sync_q.put, queue.async_q.get, queue.aclose


Maker = Callable[[], Any]


def bytes_peers(size: int) -> dict[str, Maker]:
    pipe_takes_it_whole = size <= 4096
    peers: dict[str, Maker] = {
        "parkline": lambda: Ours("raw", size, ROOM if size < 4096 else 64),
        "hyperq": lambda: HyperQ(True, size),
        "multiprocessing.Queue": lambda: Wrapped(FORK.Queue(ROOM)),
        "SimpleQueue": lambda: Wrapped(FORK.SimpleQueue()),
        "Pipe": lambda: ConnectionPair(True),
        "iceoryx2": lambda: Iceoryx2(size),
    }
    if pipe_takes_it_whole:
        peers["os.pipe"] = lambda: BarePipe(size)
    if size <= 64:
        peers["faster-fifo"] = FasterFifo
        peers["JoinableQueue"] = lambda: Wrapped(FORK.JoinableQueue(ROOM))
    return peers


def object_peers() -> dict[str, Maker]:
    return {
        "parkline": lambda: Ours("pickle"),
        "hyperq": lambda: HyperQ(False),
        "multiprocessing.Queue": lambda: Wrapped(FORK.Queue(ROOM)),
        "SimpleQueue": lambda: Wrapped(FORK.SimpleQueue()),
        "Pipe": lambda: ConnectionPair(False),
        "faster-fifo": FasterFifo,
    }


def shared_peers() -> dict[str, Maker]:
    """The peers that several processes may use on each side."""
    return {
        "parkline": lambda: Ours("raw", 64),
        "hyperq": lambda: HyperQ(True),
        "multiprocessing.Queue": lambda: Wrapped(FORK.Queue(ROOM)),
        "SimpleQueue": lambda: Wrapped(FORK.SimpleQueue()),
        "faster-fifo": FasterFifo,
    }


def threads_peers() -> dict[str, Maker]:
    return {
        "parkline": ThreadsOurs,
        "janus": lambda: ThreadsOnly("janus"),
        "culsans": lambda: ThreadsOnly("culsans"),
    }


def aio_peers() -> dict[str, Maker]:
    return {
        "parkline": AioOurs,
        "add_reader on a pipe": AioPipe,
        "run_in_executor": AioExecutor,
        "aioprocessing": AioProcessing,
    }
