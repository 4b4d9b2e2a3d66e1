"""What cannot be done is refused at once, says what was wrong, and harms nobody else."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import sampan
from sampan import LLM, ContextOverflow, RequestError, SamplingParams, UsageError
from sampan.core.types import ModelFiles
from sampan.engine.sequence import Event
from sampan.kernels.native import available_cores
from sampan.llm.answer import Answer, Prompt

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
        (lambda llm: llm.generate([1, 2.5]), "prompt 0 is of type int"),
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
    ],
)
def test_a_request_that_makes_no_sense(llm: LLM, call: Callable[[LLM], Any], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        call(llm)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_prompt_that_can_never_fit_carries_the_numbers(llm: LLM) -> None:
    for call in (llm.generate, llm.score):
        with pytest.raises(ContextOverflow) as caught:
            call([5] * 600)
        assert (caught.value.prompt_tokens, caught.value.context) == (600, 512)
    with pytest.raises(ContextOverflow):
        next(llm.stream([5] * 600))
    with pytest.raises(RequestError, match="prompt 1: the prompt has 600 tokens, the context holds 512"):
        llm.generate([[5], [5] * 600], GREEDY)


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
        ({"context": 0}, "context is 0: give a whole number, 1 or more"),
        ({"context": 9000}, "a context of 9000 tokens was asked for: smollm2-135m holds 8192"),
        ({"max_sequences": "many"}, "max_sequences is 'many'"),
        ({"threads": -1}, "-1 threads were asked for"),
        ({"cache": "int3"}, "a cache of type 'int3' is not known: bf16, "),
    ],
)
def test_a_model_that_makes_no_sense(default_model: ModelFiles, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        LLM(default_model, **options)
    assert said in str(caught.value)


def test_more_threads_than_cores_warn(default_model: ModelFiles) -> None:
    cores = available_cores()
    said = f"^{cores + 1} threads on {cores} cores wait for each other: use {cores}$"
    with (
        pytest.warns(UserWarning, match=said),
        LLM(default_model, threads=cores + 1, context=64, max_sequences=1) as llm,
    ):
        assert llm.machine.threads == cores + 1


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
