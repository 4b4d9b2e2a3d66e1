"""The workers of a run: started, checked, and started again when they are lost."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from sampan.core.errors import SampanError, UsageError
from sampan.scale.same import Numerics
from sampan.scale.worker import Seen, Wish, Worker

Say = Callable[[str], None]
_LOSSES = 3  # of one worker in a row, behind which it is given up


@dataclass(eq=False)
class Member:
    """A worker. `loading`: the reference of its `Seen`, until that is there; `asked`: calls that are not
    answered; `losses`: since it last answered."""

    actor: Any
    loading: Any
    seen: Seen | None = None
    asked: int = 0
    losses: int = 0

    @property
    def name(self) -> str:
        """Where it is, once it is ready."""
        return "" if self.seen is None else f"{self.seen.host} (pid {self.seen.pid})"


class Crew:
    """`count` workers of one wish, each on `wish.threads` of the cluster's CPUs. `own`: what theirs must be
    like."""

    def __init__(self, wish: Wish, own: Numerics, count: int, say: Say) -> None:
        self._wish, self._own, self._say = wish, own, say
        self._actor: Any = ray.remote(Worker)
        self._starting = [self._started(0) for _ in range(count)]
        self.ready: list[Member] = []

    def gather(self, seconds: float) -> None:
        """Wait for all of them. Raises what is wrong with one, and `UsageError` where they do not come."""
        loading = [member.loading for member in self._starting]
        done, _ = ray.wait(loading, num_returns=len(loading), timeout=seconds)
        for member in list(self._starting):
            if member.loading in done:
                self._join(member, strict=True)
        if len(self.ready) < len(loading):
            raise UsageError(
                f"--rollouts: {len(loading) - len(self.ready)} of {len(loading)} workers did not start "
                f"within {seconds:.0f} s: `ray status` tells what the cluster lacks"
            )

    def refresh(self) -> None:
        """Take those in that have become ready."""
        for member in list(self._starting):
            if ray.wait([member.loading], timeout=0)[0]:
                self._join(member, strict=False)

    def lose(self, member: Member) -> None:
        """It does not answer any more: another is started in its place."""
        if member not in self.ready:
            return
        self.ready.remove(member)
        self._say(f"the rollout worker on {member.name} is lost: what it was asked is asked again")
        self._again(member)

    def close(self) -> None:
        """End them all."""
        for member in (*self.ready, *self._starting):
            _end(member)
        self.ready, self._starting = [], []

    def _started(self, losses: int) -> Member:
        options = {
            "num_cpus": self._wish.threads,
            "scheduling_strategy": "SPREAD",
            "max_concurrency": self._wish.max_sequences + 1,
        }
        actor = self._actor.options(**options).remote()
        return Member(actor, actor.load.remote(self._wish), losses=losses)

    def _again(self, member: Member) -> None:
        _end(member)
        if member.losses + 1 == _LOSSES:
            self._say(f"it is not started again: it was lost {_LOSSES} times before it answered")
        else:
            self._starting.append(self._started(member.losses + 1))

    def _join(self, member: Member, *, strict: bool) -> bool:
        """Whether a worker that has loaded can be used; what is wrong with it is raised, or told."""
        self._starting.remove(member)
        try:
            member.seen = ray.get(member.loading)
            unlike = self._own.unlike(member.seen.numerics)
            if unlike:
                raise UsageError(f"the rollout worker on {member.name} would give other bits: {unlike}")
        except RayTaskError as error:
            return self._refused(member, cause_of(error), strict)
        except UsageError as error:
            return self._refused(member, error, strict)
        except RayError as error:
            self._say(f"a rollout worker was lost while it loaded: {str(error).splitlines()[0]}")
            self._again(member)
            return False
        self.ready.append(member)
        return True

    def _refused(self, member: Member, why: SampanError, strict: bool) -> bool:
        _end(member)
        if strict:
            raise why
        self._say(f"{why}: it is not used")
        return False


def cpus_of_nodes() -> list[int]:
    """Of each node of the cluster that has any."""
    nodes: list[Any] = ray.nodes()  # type: ignore[no-untyped-call]
    return [cpus for node in nodes if node["Alive"] and (cpus := int(node["Resources"].get("CPU", 0)))]


def threads_of(workers: int) -> int:
    """The most CPUs of the cluster that each of so many workers can have. `UsageError` where there are too
    few."""
    free = cpus_of_nodes()
    for threads in range(max(free, default=0), 0, -1):
        if sum(cpus // threads for cpus in free) >= workers:
            return threads
    raise UsageError(
        f"--rollout-workers is {workers}, and the cluster's {len(free)} nodes have {sum(free)} CPUs: "
        "ask for fewer, or start more nodes (ray start --address=…)"
    )


def cause_of(error: RayTaskError) -> SampanError:
    """What went wrong in a worker, as it would have been raised here."""
    cause = error.cause
    return cause if isinstance(cause, SampanError) else SampanError(f"a rollout worker failed: {cause!r}")


def _end(member: Member) -> None:
    with suppress(RayError, ValueError):
        ray.kill(member.actor)
