"""`sampan train grpo RECIPE`: teach a model on this machine."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from sampan.cli.options import Threads
from sampan.core.errors import UsageError, quoted


def command(
    action: Annotated[str, typer.Argument(help="grpo: reinforcement learning on checkable answers.")],
    recipe: Annotated[Path, typer.Argument(help="A Python file with a function recipe().")],
    out: Annotated[Path | None, typer.Option(help="The run's folder.  [default: runs/NAME-SEED]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the recipe's.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")] = None,
    threads: Threads = None,
) -> None:
    """Teach a model by a recipe. The folder has the log, a checkpoint, and the adapter in PEFT's format."""
    if action != "grpo":
        raise UsageError(f"train {quoted(action)}: there is grpo")
    try:
        from sampan.train.recipe import read_recipe
        from sampan.train.run import run
    except ImportError as error:
        said = "training needs PyTorch: install the extra `train` (pip install 'sampan[train]')"
        raise UsageError(said) from error
    found, told = read_recipe(recipe)
    grpo = replace(
        found.grpo, seed=found.grpo.seed if seed is None else seed, steps=steps or found.grpo.steps
    )
    found = replace(found, grpo=grpo)
    place = out or Path("runs") / f"{recipe.stem}-{found.grpo.seed}"
    run(found, f"{told} {found.grpo}", place, resume=resume, threads=threads, tell=_tell)
    typer.echo(f"the adapter is in {place / 'adapter'}")


def _tell(row: Mapping[str, Any]) -> None:
    """A line a step."""
    if "accuracy" in row:
        share, error = 100 * row["accuracy"], 100 * row["error"]
        typer.echo(
            f"step {row['step']:>4}  accuracy {share:.1f}% ± {error:.1f} of {row['problems']} new problems"
        )
        return
    seconds = sum(row["seconds"].values())
    typer.echo(
        f"step {row['number'] + 1:>4}  reward {row['reward']:.3f}  tokens {row['length']:.1f}  "
        f"gradient {row['gradient']:.3f}  {seconds:.1f} s",
        err=True,
    )
