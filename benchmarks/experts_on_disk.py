"""Experts on disk against experts in memory: `python benchmarks/experts_on_disk.py MODEL [--budget 0.25]`.

A text is decoded token by token, the text's own tokens going in (warm: the first half is not measured): with
all experts in memory, with the memory of a part of them, and so again with each mechanism of reading switched
off. All sides take turns in one process, and of each run of 25 tokens the fastest turn counts; steps' logits
are compared bit by bit. `--curve` gives the hit rates of 3, 6, 12, 24 and 48% of the experts instead, without
read-ahead: what a checkpoint's routing is fitted to (`random_experts.py --common`).
"""

import argparse
import hashlib
import json
import time
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

from sampan.catalog.catalog import resolve
from sampan.core.settings import EXPERT_READING, Settings
from sampan.kernels.backend import PAGE, CacheSize, Span
from sampan.kernels.cpu.backend import CpuBackend
from sampan.kernels.experts import ExpertReads, ExpertRoom
from sampan.llm.load import graph_of, text_of
from sampan.weights.checkpoint import open_checkpoint
from sampan.weights.files import state_of

_RUN = 25  # tokens
_CURVE = (0.03, 0.06, 0.12, 0.24, 0.48)


class Side:
    """A model with so much of its experts in memory, None for all of them and no store."""

    def __init__(
        self, name: str, model: str, part: float | None, without: frozenset[str], threads: int
    ) -> None:
        settings = replace(Settings.from_env(), tune=False)
        backend = CpuBackend(settings, threads)
        files = resolve(model, settings)
        self.name = name
        self.times: list[list[float]] = []  # of each turn, of each run of tokens
        self.digests: list[str] = []
        self.reads: ExpertReads | None = None
        with open_checkpoint(files) as checkpoint:
            self.tokenizer = text_of(files, checkpoint)[0]
            graph = graph_of(checkpoint.config)
            room = None
            if part is not None:
                every = backend.needs(graph, checkpoint, 8, None, ExpertRoom(2**60, "")).experts
                room = ExpertRoom(int(part * every), state_of(checkpoint.files), without)
            placed = backend.place(checkpoint, None, room)
            self.program = backend.compile(graph, placed, CacheSize(1024 // PAGE, "bf16"), 512)

    def decode(self, tokens: list[int], steps: int) -> None:
        """The last `steps` tokens of the text are measured; those before go the same way."""
        pages = array("i", range(1024 // PAGE))
        digest, times, before = hashlib.sha256(), [0.0] * len(tokens), None
        for place, token in enumerate(tokens):
            if place == len(tokens) - steps:
                before = self.program.expert_reads
            start = time.perf_counter()
            rows = self.program.run([Span([token], place, pages, 1)])
            times[place] = time.perf_counter() - start
            digest.update(rows.logits[0, :64].tobytes())
        first = len(tokens) - steps
        self.times.append([sum(times[at : at + _RUN]) for at in range(first, len(tokens), _RUN)])
        self.digests.append(digest.hexdigest())
        now = self.program.expert_reads
        if before is not None and now is not None:
            self.reads = now.since(before)

    @property
    def seconds(self) -> float:
        """Of all measured tokens."""
        return sum(map(min, zip(*self.times, strict=True)))


def _row(side: Side, steps: int, whole: float) -> dict[str, Any]:
    reads = side.reads
    row: dict[str, Any] = {"side": side.name, "tokens_per_s": steps / side.seconds}
    row["of_in_memory"] = whole / side.seconds
    if reads is not None:
        assert reads.bytes_per_token is not None
        row |= {
            "slots": reads.slots, "hit_rate": reads.hit_rate, "mb_per_token": reads.bytes_per_token / 1e6,
            "waited_ms_per_token": 1e3 * reads.waited_s / reads.tokens,
            "reads_ahead": reads.read_ahead, "reads_ahead_used": reads.read_ahead_used, "reads": reads.reads,
        }  # fmt: skip
    return row


def _curve(model: str, tokens: list[int], steps: int, threads: int) -> None:
    for part in _CURVE:
        try:
            side = Side(f"{part:.0%}", model, part, frozenset({"read-ahead"}), threads)
        except Exception as error:
            print(f"{part:.0%}: {error}")
            continue
        side.decode(tokens, steps)
        assert side.reads is not None
        print(f"{part:.0%}: {side.reads.slots} slots, hit rate {side.reads.hit_rate:.1%}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--text", type=Path, default=Path(__file__).parents[1] / "LICENSE")
    parser.add_argument("--budget", type=float, default=0.25)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=800)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--curve", action="store_true")
    o = parser.parse_args()
    memory = Side("in memory", o.model, None, frozenset(), o.threads)
    tokens = memory.tokenizer.encode(o.text.read_text())[: o.tokens]
    steps = len(tokens) // 2
    if o.curve:
        _curve(o.model, tokens, steps, o.threads)
        return
    sides = [memory, Side("on disk", o.model, o.budget, frozenset(), o.threads)]
    for word in sorted(EXPERT_READING):
        sides.append(Side(f"without {word}", o.model, o.budget, frozenset({word}), o.threads))
    for _ in range(o.turns):
        for side in sides:
            side.decode(tokens, steps)
    assert len({digest for side in sides for digest in side.digests}) == 1, "bits differ"
    for side in sides:
        print(json.dumps(_row(side, steps, memory.seconds)), flush=True)


if __name__ == "__main__":
    main()
