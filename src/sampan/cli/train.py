"""`sampan train grpo RECIPE`: teach a model on this machine. `sampan train report RUN`: what came of it."""

import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sampan.cli.options import Threads
from sampan.cli.terminal import say
from sampan.cli.train_view import shown
from sampan.core.errors import SampanError, UsageError, quoted, shortened

if TYPE_CHECKING:
    from sampan.train.recipe import Recipe

_ACTIONS = ("sft", "distill", "grpo", "pipeline")

Rollouts = Annotated[
    str | None,
    typer.Option(help="Answers come from a Ray cluster: ray (this machine is in it) or ray://HOST:PORT."),
]
Workers = Annotated[int | None, typer.Option(min=1, help="Of the cluster.  [default: one for each node]")]


def command(
    action: Annotated[
        str,
        typer.Argument(
            help="sft, distill or grpo; pipeline: several of them in turn; report: a page of a run."
        ),
    ],
    recipe: Annotated[
        Path, typer.Argument(help="A Python file with a function recipe(); of report, a run's folder.")
    ],
    out: Annotated[Path | None, typer.Option(help="The run's folder.  [default: runs/NAME-SEED]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the recipe's.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of each stage, where that is fewer than the recipe's.")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="A line a step, also on a terminal.")] = False,
    threads: Threads = None,
    rollouts: Rollouts = None,
    rollout_workers: Workers = None,
) -> None:
    """Teach a model by a recipe. The folder has the log, a checkpoint, and at the end what was trained (an
    adapter in PEFT's format, or the model) and a report."""
    if action == "report":
        _report(recipe)
        return
    if action not in _ACTIONS:
        raise UsageError(f"train {quoted(action)}: one of {', '.join(_ACTIONS)}, report")
    try:
        from sampan.train.recipe import read_recipe
        from sampan.train.run import run
    except ImportError as error:
        said = "training needs PyTorch: install the extra `train` (pip install 'sampan[train]')"
        raise UsageError(said) from error
    elsewhere = _elsewhere(rollouts, rollout_workers)
    found, told = read_recipe(recipe)
    found = _as_asked(found, action, seed, steps)
    place = out or Path("runs") / f"{recipe.stem}-{found.seed}"
    what = f"{told} {found.seed} {[stage.steps for stage in found.stages]} {found.sources}"
    given = {"--seed": seed, "--steps": steps, "--rollouts": rollouts, "--rollout-workers": rollout_workers}
    again = ["sampan", "train", action, str(recipe), "--out", str(place), "--resume"]
    again += [word for name, value in given.items() if value is not None for word in (name, str(value))]
    try:
        with shown([(stage.kind, stage.steps) for stage in found.stages], plain=plain) as tell:
            source = recipe.stem, recipe.read_text()
            how: dict[str, Any] = {"resume": resume, "threads": threads, "elsewhere": elsewhere}
            run(found, what, place, source=source, tell=tell, note=say, **how)
    except KeyboardInterrupt:
        say(f"stopped; what is done is kept: {shlex.join(again)}")
        raise
    made = "adapter" if found.lora else "model"
    typer.echo(f"the {made} is in {place / made}, the report is {place / 'report.html'}")


def _as_asked(found: "Recipe", action: str, seed: int | None, steps: int | None) -> "Recipe":
    """The recipe with what the command line says instead."""
    kinds = {stage.kind for stage in found.stages} - {"samples"}
    if action != "pipeline" and kinds != {action}:
        raise UsageError(
            f"train {action}: the recipe's stages are {', '.join(sorted(kinds))}: train pipeline"
        )
    if seed is not None:
        found = replace(found, seed=seed)
    if steps is not None:
        stages = tuple(replace(stage, steps=min(steps, stage.steps)) for stage in found.stages)
        found = replace(found, stages=stages)
    return found


def _elsewhere(address: str | None, workers: int | None) -> Any:
    """Where answers are computed, unless that is here."""
    if address is None:
        if workers is not None:
            raise UsageError("--rollout-workers goes with --rollouts")
        return None
    try:
        from sampan.scale.cluster import rollouts
    except ImportError as error:
        said = "--rollouts needs Ray: install the extra `scale` (pip install 'sampan[scale]')"
        raise UsageError(said) from error
    return partial(rollouts, address=address, workers=workers, say=say)


def _report(folder: Path) -> None:
    from sampan.train.report.page import write_report

    try:
        typer.echo(write_report(folder))
    except OSError as error:
        raise SampanError(f"{shortened(folder)}: no report can be written: {error.strerror}") from error
