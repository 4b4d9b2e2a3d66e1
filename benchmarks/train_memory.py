"""What training takes beside the engine, as told and as measured: `python benchmarks/train_memory.py lora`.

One group of a prompt of 60 tokens and answers of 40 that fill `--rows`, two steps. Prints one JSON object of
bytes: `estimate` by part, `measured` (the process's peak over what it had with the engine loaded).
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch

from sampan.catalog.catalog import DEFAULT
from sampan.core.memory import give_back_freed_memory, resident_memory
from sampan.llm.load import graph_of
from sampan.llm.model import LLM
from sampan.train.batch import Group
from sampan.train.full import TYPES, Full, FullWeights
from sampan.train.lora import TrainedAdapter
from sampan.train.recipe import ALL_LINEAR
from sampan.train.student import Student, linears_of
from sampan.train.trained import Trained
from sampan.weights.checkpoint import open_checkpoint

PROMPT, ANSWER = 60, 40


def trained_of(kind: str, llm: LLM) -> Trained:
    """An adapter of rank 16 on all linears ("lora"), or all weights in a type."""
    graph = graph_of(llm.config)
    if kind == "lora":
        return TrainedAdapter.begin(linears_of(graph, ALL_LINEAR), 16, 32, 0)
    with open_checkpoint(llm.files) as checkpoint:
        return FullWeights.begin(checkpoint, graph, Full(dtype=kind))  # type: ignore[arg-type]


def steps(student: Student, count: int) -> None:
    """Forward, backward and update of the largest group."""
    optimizer = torch.optim.AdamW(student.trained.parameters, lr=1e-5)
    answers = (student.rows - PROMPT) // ANSWER
    continuations = tuple(tuple(range(1000 + i, 1000 + i + ANSWER)) for i in range(answers))
    group = Group(tuple(range(100, 100 + PROMPT)), continuations)
    for _ in range(count):
        student.logprobs([group]).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        student.publish()


def peak() -> int:
    """Bytes, since `clear_refs` was last written to."""
    status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
    return int(status.split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kind", choices=["lora", *TYPES])
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    room = {"adapters": 1, "adapter_rank": 16} if args.kind == "lora" else {"dtype": args.kind}
    with LLM(
        args.model, context=512, max_sequences=16, cache_tokens=1024, threads=args.threads, **room
    ) as llm:
        llm.generate("x")
        give_back_freed_memory()
        Path("/proc/self/clear_refs").write_text("5")
        before = resident_memory()
        dtype = torch.bfloat16 if args.kind == "lora" else TYPES[args.kind]
        with Student(llm, trained_of(args.kind, llm), rows=args.rows, dtype=dtype) as student:
            steps(student, 2)
            told = student.memory
    report = {"kind": args.kind, "estimate": told.total, "measured": peak() - before, "parts": asdict(told)}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
