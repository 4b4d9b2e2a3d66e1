"""Where a run's answers are computed: the engine of this process, or others that give the same bits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sampan.core.errors import SampanError
from sampan.core.types import Completion, SamplingParams
from sampan.llm.model import LLM
from sampan.train.trained import Trained


@dataclass(frozen=True)
class Sampled:
    """Answers to one prompt. `version`: of the numbers that gave every token of them."""

    answers: tuple[Completion, ...]
    version: int


class Engines(Protocol):
    """Wherever it is computed, an answer depends on the numbers, the prompt and the sampling alone."""

    def publish(self, trained: Trained, version: int) -> None:
        """Answer with these numbers, which the engine of this process has already, from now on."""

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sequence[SamplingParams], n: int
    ) -> Sequence[Sampled]:
        """`n` answers to each prompt (token ids), each with its own sampling; answer i takes its seed + i."""


class OwnEngine:
    """The engine of this process. `name`: of the adapter there; None where its weights are trained."""

    def __init__(self, llm: LLM, name: str | None) -> None:
        self._llm, self._name = llm, name

    def publish(self, trained: Trained, version: int) -> None:
        """Nothing is to be done."""

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sequence[SamplingParams], n: int
    ) -> list[Sampled]:
        """See `Engines`. Versions are the engine's own: of the adapter, or of the weights."""
        asked = [list(prompt) for prompt in prompts]
        found = self._llm.generate(asked, list(sampling), n=n, adapter=self._name)
        return [Sampled(tuple(answers), self._version(answers)) for answers in found]

    def _version(self, answers: Sequence[Completion]) -> int:
        trains_weights = self._name is None
        versions = {answer.weights_version if trains_weights else answer.adapter for answer in answers}
        if len(versions) != 1:
            raise SampanError(f"answers to one prompt come from several versions: {sorted(versions)}")
        return versions.pop()
