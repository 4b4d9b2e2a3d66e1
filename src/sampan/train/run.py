"""A run from its recipe to its results, in a folder: `log.jsonl`, the checkpoint, the adapter."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
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
from sampan.train.engines import Engines
from sampan.train.lora import TrainedAdapter
from sampan.train.recipe import Measure, Recipe
from sampan.train.rollout import roll_out
from sampan.train.stage import Bench, Row, Stage
from sampan.train.student import Student, linears_of

Told = Callable[[Mapping[str, Any]], None]
Elsewhere = Callable[[LLM, Engines], AbstractContextManager[Engines]]
"""Other engines for the answers of a run, of the model and the engine that it has itself."""


def run(
    recipe: Recipe,
    told: str,
    out: Path,
    *,
    resume: bool,
    threads: int | None,
    tell: Told,
    elsewhere: Elsewhere | None = None,
) -> None:
    """Trains as the recipe says. `told`: what a checkpoint must have been made with. Raises `UsageError`
    where the folder holds a run already and `resume` is not wished."""
    out.mkdir(parents=True, exist_ok=True)
    log = out / "log.jsonl"
    if log.exists() and not resume:
        raise UsageError(f"{shortened(out)}: holds a run: go on with --resume, or take another folder")
    torch.set_num_threads(threads or available_cores())
    with _student(recipe, threads) as student, ExitStack() as stack:
        if elsewhere is not None:
            student.engines = stack.enter_context(elsewhere(student.llm, student.engines))
        _Run(recipe, told, out, student, tell).through()


@contextmanager
def _student(recipe: Recipe, threads: int | None) -> Iterator[Student]:
    compares = any(stage.compares for stage in recipe.stages)
    with LLM(
        recipe.model,
        adapters=2 if compares else 1,
        adapter_rank=recipe.lora.rank,
        context=recipe.context,
        max_sequences=min(64, max(stage.sequences for stage in recipe.stages)),
        threads=threads,
    ) as llm:
        linears = linears_of(graph_of(llm.config), recipe.lora.modules)
        if not linears:
            raise UsageError(f"lora.modules: {recipe.model} has none of {', '.join(recipe.lora.modules)}")
        adapter = TrainedAdapter.begin(linears, recipe.lora.rank, recipe.lora.alpha, recipe.seed)
        with Student(llm, adapter, rows=recipe.rows) as student:
            yield student


class _Run:
    """What is done in turn, and told."""

    def __init__(self, recipe: Recipe, told: str, out: Path, student: Student, tell: Told) -> None:
        self._recipe, self._told, self._out, self._student = recipe, told, out, student
        self._log, self._tell = out / "log.jsonl", tell

    def through(self) -> None:
        """Every stage that is not done yet."""
        recipe = self._recipe
        done = checkpoint.load(self._out, self._told, self._student.adapter, None)
        self._student.publish()
        _keep_lines(self._log, done)
        if done == (0, 0):
            self._measure(0, 0)
        for place, stage in enumerate(recipe.stages):
            if place >= done[0]:
                self._stage(place, stage, done[1] if place == done[0] else 0)
        checkpoint.export(self._out / "adapter", self._student.adapter, recipe.model, recipe.lora.alpha)

    def _stage(self, place: int, stage: Stage, done: int) -> None:
        recipe, student = self._recipe, self._student
        optimizer = torch.optim.AdamW(student.adapter.parameters, weight_decay=0.0, betas=(0.9, 0.99))
        if done:
            checkpoint.load(self._out, self._told, student.adapter, optimizer)
        if stage.compares:
            self._hold(place, done)
        bench = Bench(student, optimizer, place, recipe.seed << 8 | place, done, self._out)
        for row in stage.train(bench):
            number = row["number"] + 1
            last = number == stage.steps
            self._note({"stage": place, "kind": stage.kind, **row})
            if not last and number % recipe.keep_every == 0:
                checkpoint.save(self._out, (place, number), self._told, student.adapter, optimizer)
            if last or (recipe.test_every and number % recipe.test_every == 0):
                self._measure(place, number)
        optimizer.state.clear()
        checkpoint.save(self._out, (place + 1, 0), self._told, student.adapter, optimizer)

    def _hold(self, place: int, done: int) -> None:
        """The model as it was before the stage is there beside the one that changes, also after a kill."""
        held = self._out / f"before-{place}"
        if not done:
            checkpoint.export(held, self._student.adapter, self._recipe.model, self._recipe.lora.alpha)
        self._student.hold(held)

    def _measure(self, place: int, number: int) -> None:
        """Means over problems that training never sees, with their standard errors."""
        for name, test in self._recipe.tests.items():
            self._note({"stage": place, "step": number, "test": name, **_measured(self._student, test)})

    def _note(self, row: Row) -> None:
        with self._log.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._tell(row)


def _measured(student: Student, test: Measure) -> Row:
    problems = test.task.problems("test", 0, test.problems)
    greedy = SamplingParams(temperature=0, max_tokens=test.max_tokens, logprobs=0)
    rollouts = roll_out(student, problems, {"reward": (1.0, test.reward)}, greedy, 1)
    values = [value for rollout in rollouts for value in rollout.rewards]
    shown = [{"question": r.problem.question, "answer": r.answers[0].text} for r in rollouts[:3] if r.answers]
    return {
        "accuracy": fmean(values),
        "error": stdev(values) / sqrt(len(values)) if len(values) > 1 else None,
        "problems": len(values),
        "samples": shown,
    }


def _keep_lines(log: Path, done: tuple[int, int]) -> None:
    """Lines of steps that the checkpoint does not have are written again."""
    if not log.exists():
        return
    rows = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    kept = [row for row in rows if (row["stage"], row.get("number", row.get("step", 0) - 1)) < done]
    log.write_text("".join(json.dumps(row) + "\n" for row in kept))
