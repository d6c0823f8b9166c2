import faulthandler
import multiprocessing
from collections.abc import Iterator
from typing import Any

import bounds
import pytest
from loops import RUNS


@pytest.fixture(params=["spawn", "forkserver", "fork"])
def start(request: pytest.FixtureRequest) -> Any:
    """Each way to start a process."""
    return multiprocessing.get_context(request.param)


@pytest.fixture
def spawn() -> Any:
    return multiprocessing.get_context("spawn")


@pytest.fixture(params=RUNS, ids=lambda it: it.__name__)
def run(request: pytest.FixtureRequest) -> Any:
    """Each way to run a coroutine."""
    return request.param


@pytest.fixture(autouse=True)
def no_child_stays() -> Iterator[None]:
    """A test that fails beside a child that waits leaves it: without this the interpreter waits for it at
    its exit (seen)."""
    yield
    for child in multiprocessing.active_children():
        child.kill()


def pytest_unconfigure() -> None:
    """The interpreter waits at its exit for each thread that a test left, as one does that fails beside a
    loop that waits in a thread: without this such a run never ends (seen)."""
    faulthandler.dump_traceback_later(bounds.PATIENCE, exit=True)
