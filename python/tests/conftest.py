import faulthandler
import multiprocessing
from collections.abc import Iterator
from typing import Any

import pytest

SECONDS_AT_MOST = 120


@pytest.fixture(autouse=True)
def ends() -> Iterator[None]:
    """A test that hangs tells where, and ends the run."""
    faulthandler.dump_traceback_later(SECONDS_AT_MOST, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(params=["spawn", "forkserver", "fork"])
def start(request: pytest.FixtureRequest) -> Any:
    """Each way to start a process."""
    return multiprocessing.get_context(request.param)


@pytest.fixture
def spawn() -> Any:
    return multiprocessing.get_context("spawn")
