"""What cannot be done is refused at once, says what was wrong, and harms nobody else."""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sampan
from sampan import LLM, ContextOverflow, ModelNotFound, RequestError, SamplingParams, UsageError
from sampan.core.settings import Settings, available_cores
from sampan.core.types import ModelFiles, Scoring, TokenScore
from sampan.engine.sequence import Event
from sampan.llm.answer import Answer, Prompt
from sampan.llm.driver import Request
from sampan.llm.prompts import score_of

GREEDY = SamplingParams(max_tokens=2, temperature=0)
HELLO = [{"role": "user", "content": "Hello"}]

pytestmark = pytest.mark.usefixtures("at_rest")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda llm: llm.generate(""), "the prompt is empty"),
        (lambda llm: llm.generate(["Hi", ""]), "prompt 1: the prompt is empty"),
        (lambda llm: llm.generate([[]]), "prompt 0 is an empty list"),
        (lambda llm: llm.generate(None), "the prompt is of type NoneType: give a text, a list of token ids"),
        (lambda llm: llm.generate(b"Hi"), "of type bytes"),
        (lambda llm: llm.generate(7), "of type int"),
        (lambda llm: llm.generate(np.arange(3)), "of type ndarray"),
        (lambda llm: llm.generate(["Hi", 7]), "prompt 1 is of type int"),
        (lambda llm: llm.generate([1, 2.5]), "token 1 of the prompt is 2.5: give whole numbers"),
        (lambda llm: llm.generate([1, 49152]), "token id 49152 is outside the vocabulary of 49152"),
        (lambda llm: llm.generate("Hi", n=0), "n is 0: ask for 1 sample or more"),
        (lambda llm: llm.generate("Hi", n=1.5), "n is 1.5"),
        (lambda llm: llm.generate("Hi", {"temperature": 1}), "sampling is of type dict"),
        (lambda llm: llm.generate(["Hi"], [GREEDY] * 2), "2 SamplingParams for 1 prompts"),
        (lambda llm: llm.generate("Hi", SamplingParams(temperature=-1)), "temperature is -1: it must lie"),
        (lambda llm: llm.generate("Hi", SamplingParams(stop="")), "a stop string is empty"),
        (lambda llm: llm.chat("Hello"), "messages are a list of objects such as"),
        (lambda llm: llm.chat(["Hello"]), "messages are a list of objects such as"),
        (lambda llm: llm.chat([{"content": "Hello"}]), "messages are a list of objects such as"),
        (lambda llm: llm.chat([HELLO, []]), "messages are a list of objects such as"),
        (lambda llm: llm.stream(["Hi", "Ho"]), "one prompt or one conversation can be streamed"),
        (lambda llm: llm.stream([]), "one prompt or one conversation can be streamed"),
        (lambda llm: llm.stream("Hi", enable_thinking=False), "enable_thinking are the chat template's"),
        (lambda llm: llm.score(""), "the prompt is empty"),
        (lambda llm: llm.score([5, -1]), "token id -1"),
        (lambda llm: llm.score([5, 2**64]), "token id 18446744073709551616 is outside"),
        (lambda llm: llm.score([5, -(10**5000)]), "token id a value of type int is outside"),
        (lambda llm: llm.score([5, 1.0]), "token 1 of the prompt is 1.0"),
        (lambda llm: llm.score([5, None]), "token 1 of the prompt is None"),
        (lambda llm: llm.score([5, "a"]), "token 1 of the prompt is 'a'"),
        (lambda llm: llm.score([[5], [[5]]]), "prompt 1 is a list of list"),
        (lambda llm: llm.score([True]), "prompt 0 is of type bool"),
        (lambda llm: llm.score("Hi", adapter=["a"]), "no adapter named ['a'] is loaded"),
        (lambda llm: llm.generate("Hi", n=True), "n is True"),
        (lambda llm: llm.generate("Hi", n=10**9), "n is 1000000000"),
        (lambda llm: llm.generate("Hi", templated=1), "templated is 1: give True or False"),
        (lambda llm: llm.generate("Hi", adapter=b"a"), "no adapter named b'a' is loaded"),
        (lambda llm: llm.generate("Hi", adapter="a\n" * 500), "no adapter named 'a"),
        (lambda llm: llm.prompt(3), "messages are a list of objects such as"),
    ],
)
def test_a_request_that_makes_no_sense(llm: LLM, call: Callable[[LLM], Any], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        call(llm)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_a_prompt_that_can_never_fit_carries_the_numbers(llm: LLM) -> None:
    for call in (llm.generate, llm.score):
        with pytest.raises(ContextOverflow) as caught:
            call([5] * 600)
        assert (caught.value.prompt_tokens, caught.value.context) == (600, 512)
    for length in (512, 600):  # an answer has a token at least
        with pytest.raises(ContextOverflow):
            next(llm.stream([5] * length))
    assert len(llm.score([5] * 512).logprobs) == 512
    with pytest.raises(RequestError, match="prompt 1: the prompt has 600 tokens, the context holds 512"):
        llm.generate([[5], [5] * 600], GREEDY)
    with pytest.raises(RequestError, match="prompt 1: the prompt has 512 tokens"):
        llm.generate([[5], [5] * 512], GREEDY)


def test_a_model_that_fails_says_so_to_its_request(llm: LLM) -> None:
    answer = Answer(llm.tokenizer, Prompt([1], GREEDY))
    said = "request 4: the model gave logits that are not finite numbers"
    with pytest.raises(RequestError, match=said):
        answer.take(Event(4, None, "error", said))


def test_a_conversation_is_not_lost_in_a_list(llm: LLM) -> None:
    assert llm.chat([], GREEDY) == []
    assert llm.generate("Hi", GREEDY, n=np.int64(1)) == [llm.generate("Hi", GREEDY)]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("temperature", "hot", "temperature is 'hot': give a number"),
        ("top_p", None, "top_p is None: give a number"),
        ("top_k", 1.5, "top_k is 1.5: give a whole number"),
        ("max_tokens", 2.0, "max_tokens is 2.0: give a whole number or None"),
        ("seed", "x", "seed is 'x'"),
        ("stop", 3, "stop is 3: give a list of texts"),
        ("stop", ("a", None), "give a list of texts"),
        ("stop_token_ids", "ab", "give a list of token ids"),
        ("logit_bias", [1, 2], "logit_bias is [1, 2]: give numbers by token id"),
        ("logit_bias", {"a": 1}, "give numbers by token id"),
        ("logit_bias", {True: 1}, "give numbers by token id"),
        ("temperature", True, "temperature is True: give a number"),
        ("logprobs", True, "logprobs is True: give a whole number or None"),
        ("stop_token_ids", b"ab", "give a list of token ids"),
        ("ignore_eos", "no", "ignore_eos is 'no': give True or False"),
        ("seed", ["x" * 500] * 500, "seed is ['xxx"),
    ],
)
def test_sampling_of_the_wrong_type(field: str, value: object, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        SamplingParams(**{field: value})  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_sampling_takes_one_stop_text_or_id_and_any_sequence() -> None:
    assert SamplingParams(stop="end", stop_token_ids=3).stop == ("end",)  # type: ignore[arg-type]
    assert SamplingParams(stop=["a", "b"], stop_token_ids=[3]) == SamplingParams(
        stop=("a", "b"), stop_token_ids=(3,)
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"memory": "4G"}, "'4G' is no amount of memory"),
        ({"memory": 0}, "0 is no amount of memory"),
        ({"context": 0}, "context is 0: give a whole number from 1"),
        ({"context": 9000}, "a context of 9000 tokens was asked for: smollm2-135m holds 8192"),
        ({"max_sequences": "many"}, "max_sequences is 'many'"),
        ({"threads": -1}, "threads is -1: give a whole number from 1 to"),
        ({"threads": 0}, "threads is 0: give"),
        ({"threads": "2"}, "threads is '2': give"),
        ({"threads": True}, "threads is True: give"),
        ({"threads": 2.0}, "threads is 2.0: give"),
        ({"threads": 10_000}, "threads is 10000: give"),
        ({"settings": Settings(Path(), threads=10_000)}, "SAMPAN_THREADS is 10000: give"),
        ({"settings": Settings(Path(), isa="x" * 500)}, "SAMPAN_ISA is 'xxx"),
        ({"memory": 1.5}, "1.5 is no amount of memory"),
        ({"memory": "9" * 400 + "GB"}, "is no amount of memory"),
        ({"memory": 10**30}, "is no amount of memory"),
        ({"context": True}, "context is True"),
        ({"context": 10**30}, "context is 1000"),
        ({"max_sequences": 10**9}, "max_sequences is 1000000000: give a whole number from 1 to 65536"),
        ({"cache_tokens": 2.5}, "cache_tokens is 2.5"),
        ({"cache_tokens": 10**5000}, "cache_tokens is a value of type int: give"),
        ({"cache": ["bf16"]}, "cache is ['bf16']: give 'bf16', 'int8', 'f32' or 'auto'"),
        ({"cache": "int3"}, "a cache of type 'int3' is not known: bf16, "),
        ({"adapters": None}, "adapters is None"),
        ({"adapter_rank": 0.5}, "adapter_rank is 0.5"),
        ({"prefix_cache": "no"}, "prefix_cache is 'no': give True or False"),
        ({"speculation": None}, "speculation is None: give True or False"),
        ({"settings": {"threads": 2}}, "settings is {'threads': 2}: give sampan.core.settings.Settings"),
        ({"progress": print}, "give an object with start, advance and finish"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_model_that_makes_no_sense(default_model: ModelFiles, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        LLM(default_model, **options)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("model", [None, 3, b"smollm2-135m", ["smollm2-135m"], True])
def test_a_model_that_is_no_name(model: Any) -> None:
    with pytest.raises(UsageError, match=r"^model is .*: give an alias, a path"):
        LLM(model)


@pytest.mark.parametrize(
    "model", ["", "x" * 5000, "a\0b", "~nobody-of-this-name/x", "/no/such/folder", "\ud800"]
)
def test_a_model_that_is_not_there(model: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        LLM(model)
    assert len(str(caught.value)) < 600


def test_a_text_of_no_probability_has_a_perplexity() -> None:
    def perplexity(*logprobs: float) -> float | None:
        request = Request([1] * (len(logprobs) + 1), SamplingParams(), scoring=Scoring())
        return score_of(request, [TokenScore(1, logprob) for logprob in logprobs]).perplexity

    assert perplexity(-1000.0) == math.inf
    assert perplexity(-1.0, -3.0) == pytest.approx(math.exp(2))


def test_more_threads_than_cores_warn(default_model: ModelFiles) -> None:
    cores = available_cores()
    said = f"^{cores + 1} threads on {cores} cores wait for each other: use {cores}$"
    with (
        pytest.warns(UserWarning, match=said),
        LLM(default_model, threads=cores + 1, context=64, max_sequences=1) as llm,
    ):
        assert llm.tuning.threads == cores + 1


def test_importing_the_package_imports_nothing_else() -> None:
    script = "import sys, sampan; print(len([m for m in sys.modules if m.split('.')[0] in {names}]))"
    names = {"numpy", "tokenizers", "jinja2", "asyncio", "typer", "dataclasses"}
    done = subprocess.run([sys.executable, "-c", script.format(names=names)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0\n", "")
    for name in sampan.__all__:
        assert getattr(sampan, name).__name__ == name
    assert set(sampan.__all__) <= set(dir(sampan))
    with pytest.raises(AttributeError, match="no attribute 'Llm'"):
        _ = sampan.Llm  # type: ignore[attr-defined]
