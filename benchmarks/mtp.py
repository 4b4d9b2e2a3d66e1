"""What drafts are worth: one sequence and a few, plain against the checkpoint's layer and a small model.

    SAMPAN_TUNE=0 python benchmarks/mtp.py FOLDER [--steps 400] [--tokens 128] [--only "mtp,model"]

The models are trained into FOLDER first where they are not there (`mtp_train.py` says what they are). Each
way takes turns with plain decoding, prompt by prompt, and the ratio is the median of these pairs. Every
answer must have the tokens and the log-probabilities of plain decoding, or the benchmark ends with an error.
Prompts are pieces of the text that the models were trained on, and of modules that they have never seen. A
line is one JSON object; `held`: by depth, the part of the drafted tokens that held; `rows`: tokens that a
step gives.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from sampan import LLM, SamplingParams
from sampan.core.types import Completion

WAYS: dict[str, dict[str, Any]] = {
    "lookup": {"draft": "lookup"},
    "mtp 1": {"draft": "mtp", "draft_tokens": 1},
    "mtp 2": {"draft": "mtp", "draft_tokens": 2},
    "mtp": {"draft": "mtp"},
    "mtp 4": {"draft": "mtp", "draft_tokens": 4},
    "mtp p=0": {"draft": "mtp", "draft_confidence": 0.0},
    "mtp p=0.3": {"draft": "mtp", "draft_confidence": 0.3},
    "mtp p=0.7": {"draft": "mtp", "draft_confidence": 0.7},
    "auto": {"draft": "auto"},
    "model": {"draft_model": "small"},
}
GREEDY = SamplingParams(temperature=0, ignore_eos=True, logprobs=0)
SEEDED = SamplingParams(temperature=0.6, top_p=0.95, seed=1, ignore_eos=True, logprobs=0)
PROMPT, PROMPTS, BATCH = 64, 8, 4
SIZES = {"context": 1024, "cache_tokens": 4096, "max_sequences": BATCH, "prefix_cache": False}


def prompts_of(llm: LLM, text: str) -> list[list[int]]:
    """Pieces of a text, far apart."""
    ids = llm.encode(text)
    gap = (len(ids) - PROMPT) // PROMPTS
    return [ids[place * gap : place * gap + PROMPT] for place in range(PROMPTS)]


def answered(
    llm: LLM, prompts: list[list[int]], sampling: SamplingParams
) -> tuple[float, int, list[Completion]]:
    """Seconds and steps, short prompts included, and the answers."""
    started, steps = time.perf_counter(), llm.engine.steps
    found = llm.generate(prompts, sampling)
    return time.perf_counter() - started, llm.engine.steps - steps, found


def compare(plain: LLM, llm: LLM, groups: list[list[list[int]]], sampling: SamplingParams) -> dict[str, Any]:
    """A row of figures over groups of prompts, each answered together."""
    ratios: list[float] = []
    speeds: dict[str, list[float]] = {"plain": [], "speed": []}
    steps = 0
    llm.engine.counters.depths.clear()
    for place, group in enumerate(groups):
        found = {}
        for name, one in sorted((("plain", plain), ("speed", llm)), reverse=place % 2 == 1):
            seconds, took, answers = answered(one, group, sampling)
            tokens = sum(len(answer.tokens) for answer in answers)
            found[name] = seconds, answers
            speeds[name].append(tokens / seconds)
            steps += took if name == "speed" else 0
        ratios.append(found["plain"][0] / found["speed"][0])
        for one, other in zip(found["plain"][1], found["speed"][1], strict=True):
            if (one.tokens, one.logprobs) != (other.tokens, other.logprobs):
                sys.exit("an answer is not that of plain decoding")
    drafts = {name: [[a, b] for a, b in depths] for name, depths in llm.drafts.items()}
    each = len(groups[0])
    return {
        "batch": each, "plain_tps": round(median(speeds["plain"]), 1),
        "tps": round(median(speeds["speed"]), 1),
        "ratio": round(median(ratios), 3), "low": round(min(ratios), 2), "high": round(max(ratios), 2),
        "rows": round(sum(len(group) for group in groups) / each * _tokens(sampling) / steps, 2),
        "held": {name: [round(b / a, 2) for a, b in rows] for name, rows in drafts.items()}, "drafts": drafts,
    }  # fmt: skip


def _tokens(sampling: SamplingParams) -> int:
    return sampling.max_tokens or 0


def rows(
    plain: LLM, main: Path, small: Path, args: argparse.Namespace, texts: dict[str, str]
) -> Iterator[Any]:
    """Every way on every kind of prompt."""
    chosen = args.only.split(",") if args.only else list(WAYS)
    for name in chosen:
        options = dict(WAYS[name])
        if "draft_model" in options:
            options["draft_model"] = small
        with LLM(main, threads=args.threads, **SIZES, **options) as llm:
            for kind, text in texts.items():
                prompts = prompts_of(llm, text)
                compare(plain, llm, [prompts[:1]], SamplingParams(max_tokens=8, temperature=0))  # warms up
                for how, sampling in (("greedy", GREEDY), ("seeded", SEEDED)):
                    asked = SamplingParams(**{**vars(sampling), "max_tokens": args.tokens})
                    for groups in ([[one] for one in prompts], [prompts[:BATCH], prompts[BATCH:]]):
                        row = compare(plain, llm, groups, asked)
                        yield {"way": name, "text": kind, "sampling": how, **row}


def main() -> None:
    """Train if need be, then measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    from mtp_train import MODULES, UNSEEN, text_of, train

    folder, small = train(args.folder, args.steps, lambda text: print(text, file=sys.stderr, flush=True))
    texts = {"learnt": text_of(MODULES), "unseen": text_of(UNSEEN)}
    with LLM(folder, threads=args.threads, speculation=False, **SIZES) as plain:
        print(json.dumps({"weights": plain.plan.weights_bytes, "tuning": vars(plain.tuning)}))
        for row in rows(plain, folder, small, args, texts):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
