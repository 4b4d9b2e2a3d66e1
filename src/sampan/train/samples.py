"""Answers as examples: of the model itself, of which the best are kept (rejection sampling), or of another
model that is learnt from (distillation, arXiv:1606.07947)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sampan.core.types import SamplingParams
from sampan.envs.rewards import Reward
from sampan.envs.task import Task, told_of
from sampan.llm.model import LLM
from sampan.train.data import Example, cut, write_examples
from sampan.train.rollout import Answerer, Rollout, Sampler, roll_out, told
from sampan.train.stage import Bench, Clock, Problems, Row, Stage, at_least


@dataclass(frozen=True, kw_only=True)
class Samples(Stage):
    """Asks `problems` a step, `samples` times each, and keeps of each problem at most `keep` different
    answers whose weighted rewards come to `least` or more, the best first. `model`, `adapter`: who answers,
    instead of the model that is trained. The next stage learns from them."""

    kind: ClassVar[str] = "samples"
    task: Task
    rewards: Mapping[str, tuple[float, Reward]]
    least: float
    problems: int = 32
    samples: int = 4
    keep: int = 1
    max_tokens: int = 64
    temperature: float = 1.0
    different: int | None = None
    model: str | None = None
    adapter: Path | None = None

    def __post_init__(self) -> None:
        """See `Stage`."""
        super().__post_init__()
        at_least(self, 1, "problems", "samples", "keep", "max_tokens")

    @property
    def sequences(self) -> int:
        """See `Stage`."""
        return self.problems * self.samples

    @property
    def sources(self) -> tuple[str, ...]:
        """See `Stage`."""
        return (told_of(self.task),)

    def train(self, bench: Bench) -> Iterator[Row]:
        """See `Stage`."""
        path = kept_of(bench.folder, bench.place)
        source = Problems(self.task, bench.seed, self.problems, self.different or self.steps * self.problems)
        cut(path, number=bench.done)
        with self._who(bench) as model:
            for number in range(bench.done, self.steps):
                clock = Clock()
                first = (bench.seed << 40) + number * self.sequences
                sampling = SamplingParams(
                    temperature=self.temperature, max_tokens=self.max_tokens, seed=first, logprobs=0
                )
                rollouts = roll_out(model, source.of(number), self.rewards, sampling, self.samples)
                examples = [example for rollout in rollouts for example in self._kept(rollout)]
                write_examples(path, examples, step=number)
                clock.lap("rollout")
                yield {"number": number, "kept": len(examples), **told(rollouts), "seconds": clock.seconds}

    def _kept(self, rollout: Rollout) -> list[Example]:
        ranked = sorted(
            zip(rollout.rewards, rollout.answers, strict=True), key=lambda pair: pair[0], reverse=True
        )
        texts = {
            answer.text: None
            for reward, answer in ranked
            if reward >= self.least and answer.finish_reason == "stop"
        }
        asked = {"role": "user", "content": rollout.problem.question}
        return [Example((asked,), text) for text in list(texts)[: self.keep]]

    @contextmanager
    def _who(self, bench: Bench) -> Iterator[Sampler]:
        if self.model is None and self.adapter is None:
            yield bench.student
            return
        student = bench.student.llm
        count = 0 if self.adapter is None else 1
        with LLM(
            self.model or student.files, adapters=count, context=student.context, max_sequences=self.sequences
        ) as llm:
            if self.adapter is not None:
                llm.load_adapter(Answerer.name, self.adapter)
            yield Answerer(llm, None if self.adapter is None else Answerer.name)


def kept_of(folder: Path, place: int) -> Path:
    """Where the stage of this place keeps its examples."""
    return folder / f"samples-{place}.jsonl"
