"""Who drafts, as a user asks for it: answers stay, what cannot be is refused, and the budget is exact."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sampan import LLM, SamplingParams
from sampan.core.errors import UnsupportedModel, UsageError, WeightsError
from sampan.core.types import Grammar

Make = Callable[..., Any]
PROMPTS = ["def main():", "x" * 60, "The quick brown fox"]
GREEDY = SamplingParams(max_tokens=40, temperature=0, logprobs=1, ignore_eos=True)
SEEDED = SamplingParams(max_tokens=40, temperature=0.6, top_p=0.95, seed=3, logprobs=1, ignore_eos=True)
SIZES = {"context": 256, "cache_tokens": 992, "max_sequences": 4}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, predicted: Any) -> dict[str, Path]:
    """A model with a layer for drafts, the same without, a small one, and one of another vocabulary."""
    found = {name: tmp_path_factory.mktemp(name) for name in ("main", "bare", "small", "other", "partial")}
    tensors = predicted.write(found["main"], copies=True)
    bare = {name: x for name, x in tensors.items() if not name.startswith(predicted.BEHIND)}
    predicted.write(found["bare"], bare)
    predicted.write(found["small"], predicted.random_tensors(mixed=0.1))
    predicted.write(found["other"])
    predicted.write_text(found["other"], first=3)
    lost = predicted.BEHIND + "hnorm.weight"
    predicted.write(found["partial"], {name: x for name, x in tensors.items() if name != lost})
    return found


@pytest.fixture(scope="module")
def plain(folders: dict[str, Path]) -> dict[str, Any]:
    """Answers without drafts."""
    with LLM(folders["main"], speculation=False, **SIZES) as llm:
        found = {name: llm.generate(PROMPTS, way) for name, way in (("greedy", GREEDY), ("seeded", SEEDED))}
        found["regex"] = llm.generate(PROMPTS, GREEDY, grammar=Grammar("regex", "[a-z ]{30}"))
        found["stopped"] = llm.generate(PROMPTS, SamplingParams(max_tokens=40, temperature=0, stop=("e",)))
        assert set(llm.drafts) <= {"grammar"}
        exact = Grammar("regex", "only this text may be answered, nothing else")
        assert llm.generate(PROMPTS[0], GREEDY, grammar=exact).text
        assert (
            sum(held for _, held in llm.drafts["grammar"]) > 0
        )  # what is forced is fast-forwarded all the same
    return found


WAYS: dict[str, dict[str, Any]] = {
    "auto": {}, "mtp": {"draft": "mtp"}, "deep": {"draft": "mtp", "draft_tokens": 8, "draft_confidence": 0},
    "model": {"draft_model": "small", "draft_tokens": 2}, "own": {"draft_model": "main"},
    "lookup": {"draft": "lookup"}, "none": {"draft": "none"},
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_answers_do_not_depend_on_who_drafts(
    way: str, folders: dict[str, Path], plain: dict[str, Any]
) -> None:
    options = dict(WAYS[way])
    if "draft_model" in options:
        options["draft_model"] = folders[options["draft_model"]]
    with LLM(folders["main"], **SIZES, **options) as llm:
        for name, sampling in (("greedy", GREEDY), ("seeded", SEEDED)):
            assert llm.generate(PROMPTS, sampling) == plain[name]
            alone = [llm.generate(prompt, sampling) for prompt in PROMPTS]
            assert [a.tokens for a in alone] == [a.tokens for a in plain[name]]
            assert [a.logprobs for a in alone] == [a.logprobs for a in plain[name]]
        shaped = llm.generate(PROMPTS, GREEDY, grammar=Grammar("regex", "[a-z ]{30}"))
        assert [a.text for a in shaped] == [a.text for a in plain["regex"]]
        stopped = llm.generate(PROMPTS, SamplingParams(max_tokens=40, temperature=0, stop=("e",)))
        assert [(a.text, a.finish_reason) for a in stopped] == [
            (a.text, a.finish_reason) for a in plain["stopped"]
        ]
        drafts = llm.drafts
    expected = {"auto": "mtp", "deep": "mtp", "own": "model"}.get(way, way)
    if expected in ("mtp", "model"):
        assert drafts[expected][0][1] > 0
    assert ("mtp" in drafts) == (expected == "mtp")
    assert ("lookup" in drafts) <= (way not in ("mtp", "deep", "none"))


def test_adapters_are_drafted_for_as_well(
    folders: dict[str, Path], tmp_path: Path, write_adapter: Make
) -> None:
    names = [f"model.layers.{layer}.self_attn.o_proj.weight" for layer in range(3)]
    write_adapter(tmp_path / "own", dict.fromkeys(names, (64, 64)), targets=("o_proj",))
    found = []
    for draft in ("none", "mtp"):
        with LLM(folders["main"], draft=draft, adapters=1, **SIZES) as llm:
            llm.load_adapter("own", tmp_path / "own")
            found.append([llm.generate(PROMPTS, GREEDY, adapter=name) for name in ("own", None)])
            held = llm.drafts.get("mtp", [(0, 0)])[0][1]
    assert found[0] == found[1]
    assert found[0][0] != found[0][1]
    assert held > 0


def test_what_is_taken_is_what_was_planned(folders: dict[str, Path]) -> None:
    with LLM(folders["main"], draft="none", **SIZES) as llm:
        alone = llm.plan
    for options in ({"draft": "mtp"}, {"draft_model": folders["small"]}):
        with LLM(folders["main"], **SIZES, **options) as llm:
            plan, runner = llm.plan, llm.engine.runner
            main, beside = runner.executable, runner.drafter.executable
            weights = {id(p.weights): p.weights for p in (main, beside)}.values()
            held = [w for each in weights for w in (*each._matrices.values(), *each._vectors.values())]
            assert sum(_bytes(w) for w in held) == plan.weights_bytes
            spaces = main.workspace_bytes + beside.workspace_bytes
            assert plan.workspace_bytes > spaces > alone.workspace_bytes - plan.workspace_bytes
            assert plan.cache_bytes == sum(p.program.cache_bytes for p in (main, beside))
            assert plan.cache_bytes > alone.cache_bytes
    with LLM(folders["main"], draft="mtp", **SIZES) as llm:
        shared = llm.plan.weights_bytes - alone.weights_bytes
        matrix = 264 * 64 * 4
        assert 0 < shared < alone.weights_bytes - 2 * matrix  # embedding and head are not there twice


@pytest.mark.parametrize(
    ("model", "options", "error", "said"),
    [
        ("bare", {"draft": "mtp"}, UnsupportedModel, "has no layer for multi-token prediction"),
        ("bare", {"draft_tokens": 2}, UnsupportedModel, "has no layer for multi-token prediction"),
        ("main", {"draft": "eagle"}, UsageError, "draft is 'eagle': give one of auto, mtp, lookup, none"),
        ("main", {"draft_tokens": 9}, UsageError, "draft_tokens"),
        ("main", {"draft_confidence": 2}, UsageError, "draft_confidence is 2"),
        ("main", {"draft": "lookup", "draft_tokens": 2}, UsageError, "draft_tokens means nothing with draft"),
        ("main", {"draft": "mtp", "draft_model": "small"}, UsageError, "draft is 'mtp' beside a draft_model"),
        ("main", {"draft": "mtp", "speculation": False}, UsageError, "speculation is off"),
        ("main", {"draft": "mtp", "backend": "torch"}, UsageError, "nothing is drafted by backend torch"),
        ("main", {"draft_model": "other"}, UsageError, "draft_model .* has another vocabulary"),
        ("partial", {}, WeightsError, "layers.3.hnorm.weight is missing"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    model: str, options: dict[str, Any], error: type[Exception], said: str, folders: dict[str, Path]
) -> None:
    if "draft_model" in options:
        options = options | {"draft_model": folders[options["draft_model"]]}
    with pytest.raises(error, match=said):
        LLM(folders[model], **SIZES, **options)


def test_a_packed_folder_keeps_the_layer(
    folders: dict[str, Path], tmp_path: Path, plain: dict[str, Any]
) -> None:
    from sampan.cli import quantize

    quantize.command(str(folders["main"]), tmp_path / "packed")
    with LLM(tmp_path / "packed", draft="mtp", draft_confidence=0.2, **SIZES) as llm:
        assert llm.generate(PROMPTS, GREEDY) == plain["greedy"]
        assert llm.drafts["mtp"][0][1] > 0


def test_a_model_without_the_layer_and_another_backend_answer_as_before(folders: dict[str, Path]) -> None:
    for options in ({}, {"backend": "torch"}):
        with LLM(folders["bare"], **SIZES, **options) as llm:
            first = llm.generate(PROMPTS[0], GREEDY)
        with LLM(folders["main"], **SIZES, **options) as llm:
            assert llm.generate(PROMPTS[0], GREEDY).tokens == first.tokens


def _bytes(weight: Any) -> int:
    """Of a vector or a packed matrix."""
    return int(getattr(weight, "data", weight).nbytes if not hasattr(weight, "nbytes") else weight.nbytes)
