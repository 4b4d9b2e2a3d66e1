"""What a caller's type checker infers of `LLM`'s calls is what they give. mypy checks this file, too."""

import asyncio
from typing import Any, assert_type

import pytest

from sampan import LLM, Completion, RequestError, SamplingParams, Score
from sampan.llm.inputs import Messages

SHORT = SamplingParams(max_tokens=1, temperature=0)
HELLO: Messages = [{"role": "user", "content": "Hello"}]

pytestmark = pytest.mark.usefixtures("at_rest")


def shape(answers: Any) -> Any:
    """The lists around the answers, by their lengths; an answer is 0."""
    return [shape(each) for each in answers] if isinstance(answers, list) else 0


def test_generate(llm: LLM) -> None:
    ids = llm.encode("Hi")
    assert shape(assert_type(llm.generate("Hi", SHORT), Completion)) == 0
    assert shape(assert_type(llm.generate(ids, SHORT, n=None), Completion)) == 0
    assert shape(assert_type(llm.generate("Hi", SHORT, n=2), list[Completion])) == [0, 0]
    assert shape(assert_type(llm.generate(["Hi", "Ho"], SHORT, grammar=None), list[Completion])) == [0, 0]
    assert shape(assert_type(llm.generate([ids], SHORT, templated=True), list[Completion])) == [0]
    assert shape(assert_type(llm.generate([ids], SHORT, n=2), list[list[Completion]])) == [[0, 0]]


def test_chat(llm: LLM) -> None:
    assert shape(assert_type(llm.chat(HELLO, SHORT), Completion)) == 0
    assert shape(assert_type(llm.chat(HELLO, SHORT, n=2, tools=[]), list[Completion])) == [0, 0]
    assert shape(assert_type(llm.chat([HELLO], SHORT, adapter=None), list[Completion])) == [0]
    assert shape(assert_type(llm.chat([HELLO], SHORT, n=2), list[list[Completion]])) == [[0, 0]]


def test_score(llm: LLM) -> None:
    assert shape(assert_type(llm.score("Hi", top=1), Score)) == 0
    assert shape(assert_type(llm.score(["Hi", "Ho"], ranks=True), list[Score])) == [0, 0]


async def _asynchronous(llm: LLM) -> None:
    assert shape(assert_type(await llm.agenerate("Hi", SHORT), Completion)) == 0
    assert shape(assert_type(await llm.agenerate("Hi", SHORT, n=2), list[Completion])) == [0, 0]
    assert shape(assert_type(await llm.agenerate(["Hi"], SHORT), list[Completion])) == [0]
    assert shape(assert_type(await llm.agenerate(["Hi"], SHORT, n=2), list[list[Completion]])) == [[0, 0]]
    assert shape(assert_type(await llm.achat(HELLO, SHORT), Completion)) == 0
    assert shape(assert_type(await llm.achat(HELLO, SHORT, n=2), list[Completion])) == [0, 0]
    assert shape(assert_type(await llm.achat([HELLO], SHORT), list[Completion])) == [0]
    assert shape(assert_type(await llm.achat([HELLO], SHORT, n=2), list[list[Completion]])) == [[0, 0]]
    assert shape(assert_type(await llm.ascore("Hi"), Score)) == 0
    assert shape(assert_type(await llm.ascore(["Hi"]), list[Score])) == [0]


def test_the_same_on_an_event_loop(llm: LLM) -> None:
    asyncio.run(_asynchronous(llm))


def test_an_option_of_another_name_or_type_is_refused(llm: LLM) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'temperature'"):
        llm.generate("Hi", temperature=0)  # type: ignore[call-overload]
    with pytest.raises(RequestError, match="grammar is 'a'"):
        llm.chat(HELLO, SHORT, grammar="a")  # type: ignore[call-overload]
