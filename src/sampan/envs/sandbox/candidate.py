"""What runs a program that nobody trusts, and what runs the tests of one. Runs inside of the sandbox, each in
a process of its own: the standard library alone.

A line of JSON each way. In: {"code", "remote": name or null}; out: {"loaded": true}, or {"raised": [type,
text]}. Then in: {"call": name, "args", "kwargs"}; out: {"value"} or {"raised"}. Where `remote` names a
function, code that calls it gives {"remote": [args, kwargs]} out, and gets {"value"} or {"raised"}: the
program that is tested is elsewhere.
"""

import builtins
import json
import socket
import sys
import types
from collections.abc import Callable
from importlib import import_module
from typing import Any

from sampan.envs.sandbox.lines import Lines, raised, shown
from sampan.envs.sandbox.plain import decode, encode

_LIKELY = (
    "bisect", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools",
    "hashlib", "heapq", "itertools", "math", "operator", "random", "re", "statistics", "string", "typing",
)  # fmt: skip


def prepare() -> Callable[[socket.socket], None]:
    """What programs import most is there before they start."""
    for name in _LIKELY:
        import_module(name)
    return serve


def serve(channel: socket.socket) -> None:
    """Until the channel closes."""
    lines = Lines(channel)
    sys.stdout = open(1, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    lines.write({"ready": True})
    if (job := lines.read()) is None:
        return None
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    if job["remote"]:
        setattr(module, job["remote"], _remote(lines))
    try:
        exec(compile(job["code"], "solution.py", "exec"), module.__dict__)
    except BaseException as error:
        return lines.write(raised(error))
    lines.write({"loaded": True})
    while (request := lines.read()) is not None:
        lines.write(_called(module, request))
    return None


def _called(module: types.ModuleType, request: Any) -> dict[str, Any]:
    try:
        args, kwargs = decode(request["args"]), decode(request["kwargs"])
        value = getattr(module, request["call"])(*args, **kwargs)
    except BaseException as error:
        return raised(error)
    try:
        message = {"value": encode(value)}
        json.dumps(message)
    except BaseException as error:
        return {"raised": ["NotPlain", f"gave {shown(error)}, which is no plain value"]}
    return message


def _remote(lines: Lines) -> Any:
    def remote(*args: object, **kwargs: object) -> Any:
        lines.write({"remote": [encode(args), encode(kwargs)]})
        answer = lines.read()
        if "value" in answer:
            return decode(answer["value"])
        kind, text = answer["raised"]
        known: Any = getattr(builtins, kind, RuntimeError)
        proper = isinstance(known, type) and issubclass(known, Exception)
        raise (known if proper else RuntimeError)(text)

    return remote
