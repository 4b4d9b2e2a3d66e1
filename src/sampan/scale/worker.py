"""An engine on another machine: what runs inside a Ray actor. Nothing here needs PyTorch."""

import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import ray

from sampan.core.errors import SampanError
from sampan.core.types import Completion, SamplingParams
from sampan.llm.model import LLM
from sampan.scale.same import Numerics
from sampan.scale.sent import SentAdapter

_NAME = "in training"


@dataclass(frozen=True)
class Wish:
    """How a worker loads the model. `cache`: the type of its numbers, which their bits depend on."""

    model: str
    context: int
    cache: str
    max_sequences: int
    rank: int
    threads: int


@dataclass(frozen=True)
class Seen:
    """What came of it. `host` and `pid`: where the worker is."""

    host: str
    pid: int
    numerics: Numerics


class Worker:
    """Calls may come from many threads at once."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._version = 0
        self._versions: dict[int, int] = {}

    def load(self, wish: Wish) -> Seen:
        """Raises `SampanError` with the machine's name."""
        import os

        host = socket.gethostname()
        try:
            llm = LLM(
                wish.model,
                adapters=1,
                adapter_rank=wish.rank,
                context=wish.context,
                cache=wish.cache,  # type: ignore[arg-type]
                max_sequences=wish.max_sequences,
                threads=wish.threads,
            )
        except SampanError as error:
            raise SampanError(f"the rollout worker on {host}: {error}") from None
        self._llm = llm
        return Seen(host, os.getpid(), Numerics.of(llm))

    def generate(
        self,
        version: int,
        numbers: Sequence[ray.ObjectRef[SentAdapter]],
        prompt: Sequence[int],
        sampling: SamplingParams,
        n: int,
    ) -> tuple[int, tuple[Completion, ...]]:
        """`n` answers, and the version of the numbers that gave them. `numbers`: one reference, which is
        fetched where this worker has not had the version yet."""
        with self._turn:
            if version < self._version:
                raise SampanError(f"version {version} was asked for after {self._version}")
            if version > self._version:
                self._versions[self._llm.put_adapter(_NAME, ray.get(numbers[0]))] = version
                self._version = version
        answers = self._llm.generate(list(prompt), sampling, n=n, adapter=_NAME)
        (gave,) = {self._versions[answer.adapter] for answer in answers}
        return gave, tuple(answers)
