"""What a program is worth. Whoever judges it runs elsewhere: of the program come plain values alone, and
right answers never go where it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sampan.core.errors import EnvError, quoted
from sampan.envs.sandbox.child import Child, Status, Stopped
from sampan.envs.sandbox.plain import decode, encode
from sampan.envs.sandbox.sandbox import Sandbox


@dataclass(frozen=True)
class Verdict:
    """`status`: "passed", or why not: "failed" (a wrong value, an error of the program), "timeout", "memory",
    "output" (too much of it), "crashed" (it ended itself or was ended). `right`: cases that passed before.
    `output`: the end of what it printed."""

    status: Status
    reason: str
    right: int
    seconds: float
    output: str

    @property
    def passed(self) -> bool:
        """All of it."""
        return self.status == "passed"


@dataclass(frozen=True)
class Case:
    """A call and the value that is right."""

    arguments: tuple[Any, ...]
    value: Any


def check_calls(
    sandbox: Sandbox, code: str, name: str, cases: Sequence[Case], partial: bool = False
) -> Verdict:
    """Whether the code's function of this name gives the right values, compared here. `partial`: go on behind
    a wrong one, to count. Raises `EnvError` where the sandbox cannot tell."""
    with sandbox.child() as child:
        right, wrong = 0, ""
        try:
            _loaded(child, code)
            for case in cases:
                got = _value(child, name, case.arguments)
                if _equal(got, case.value):
                    right += 1
                    continue
                wrong = (
                    wrong or f"{name}{_shown(case.arguments)} gave {quoted(got)}, not {quoted(case.value)}"
                )
                if not partial:
                    break
        except Stopped as stopped:
            return _verdict(child, stopped.status, stopped.reason, right)
        return _verdict(child, "failed" if wrong else "passed", wrong, right)


def check_tests(sandbox: Sandbox, code: str, name: str, tests: str) -> Verdict:
    """Whether `tests`, Python code that calls the function of this name, runs through. It does so in a
    process of its own, to which the function's values come. Raises `EnvError` where the tests themselves
    break."""
    with sandbox.child() as child, sandbox.child() as judge:
        try:
            _loaded(child, code)
        except Stopped as stopped:
            return _verdict(child, stopped.status, stopped.reason, 0)
        try:
            said = judge.ask({"code": tests, "remote": name})
            while "remote" in said:
                try:
                    answer = _passed_on(child, name, said["remote"])
                except Stopped as stopped:
                    return _verdict(child, stopped.status, stopped.reason, 0)
                judge.renew()
                said = judge.ask(answer)
        except Stopped as stopped:
            raise EnvError(f"the tests of {quoted(name)}: {stopped.reason}") from stopped
        if "loaded" in said:
            return _verdict(child, "passed", "", 1)
        kind, text = said["raised"]
        if kind in ("SyntaxError", "IndentationError", "ImportError", "ModuleNotFoundError", "MemoryError"):
            raise EnvError(f"the tests of {quoted(name)}: {kind}: {quoted(text)}")
        return _verdict(child, "failed", f"the tests: {kind}: {text}".strip(": "), 0)


def _loaded(child: Child, code: str) -> None:
    """Run the program once, for its functions."""
    _checked(child.ask({"code": code, "remote": None}), "loaded")


def _value(child: Child, name: str, arguments: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Any:
    request = {"call": name, "args": encode(list(arguments)), "kwargs": encode(dict(kwargs or {}))}
    try:
        return decode(_checked(child.ask(request), "value"))
    except (ValueError, RecursionError):
        raise Stopped("failed", "gave no plain value") from None


def _passed_on(child: Child, name: str, call: Any) -> dict[str, Any]:
    """The function's answer, for the tests."""
    arguments, kwargs = (decode(part) for part in call)
    said = child.ask({"call": name, "args": encode(list(arguments)), "kwargs": encode(kwargs)})
    if "value" in said:
        try:
            return {"value": encode(decode(said["value"]))}
        except (ValueError, RecursionError):
            raise Stopped("failed", "gave no plain value") from None
    kind, text = _raised(said)
    if kind in ("MemoryError", "NotPlain"):
        _checked(said, "value")
    return {"raised": [kind, text]}


def _checked(said: dict[str, Any], wanted: str) -> Any:
    if wanted in said:
        return said[wanted]
    kind, text = _raised(said)
    if kind == "MemoryError":
        raise Stopped("memory", "needed more memory than it may have")
    raise Stopped("failed", text if kind == "NotPlain" else f"{kind}: {text}")


def _raised(said: dict[str, Any]) -> tuple[str, str]:
    raised = said.get("raised")
    if not (isinstance(raised, list) and len(raised) == 2 and all(isinstance(part, str) for part in raised)):
        raise Stopped("failed", "wrote to what is not its own: no message")
    return raised[0], raised[1]


def _equal(got: Any, right: Any) -> bool:
    """By value, and a truth value is no number."""
    return isinstance(got, bool) == isinstance(right, bool) and bool(got == right)


def _shown(arguments: Sequence[Any]) -> str:
    return f"({', '.join(quoted(argument) for argument in arguments)})"


def _verdict(child: Child, status: Status, reason: str, right: int) -> Verdict:
    seconds = child.seconds
    child.close()
    return Verdict(status, reason, right, seconds, child.output)
