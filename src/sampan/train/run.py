"""A run from its recipe to its results, in a folder: `log.jsonl`, the checkpoint, the adapter."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import replace
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from time import time
from typing import Any

import torch

from sampan.core.errors import UsageError, shortened
from sampan.core.memory import resident_memory
from sampan.core.settings import available_cores
from sampan.core.types import SamplingParams
from sampan.llm.load import graph_of
from sampan.llm.model import LLM
from sampan.train import checkpoint
from sampan.train.about import About, read_about, write_about
from sampan.train.card import write_card
from sampan.train.checkpoint import Done
from sampan.train.engines import Engines
from sampan.train.export import export_model
from sampan.train.facts import licence, machine, versions
from sampan.train.faults import Stopping, explained, short_of_memory, stopping
from sampan.train.full import TYPES, FullWeights
from sampan.train.log import Log
from sampan.train.lora import TrainedAdapter
from sampan.train.memory import bound_caches
from sampan.train.recipe import Measure, Recipe
from sampan.train.report.page import write_report
from sampan.train.rollout import Rollout, roll_out
from sampan.train.stage import Bench, Row, Stage
from sampan.train.student import Student, linears_of
from sampan.train.trained import Trained
from sampan.train.watch import answers
from sampan.train.watch.answers import Measured
from sampan.train.watch.board import Board
from sampan.weights.checkpoint import open_checkpoint

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
    source: tuple[str, str] = ("run", ""),
    note: Callable[[str], Any] = lambda _words: None,
    elsewhere: Elsewhere | None = None,
) -> None:
    """Trains as the recipe says. `told`: what a checkpoint must have been made with; `source`: the recipe's
    name and text. `tell` is given every row of the log, `note` words for the user. Raises `UsageError` where
    the folder holds a run already and `resume` is not wished, and `KeyboardInterrupt`, with a checkpoint
    kept, where the user stops the run."""
    with explained(out), stopping(note) as stop:
        out.mkdir(parents=True, exist_ok=True)
        if Log(out).exists and not resume:
            raise UsageError(f"{shortened(out)}: holds a run: go on with --resume, or take another folder")
        checkpoint.read(out, told)  # what is refused is refused before a model is loaded
        bound_caches()
        torch.set_num_threads(threads or available_cores())
        with ExitStack() as stack:
            with stop.freely():
                student = stack.enter_context(_student(recipe, threads))
                if elsewhere is not None:
                    student.engines = stack.enter_context(elsewhere(student.llm, student.engines))
            note(str(student.memory))
            with short_of_memory():
                _Run(recipe, told, out, student, tell, stop).through(source)


@contextmanager
def _student(recipe: Recipe, threads: int | None) -> Iterator[Student]:
    sequences = min(64, max(stage.sequences for stage in recipe.stages))
    room: dict[str, Any] = {"dtype": recipe.full.dtype} if recipe.full else {}
    if recipe.lora:
        compares = any(stage.compares for stage in recipe.stages)
        room = {"adapters": 2 if compares else 1, "adapter_rank": recipe.lora.rank}
    with LLM(recipe.model, context=recipe.context, max_sequences=sequences, threads=threads, **room) as llm:
        dtype = TYPES[recipe.full.dtype] if recipe.full else None
        with Student(llm, _trained(recipe, llm), rows=recipe.rows, dtype=dtype) as student:
            yield student


def _trained(recipe: Recipe, llm: LLM) -> Trained:
    graph = graph_of(llm.config)
    if recipe.full:
        with open_checkpoint(llm.files) as file:
            return FullWeights.begin(file, graph, recipe.full)
    assert recipe.lora is not None
    linears = linears_of(graph, recipe.lora.modules)
    if not linears:
        raise UsageError(f"lora.modules: {recipe.model} has none of {', '.join(recipe.lora.modules)}")
    adapter = TrainedAdapter.begin(linears, recipe.lora.rank, recipe.lora.alpha, recipe.seed)
    if recipe.lora.start is not None:
        adapter.start(Path(recipe.lora.start), llm.config)
    return adapter


class _Run:
    """What is done in turn, and told."""

    def __init__(
        self, recipe: Recipe, told: str, out: Path, student: Student, tell: Told, stop: Stopping
    ) -> None:
        self._recipe, self._told, self._out, self._student = recipe, told, out, student
        self._log, self._tell, self._stop = Log(out), tell, stop

    def through(self, source: tuple[str, str]) -> None:
        """Every stage that is not done yet."""
        recipe = self._recipe
        done = checkpoint.load(self._out, self._told, self._student.trained, None)
        self._student.publish()
        kept = self._log.keep(lambda row: _counts(row, done))
        answers.remove_later(self._out, *done)
        self._tests = {(row["stage"], row["step"], row["test"]) for row in kept if "test" in row}
        begun = self._begun(source)
        with closing(Board(self._out, kept)) as self._board:
            if done == (0, 0) or (done[0] < len(recipe.stages) and self._due(*done)):
                self._measure(*done)
            for place, stage in enumerate(recipe.stages):
                if place >= done[0]:
                    self._stage(place, stage, done[1] if place == done[0] else 0)
            made = self._export()
        write_about(self._out, replace(begun, ended=time()))
        write_card(self._out, made)
        write_report(self._out)

    def _begun(self, source: tuple[str, str]) -> About:
        """What it takes to have the run again, in its folder; and when it was begun or gone on with."""
        before = read_about(self._out)
        stages = tuple((stage.kind, stage.steps) for stage in self._recipe.stages)
        here = machine(self._student.llm) | {"gradients": str(self._student.dtype).removeprefix("torch.")}
        about = About(
            *source, self._recipe.model, self._recipe.seed, stages, versions(), here,
            starts=(*(before.starts if before else ()), time()), licence=licence(self._student.llm.files),
            sources=self._recipe.sources,
        )  # fmt: skip
        write_about(self._out, about)
        return about

    def _stage(self, place: int, stage: Stage, done: int) -> None:
        recipe, student = self._recipe, self._student
        optimizer = torch.optim.AdamW(student.trained.parameters, weight_decay=0.0, betas=(0.9, 0.99))
        if done:
            checkpoint.load(self._out, self._told, student.trained, optimizer)
        if stage.compares:
            self._hold(place, done)
        bench = Bench(student, optimizer, place, recipe.seed << 8 | place, done, self._out)
        for row in stage.train(bench):
            number = row["number"] + 1
            memory = round(resident_memory() / 1e9, 4)
            self._note({"stage": place, "kind": stage.kind, **row, "memory_gb": memory})
            due = self._due(place, number)
            if due or number % recipe.keep_every == 0 or self._stop.asked:
                checkpoint.save(self._out, (place, number), self._told, student.trained, optimizer)
            if due:
                self._measure(place, number)
            self._stop.check()
        optimizer.state.clear()
        checkpoint.save(self._out, (place + 1, 0), self._told, student.trained, optimizer)

    def _due(self, place: int, number: int) -> bool:
        """Whether the model is measured behind so many steps of a stage."""
        every = self._recipe.test_every
        return number == self._recipe.stages[place].steps or bool(every and number and number % every == 0)

    def _hold(self, place: int, done: int) -> None:
        """The model as it was before the stage is there beside the one that changes, also after a kill."""
        held = self._out / f"before-{place}"
        if not done:
            self._adapter(held)
        self._student.hold(held)

    def _export(self) -> Path:
        """What was trained, for others to load: `adapter`, or the whole `model`."""
        trained = self._student.trained
        if isinstance(trained, FullWeights):
            return export_model(self._out / "model", self._student.llm.files, trained)
        return self._adapter(self._out / "adapter")

    def _adapter(self, folder: Path) -> Path:
        trained, lora = self._student.trained, self._recipe.lora
        assert isinstance(trained, TrainedAdapter)
        assert lora is not None
        checkpoint.export(folder, trained, self._recipe.model, lora.alpha)
        return folder

    def _measure(self, place: int, number: int) -> None:
        """Means over problems that training never sees, with their standard errors. What an earlier run
        has measured here is not measured again."""
        for name, test in self._recipe.tests.items():
            if (place, number, name) in self._tests:
                continue
            with self._stop.freely():
                began = time()
                rollouts = _answered(self._student, test)
            answers.keep(self._out, place, number, [_measured(name, r) for r in rollouts if r.answers])
            row = {"stage": place, "step": number, "test": name, **_told(rollouts)}
            self._note({**row, "seconds": {"measure": time() - began}})

    def _note(self, row: Row) -> None:
        row = {"time": round(time(), 3), **row}
        self._log.add(row)
        self._board.add(row)
        self._tell(row)


def _answered(student: Student, test: Measure) -> list[Rollout]:
    problems = test.task.problems("test", 0, test.problems)
    greedy = SamplingParams(temperature=0, max_tokens=test.max_tokens, logprobs=0)
    return roll_out(student, problems, {"reward": (1.0, test.reward)}, greedy, 1)


def _measured(test: str, rollout: Rollout) -> Measured:
    (answer,), (reward,) = rollout.answers, rollout.rewards
    problem = rollout.problem
    return Measured(test, problem.key, problem.question, answer.text, reward, answer.completion_tokens)


def _told(rollouts: list[Rollout]) -> Row:
    values = [value for rollout in rollouts for value in rollout.rewards]
    shown = [rollout for rollout in rollouts if rollout.answers][:3]
    return {
        "accuracy": fmean(values),
        "error": stdev(values) / sqrt(len(values)) if len(values) > 1 else None,
        "problems": len(values),
        "excluded": [why for rollout in rollouts for why in rollout.excluded.values()],
        "samples": [
            {"question": r.problem.question, "answer": r.answers[0].text, "reward": r.rewards[0]}
            for r in shown
        ],
    }


def _counts(row: Row, done: Done) -> bool:
    """Whether a row is of what the checkpoint has; what came later is done again."""
    return (row["stage"], row["step"] if "test" in row else row["number"] + 1) <= done
