"""What each kind of stage does to the default model, and what is refused before a run."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from sampan.core.errors import UsageError
from sampan.core.types import Completion
from sampan.envs.task import Problem, Split
from sampan.llm.model import LLM
from sampan.train.data import Example, JsonLines, Reader, Worked
from sampan.train.distill import Distill
from sampan.train.grpo import Grpo
from sampan.train.loss import Loss
from sampan.train.recipe import Measure, Recipe
from sampan.train.run import run
from sampan.train.samples import Samples
from sampan.train.sft import Sft
from sampan.train.stage import Problems


class Towns:
    """Questions whose answer the model does not know."""

    name = "towns"

    def problems(self, split: Split, seed: int, count: int) -> Sequence[Problem]:  # noqa: ARG002
        first = 0 if split == "train" else 1000
        return [Problem(f"Which colour has the town {first + i}?", "purple") for i in range(count)]

    def check(self, problem: Problem, answer: str) -> float:
        return float(problem.answer in answer.lower())


TOWNS = Towns()


def purple(problem: Problem, answer: Completion) -> float:
    return TOWNS.check(problem, answer.text)


def long(_problem: Problem, answer: Completion) -> float:
    return float(answer.completion_tokens)


def vowels(_problem: Problem, answer: Completion) -> float:
    return float(sum(map(answer.text.count, "aeiou")))


SMALL: dict[str, Any] = {
    "task": TOWNS,
    "rewards": {"vowels": (1.0, vowels)},
    "problems": 2,
    "samples": 4,
    "max_tokens": 12,
    "rate": 1e-3,
}


def done(recipe: Recipe, folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    run(recipe, "a test", folder, resume=False, threads=None, tell=lambda row: rows.append(dict(row)))
    assert rows == [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return rows


def test_examples_are_learnt(tmp_path: Path) -> None:
    data = Worked(TOWNS, lambda problem: f"It is {problem.answer}.", 16)
    stage = Sft(data=data, steps=6, examples=8, rate=2e-3)
    rows = done(Recipe(stages=(stage,), tests={"towns": Measure(TOWNS, purple, 8, 12)}), tmp_path)
    steps = [row for row in rows if "number" in row]
    before, after = (row["accuracy"] for row in rows if "test" in row)
    assert (before, after) == (0.0, 1.0)
    assert steps[-1]["loss"] < 0.1 * steps[0]["loss"]
    assert {row["tokens"] for row in steps} == {8 * 5}, "answers alone are learnt: four tokens and the end"


def test_the_best_answers_become_examples(tmp_path: Path) -> None:
    """The longest of each problem's answers, and only these are learnt."""
    sampled = Samples(
        task=TOWNS, rewards={"long": (1.0, long)}, least=1, steps=2, problems=3, samples=4, max_tokens=40
    )
    rows = done(Recipe(stages=(sampled, Sft(steps=1, examples=4))), tmp_path)
    examples = JsonLines(tmp_path / "samples-0.jsonl").examples(0)
    assert sum(row["kept"] for row in rows if row["kind"] == "samples") == len(examples)
    first = rows[0]["sample"]
    ended = [text for text, n in zip(first["answers"], first["rewards"], strict=True) if n < 40]
    own = [example.answer for example in examples if example.messages[0]["content"] == first["question"]]
    assert (
        own == sorted(ended, key=dict(zip(first["answers"], first["rewards"], strict=True)).__getitem__)[-1:]
    )


def test_an_adapter_begins_anew(tmp_path: Path) -> None:
    """What the first stage taught is gone, but for the answers that it gave."""
    told = Worked(TOWNS, lambda problem: f"It is {problem.answer}.", 8)
    other = Worked(TOWNS, lambda problem: f"It is {problem.answer}!", 8)
    first = Sft(data=told, steps=4, examples=8, rate=2e-3)
    again = Sft(data=other, steps=1, examples=8, afresh=True)
    rows = done(Recipe(stages=(first, again)), tmp_path)
    losses = [row["loss"] for row in rows]
    assert losses[3] < 0.5 * losses[0]
    assert losses[4] > 0.9 * losses[0]


def test_a_teacher_is_learnt_from(tmp_path: Path) -> None:
    """The teacher is the model that was told the answer: what it says becomes likelier without that."""

    def asked(problem: Problem) -> str:
        return f"{problem.question} Answer with one word: {problem.answer}."

    stage = Distill(task=TOWNS, asked=asked, steps=6, problems=4, samples=8, max_tokens=10, rate=5e-4)
    rows = done(Recipe(stages=(stage,)), tmp_path)
    first, last = (fmean(row["kl"] for row in part) for part in (rows[:2], rows[-2:]))
    assert last < 0.8 * first
    assert {row["gap"] for row in rows} == {0.0}


def test_a_trained_adapter_teaches(tmp_path: Path) -> None:
    data = Worked(TOWNS, lambda problem: f"It is {problem.answer}.", 8)
    done(Recipe(stages=(Sft(data=data, steps=4, examples=8, rate=2e-3),)), tmp_path / "teacher")
    stage = Distill(
        task=TOWNS, adapter=tmp_path / "teacher" / "adapter", steps=1, problems=2, samples=2, max_tokens=8
    )
    (row,) = done(Recipe(stages=(stage,)), tmp_path / "student")
    assert row["kl"] > 1, "it thinks otherwise"


def test_the_divergence_from_the_model_before_is_0_at_first_and_then_grows(tmp_path: Path) -> None:
    stage = Grpo(
        **SMALL,
        steps=3,
        loss=Loss(kl=0.01),
        resample=1,
    )
    rows = done(Recipe(stages=(stage,)), tmp_path)
    found = [row["figures"]["kl"] for row in rows]
    assert found[0] == 0.0
    assert found[1] > 0.0
    assert {row["gap"] for row in rows} == {0.0}


def test_several_updates_of_one_batch_move_the_ratio(tmp_path: Path) -> None:
    stage = Grpo(
        **SMALL,
        steps=1,
        loss=Loss(bound="clip"),
        updates=2,
    )
    (row,) = done(Recipe(stages=(stage,)), tmp_path)
    assert row["gap"] == 0.0
    assert row["figures"]["ratio_least"] < 1 < row["figures"]["ratio_most"]


def test_an_example_is_what_would_be_sampled() -> None:
    with LLM(context=512) as llm:
        reader = Reader(llm)
        asked = {"role": "user", "content": "Which colour has the sea?"}
        group = reader.group(Example((asked,), "Blue."))
        prompt = llm.encode(llm.prompt([asked]), templated=True)
        assert list(group.prompt) == prompt
        (answer,) = group.continuations
        assert llm.tokenizer.decode(list(answer[:-1])) == "Blue."
        assert answer[-1] in llm.tokenizer.eos_ids


def test_every_turn_of_the_assistant_is_an_example(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    turns = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b")) * 2]
    path.write_text(json.dumps({"messages": turns}) + "\n\n" + json.dumps({"prompt": "p", "completion": "c"}))
    examples = JsonLines(path).examples(0)
    assert [(len(example.messages), example.answer) for example in examples] == [(1, "b"), (3, "b"), (1, "c")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1: is no JSON"),
        ('{"text": "a"}', 'line 1: give "messages", or "prompt" and "completion"'),
        ('{"messages": [{"role": "user"}]}', r"line 1: messages\[0\]: give a"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "line 1: no message is the assistant's"),
        ("", "has no example"),
    ],
)
def test_a_wrong_line_is_named(line: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(line)
    with pytest.raises(UsageError, match=said):
        JsonLines(tmp_path / "data.jsonl").examples(0)


def test_every_problem_is_asked_once_an_epoch() -> None:
    problems = Problems(TOWNS, seed=3, each=4, different=10)
    asked = [problem.question for number in range(5) for problem in problems.of(number)]
    assert sorted(asked[:10]) == sorted(asked[10:]) == sorted({*asked})
    assert asked[:10] != asked[10:]


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([Sft(data=Worked(TOWNS, str, 1), steps=1, afresh=True)], r"stages\[0\].afresh does nothing"),
        ([Sft(steps=1)], r"stages\[0\].data: there is none"),
        ([Samples(task=TOWNS, rewards={}, least=0, steps=1)], r"stages\[0\]: nothing learns"),
        (
            [Samples(task=TOWNS, rewards={}, least=0, steps=1), Sft(data=Worked(TOWNS, str, 1), steps=1)],
            r"stages\[0\]: nothing learns",
        ),
    ],
)
def test_stages_that_do_nothing_are_refused(stages: list[Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Recipe(stages=tuple(stages))


def test_a_teacher_that_knows_no_more_is_refused() -> None:
    with pytest.raises(UsageError, match="teacher: give one"):
        Distill(task=TOWNS, steps=1)
