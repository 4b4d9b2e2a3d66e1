"""What is promised of a model holds for every family: one matrix, through the Python API and the service."""

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from sampan import LLM, SamplingParams
from sampan.core.types import Completion, Grammar
from sampan.models.registry import describe, load_file

add_layer = load_file(Path(__file__).parent / "drafting.py").add_layer

Make = Callable[..., Any]
SIZES: dict[str, Any] = {"context": 256, "max_sequences": 4, "cache_tokens": 1024}
NEW = 24
DRAFTING = ("deepseek_v3", "qwen3_next", "qwen3_5")  # families whose files have a layer that guesses
# Six of the letters over and over: what was said is said again, so that there are drafts to verify.
SHARED = [n % 6 for n in range(80)]
PROMPTS = [[*SHARED, 9], [*SHARED, 11, 12], [3, 1, 2], [n * 7 % 90 for n in range(120)]]
GREEDY = SamplingParams(max_tokens=NEW, temperature=0, ignore_eos=True, logprobs=2)
SEEDED = SamplingParams(max_tokens=NEW, temperature=0.9, top_p=0.9, seed=5, ignore_eos=True, logprobs=2)
TEXT = "{% for message in messages %}{{ message.content }}{% endfor %}"


@pytest.fixture
def folder(any_case: str, tiny: Make, tmp_path: Path) -> Path:
    """The tiny model of a case, with a layer for drafts where its family has one, and with a tokenizer of
    bytes: as many as its vocabulary holds, letters first."""
    made = tiny(any_case)
    path = tmp_path / "model"
    shutil.copytree(made.files.path, path)
    if any_case.startswith(DRAFTING):
        add_layer(path)
    size = made.oracle.config.get_text_config().vocab_size
    letters = [chr(n) for n in range(33, 127)] + ["Ġ", "Ċ"]
    rest = [byte for byte in sorted(pre_tokenizers.ByteLevel.alphabet()) if byte not in letters]
    tokens = [*rest[:2], *letters, *rest[2:]][: size - 1]  # some configurations end at token 1
    tokenizer = Tokenizer(models.BPE({token: n for n, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    (path / "chat_template.jinja").write_text(TEXT)
    return path


@pytest.fixture
def llm(any_case: str, folder: Path) -> Iterator[LLM]:
    drafting = {"draft_confidence": 0.0} if any_case.startswith(DRAFTING) else {}
    with LLM(folder, adapters=1, adapter_rank=4, **SIZES, **drafting) as llm:
        yield llm
        assert ("mtp" in llm.drafts) <= bool(drafting)


def alone(llm: LLM, sampling: SamplingParams, **how: Any) -> list[Completion]:
    return [llm.generate(prompt, sampling, **how) for prompt in PROMPTS]


def test_an_answer_depends_on_nothing_but_its_request(any_case: str, folder: Path, llm: LLM) -> None:
    """Not on company, on what is kept of earlier prompts, on drafts, on threads, or on waiting for room."""
    with LLM(folder, prefix_cache=False, speculation=False, threads=1, **SIZES) as plain:
        for sampling in (GREEDY, SEEDED):
            expected = alone(plain, sampling)
            assert llm.generate(PROMPTS, sampling) == expected
            assert llm.generate(PROMPTS, sampling) == expected  # now out of the prefix cache
            assert alone(llm, sampling) == expected
    if any_case.startswith(DRAFTING):  # one after another there is room for what the layer guesses
        assert llm.drafts["mtp"][0][0] > 0
    with LLM(folder, **SIZES | {"cache_tokens": 256}) as narrow:  # not all at once: some wait or give way
        assert narrow.generate(PROMPTS, SEEDED) == expected


def test_both_backends_say_the_same(folder: Path, llm: LLM) -> None:
    with LLM(folder, backend="torch", **SIZES) as other:
        found = other.generate(PROMPTS, GREEDY)
    expected = llm.generate(PROMPTS, GREEDY)
    for ours, theirs in zip(expected, found, strict=True):
        assert ours.tokens == theirs.tokens
        assert [t.logprob for t in ours.logprobs] == pytest.approx(
            [t.logprob for t in theirs.logprobs], abs=0.05
        )


def test_a_score_is_what_was_sampled_by(llm: LLM) -> None:
    for answer, prompt in zip(llm.generate(PROMPTS, GREEDY), PROMPTS, strict=True):
        score = llm.score([*prompt, *answer.tokens], start=len(prompt))
        assert list(score.logprobs[len(prompt) :]) == [token.logprob for token in answer.logprobs]


def test_answers_have_the_form_that_is_asked_for(llm: LLM) -> None:
    grammars = [Grammar("regex", r"\{\"n\": (1|22)\}"), Grammar("choice", '["left", "right"]')]
    made, chosen = (llm.generate("x", SamplingParams(max_tokens=60, seed=1), grammar=g) for g in grammars)
    assert json.loads(made.text)["n"] in (1, 22)
    assert chosen.text in ("left", "right")


def test_adapters_change_their_own_requests_alone(llm: LLM, write_adapter: Make, tmp_path: Path) -> None:
    shapes = {
        name: weight.shape
        for name, weight in describe(llm.config).weights().items()
        if ".experts." not in name and len(weight.shape) == 2
    }
    write_adapter(tmp_path / "one", shapes, targets=("o_proj",), size=0.3)
    base = alone(llm, GREEDY)
    llm.load_adapter("one", tmp_path / "one")
    own = alone(llm, GREEDY, adapter="one")
    assert [a.tokens for a in own] != [a.tokens for a in base]
    assert llm.generate(PROMPTS, GREEDY) == base
    assert llm.generate(PROMPTS, GREEDY, adapter="one") == own
    llm.unload_adapter("one")


@pytest.mark.parametrize("any_case", ["qwen3", "qwen3_moe", "deepseek_v3", "qwen3_next"])
def test_a_service_says_what_python_does(any_case: str, folder: Path, llm: LLM) -> None:  # noqa: ARG001
    said = [llm.tokenizer.decode(list(answer.tokens)) for answer in llm.generate(PROMPTS, GREEDY)]
    run_service = load_file(Path(__file__).parents[1] / "server" / "conftest.py").run_service
    with run_service("--context", "256", name=str(folder)) as service, ThreadPoolExecutor(4) as pool:
        model = service.openai.models.list().data[0].id

        def ask(prompt: list[int]) -> str:
            done = service.openai.completions.create(
                model=model, prompt=prompt, max_tokens=NEW, temperature=0, extra_body={"ignore_eos": True}
            )
            return str(done.choices[0].text)

        assert list(pool.map(ask, PROMPTS)) == said
