"""What a model's `generation_config.json` asks for is done as transformers does it, or said not to be."""

import json
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from sampan import LLM, Grammar, SamplingParams
from sampan.core.errors import RequestError
from sampan.core.types import ModelFiles
from sampan.llm.generation import defaults_of

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def model(sentencepiece: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return sentencepiece.write_model(tmp_path_factory.mktemp("llama"))


def greedy(model: Any, config: Mapping[str, Any], prompt: str = PROMPT) -> list[int]:
    """What transformers answers."""
    trained, oracle = model
    ids = trained.oracle.encode(prompt)
    with torch.no_grad():
        made = oracle.generate(torch.tensor([ids]), generation_config=GenerationConfig(**config))
    return made[0, len(ids) :].tolist()


def answered(model: Any, config: Mapping[str, Any], folder: Path, prompt: str = PROMPT) -> list[int]:
    shutil.copytree(model[0].folder, folder)
    (folder / "generation_config.json").write_text(json.dumps(config))
    with LLM(folder, context=128, cache_tokens=256) as llm:
        streamed = [delta.token.token for delta in llm.stream(prompt) if delta.token is not None]
        answer = llm.generate(prompt)
    assert streamed == list(answer.tokens)
    return streamed


def test_what_may_be_chosen_is_as_in_transformers(model: Any, tmp_path: Path) -> None:
    base = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": 2, "pad_token_id": 0}
    plain = greedy(model, base)
    assert answered(model, base, tmp_path / "plain") == plain
    a, b, c, d = plain[:4]
    asked = [
        {"suppress_tokens": [a, c]},
        {"begin_suppress_tokens": [a]},
        {"bad_words_ids": [[b, c], [d], [2]]},
        {"bad_words_ids": [[a, b, c]], "repetition_penalty": 1.3},
        {"eos_token_id": [2, c], "min_new_tokens": 5},
        {"eos_token_id": [2, a], "min_new_tokens": 1, "suppress_tokens": [b]},
    ]
    for number, fields in enumerate(asked):
        config = base | fields
        expected = greedy(model, config)
        assert expected != plain, fields
        assert answered(model, config, tmp_path / str(number)) == expected, fields


def test_lengths_and_what_is_forced_are_as_in_transformers(model: Any, tmp_path: Path) -> None:
    base = {"do_sample": False, "eos_token_id": 2, "pad_token_id": 0}
    long = len(model[0].oracle.encode(PROMPT)) + 5
    asked = [
        ("length", {"max_length": long}, PROMPT),
        ("new", {"max_length": long, "max_new_tokens": 7}, PROMPT),
        ("end", {"max_length": long, "forced_eos_token_id": 2}, PROMPT),
        ("ends", {"max_new_tokens": 4, "forced_eos_token_id": [9, 7], "min_new_tokens": 4}, PROMPT),
        ("begin", {"max_length": 6, "forced_bos_token_id": 11}, ""),
        ("no begin", {"max_length": long, "forced_bos_token_id": 11}, PROMPT),
    ]
    for name, fields, prompt in asked:
        expected = greedy(model, base | fields, prompt)
        assert answered(model, base | fields, tmp_path / name, prompt) == expected, name
    plain = greedy(model, base | {"max_new_tokens": 6}, "")
    both = {"max_new_tokens": 5, "forced_bos_token_id": 11}
    second = greedy(model, base | both, "")[1]
    suppressed = base | both | {"begin_suppress_tokens": [plain[0], second]}
    assert answered(model, suppressed, tmp_path / "both", "") == greedy(model, suppressed, "")


def test_a_prompt_as_long_as_max_length_needs_max_tokens(model: Any) -> None:
    with LLM(model[0].folder, context=128, cache_tokens=256) as llm:
        sampling = SamplingParams(max_length=4, temperature=0)
        with pytest.raises(RequestError, match=r"max_length is 4, of prompt and answer together: give max_t"):
            llm.generate(PROMPT, sampling)
        assert llm.generate(PROMPT, replace(sampling, max_tokens=3)).completion_tokens == 3


def test_a_grammar_goes_before_what_is_forced(model: Any) -> None:
    with LLM(model[0].folder, context=128, cache_tokens=256) as llm:
        sampling = SamplingParams(max_tokens=3, forced_eos_token_ids=[2], temperature=0)
        held = llm.generate(PROMPT, sampling, grammar=Grammar("regex", "xayz{9}"))
        assert "xayzzzzzzzzz".startswith(held.text)
        assert (held.completion_tokens, 2 in held.tokens) == (3, False)
        assert llm.generate(PROMPT, sampling).tokens[-1] == 2


def test_a_grammar_goes_before_what_is_suppressed(model: Any) -> None:
    with LLM(model[0].folder, context=128, cache_tokens=256) as llm:
        entries = llm.tokenizer.entries()
        sampling = SamplingParams(
            suppress_tokens=[entries["a"], entries["<0x61>"]], min_tokens=9, temperature=0
        )
        assert llm.generate(PROMPT, sampling, grammar=Grammar("regex", "xay")).text == "xay"


NOT_DONE = {
    "forced_decoder_ids": [[1, 5]],
    "forced_bos_token_id": 5000,
    "max_length": 0.5,
    "num_beams": 4,
    "no_repeat_ngram_size": 3,
    "guidance_scale": 1.5,
    "suppress_tokens": [3, 5000],
    "begin_suppress_tokens": -1,
    "bad_words_ids": [[1, 5000], [4]],
    "max_new_tokens": "many",
    "temperature": "0.5",
    "stop_strings": [7],
}


def test_what_is_not_done_is_said(model: Any, tmp_path: Path) -> None:
    folder = tmp_path / "asked"
    shutil.copytree(model[0].folder, folder)
    (folder / "generation_config.json").write_text(json.dumps(NOT_DONE))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        llm = LLM(folder, context=64, cache_tokens=64)
    with llm:
        assert llm.defaults.suppress_tokens == (3,)
        assert llm.defaults.bad_words_ids == ((4,),)
        assert llm.defaults.begin_suppress_tokens == ()
        assert llm.defaults.max_tokens is llm.defaults.max_length is llm.defaults.forced_bos_token_id is None
    said = [set(re.findall(r"\w+", str(each.message))) for each in told]
    for name in NOT_DONE:
        assert sum(name in words for words in said) == 1, name
    harmless = {
        "do_sample": True, "num_beams": 1, "typical_p": 1.0, "guidance_scale": None,
        "forced_eos_token_id": None, "no_repeat_ngram_size": 0, "suppress_tokens": [],
        "bad_words_ids": None, "min_new_tokens": 0,
        "max_length": 4096, "stop_strings": "END", "transformers_version": "5.0", "use_cache": True,
    }  # fmt: skip
    (folder / "generation_config.json").write_text(json.dumps(harmless))
    with warnings.catch_warnings(), LLM(folder, context=64, cache_tokens=64) as llm:
        warnings.simplefilter("error")
        assert llm.defaults == SamplingParams(stop="END", max_length=4096)


def test_a_gguf_file_may_suppress_tokens() -> None:
    """As llama.cpp does by this key."""
    metadata = {"tokenizer.ggml.suppress_tokens": [3, 7]}
    files = ModelFiles(Path(), "gguf", "m", "m")
    found = defaults_of({}, files, vocabulary=8, metadata=metadata)
    assert (found.suppress_tokens, found.temperature, found.top_k) == ((3, 7), 0.8, 40)
