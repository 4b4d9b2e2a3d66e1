"""A budget of reasoning on the real model: it ends, the answer follows, and all is counted."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sampan import LLM, SamplingParams
from sampan.catalog.catalog import find
from sampan.core.types import Grammar, ModelFiles
from sampan.llm.generation import defaults_of
from sampan.llm.thinking import closing_of

PROMPT = "<|im_start|>user\nTell me a long story about a river.<|im_end|>\n<|im_start|>assistant\n<think>\n"
CLOSING = "\n</think>\n\n"


def greedy(tokens: int, budget: int | None) -> SamplingParams:
    return SamplingParams(max_tokens=tokens, temperature=0, max_reasoning_tokens=budget)


def test_the_answer_follows_when_the_budget_is_spent(llm: LLM, at_rest: Callable[[], None]) -> None:
    whole = llm.generate(PROMPT, greedy(24, None), templated=True)
    assert (whole.text, len(whole.tokens)) == ("", 24)
    cut = llm.generate(PROMPT, greedy(24, 8), templated=True)
    closing = tuple(llm.encode(CLOSING, templated=True))
    assert cut.tokens[:8] == whole.tokens[:8]
    assert cut.tokens[8 : 8 + len(closing)] == closing
    assert cut.reasoning == llm.tokenizer.decode(list(cut.tokens[:8])) + "\n"
    assert cut.text.strip()
    # The rest is what the model says after the same text.
    ids = [*llm.encode(PROMPT, templated=True), *cut.tokens[: 8 + len(closing)]]
    rest = llm.generate(ids, greedy(len(cut.tokens) - 8 - len(closing), None))
    assert cut.tokens[8 + len(closing) :] == rest.tokens
    at_rest()


def test_a_budget_that_is_not_spent_changes_nothing(llm: LLM) -> None:
    for sampling in ({"temperature": 0}, {"temperature": 1.0, "seed": 7}):
        plain = SamplingParams(max_tokens=16, **sampling)  # type: ignore[arg-type]
        limited = SamplingParams(max_tokens=16, max_reasoning_tokens=100, **sampling)  # type: ignore[arg-type]
        prompts = [PROMPT, PROMPT.removesuffix("<think>\n")]
        expected = llm.generate(prompts, plain, templated=True)
        found = llm.generate(prompts, limited, templated=True)
        assert [each.tokens for each in found] == [each.tokens for each in expected]


def test_every_sample_and_every_stream_has_a_budget_of_its_own(llm: LLM) -> None:
    sampling = SamplingParams(max_tokens=20, temperature=1.0, seed=3, max_reasoning_tokens=4)
    samples = llm.generate(PROMPT, sampling, n=3, templated=True)
    assert all(CLOSING in llm.tokenizer.decode(list(each.tokens)) for each in samples)
    with llm.stream(PROMPT, sampling, templated=True) as stream:
        deltas = list(stream)
    assert "".join(delta.text for delta in deltas) == samples[0].text
    assert "".join(delta.reasoning for delta in deltas) == samples[0].reasoning


def test_a_grammar_begins_behind_the_budget(llm: LLM) -> None:
    grammar = Grammar("choice", '["Paris", "Rome"]')
    done = llm.generate(PROMPT, greedy(40, 5), templated=True, grammar=grammar)
    assert (done.text.strip() in ("Paris", "Rome"), done.finish_reason) == (True, "stop")
    assert done.reasoning


def test_what_authors_advise_holds_where_the_files_say_nothing() -> None:
    def of(source: str, **generation: object) -> SamplingParams:
        return defaults_of(generation, ModelFiles(Path(), "gguf", "m", source), vocabulary=8)

    r1 = "hf:deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"
    advised = of(r1)
    assert (advised.temperature, advised.top_p, advised.top_k) == (0.6, 0.95, 0)
    assert of(r1, eos_token_id=1) == advised
    assert of(r1, do_sample=True, temperature=0.5).temperature == 0.5
    assert of(r1, do_sample=False).temperature == 0
    qwq = of("hf:Qwen/QwQ-32B")
    assert (qwq.temperature, qwq.top_p, qwq.top_k) == (0.6, 0.95, 40)
    assert of("model.gguf").temperature == 0.8


@pytest.mark.parametrize("alias", ["deepseek-r1", "r1-distill-qwen-1.5b", "r1-distill-llama-70b"])
def test_r1_wants_no_system_prompt(alias: str) -> None:
    entry = find(alias)
    assert entry is not None
    assert (entry.system_prompt, dict(entry.sampling)) == (False, {"temperature": 0.6, "top_p": 0.95})


def test_qwen3s_reasoning_ends_in_its_authors_words() -> None:
    def closing(source: str) -> str:
        return closing_of(ModelFiles(Path(), "folder", "m", source))

    assert closing("hf:Qwen/Qwen3-8B").startswith("\n\nConsidering the limited time by the user, ")
    assert closing("hf:Qwen/Qwen3-8B").endswith(" directly now.\n</think>\n\n")
    assert closing("hf:Qwen/QwQ-32B") == closing("./mine") == CLOSING
