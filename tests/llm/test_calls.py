"""What the calls of `LLM` give: shapes, types, and the same answer however it is asked for."""

import asyncio
from pathlib import Path

import pytest

from sampan import LLM, Completion, SamplingParams, Score
from sampan.core.types import ModelFiles
from sampan.text.chat import ChatTemplate

GREEDY = SamplingParams(max_tokens=8, temperature=0)
SEEDED = SamplingParams(max_tokens=8, temperature=1.2, seed=5, logprobs=2)
TEXTS = ["One, two, three,", "The capital of Japan is", "def add(a, b):"]
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
TEMPLATES = Path(__file__).parents[1] / "text" / "templates"

pytestmark = pytest.mark.usefixtures("at_rest")


def test_one_prompt_gives_one_completion_with_its_figures(llm: LLM) -> None:
    answer = llm.generate(TEXTS[0], SEEDED)
    assert isinstance(answer, Completion)
    assert answer.text == llm.tokenizer.decode(answer.tokens)
    assert (answer.finish_reason, answer.reasoning, answer.completion_tokens) == ("length", "", 8)
    assert answer.prompt_tokens == len(llm.encode(TEXTS[0]))
    assert [chosen.token for chosen in answer.logprobs] == list(answer.tokens)
    assert all(chosen.logprob < 0 and len(chosen.top) == 2 for chosen in answer.logprobs)


def test_a_list_gives_a_list_and_company_changes_nothing(llm: LLM) -> None:
    together = llm.generate(TEXTS, SEEDED)
    assert together == [llm.generate(text, SEEDED) for text in TEXTS]
    ids = [llm.encode(text) for text in TEXTS]
    assert llm.generate(ids, SEEDED) == together
    assert llm.generate(ids[1], SEEDED) == together[1]
    assert llm.generate([TEXTS[2]], SEEDED) == [together[2]]
    assert llm.generate([], SEEDED) == []


def test_each_prompt_may_have_its_own_sampling(llm: LLM) -> None:
    short = SamplingParams(max_tokens=2, temperature=0)
    answers = llm.generate(TEXTS[:2], [short, GREEDY])
    assert [answer.completion_tokens for answer in answers] == [2, 8]


def test_without_sampling_it_is_the_models_own(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm, "defaults", GREEDY)
    assert llm.generate(TEXTS[1]) == llm.generate(TEXTS[1], GREEDY)


def test_samples_of_one_prompt_differ_and_come_again(llm: LLM) -> None:
    samples = llm.generate(TEXTS[1], SEEDED, n=4)
    assert len({sample.text for sample in samples}) > 1
    assert samples[0] == llm.generate(TEXTS[1], SEEDED)
    both = llm.generate(TEXTS[1:], SEEDED, n=2)
    assert [len(each) for each in both] == [2, 2]
    assert both[0] == samples[:2]


def test_a_prompt_that_was_seen_before_is_not_computed_again(llm: LLM) -> None:
    ids = llm.encode("Rivers and lakes of the world, " * 12)
    llm.generate(ids, GREEDY)
    assert llm.generate(ids, GREEDY).cached_tokens >= 64


def test_chat_renders_the_template(llm: LLM) -> None:
    answer = llm.chat(FRANCE, SamplingParams(max_tokens=16, temperature=0))
    assert "Paris" in answer.text
    assert answer.finish_reason == "stop"
    assert answer.tokens[-1] in llm.tokenizer.eos_ids
    rendered = llm.prompt(FRANCE)
    assert llm.generate(rendered, GREEDY, templated=True) == llm.chat(FRANCE, GREEDY)
    assert llm.chat([FRANCE, FRANCE], GREEDY) == [llm.chat(FRANCE, GREEDY)] * 2
    assert len(llm.chat(FRANCE, SEEDED, n=2)) == 2


def test_options_of_the_template_pass_through(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (TEMPLATES / "thinking.jinja").read_text()
    monkeypatch.setattr(llm, "template", ChatTemplate(source, bos="", eos=""))
    free, none = (llm.chat(FRANCE, GREEDY, enable_thinking=thinking) for thinking in (True, False))
    assert none.prompt_tokens - free.prompt_tokens == len(llm.encode("<think>\n\n</think>\n\n"))


def test_scores_are_typed_and_are_the_samplers_own(llm: LLM) -> None:
    answer = llm.generate(TEXTS[0], GREEDY)
    ids = [*llm.encode(TEXTS[0]), *answer.tokens]
    score = llm.score(ids)
    assert isinstance(score, Score)
    assert score.ids == tuple(ids)
    assert score.logprobs[0] is None
    assert list(score.logprobs[-8:]) == [chosen.logprob for chosen in answer.logprobs]
    assert score.nll == pytest.approx(-sum(value or 0 for value in score.logprobs))
    assert llm.score(TEXTS[0]).ids == tuple(llm.encode(TEXTS[0]))
    assert [each.perplexity is None for each in llm.score([[1], [1, 2]])] == [True, False]


def test_a_cache_of_eight_bits(default_model: ModelFiles) -> None:
    with LLM(default_model, cache="int8", cache_tokens=512, max_sequences=2) as small:
        assert "Paris" in small.chat(FRANCE, SamplingParams(max_tokens=16, temperature=0)).text
        assert small.plan.cache_bytes < 0.54 * 2 * 30 * 3 * 64 * 2 * small.plan.cache_tokens


def test_a_stream_is_the_completion_in_pieces(llm: LLM) -> None:
    whole = llm.generate(TEXTS[0], GREEDY)
    stream = llm.stream(TEXTS[0], GREEDY)
    assert stream.prompt_tokens == whole.prompt_tokens
    deltas = list(stream)
    assert "".join(delta.text for delta in deltas) == whole.text
    assert [delta.finish_reason for delta in deltas] == [None] * 7 + ["length"]
    assert tuple(delta.token.token for delta in deltas if delta.token) == whole.tokens
    assert stream.completion.text == whole.text
    assert list(stream) == []
    assert next(llm.stream(FRANCE, GREEDY)).token is not None


def test_a_stop_text_ends_an_answer_before_the_engine_knows(llm: LLM) -> None:
    long = SamplingParams(max_tokens=400, temperature=0, stop=" 9", ignore_eos=True)
    answers = llm.generate(["1, 2, 3, 4, 5, 6,"] * 3, long)
    assert {(answer.text, answer.finish_reason) for answer in answers} == {(" 7, 8,", "stop")}


def test_async_calls_are_the_sync_ones(llm: LLM) -> None:
    async def ask() -> list[object]:
        async def read() -> str:
            async with llm.astream(TEXTS[2], GREEDY) as stream:
                return "".join([delta.text async for delta in stream])

        return await asyncio.gather(
            llm.agenerate(TEXTS, SEEDED), llm.agenerate(TEXTS[0], SEEDED, n=2), llm.achat(FRANCE, GREEDY),
            llm.ascore(TEXTS[1]), read(), llm.agenerate([]),
        )  # fmt: skip

    assert asyncio.run(ask()) == [
        llm.generate(TEXTS, SEEDED), llm.generate(TEXTS[0], SEEDED, n=2), llm.chat(FRANCE, GREEDY),
        llm.score(TEXTS[1]), llm.generate(TEXTS[2], GREEDY).text, [],
    ]  # fmt: skip
