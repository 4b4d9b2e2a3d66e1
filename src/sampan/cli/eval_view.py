"""What `sampan eval` shows: progress, results and comparisons."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sampan.cli.terminal import is_terminal, printable, say

if TYPE_CHECKING:
    from sampan.evals.compare import Compared
    from sampan.evals.results import Result
    from sampan.evals.run import Plan
    from sampan.evals.sample import Sample

_EVERY = 50  # answers, where stderr is no terminal


@contextmanager
def progress(plan: "Plan", done: Sequence["Sample"]) -> Iterator[Callable[["Sample"], None]]:
    """A bar with the score so far and the time left; without a terminal a line now and then."""
    scores: dict[int, list[float]] = {}
    errors: set[str] = set()
    answered = len(done)
    for sample in done:
        if sample.score is not None:
            scores.setdefault(sample.task, []).append(sample.score)

    def told(sample: "Sample") -> str:
        own = scores.setdefault(sample.task, [])
        if sample.score is not None:
            own.append(sample.score)
        if sample.error is not None and sample.error not in errors:
            errors.add(sample.error)
            say(f"a check broke, and its answer counts apart: {printable(sample.error)}")
        mean = f"{sum(own) / len(own):.1%}" if own else "-"
        return f"{plan.tasks[sample.task].name}: {mean} of {len(own)}"

    if not is_terminal(sys.stderr):

        def line(sample: "Sample") -> None:
            nonlocal answered
            answered += 1
            text = told(sample)
            if answered % _EVERY == 0 or answered == plan.size:
                say(f"{answered}/{plan.size} answers, {text}")

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True, redirect_stdout=False,
        redirect_stderr=False,
    ) as bar:  # fmt: skip
        task = bar.add_task("asking", total=plan.size, completed=answered)
        yield lambda sample: bar.update(task, advance=1, description=told(sample))


def table(found: Sequence["Result"], prices: tuple[float, float] | None) -> str:
    """A line a score, with its 95% interval."""
    width = max([len("task"), *(len(_name(each)) for each in found)])
    head = f"{'task':<{width}}  {'problems':>8}  {'score':>7}  {'95% from':>8}  {'to':>6}  {'error':>6}"
    lines = [head + f"  {'tokens':>9}  {'seconds':>8}" + ("" if prices is None else f"  {'USD':>8}")]
    for each in found:
        own = each.estimate
        line = f"{_name(each):<{width}}  {each.n:>8}  {own.value:>7.1%}  {own.low:>8.1%}  {own.high:>6.1%}"
        line += f"  {own.stderr:>6.1%}  {each.tokens:>9}  {each.seconds:>8.1f}"
        lines.append(line + ("" if prices is None else f"  {each.cost(*prices):>8.4f}"))
    for each in {result.task: result for result in found}.values():
        if each.excluded:
            lines.append(f"{each.task}: {each.excluded} answers could not be checked, and count nowhere")
        if each.cut:
            lines.append(f"{each.task}: {each.cut} of {each.answers} answers were cut at their longest")
        if each.kept:
            lines.append(f"{each.task}: {each.kept} of {each.answers} answers were computed before")
    return printable("\n".join(lines))


def comparison(found: Sequence["Compared"]) -> str:
    """What the second run has more, with its 95% interval."""
    names = [each.task if each.metric == "accuracy" else f"{each.task} ({each.metric})" for each in found]
    width = max([len("task"), *map(len, names)])
    lines = [
        f"{'task':<{width}}  {'problems':>8}  {'first':>6}  {'second':>6}  {'differ':>7}  {'95% from':>8}  "
        f"{'to':>6}  {'p':>7}  {'could show':>10}  {'gained':>6}  {'lost':>5}"
    ]
    for name, each in zip(names, found, strict=True):
        own = each.difference
        gained, lost = map(len, own.changed)
        lines.append(
            f"{name:<{width}}  {own.n:>8}  {each.a:>6.1%}  {each.b:>6.1%}  {own.value:>+7.1%}  "
            f"{own.low:>+8.1%}  {own.high:>+6.1%}  {own.p:>7.2g}  "
            f"{own.detectable:>10.1%}  {gained:>6}  {lost:>5}"
        )
        if each.left_out:
            lines.append(
                f"{name}: {each.left_out} problems are left out, whose check broke in one of the runs"
            )
    return printable("\n".join(lines))


def tasks_table(*, as_json: bool) -> str:
    """The names that --tasks takes."""
    from sampan.evals.named import LISTED

    if as_json:
        return "\n".join(json.dumps({"task": name, "about": about}) for name, about in LISTED.items())
    width = max(map(len, LISTED))
    return "\n".join(f"{name:<{width}}  {about}" for name, about in LISTED.items())


def _name(each: "Result") -> str:
    return each.task if each.metric == "accuracy" else f"{each.task} ({each.metric})"
