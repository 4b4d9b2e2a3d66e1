"""A run from its recipe to its results, in a folder: `log.jsonl`, the checkpoint, the adapter."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from sampan.core.errors import UsageError, shortened
from sampan.core.settings import available_cores
from sampan.core.types import SamplingParams
from sampan.llm.load import graph_of
from sampan.llm.model import LLM
from sampan.train import checkpoint
from sampan.train.grpo import Step, optimizer_of, train
from sampan.train.lora import TrainedAdapter
from sampan.train.recipe import GrpoRecipe
from sampan.train.rollout import roll_out
from sampan.train.student import Student, linears_of

Told = Callable[[Mapping[str, Any]], None]


def run(recipe: GrpoRecipe, told: str, out: Path, *, resume: bool, threads: int | None, tell: Told) -> None:
    """Trains as the recipe says. `told`: what a checkpoint must have been made with. Raises `UsageError`
    where the folder holds a run already and `resume` is not wished."""
    out.mkdir(parents=True, exist_ok=True)
    log = out / "log.jsonl"
    if log.exists() and not resume:
        raise UsageError(f"{shortened(out)}: holds a run: go on with --resume, or take another folder")
    torch.set_num_threads(threads or available_cores())
    with _student(recipe, threads) as student:
        optimizer = optimizer_of(student, recipe.grpo)
        done = checkpoint.load(out, told, student.adapter, optimizer)
        student.publish()
        _keep_lines(log, done)

        def note(row: Mapping[str, Any]) -> None:
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")
            tell(row)

        if not done:
            note(_measured(student, recipe, 0))
        for step in train(student, recipe.task, recipe.rewards, recipe.grpo, optimizer, done):
            number = step.number + 1
            note(_row(step))
            last = number == recipe.grpo.steps
            if last or number % recipe.keep_every == 0:
                checkpoint.save(out, number, told, student.adapter, optimizer)
            if last or (recipe.test_every and number % recipe.test_every == 0):
                note(_measured(student, recipe, number))
        checkpoint.export(out / "adapter", student.adapter, recipe.model, recipe.lora.alpha)


@contextmanager
def _student(recipe: GrpoRecipe, threads: int | None) -> Iterator[Student]:
    answers = recipe.grpo.problems * recipe.grpo.samples
    with LLM(
        recipe.model,
        adapters=1,
        adapter_rank=recipe.lora.rank,
        context=recipe.context,
        max_sequences=min(64, answers),
        threads=threads,
    ) as llm:
        linears = linears_of(graph_of(llm.config), recipe.lora.modules)
        if not linears:
            raise UsageError(f"lora.modules: {recipe.model} has none of {', '.join(recipe.lora.modules)}")
        adapter = TrainedAdapter.begin(linears, recipe.lora.rank, recipe.lora.alpha, recipe.grpo.seed)
        with Student(llm, adapter, rows=recipe.rows) as student:
            yield student


def _measured(student: Student, recipe: GrpoRecipe, number: int) -> dict[str, Any]:
    """Accuracy on problems that training never sees, with its standard error."""
    problems = recipe.task.problems("test", 0, recipe.test)
    greedy = SamplingParams(temperature=0, max_tokens=recipe.grpo.max_tokens, logprobs=0)
    rollouts = roll_out(student, problems, recipe.rewards, greedy, 1)
    values = [value for rollout in rollouts for value in rollout.parts[recipe.measured]]
    shown = [{"question": r.problem.question, "answer": r.answers[0].text} for r in rollouts[:3] if r.answers]
    return {
        "step": number,
        "accuracy": fmean(values),
        "error": stdev(values) / sqrt(len(values)),
        "problems": len(values),
        "samples": shown,
    }


def _row(step: Step) -> dict[str, Any]:
    row = {name: value for name, value in asdict(step).items() if name != "rollouts"}
    first = step.rollouts[0]
    row["sample"] = {
        "question": first.problem.question,
        "answers": [answer.text for answer in first.answers],
        "rewards": list(first.rewards),
        "version": first.version,
    }
    return row


def _keep_lines(log: Path, done: int) -> None:
    """Lines of steps that the checkpoint does not have are written again."""
    if not log.exists():
        return
    rows = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    kept = [row for row in rows if row.get("number", row.get("step", 0) - 1) < done]
    log.write_text("".join(json.dumps(row) + "\n" for row in kept))
