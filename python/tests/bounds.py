"""No process of a test goes on for ever.

`pyproject.toml` bounds a test, `conftest.py` the exit of the interpreter after the last one, and this
the children and the programs of a test. They have longer than the test itself, so that no test passes
because the kernel ended what hung.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap

PATIENCE = 90
"""In seconds."""


def end_in_time() -> None:
    """The kernel ends this process then, also if no Python runs in it any more."""
    signal.alarm(PATIENCE)


# A child that is started anew imports this. One that is forked has no alarm of its parent's.
if multiprocessing.parent_process() is not None:
    end_in_time()
os.register_at_fork(after_in_child=end_in_time)


BOUND = f"""
import os, signal
signal.alarm({PATIENCE})
os.register_at_fork(after_in_child=lambda: signal.alarm({PATIENCE}))
"""


def command(program: str, *options: str) -> list[str]:
    """What starts `program` with the interpreter's `options`."""
    return [sys.executable, *options, "-c", BOUND + textwrap.dedent(program)]


def run(program: str) -> str:
    """What a program prints that ends well and has nothing to complain of."""
    strict = command(program, "-X", "dev", "-W", "error")
    done = subprocess.run(strict, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
