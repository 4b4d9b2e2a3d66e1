"""`--rollouts`: a run's way to a Ray cluster."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import RayError

from sampan.core.errors import UsageError, quoted, shortened
from sampan.core.types import ModelFiles
from sampan.llm.model import LLM
from sampan.scale.crew import Crew, Say, cpus_of_nodes, threads_of
from sampan.scale.engines import RayEngines
from sampan.scale.same import Numerics
from sampan.scale.worker import Wish
from sampan.train.engines import Engines

_START = 600.0  # seconds, in which a worker may have to fetch the model


@contextmanager
def rollouts(llm: LLM, own: Engines, *, address: str, workers: int | None, say: Say) -> Iterator[RayEngines]:
    """Workers that load what `llm` has loaded and answer as `own` does, which is the engine here.

    `address`: "ray" for the cluster that this machine is part of, or "ray://HOST:PORT" for the client port of
    one. `workers`: one for each node unless given. Raises `UsageError` where there is no cluster, or a worker
    would give other bits.
    """
    connect(address)
    try:
        count = workers or len(cpus_of_nodes())
        sequences = llm.engine.scheduler.max_sequences
        room = llm.engine.runner.adapters.room
        if room is None:
            raise UsageError("--rollouts: weights that are trained themselves are not sent: train an adapter")
        threads = threads_of(max(1, count))
        wish = Wish(_name(llm.files), llm.context, llm.plan.cache, sequences, room.rank, threads)
        crew = Crew(wish, Numerics.of(llm), max(1, count), say)
        try:
            crew.gather(_START)
            names = ", ".join(sorted(member.name for member in crew.ready))
            say(f"rollouts on {len(crew.ready)} workers of {wish.threads} threads: {names}")
            yield RayEngines(crew, own, sequences, say)
        finally:
            crew.close()
    finally:
        ray.shutdown()


def _name(files: ModelFiles) -> str:
    """By which other machines find the model; a path is the same on all."""
    own = files.source == str(files.path)
    return str(files.path.resolve()) if own else files.name


def connect(address: str) -> None:
    """Become a part of the cluster, or a client of it; see `rollouts`."""
    if address != "ray" and not address.startswith("ray://"):
        raise UsageError(f"--rollouts is {quoted(address)}: give ray, or ray://HOST:PORT")
    try:
        ray.init("auto" if address == "ray" else address, log_to_driver=False, logging_level=logging.ERROR)
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        said = str(error).strip().splitlines()
        raise UsageError(
            f"--rollouts {shortened(address)}: no cluster can be joined: {said[0] if said else error!r}"
        ) from error
