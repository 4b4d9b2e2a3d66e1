"""OpenVINO GenAI's continuous batching: `worker_openvino.py MODEL.gguf THREADS CACHE_TOKENS SEQUENCES`.

What serves it best here: its own reading of the GGUF file (int8 weights with dynamic quantisation, a u8
cache and, on machines that have it, bf16 arithmetic are its defaults), steps of up to 512 tokens, and prefix
caching where a prefix is shared, with the first request a step ahead: those that arrive with it find no
prefix yet.
"""

import sys
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai

from protocol import Clock, Handlers, Values, peak_memory, serve, token_ids

BATCH = 512  # max_num_batched_tokens; larger ones are no faster on two cores
BLOCK = 32  # tokens of a cache block on CPUs


class Worker:
    """One pipeline as it comes, and a second one with prefix caching once that is asked for."""

    def __init__(self, path: str, threads: int, cache_tokens: int, sequences: int) -> None:
        self.path, self.threads = path, threads
        self.cache_tokens, self.sequences = cache_tokens, sequences
        self.requests = 0
        self.plain = self.pipeline(prefixes=False)
        self.caching: genai.ContinuousBatchingPipeline | None = None

    def pipeline(self, *, prefixes: bool) -> genai.ContinuousBatchingPipeline:
        """The model, loaded anew."""
        scheduler = genai.SchedulerConfig()
        scheduler.num_kv_blocks = self.cache_tokens // BLOCK
        scheduler.max_num_batched_tokens = BATCH
        scheduler.max_num_seqs = self.sequences
        scheduler.dynamic_split_fuse = True
        scheduler.enable_prefix_caching = prefixes
        options = {"INFERENCE_NUM_THREADS": self.threads}
        return genai.ContinuousBatchingPipeline(self.path, scheduler, "CPU", options)

    def run(self, pipeline: Any, prompts: list[list[int]], new: int, *, lead: bool = False) -> Clock:
        """All prompts to their ends; with `lead` the others arrive when the first has its first token."""
        config = genai.GenerationConfig(max_new_tokens=new, ignore_eos=True, do_sample=False)
        arrivals = [prompts[:1], prompts[1:]] if lead else [prompts]
        handles: dict[int, Any] = {}
        clock = Clock(len(prompts))
        while arrivals or pipeline.has_non_finished_requests():
            if arrivals and len(clock.started) == len(handles):
                for ids in arrivals.pop(0):
                    tensor = ov.Tensor(np.array([ids], dtype=np.int64))
                    handles[self.requests] = pipeline.add_request(self.requests, tensor, config)
                    self.requests += 1
            pipeline.step()
            clock.step([request for request, handle in handles.items() for _ in range(_read(handle))])
        if clock.tokens != len(prompts) * new:
            raise RuntimeError(f"{clock.tokens} tokens came back, {len(prompts) * new} were asked for")
        return clock

    def prefill(self, seed: int, prompt: int) -> Values:
        """Prompt tokens a second until the first token."""
        return {"value": prompt / self.run(self.plain, token_ids(seed, 1, prompt), 1).filled}

    def decode(self, seed: int, sequences: int, prompt: int, new: int) -> Values:
        """Tokens a second while all sequences decode."""
        return {"value": self.run(self.plain, token_ids(seed, sequences, prompt), new).decode_tps}

    def prefix(self, seed: int, sequences: int, prefix: int, tail: int, new: int) -> Values:
        """Seconds for all requests."""
        self.caching = self.caching or self.pipeline(prefixes=True)
        (shared,) = token_ids(seed, 1, prefix)
        prompts = [shared + ids for ids in token_ids(seed + 1, sequences, tail)]
        return {"value": self.run(self.caching, prompts, new, lead=True).end}

    def first_token(self, seed: int, prompt: int) -> Values:
        """The first token of a fresh process; the parent has the clock."""
        self.prefill(seed, prompt)
        return {}

    def memory(self, seed: int, prompt: int, new: int) -> Values:
        """The most this process ever used, after one prompt and its answer."""
        self.run(self.plain, token_ids(seed, 1, prompt), new)
        return {"value": peak_memory()}


def _read(handle: Any) -> int:
    """New tokens of a request."""
    given = 0
    while handle.can_read():
        given += sum(len(output.generated_ids) for output in handle.read().values())
    return given


def load() -> tuple[Values, Handlers]:
    worker = Worker(sys.argv[1], *map(int, sys.argv[2:5]))
    names = ("prefill", "decode", "prefix", "first_token", "memory")
    return {"version": genai.__version__}, {name: getattr(worker, name) for name in names}


if __name__ == "__main__":
    serve(load)
