"""Attacks on a running service, each kind beside honest clients: what is answered, what the others notice.

    .venv/bin/python benchmarks/hold.py                  # ten minutes; --seconds N for less

starts `sampan serve` with the default model and three keys on a loopback address. Each kind of attack
(`hold_attacks.py`) has its share of the time: first the honest clients alone, then beside the attacker.
Meanwhile `/health` is asked all the time and the memory of all processes is watched. At the end the engine is
killed and stopped a few times. It prints a table and a JSON object, and ends with exit code 1 where something
did not hold.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hold_attacks import KINDS
from hold_faults import PROMISE_S, Kill, beside_grammars, guesses, kills, settled
from hold_watch import Watch
from serving_servers import Server, free_port, started

HERE = Path(__file__).parent
MODEL = "held"
KILLS = 6
HEALTH_S = 0.1
MEMORY_MIB = 300
WORSE = 0.2


def keys(folder: Path) -> dict[str, str]:
    """A key for the honest clients, one for the attacker, one that may change the model; in a file."""
    made = {}
    for name, options in {"honest": (), "attacker": (), "admin": ("--admin",)}.items():
        command = [sys.executable, "-m", "sampan", "keys", "create", name, "--file", str(folder / "keys")]
        done = subprocess.run([*command, "--json", *options], capture_output=True, text=True, check=True)
        made[name] = json.loads(done.stdout)["key"]
    return made


class Hold:
    """A service under attack. `share_s`: the time of each kind."""

    def __init__(self, server: Server, keys: dict[str, str], share_s: float, clients: int) -> None:
        self.server, self.keys, self.share_s = server, keys, share_s
        self.watch = Watch(server)
        words = [server.url, MODEL, keys["honest"], str(clients)]
        self.honest = subprocess.Popen(
            [sys.executable, str(HERE / "hold_honest.py"), *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.windows: list[tuple[str, float, float]] = []
        self.rows: dict[str, dict[str, Any]] = {}

    def run(self, kind: str) -> None:
        """The honest clients alone, then beside this kind of attack."""
        alone, beside = 0.4 * self.share_s, 0.6 * self.share_s
        start = time.time()
        time.sleep(alone)
        self.windows.append((f"before {kind}", start, time.time()))
        key = self.keys["admin" if kind == "changes" else "attacker"]
        command = [
            sys.executable,
            str(HERE / "hold_attacks.py"),
            kind,
            self.server.url,
            MODEL,
            key,
            str(beside),
        ]
        self.watch.begin()
        start = time.time()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as attacker:
            time.sleep(beside)
            self.windows.append((kind, start, time.time()))
            found, _ = attacker.communicate(timeout=200)
        self.rows[kind] = {**json.loads(found), **self.watch.end()}

    def end(self) -> dict[str, list[Any]]:
        """What the honest clients saw."""
        found, _ = self.honest.communicate("", timeout=60)
        self.watch.close()
        seen: dict[str, list[Any]] = json.loads(found)
        return seen


def compare(hold: Hold, seen: dict[str, list[Any]]) -> None:
    """Add to each row what the honest clients got beside it, as parts of what they get alone."""
    figures = {}
    for name, start, end in hold.windows:
        tokens = sum(start <= moment < end for moment in seen["tokens"]) / (end - start)
        firsts = [seconds for asked, seconds in seen["first"] if start <= asked < end]
        figures[name] = tokens, statistics.median(firsts or [float("nan")])
    for kind, row in hold.rows.items():
        (before, first_before), (beside, first_beside) = figures[f"before {kind}"], figures[kind]
        row |= {"tokens_before": round(before, 1), "tokens_beside": round(beside, 1)}
        row |= {"tokens": round(beside / before, 3), "first": round(first_beside / first_before, 3)}
        row["first_before_s"], row["first_beside_s"] = round(first_before, 4), round(first_beside, 4)


def table(rows: dict[str, dict[str, Any]], killed: list[Kill]) -> str:
    """As Markdown."""
    lines = [
        "| attack | tried | answered | worst /health, ms | MiB: service, engine, text | tokens | first |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, row in rows.items():
        answered = ", ".join(f"{n} x {what}" for what, n in sorted(row["answered"].items()))
        memory = ", ".join(f"+{row['memory_mib'][who]:.0f}" for who in ("service", "engine", "text"))
        lines.append(
            f"| {kind} | {row['tried']} | {answered} | {1000 * row['health_s']:.0f} | {memory} "
            f"| {row['tokens']:.2f} | {row['first']:.2f} |"
        )
    for kill in killed:
        lines.append(f"| {kill.how} | | answer after {kill.seconds:.2f} s | | | | |")
    return "\n".join(lines)


def faults(rows: dict[str, dict[str, Any]], killed: list[Kill], end: dict[str, Any]) -> list[str]:
    """What must never be, on however busy a machine."""
    found = [f"{kind}: {n} x {what}" for kind, row in rows.items() for what, n in row["faults"].items()]
    for kind, row in rows.items():
        if row["memory_mib"]["service"] > MEMORY_MIB:
            found.append(f"{kind}: the service's process took {row['memory_mib']['service']:.0f} MiB more")
    found += [f"{kill.how}: {kill.fault}" for kill in killed if kill.fault]
    return found + [f"at the end: {what}" for what in end["faults"]]


def slow(rows: dict[str, dict[str, Any]], killed: list[Kill]) -> list[str]:
    """What took longer than it should."""
    found = []
    for kind, row in rows.items():
        if row["health_s"] > HEALTH_S:
            found.append(f"{kind}: /health took {1000 * row['health_s']:.0f} ms")
        if row["tokens"] < 1 - WORSE or row["first"] > 1 + WORSE:
            found.append(
                f"{kind}: honest clients had {row['tokens']} of the tokens, {row['first']} x the wait"
            )
    return found + [f"{kill.how}: {kill.seconds} s" for kill in killed if kill.seconds > PROMISE_S]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="for all attacks together")
    parser.add_argument("--clients", type=int, default=8, help="honest clients")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--kills", type=int, default=KILLS)
    args = parser.parse_args()
    kinds, port = args.kinds.split(","), free_port()
    with tempfile.TemporaryDirectory(prefix="sampan-hold-") as name:
        folder = Path(name)
        made = keys(folder)
        options = ["--api-key-file", str(folder / "keys"), "--database", f"sqlite:///{folder}/ledger.db"]
        command = [sys.executable, "-m", "sampan", "serve", "--port", str(port), "--name", MODEL, *options]
        with started("Sampan", [*command, "--max-adapters", "1"], port, folder) as server:
            hold = Hold(server, made, args.seconds / len(kinds), args.clients)
            for kind in kinds:
                hold.run(kind)
            seen = hold.end()
            told = guesses(server, made)
            waited = beside_grammars(server, made)
            killed = kills(server, made["honest"], args.kills)
            end = settled(server)
    compare(hold, seen)
    print(table(hold.rows, killed), file=sys.stderr)
    free, slots = (int(n) for n in end["slots"])
    print(f"{free} of {slots} slots are free, {end['cache_used']:.0%} of the pages in use", file=sys.stderr)
    print(f"a small grammar of one key beside 30 large ones of another: {waited:.2f} s", file=sys.stderr)
    wrong = faults(hold.rows, killed, end)
    wrong += [f"{told} prompts of another key were told apart"] * bool(told)
    wrong += [f"{len(seen['lost'])} answers were lost: {seen['lost'][:3]}"] * bool(seen["lost"])
    late = slow(hold.rows, killed)
    kill_rows = [vars(kill) for kill in killed]
    found = {"attacks": hold.rows, "grammar_s": round(waited, 2), "kills": kill_rows, "end": end}
    print(json.dumps({**found, "faults": wrong, "slow": late}))
    for fault in (*wrong, *late):
        print(fault, file=sys.stderr)
    sys.exit(bool(wrong or late))


if __name__ == "__main__":
    main()
