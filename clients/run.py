"""Drives a service with clients that people have: chat, stream, tools, a second turn of their own history.

Each client is a script of its own, with the published package and nothing changed in it. `make clients`
installs them and runs this.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from gguf import GGUFReader
from rich.console import Console
from rich.table import Table

from sampan.catalog.catalog import DEFAULT, resolve
from sampan.core.settings import Settings

HERE = Path(__file__).parent
SDKS = ("openai", "anthropic", "litellm", "langchain", "pydantic_ai", "openai_agents")
# What agents send before the user's first word is longer than the default model's context.
AGENT_CONTEXT = 131_072
ADDRESS = re.compile(r"is served at (http://\S+)")


@dataclass
class Client:
    """`needs`: a program that must be there. `long`: whether its requests are as long as an agent's."""

    name: str
    command: list[str]
    needs: str
    long: bool = False


def clients(python: str, node: Path) -> Iterator[Client]:
    """Every client; `node`: the folder with `node_modules`."""
    for name in SDKS:
        yield Client(f"{name} (Python)", [python, str(HERE / "python" / f"{name}_sdk.py")], python)
    for name, script in (("litellm's proxy", "litellm_proxy"), ("inspect-ai", "inspect_ai_sdk")):
        yield Client(name, [python, str(HERE / "python" / f"{script}.py")], python)
    for name in ("openai", "anthropic", "ai_sdk"):
        yield Client(f"{name} (JavaScript)", ["node", str(node / f"{name}.mjs")], "node")
    for name in ("codex", "claude"):
        yield Client(name, [python, str(HERE / "python" / "agents_cli.py"), name], "node", long=True)
    yield Client("HttpClient (Java)", ["java", str(HERE / "java" / "Client.java")], "java")
    yield Client("curl", [python, str(HERE / "python" / "curl.py")], "curl")


@contextmanager
def service(model: str) -> Iterator[dict[str, str]]:
    """The environment that leads a client to a service of `model`, which runs inside the block."""
    command = [sys.executable, "-m", "sampan", "serve", model, "--name", "sampan-model", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        lines = iter(process.stderr or [])
        found = next((match for line in lines if (match := ADDRESS.search(line))), None)
        if found is None:
            raise RuntimeError("the service did not start")
        # Its log must be read, or the pipe fills and the service waits.
        Thread(target=lambda: list(lines), daemon=True).start()
        yield {"SAMPAN_URL": found[1], "SAMPAN_MODEL": "sampan-model", "SAMPAN_KEY": "none"}
    finally:
        process.terminate()
        process.wait(60)


def lengthened(folder: Path) -> str:
    """The default model, told that its context is as long as an agent needs and that a full stop ends an
    answer: so far out it finds no end by itself."""
    file = resolve(DEFAULT, Settings.from_env()).path
    copy = folder / file.name
    shutil.copyfile(file, copy)
    copy.chmod(0o600)
    fields = GGUFReader(copy, "r+").fields
    fields["llama.context_length"].parts[-1][0] = AGENT_CONTEXT
    fields["tokenizer.ggml.eos_token_id"].parts[-1][0] = fields["tokenizer.ggml.tokens"].contents().index(".")
    return str(copy)


def drive(client: Client, environment: dict[str, str]) -> dict[str, object]:
    """How each of a client's steps ended."""
    if shutil.which(client.needs) is None:
        return {"client": client.name, "skipped": f"no {client.needs} here"}
    done = subprocess.run(
        client.command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=900
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    version = next((line["version"] for line in lines if "version" in line), None)
    steps = {line["step"]: line["error"] for line in lines if "step" in line}
    if done.returncode or not steps:
        steps["start"] = (done.stderr or "no step was run").strip().splitlines()[-1]
    return {"client": client.name, "version": version, "steps": steps}


def table(found: list[dict[str, object]]) -> Table:
    """A row a client: its version, and each step with what went wrong."""
    rows = Table("client", "version", "steps")
    for row in found:
        steps = row.get("steps", {})
        told = [f"[red]{name}: {error}[/]" if error else f"[green]{name}[/]" for name, error in steps.items()]
        rows.add_row(row["client"], row.get("version") or "", "\n".join(told) or row.get("skipped"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", required=True, help="a Python with clients/requirements.txt installed")
    parser.add_argument(
        "--node", required=True, type=Path, help="a folder with clients/node and its packages"
    )
    parser.add_argument("--only", nargs="*", default=[], help="parts of clients' names")
    parser.add_argument("--json", type=Path, help="write what was found")
    options = parser.parse_args()
    options.node = options.node.resolve()
    chosen = [
        client
        for client in clients(options.python, options.node)
        if not options.only or any(part in client.name for part in options.only)
    ]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for long in (False, True):
            those = [client for client in chosen if client.long == long]
            if those:
                with service(lengthened(Path(folder)) if long else DEFAULT) as environment:
                    environment["SAMPAN_NODE"] = str(options.node)
                    found += [drive(client, environment) for client in those]
    Console(width=160).print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(any(any(row.get("steps", {}).values()) for row in found))


if __name__ == "__main__":
    main()
