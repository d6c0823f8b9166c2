"""CPython's own tests: `foreign/README.md`."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from required import not_tried

FOREIGN = Path(__file__).parent / "foreign"
ROW = re.compile(r"^\| `(\w+\.\w+)`(?: \((from )?3\.(\d+)\))? \|", re.MULTILINE)
# Their failures are of the moment: a loop may have had the wake-up in time.
MAY_PASS = "one run of the loop"


def rows() -> "dict[str, tuple[bool, str]]":
    """For each test of the table whether this interpreter has it, and the row."""
    text = (FOREIGN / "README.md").read_text()
    found = {}
    for row in ROW.finditer(text):
        name, _, since = row.groups()
        is_here = since is None or sys.version_info >= (3, int(since))
        found[name] = is_here, text[row.start() : text.index("\n", row.start())]
    assert len(found) == text.count("\n| `"), "each row names a test"
    return found


@pytest.mark.parametrize("suite", ["queue", "asyncio", "multiprocessing"])
def test_of_cpythons_own_tests_those_fail_that_have_a_reason(suite: str) -> None:
    """Fails if a row is taken out, and if one is added for a test that passes (seen failing, each)."""
    if suite == "asyncio" and sys.version_info < (3, 11):
        return not_tried("cpython_tests", "the loop of these tests polls no descriptor")
    command = [sys.executable, str(FOREIGN / "cpython.py"), suite]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    if "No module named 'test" in done.stderr:
        return not_tried("cpython_tests", "this interpreter has no tests beside its library")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    known = rows()
    assert told["ran"] > 12
    assert set(told["failed"]) <= set(known), told["failed"]
    passed = [
        name
        for name, (is_here, row) in known.items()
        if is_here and MAY_PASS not in row and name in told["names"] and name not in told["failed"]
    ]
    assert passed == []
