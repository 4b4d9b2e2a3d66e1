"""Other people's checks of answers, where they can do no harm: each runs inside of a sandbox, a line of JSON
each way. Out: {"score"} or {"raised": [type, text]}.
"""

import base64
import builtins
import pickle
import re
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from sampan.envs.sandbox.lines import Lines, raised

LITERALS = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
"""Tasks of reasoning-gym that have Python evaluate an answer, meant to be a list."""
EXPRESSIONS = frozenset(
    {"countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"}
)
"""Those that have SymPy evaluate it, which has Python do so."""

_NAME = re.compile(r"[^\W\d]\w*")
_HARMLESS = {"abs", "min", "max", "int", "float", "pow", "round", "sum"}
_DOORS = frozenset(dir(builtins)) - _HARMLESS | {
    "sympify",
    "S",
    "parse_expr",
    "lambdify",
    "preview",
    "source",
    "var",
}


def harmful(task: str, answer: str) -> bool:
    """Whether evaluating the answer could do more than compute: call what is no function of mathematics,
    build a text that is evaluated again, or reach into an object. No right answer does."""
    if task in LITERALS:
        return "(" in answer or "__" in answer or not answer.isascii()
    if task in EXPRESSIONS:
        names = set(_NAME.findall(answer))
        reaching = re.search(r"\.\s*[^\W\d]|__|['\"\\@]", answer)
        return bool(names & _DOORS) or reaching is not None or not answer.isascii()
    return False


def gym() -> Callable[[socket.socket], None]:
    """In: {"task", "options", "entry", "answer"}; `entry`: the task's own, pickled by who trusts it."""
    import reasoning_gym

    made: dict[str, Any] = {}

    def score(request: Any) -> float:
        task = request["task"]
        if harmful(task, request["answer"]):
            return 0.0
        if task not in made:
            made[task] = reasoning_gym.create_dataset(task, seed=0, size=1, **request["options"])
        entry = pickle.loads(base64.b64decode(request["entry"]))
        return float(made[task].score_answer(request["answer"], entry))

    return partial(_serve, score)


def maths() -> Callable[[socket.socket], None]:
    """In: {"right", "answer"}, both as texts."""
    import math_verify

    def parsed(text: str) -> Any:
        # Time is limited from outside.
        found = math_verify.parse(text, parsing_timeout=None)
        return found or math_verify.parse(f"\\boxed{{{text}}}", parsing_timeout=None)

    def score(request: Any) -> float:
        right = parsed(f"\\boxed{{{request['right']}}}")
        if not right:
            raise ValueError(f"the right answer {request['right']!r} is no mathematics")
        found = parsed(request["answer"])
        return float(math_verify.verify(right, found, timeout_seconds=None, raise_on_error=True))

    return partial(_serve, score)


def _serve(score: Callable[[Any], float], channel: socket.socket) -> None:
    lines = Lines(channel)
    lines.write({"ready": True})
    while (request := lines.read()) is not None:
        try:
            lines.write({"score": score(request)})
        except BaseException as error:
            lines.write(raised(error))
