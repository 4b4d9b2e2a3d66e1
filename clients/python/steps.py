"""What each client script here does the same: run named steps and say how each ended, a JSON line a step."""

import json
import os
import sys
import traceback
from collections.abc import Callable

URL = os.environ["SAMPAN_URL"]
MODEL = os.environ["SAMPAN_MODEL"]
KEY = os.environ["SAMPAN_KEY"]
QUESTION = "What is the capital of France?"
CITIES = ("Paris", "London", "Rome")
# Cities by enum, so that a small model's call ends soon.
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": list(CITIES)}},
    "required": ["city"],
}


def check(holds: object, found: object) -> None:
    """Fail the step with what was found."""
    if not holds:
        raise AssertionError(f"got {found!r}")


def drive(version: str, *steps: Callable[[], None]) -> None:
    """Run the steps in order; a step that fails does not keep the next from running."""
    print(json.dumps({"version": version}), flush=True)
    for step in steps:
        error = None
        try:
            step()
        except Exception as problem:
            traceback.print_exc(file=sys.stderr)
            error = f"{type(problem).__name__}: {problem}"
        print(json.dumps({"step": step.__name__, "error": error}), flush=True)
