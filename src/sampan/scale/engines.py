"""Answers from engines on other machines, to the bits that the engine here would give."""

from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from sampan.core.types import SamplingParams
from sampan.scale.crew import Crew, Member, Say, cause_of
from sampan.scale.sent import SentAdapter
from sampan.train.engines import Engines, Sampled
from sampan.train.trained import Trained

_LOOK = 0.5  # seconds between looks at workers that are being started


class RayEngines:
    """See `Engines`. `sequences`: how many a worker runs side by side. Where none is left, `own` answers.

    `answered`: prompts by who answered them, a worker's name or "here"."""

    def __init__(self, crew: Crew, own: Engines, sequences: int, say: Say) -> None:
        self._crew, self._own, self._sequences, self._say = crew, own, sequences, say
        self._numbers: Any = None
        self._version = 0
        self.answered: Counter[str] = Counter()

    @property
    def asked(self) -> dict[str, int]:
        """Prompts that each worker has not answered yet, by its name."""
        return {member.name: member.asked for member in list(self._crew.ready)}

    @property
    def ready(self) -> int:
        """Workers that can be asked now."""
        self._crew.refresh()
        return len(self._crew.ready)

    def publish(self, trained: Trained, version: int) -> None:
        """The numbers are put into the cluster once; each worker fetches them with its first problem."""
        self._numbers = ray.put(SentAdapter.of(trained.low_ranks.values()))
        self._version = version

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sequence[SamplingParams], n: int
    ) -> list[Sampled]:
        """What a lost worker had is asked again of the others."""
        found: dict[int, Sampled] = {}
        waiting = deque(range(len(prompts)))
        asked: dict[Any, tuple[Member, int]] = {}
        while len(found) < len(prompts):
            self._crew.refresh()
            while waiting and (member := self._free(n)):
                place = waiting.popleft()
                call = member.actor.generate.remote(
                    self._version, [self._numbers], prompts[place], sampling[place], n
                )
                member.asked += 1
                asked[call] = member, place
            if not asked:
                found |= self._here(waiting, prompts, sampling, n)
                break
            for call in ray.wait(list(asked), timeout=_LOOK)[0]:
                member, place = asked.pop(call)
                sampled = self._taken(call, member)
                if sampled is None:
                    waiting.append(place)
                else:
                    found[place] = sampled
        return [found[place] for place in range(len(prompts))]

    def _free(self, n: int) -> Member | None:
        """Who has least to do, of those with room for `n` answers more."""
        most = max(1, self._sequences // n)
        free = [member for member in self._crew.ready if member.asked < most]
        return min(free, key=lambda member: member.asked, default=None)

    def _taken(self, call: Any, member: Member) -> Sampled | None:
        """None where it must be asked again: the worker is lost."""
        member.asked -= 1
        try:
            version, answers = ray.get(call)
        except RayTaskError as error:
            raise cause_of(error) from None
        except RayError:
            self._crew.lose(member)
            return None
        member.losses = 0
        self.answered[member.name] += 1
        return Sampled(answers, version)

    def _here(
        self,
        places: Sequence[int],
        prompts: Sequence[Sequence[int]],
        sampling: Sequence[SamplingParams],
        n: int,
    ) -> dict[int, Sampled]:
        self._say(f"no rollout worker is left: {len(places)} problems are answered here")
        answers = self._own.generate(
            [prompts[place] for place in places], [sampling[place] for place in places], n
        )
        self.answered["here"] += len(places)
        return dict(zip(places, answers, strict=True))
