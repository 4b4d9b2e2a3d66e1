"""Where a run's answers are computed: the engine of this process, or others that give the same bits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sampan.core.errors import SampanError
from sampan.core.types import Completion, SamplingParams
from sampan.kernels.backend import Adapter
from sampan.llm.model import LLM


@dataclass(frozen=True)
class Sampled:
    """Answers to one prompt. `version`: of the adapter that gave every token of them."""

    answers: tuple[Completion, ...]
    version: int


class Engines(Protocol):
    """Wherever it is computed, an answer depends on the numbers, the prompt and the sampling alone."""

    def publish(self, adapter: Adapter, version: int) -> None:
        """Answer with these numbers from now on; `version` is higher than any before."""

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sequence[SamplingParams], n: int
    ) -> Sequence[Sampled]:
        """`n` answers to each prompt (token ids), each with its own sampling; answer i takes its seed + i."""


class OwnEngine:
    """The engine of this process. `name`: of the adapter there."""

    def __init__(self, llm: LLM, name: str) -> None:
        self._llm, self._name = llm, name
        self._versions: dict[int, int] = {}

    def publish(self, adapter: Adapter, version: int) -> None:
        """See `Engines`; nobody is answered with older numbers when it returns."""
        self._versions[self._llm.put_adapter(self._name, adapter)] = version

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sequence[SamplingParams], n: int
    ) -> list[Sampled]:
        """See `Engines`."""
        asked = [list(prompt) for prompt in prompts]
        found = self._llm.generate(asked, list(sampling), n=n, adapter=self._name)
        return [self._sampled(answers) for answers in found]

    def _sampled(self, answers: Sequence[Completion]) -> Sampled:
        versions = {self._versions.get(answer.adapter, 0) for answer in answers}
        if len(versions) != 1:
            raise SampanError(f"answers to one prompt come from several versions: {sorted(versions)}")
        return Sampled(tuple(answers), versions.pop())
