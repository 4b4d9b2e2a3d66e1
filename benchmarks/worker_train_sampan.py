"""Steps of GRPO by Sampan: `worker_train_sampan.py GGUF THREADS`."""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from protocol import Handlers, Values, peak_memory, serve
from sampan import LLM
from sampan.envs.task import Problem
from sampan.llm.load import graph_of
from sampan.train.grpo import Grpo
from sampan.train.lora import TrainedAdapter
from sampan.train.stage import Bench
from sampan.train.student import Student, linears_of
from train_questions import MODULES, PROMPTS, RANK, SAMPLES, TOKENS, questions, worth


class Timer:
    """Seconds spent in some functions."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def of(self, name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **how: Any) -> Any:
            start = time.perf_counter()
            try:
                return act(*args, **how)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

        return timed

    def taken(self) -> dict[str, float]:
        found, self.seconds = self.seconds, {}
        return found


class Questions:
    """See `Task`."""

    name = "questions"

    def problems(self, _split: str, _seed: int, count: int) -> Sequence[Problem]:
        return [Problem(text, "") for text in questions(count)]

    def check(self, _problem: Problem, answer: str) -> float:
        return worth(answer)


class Worker:
    """The stage itself, a step at a time."""

    def __init__(self, path: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.path, self.threads = path, threads

    def steps(self, count: int) -> Values:
        """Seconds of each step after the first, by part, and what they were about."""
        answers = PROMPTS * SAMPLES
        sizes = {"adapters": 1, "adapter_rank": RANK, "context": 512, "max_sequences": answers}
        with LLM(self.path, threads=self.threads, **sizes) as llm:
            adapter = TrainedAdapter.begin(linears_of(graph_of(llm.config), MODULES), RANK, 2.0 * RANK, 0)
            with Student(llm, adapter) as student:
                return self._measured(student, count)

    def _measured(self, student: Student, count: int) -> Values:
        timer = Timer()
        student.judged = timer.of("forward", student.judged)  # type: ignore[method-assign]
        reward = timer.of("verification", lambda _problem, answer: worth(answer.text))
        stage = Grpo(
            task=Questions(), rewards={"worth": (1.0, reward)}, steps=count + 1, problems=PROMPTS,
            samples=SAMPLES, max_tokens=TOKENS, rate=1e-5,
        )  # fmt: skip
        optimizer = torch.optim.AdamW(student.trained.parameters, weight_decay=0.0)
        steps = []
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            for row in stage.train(Bench(student, optimizer, 0, 0, 0, Path(folder))):
                whole, start = time.perf_counter() - start, time.perf_counter()
                inner = timer.taken()
                parts = {
                    "rollouts": row["seconds"]["rollout"] - inner["verification"],
                    "verification": inner["verification"],
                    "forward": inner["forward"],
                    "backward": row["seconds"]["gradients"] - inner["forward"],
                    "update": row["seconds"]["update"],
                }
                steps.append({"seconds": whole, "parts": parts, "length": row["length"], "gap": row["gap"]})
        return {"steps": steps[1:], "gap": max(step["gap"] for step in steps), "peak": peak_memory()}


def load() -> tuple[Values, Handlers]:
    worker = Worker(sys.argv[1], int(sys.argv[2]))
    return {"version": torch.__version__}, {"steps": worker.steps}


if __name__ == "__main__":
    serve(load)
