"""Runs CPython's own tests, which the interpreter has beside its library, over Parkline's classes.

    python python/tests/foreign/cpython.py queue|asyncio|multiprocessing

The tests are unchanged. This puts Parkline's classes in the place of the standard library's, and prints which
tests ran and which failed, as JSON in the last line. `README.md` says why each one fails that does.
"""

import asyncio
import importlib
import io
import json
import multiprocessing
import sys
import types
import unittest
from typing import Any
from unittest import mock

import parkline
import parkline.multiprocessing as mp


class Queue(parkline.Queue[Any]):
    """`queue.Queue` as these tests make it."""

    def __init__(self, maxsize: int = 0) -> None:
        # "No bound" there is room for all that these tests put.
        super().__init__(maxsize if maxsize > 0 else 1 << 18, max_message=256, joinable=True)


class AioQueue(parkline.AioQueue[Any]):
    """`asyncio.Queue` as these tests make it."""

    __slots__ = ()

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(Queue(int(maxsize)))

    def __class_getitem__(cls, item: Any) -> types.GenericAlias:
        return types.GenericAlias(cls, item)


def queue_suite() -> unittest.TestSuite:
    tests: Any = importlib.import_module("test.test_queue")
    # The bound of a queue here is a power of two.
    tests.QUEUE_SIZE = 4
    library = types.SimpleNamespace(
        Queue=Queue, Empty=parkline.Empty, Full=parkline.Full, ShutDown=parkline.ShutDown
    )
    suite = unittest.TestSuite()
    for base, kind in ((tests.QueueTest, Queue), (tests.BaseSimpleQueueTest, mp.SimpleQueue)):
        class_ = type(base.__name__, (base, unittest.TestCase), {"queue": library, "type2test": kind})
        suite.addTests(unittest.defaultTestLoader.loadTestsFromTestCase(class_))
    return suite


def asyncio_suite() -> unittest.TestSuite:
    mock.patch.object(asyncio, "Queue", AioQueue).start()
    tests: Any = importlib.import_module("test.test_asyncio.test_queues")
    names = ["QueueBasicTests", "QueueGetTests", "QueuePutTests", "QueueJoinTests", "QueueShutdownTests"]
    suite = unittest.TestSuite()
    for name in names:
        if hasattr(tests, name):  # the last from 3.13 on
            suite.addTests(unittest.defaultTestLoader.loadTestsFromTestCase(getattr(tests, name)))
    return suite


def multiprocessing_suite() -> unittest.TestSuite:
    tests: Any = importlib.import_module("test._test_multiprocessing")
    multiprocessing.set_start_method("fork", force=True)
    kinds = {name: staticmethod(getattr(mp, name)) for name in ("Queue", "JoinableQueue", "Semaphore", "Event")}
    suite = unittest.TestSuite()
    for name in ("_TestQueue", "_TestSemaphore", "_TestEvent"):
        base = getattr(tests, name)
        class_ = type(name, (base, tests.ProcessesMixin, unittest.TestCase), kinds)
        suite.addTests(unittest.defaultTestLoader.loadTestsFromTestCase(class_))
    return suite


SUITES = {"queue": queue_suite, "asyncio": asyncio_suite, "multiprocessing": multiprocessing_suite}


def short(test: unittest.TestCase) -> str:
    return ".".join(test.id().rsplit(".", 2)[-2:])


def main() -> int:
    suite = SUITES[sys.argv[-1]]()
    names = [short(test) for test in suite if isinstance(test, unittest.TestCase)]
    result = unittest.TextTestRunner(io.StringIO()).run(suite)
    failed = {short(test): text.strip().splitlines()[-1] for test, text in result.failures + result.errors}
    told = {"ran": result.testsRun, "skipped": len(result.skipped), "failed": failed, "names": names}
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
