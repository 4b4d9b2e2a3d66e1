"""The commands by name. A command's module is imported when the command is used.

To add one: put its name here and a function `command` into `sampan/cli/NAME.py`, its options as annotated
parameters and its help as the docstring.
"""

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

COMMANDS = (
    "run", "chat", "score", "embed", "bench", "doctor", "models", "quantize", "merge", "serve", "keys",
    "train", "eval",
)  # fmt: skip


class Commands(TyperGroup):
    """Looks commands up in `COMMANDS`."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """The names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """The command of this name; None when there is none."""
        if cmd_name not in COMMANDS:
            return None
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(cmd_name)(import_module(f"sampan.cli.{cmd_name}").command)
        return typer.main.get_command(alone)


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"sampan {version('sampan')}")
        raise typer.Exit


@app.callback()
def _global_options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    _debug: Annotated[
        bool, typer.Option("--debug", help="Show an error's traceback. Goes anywhere.")
    ] = False,
) -> None:
    """Run open-weight language models on the hardware you have."""
