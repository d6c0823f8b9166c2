import multiprocessing
from typing import Any

import pytest

@pytest.fixture(params=["spawn", "forkserver", "fork"])
def start(request: pytest.FixtureRequest) -> Any:
    """Each way to start a process."""
    return multiprocessing.get_context(request.param)


@pytest.fixture
def spawn() -> Any:
    return multiprocessing.get_context("spawn")
