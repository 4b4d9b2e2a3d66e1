"""`sampan train grpo RECIPE`: teach a model on this machine."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from sampan.cli.options import Threads
from sampan.core.errors import UsageError, quoted

_ACTIONS = ("sft", "distill", "grpo", "pipeline")


def command(
    action: Annotated[str, typer.Argument(help="sft, distill or grpo; pipeline: several of them in turn.")],
    recipe: Annotated[Path, typer.Argument(help="A Python file with a function recipe().")],
    out: Annotated[Path | None, typer.Option(help="The run's folder.  [default: runs/NAME-SEED]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the recipe's.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of each stage, where that is fewer than the recipe's.")
    ] = None,
    threads: Threads = None,
    rollouts: Annotated[
        str | None,
        typer.Option(help="Answers come from a Ray cluster: ray (this machine is in it) or ray://HOST:PORT."),
    ] = None,
    rollout_workers: Annotated[
        int | None, typer.Option(min=1, help="Of the cluster.  [default: one for each node]")
    ] = None,
) -> None:
    """Teach a model by a recipe. The folder has the log, a checkpoint, and the adapter in PEFT's format."""
    if action not in _ACTIONS:
        raise UsageError(f"train {quoted(action)}: one of {', '.join(_ACTIONS)}")
    try:
        from sampan.train.recipe import read_recipe
        from sampan.train.run import run
    except ImportError as error:
        said = "training needs PyTorch: install the extra `train` (pip install 'sampan[train]')"
        raise UsageError(said) from error
    elsewhere = _elsewhere(rollouts, rollout_workers)
    found, told = read_recipe(recipe)
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
    place = out or Path("runs") / f"{recipe.stem}-{found.seed}"
    what = f"{told} {found.seed} {[stage.steps for stage in found.stages]}"
    run(found, what, place, resume=resume, threads=threads, tell=_tell, elsewhere=elsewhere)
    typer.echo(f"the adapter is in {place / 'adapter'}")


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
    return partial(rollouts, address=address, workers=workers, say=partial(typer.echo, err=True))


def _tell(row: Mapping[str, Any]) -> None:
    """A line a step."""
    if "test" in row:
        share, error = 100 * row["accuracy"], 100 * (row["error"] or 0)
        typer.echo(
            f"stage {row['stage']} step {row['step']:>4}  {row['test']} {share:.1f}% ± {error:.1f} of "
            f"{row['problems']} new problems"
        )
        return
    shown = [f"{name} {row[name]:.3f}" for name in ("loss", "kl", "reward", "gradient") if name in row]
    shown += [f"{name} {row[name]}" for name in ("kept", "tokens") if name in row]
    if "length" in row:
        shown.append(f"length {row['length']:.1f}")
    seconds = sum(row["seconds"].values())
    where = f"stage {row['stage']} {row['kind']} step {row['number'] + 1:>4}"
    typer.echo(f"{where}  {'  '.join(shown)}  {seconds:.1f} s", err=True)
