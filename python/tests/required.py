"""What a machine may refuse, so that a test cannot be tried there: see `core/tests/required`."""

import os
import sys


def not_tried(what: str, why: object) -> None:
    """Says that something is not tried, because the machine has no `what`. Fails if `PARKLINE_REQUIRE`
    names it."""
    assert what not in os.environ.get("PARKLINE_REQUIRE", "").split(","), why
    print(f"not tried: {why}", file=sys.__stderr__)
