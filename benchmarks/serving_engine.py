"""Sampan's engine without a service: `serving_engine.py MODEL THREADS SEQUENCES`, a worker of `protocol.py`.

It is loaded as the service's own engine process loads it (prefix cache and drafts on) and gets the prompts
that the clients of `sampan.cli.load` send, as token ids; so what the service costs is the difference.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from protocol import Handlers, Values, serve
from sampan.cli.load import Load, requests
from sampan.core.settings import Settings
from sampan.core.types import ModelFiles, SamplingParams
from sampan.engine.budget import Wish
from sampan.llm.drafts import DraftWish
from sampan.llm.load import load
from sampan.server.text import ModelText


class Worker:
    """The loaded engine, and the tokenizer and template of its model."""

    def __init__(self, path: Path, threads: int, sequences: int) -> None:
        files = ModelFiles(path, "gguf", path.name, str(path))
        wish = Wish(max_sequences=sequences)
        loaded = load(files, Settings.from_env(), wish, threads=threads, prefix_cache=True, draft=DraftWish())
        self.engine = loaded.engine
        self.text = ModelText.read(files, "engine")

    def closed(self, clients: int, requests: int, prompt: int, new: int, seed: int) -> Values:
        """`requests` requests, `clients` of them at once: as soon as one has ended the next one begins."""
        waiting = self.prompts(requests, prompt, seed)
        start, tokens, live = time.perf_counter(), 0, 0
        more = True
        while more or not self.engine.idle:
            while more and live < clients:
                ids = next(waiting, None)
                more = ids is not None
                if ids is not None:
                    self.engine.add(ids, _sampling(new))
                    live += 1
            events = self.engine.step()
            tokens += len(events)
            live -= sum(event.finish_reason is not None for event in events)
        seconds = time.perf_counter() - start
        if tokens != requests * new:
            raise RuntimeError(f"{tokens} tokens came, {requests * new} were asked for")
        return {"tokens": tokens, "seconds": seconds, "tokens_per_s": tokens / seconds}

    def first(self, prompt: int, new: int, seed: int) -> Values:
        """Seconds to the first token of one request."""
        (ids,) = self.prompts(1, prompt, seed)
        start, first = time.perf_counter(), 0.0
        self.engine.add(ids, _sampling(new))
        while not self.engine.idle:
            if self.engine.step() and not first:
                first = time.perf_counter() - start
        return {"ttft_s": first}

    def prompts(self, count: int, prompt: int, seed: int) -> Iterator[list[int]]:
        """What the load's conversations are for the model."""
        asked: list[dict[str, Any]] = requests(Load("", 1, count, prompt, 1, seed=seed), "engine")
        return iter([self.text.conversation(each["messages"], ())[0] for each in asked])


def _sampling(new: int) -> SamplingParams:
    return SamplingParams(max_tokens=new, temperature=0, ignore_eos=True)


def load_worker() -> tuple[Values, Handlers]:
    worker = Worker(Path(sys.argv[1]), *map(int, sys.argv[2:4]))
    return {}, {"closed": worker.closed, "first": worker.first}


if __name__ == "__main__":
    serve(load_worker)
