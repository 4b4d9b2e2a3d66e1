"""Errors: every one travels between processes whole, and says what it says on one short line."""

import copy
import importlib
import pickle
import pkgutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

import sampan
from sampan.core.errors import ContextOverflow, SampanError, quoted, shortened


def _kinds(kind: type[SampanError]) -> Iterator[type[SampanError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)


def _all_kinds() -> list[type[SampanError]]:
    for module in pkgutil.walk_packages(sampan.__path__, "sampan."):
        if "migrations" not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return sorted(set(_kinds(SampanError)), key=lambda kind: kind.__name__)


MADE: dict[str, Callable[[Any], SampanError]] = {
    "ContextOverflow": lambda kind: kind(700, 512),
    "ApiError": lambda kind: kind(429, "slower", kind="rate", code="c", param="p", retry_after=1.5),
}
COPIES: dict[str, Callable[[SampanError], SampanError]] = {
    **{f"pickle {n}": lambda error, n=n: pickle.loads(pickle.dumps(error, n)) for n in range(6)},
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("kind", _all_kinds(), ids=lambda kind: kind.__name__)
def test_a_copy_is_the_same_error(kind: type[SampanError], way: str) -> None:
    error = MADE.get(kind.__name__, lambda kind: kind("what, where and what helps"))(kind)
    found = COPIES[way](error)
    assert type(found) is kind
    assert (str(found), found.args, vars(found)) == (str(error), error.args, vars(error))
    assert found.exit_code == error.exit_code


def test_what_was_added_to_an_error_stays() -> None:
    for error in (SampanError(), SampanError("a", 3)):
        error.add_note("seen at the door")
        found = pickle.loads(pickle.dumps(error))
        assert (found.args, found.__notes__) == (error.args, ["seen at the door"])


def _overflow() -> None:
    raise ContextOverflow(3, 2)


def test_another_process_raises_it_here() -> None:
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        pytest.raises(ContextOverflow, match="the prompt has 3 tokens, the context holds 2") as caught,
    ):
        pool.submit(_overflow).result()
    assert (caught.value.prompt_tokens, caught.value.context) == (3, 2)


def test_an_error_is_one_line_whatever_is_in_it() -> None:
    said = str(SampanError("a\nb\x1b[31m\u2028\u202e\ud800\x85 ä 中"))
    assert said == "a\\nb\\x1b[31m\\u2028\\u202e\\ud800\\x85 ä 中"
    said.encode()


class _Hostile:
    def __repr__(self) -> str:
        raise ZeroDivisionError


DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("name", "'name'"),
        ("x" * 80, f"'{'x' * 80}'"),
        ("x" * 81, f"'{'x' * 80}'..."),
        ("a\nb\0", r"'a\nb\x00'"),
        (3, "3"),
        (None, "None"),
        ([1, 2], "[1, 2]"),
        ({"a": 1}, "{'a': 1}"),
        (10**5000, "a value of type int"),
        (_Hostile(), "<_Hostile instance at"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_in_a_message(value: object, expected: str) -> None:
    assert quoted(value).startswith(expected)


@pytest.mark.parametrize(
    "value",
    ["\0" * 500, "\U000e0001" * 500, DEEP, ["x" * 500] * 500, b"\n" * 500, range(10**9), 10**60],
    ids=lambda value: type(value).__name__,
)
def test_a_message_stays_short_and_printable(value: object) -> None:
    assert len(quoted(value)) <= 86
    assert quoted(value).isprintable()


def test_paths_are_whole_unless_none_is_so_long() -> None:
    assert shortened("/a/" + "b" * 190) == "/a/" + "b" * 190
    cut = shortened("/begin/" + "b" * 5000 + "/end.safetensors")
    assert len(cut) == 163
    assert cut.startswith("/begin/bbb")
    assert cut.endswith("bbb/end.safetensors")
