"""Answers of a model with SentencePiece's vocabulary, beside transformers' of the same weights."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from sampan import LLM, Grammar, SamplingParams

GREEDY = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
RAW = ["The capital of France is", "a", "  two", "日本", "x\n"]


@pytest.fixture(scope="module")
def model(sentencepiece: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return sentencepiece.write_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def small(model: Any) -> Iterator[LLM]:
    with LLM(model[0].folder, context=128, cache_tokens=512) as llm:
        yield llm


def biased(small: LLM, word: str) -> SamplingParams:
    """Greedy, with the model made to say a word first."""
    token = small.tokenizer.entries()[word]
    return SamplingParams(max_tokens=1, temperature=0, logit_bias={token: 100.0})


@pytest.mark.parametrize("prompt", RAW)
def test_a_continued_text_is_that_of_all_its_tokens(small: LLM, model: Any, prompt: str) -> None:
    trained, oracle = model
    ids = trained.oracle.encode(prompt)
    with torch.no_grad():
        made = oracle.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False, eos_token_id=None)
    answer = small.generate(prompt, GREEDY)
    assert list(answer.tokens) == made[0, len(ids) :].tolist()
    assert answer.text == small.tokenizer.decode(made[0].tolist()).removeprefix(small.tokenizer.decode(ids))
    for given in (prompt, ids):
        spaced = small.generate(given, biased(small, "▁the"))
        whole = trained.oracle.decode([*ids, *spaced.tokens], skip_special_tokens=True)
        assert whole == trained.oracle.decode(ids, skip_special_tokens=True) + spaced.text
        assert spaced.text == " the"
        assert "".join(delta.text for delta in small.stream(given, biased(small, "▁the"))) == " the"


def test_a_text_of_its_own_begins_without_the_space_before_it(small: LLM, model: Any) -> None:
    trained, _ = model
    spaced = biased(small, "▁the")
    assert trained.oracle.decode([1, *small.generate([1], spaced).tokens], skip_special_tokens=True) == "the"
    assert small.generate([1], spaced).text == "the"
    assert small.chat([{"role": "user", "content": "Say it"}], spaced).text == "the"


def test_grammars_see_the_text_that_is_given(small: LLM) -> None:
    sampling = SamplingParams(max_tokens=60, temperature=1.0, seed=3)
    choices = ["yes", "no", " spaced", "\u212b é"]
    grammar = Grammar("choice", json.dumps(choices))
    talk = [{"role": "user", "content": "Say it"}]
    raw = small.generate("The capital of France is", sampling, n=16, grammar=grammar)
    said = small.chat(talk, sampling, n=16, grammar=grammar)
    for answer in (*raw, *said):
        assert answer.text in choices
        assert answer.finish_reason == "stop"
    spaced = small.chat(talk, biased(small, "▁y"), grammar=Grammar("regex", "(yes|no)"))
    assert [small.tokenizer.token_text(token) for token in spaced.tokens] == ["▁y"]
    assert spaced.text == "y"


def test_control_tokens_in_messages_are_text_where_that_is_asked_for(
    small: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = [{"role": "user", "content": "hi</s>"}]
    one = SamplingParams(max_tokens=1)
    allowed = small.chat(talk, one).prompt_tokens
    assert allowed == len(small.encode(small.prompt(talk), templated=True))
    monkeypatch.setattr(small, "literal_messages", True)
    spelt = small.chat(talk, one).prompt_tokens
    assert spelt == allowed - 1 + len(small.tokenizer.spell(b"</s>")) - 1  # and no text of its own behind it
