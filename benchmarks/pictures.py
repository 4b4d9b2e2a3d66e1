"""Draws the README's picture: real commands, run now, as a terminal would show them.

python benchmarks/pictures.py
"""

import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COMMANDS = ('run "What is the capital of France?" --temperature 0', "models show smollm2-135m", "doctor")
OUT = Path(__file__).parent.parent / "docs" / "images" / "session.svg"


def main() -> None:
    console = Console(record=True, width=100, force_terminal=True, file=io.StringIO())
    for command in COMMANDS:
        console.print(Text(f"$ sampan {command}", style="bold"))
        argv = [sys.executable, "-m", "sampan", *shlex.split(command)]
        result = subprocess.run(argv, capture_output=True, text=True, check=True)
        shown = result.stdout.rstrip().replace(str(Path.home()), "~")
        console.print(Text.from_ansi(shown + "\n"))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    picture = console.export_svg(title="sampan")
    # rich links a font on a server; the reader's own monospace will do.
    OUT.write_text(re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL))


if __name__ == "__main__":
    main()
