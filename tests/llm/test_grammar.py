"""Answers of the real default model that obey a grammar, however they are asked for."""

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from sampan import LLM, Grammar, RequestError, SamplingParams
from sampan.core.types import Completion, ModelFiles
from sampan.engine.engine import Engine
from sampan.text.grammar.compiler import GrammarCompiler

GREEDY = SamplingParams(max_tokens=60, temperature=0)
SEEDED = SamplingParams(max_tokens=60, temperature=1.0, seed=5, logprobs=1)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "born": {"type": "integer", "minimum": 1000, "maximum": 2025},
        "field": {"enum": ["physics", "mathematics", "chemistry"]},
    },
    "required": ["name", "born", "field"],
    "additionalProperties": False,
}
SCHEMA = Grammar("json_schema", json.dumps(PERSON))
COLOUR = Grammar("choice", '["red", "green", "blue", "greenish"]')
CURIE = [{"role": "user", "content": "Who was Marie Curie? Answer in JSON."}]
SKY = [{"role": "user", "content": "Which colour is the sky?"}]

pytestmark = pytest.mark.usefixtures("at_rest")


def whole(answer: Completion) -> Any:
    assert answer.finish_reason == "stop"
    value = json.loads(answer.text)
    jsonschema.validate(value, PERSON)
    return value


def test_a_schema_is_obeyed_greedily_and_at_any_temperature(llm: LLM) -> None:
    assert "Curie" in whole(llm.chat(CURIE, GREEDY, grammar=SCHEMA))["name"]
    samples = llm.chat(CURIE, replace(SEEDED, temperature=2.0, seed=1), n=4, grammar=SCHEMA)
    assert len({json.dumps(whole(sample)) for sample in samples}) > 1


def test_choices_expressions_and_lark(llm: LLM) -> None:
    for sampling in (GREEDY, SEEDED, replace(GREEDY, ignore_eos=True), replace(SEEDED, ignore_eos=True)):
        answer = llm.chat(SKY, sampling, grammar=COLOUR)
        assert (answer.text in ("red", "green", "blue", "greenish"), answer.finish_reason) == (True, "stop")
        date = llm.generate("Today is", sampling, grammar=Grammar("regex", r" [0-9]{4}-[0-9]{2}-[0-9]{2}\."))
        assert re.fullmatch(r" \d{4}-\d\d-\d\d\.", date.text)
        assert date.finish_reason == "stop"
        sums = Grammar("lark", 'start: N ("+" N){2} ";"\nN: /[1-9][0-9]?/')
        assert re.fullmatch(r"\d+\+\d+\+\d+;", llm.generate("Sum: ", sampling, grammar=sums).text)
    listed = llm.chat([SKY, CURIE], GREEDY, grammar=COLOUR)
    assert listed[0] == llm.chat(SKY, GREEDY, grammar=COLOUR)


def test_a_choice_of_ten_thousand_texts(llm: LLM) -> None:
    texts = [f"the {colour}{n} of the sky" for n in range(2000) for colour in ("red", "blue", "g", "", "x ")]
    assert len(texts) == 10_000
    grammar = Grammar("choice", json.dumps(texts))
    for sampling in (GREEDY, SEEDED):
        answer = llm.chat(SKY, sampling, grammar=grammar)
        assert (answer.text in texts, answer.finish_reason) == (True, "stop")


def test_a_long_answer_is_not_stopped(llm: LLM) -> None:
    """After so many words a parser has no room for more, and begins anew."""
    grammar = Grammar("regex", r"(\w{1,30} ){250,300}")
    sampling = replace(SEEDED, temperature=1.5, max_tokens=420)
    answer = llm.generate("Words: ", sampling, grammar=grammar)
    assert answer.finish_reason == "length"
    assert len(answer.tokens) == 420
    assert re.fullmatch(r"(\w{1,30} )*\w{0,30}", answer.text)


def test_json_objects(llm: LLM) -> None:
    answer = llm.chat(CURIE, replace(GREEDY, max_tokens=200), grammar=Grammar("json_object"))
    if answer.finish_reason == "stop":
        assert isinstance(json.loads(answer.text), dict)
    assert answer.text.startswith("{")


def test_streams_and_tasks_give_the_same(llm: LLM) -> None:
    expected = llm.chat(CURIE, SEEDED, grammar=SCHEMA)
    whole(expected)
    with llm.stream(CURIE, SEEDED, grammar=SCHEMA) as stream:
        assert "".join(delta.text for delta in stream) == expected.text
    assert stream.completion == expected

    async def ask() -> tuple[Completion, Completion, str]:
        prompt = llm.prompt(CURIE)
        chat, text = await asyncio.gather(
            llm.achat(CURIE, SEEDED, grammar=SCHEMA),
            llm.agenerate(prompt, SEEDED, templated=True, grammar=SCHEMA),
        )
        async with llm.astream(CURIE, SEEDED, grammar=SCHEMA) as deltas:
            return chat, text, "".join([delta.text async for delta in deltas])

    assert asyncio.run(ask()) == (expected, expected, expected.text)


def test_the_event_loop_is_free_while_a_grammar_is_compiled(llm: LLM) -> None:
    slow = {
        "type": "object",
        "properties": {f"k{n}": {"type": "string", "maxLength": n + 1} for n in range(800)},
    }
    grammar = Grammar("json_schema", json.dumps(slow))

    async def ask() -> int:
        ticks = 0
        task = asyncio.create_task(llm.achat(CURIE, replace(GREEDY, max_tokens=1), grammar=grammar))
        while not task.done():
            await asyncio.sleep(0.005)
            ticks += 1
        await task
        return ticks

    assert asyncio.run(ask()) > 5


def test_reasoning_comes_first_and_is_free(llm: LLM) -> None:
    """A prompt that has opened the block: the answer after it obeys."""
    prompt = llm.prompt(SKY) + "<think>"
    answer = llm.generate(prompt, replace(SEEDED, max_tokens=8), templated=True, grammar=COLOUR)
    assert (answer.text, answer.finish_reason) == ("", "length")
    assert answer.reasoning
    ending = llm.prompt(SKY) + "The sky is <think>"
    sampling = replace(GREEDY, logit_bias=dict.fromkeys(llm.encode("</think>", templated=True), 60.0))
    answer = llm.generate(ending, sampling, templated=True, grammar=COLOUR)
    assert (answer.text.strip() in ("red", "green", "blue", "greenish"), answer.finish_reason) == (
        True,
        "stop",
    )


def test_a_refused_grammar_is_told_before_anything_runs(llm: LLM) -> None:
    bad = Grammar("json_schema", '{"type": "array", "uniqueItems": true}')
    message = 'the JSON schema at #: the keyword "uniqueItems" cannot be ensured but of items of an enum'
    for ask in (llm.generate, llm.stream):
        with pytest.raises(RequestError, match=message):
            ask("x", GREEDY, grammar=bad)
    with pytest.raises(RequestError, match="repeat less inside of repetitions"):
        llm.generate("x", GREEDY, grammar=Grammar("regex", "(a{0,100}){0,100}"))

    async def read() -> None:
        async for _ in llm.astream("x", GREEDY, grammar=bad):
            pass

    for task in (lambda: llm.agenerate("x", GREEDY, grammar=bad), read):
        with pytest.raises(RequestError, match=message):
            asyncio.run(task())
    with pytest.raises(RequestError, match=r"grammar is '\{\}': give a sampan.Grammar"):
        llm.generate("x", GREEDY, grammar="{}")  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def own(default_model: ModelFiles) -> Any:
    """A runner that the tests below share, with too few pages for all requests at once."""
    with LLM(default_model, context=256, cache_tokens=160, max_sequences=16) as llm:
        yield llm


def test_company_drafts_and_preemption_change_no_bit(own: LLM) -> None:
    """Constrained and unconstrained side by side, in a full cache, against each alone without drafts."""
    compiler = GrammarCompiler(own.tokenizer)
    sampled = replace(SEEDED, temperature=0.7, top_p=0.9, max_tokens=40)
    behind = replace(SCHEMA, after=" the")
    grammars = [SCHEMA, None, COLOUR, Grammar("regex", "(ab|cd ){5,20}"), behind]
    prompts = [
        own.encode(own.prompt(CURIE if grammar is SCHEMA else SKY), templated=True) for grammar in grammars
    ]
    asked = [
        (prompt, sampling, grammar)
        for sampling in (replace(GREEDY, max_tokens=40), sampled)
        for prompt, grammar in zip(prompts, grammars, strict=True)
    ]

    def engine(draft_rows: int) -> Engine:
        return Engine(
            own.engine.runner,
            context=256,
            vocabulary=own.config.vocab,
            eos_ids=own.tokenizer.eos_ids,
            max_sequences=16,
            draft_rows=draft_rows,
        )

    def constraint(grammar: Grammar | None) -> Any:
        return None if grammar is None else compiler.compile(grammar)

    plain = engine(0)
    alone = [[*plain.stream(p, s, constraint=constraint(g))] for p, s, g in asked]
    crowded = engine(12)
    requests = [crowded.add(p, s, constraint=constraint(g)) for p, s, g in asked]
    answers: dict[int, list[Any]] = {request: [] for request in requests}
    while not crowded.idle:
        for event in crowded.step():
            answers[event.request].append(event)
    for request, expected in zip(requests, alone, strict=True):
        assert [(e.token, e.finish_reason) for e in answers[request]] == [
            (e.token, e.finish_reason) for e in expected
        ]
    assert crowded.counters.preempted > 0
    assert crowded.pool.free == crowded.pool.count
    drafting = engine(12)
    for (p, s, g), expected in zip(asked, alone, strict=True):
        events = [*drafting.stream(p, s, constraint=constraint(g))]
        assert [(e.token, e.finish_reason) for e in events] == [(e.token, e.finish_reason) for e in expected]
    assert drafting.counters.accepted > 0


def test_schemas_hold_for_the_model_too(llm: LLM, at_rest: Callable[[], None]) -> None:
    shapes = [
        {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "maxItems": 4},
        {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
        | {"additionalProperties": False},
        {"type": "string", "format": "date"},
        {"anyOf": [{"type": "null"}, {"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.25}]},
        {"type": "string", "pattern": "^[a-z]{3,8}$"},
    ]
    for schema in shapes:
        grammar = Grammar("json_schema", json.dumps(schema))
        for answer in llm.chat(CURIE, replace(SEEDED, temperature=1.5), n=3, grammar=grammar):
            assert answer.finish_reason == "stop"
            jsonschema.validate(json.loads(answer.text), schema, format_checker=jsonschema.FormatChecker())
    at_rest()


def test_text_is_free_until_a_text_comes_that_begins_the_grammar(llm: LLM) -> None:
    prompt = "The boat left the harbour, and"
    plain = llm.generate(prompt, GREEDY).text
    word = plain.split()[3]
    held = llm.generate(prompt, GREEDY, grammar=Grammar("choice", '["zebra", "yak"]', after=word)).text
    before, *behind = held.split(word)
    assert plain.startswith(before + word)
    assert behind
    assert all(re.match("zebra|yak", part) for part in behind if len(part) > 5)
    assert llm.generate(prompt, GREEDY, grammar=Grammar("regex", "(", after=word)).text == plain
