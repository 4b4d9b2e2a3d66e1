"""llama.cpp through its own batch interface: `python worker_llama_cpp.py MODEL.gguf THREADS …`.

What serves it best here: the library built for this machine, all weights repacked as it likes, flash
attention, 512 tokens a batch, one stream of cache a sequence (one cache for all, which would store a shared
prefix once, is slower), logits only where a token is chosen. Prompts stay in the cache from one round to the
next where only decoding is measured.
"""

import ctypes
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import llama_cpp as lib
import numpy as np

from protocol import Handlers, Values, peak_memory, serve, token_ids

BATCH = 512  # n_batch and n_ubatch: larger ones are no faster on two cores
ROOM = 256  # tokens that a sequence may add to its prompt

Token = tuple[int, int, int, bool]  # id, position, sequence, with logits


class Context:
    """A context for `sequences` of `length` tokens. `prompted`: its prompts' next tokens, once computed."""

    def __init__(self, model: ctypes.c_void_p, threads: int, sequences: int, length: int) -> None:
        p = lib.llama_context_default_params()
        p.n_ctx = sequences * length
        p.n_seq_max = sequences
        p.n_batch = p.n_ubatch = BATCH
        p.n_threads = p.n_threads_batch = threads
        p.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
        p.kv_unified = False
        p.no_perf = True
        self.handle = lib.llama_init_from_model(model, p)
        if not self.handle:
            raise MemoryError(f"llama.cpp made no context for {sequences} sequences of {length} tokens")
        self.memory = lib.llama_get_memory(self.handle)
        self.batch = lib.llama_batch_init(BATCH, 0, 1)
        self.vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
        self.prompted: list[int] = []

    def run(self, tokens: list[Token]) -> list[int]:
        """One batch; the likeliest next token of every row with logits."""
        b = self.batch
        b.n_tokens = len(tokens)
        for i, (token, position, sequence, wanted) in enumerate(tokens):
            b.token[i], b.pos[i], b.logits[i] = token, position, wanted
            b.n_seq_id[i], b.seq_id[i][0] = 1, sequence
        if (status := lib.llama_decode(self.handle, b)) != 0:
            raise RuntimeError(f"llama_decode returned {status}")
        rows = sum(wanted for *_, wanted in tokens)
        if not rows:
            return []
        logits = np.ctypeslib.as_array(lib.llama_get_logits(self.handle), (rows, self.vocabulary))
        return [int(best) for best in logits.argmax(axis=1)]

    def prompt(self, tokens: Iterable[Token]) -> list[int]:
        """Whole prompts, a full batch at a time."""
        rest, best = list(tokens), []
        while rest:
            best += self.run(rest[:BATCH])
            del rest[:BATCH]
        return best

    def forget(self, start: int = 0) -> None:
        """Drop every sequence's tokens from `start` on."""
        lib.llama_memory_seq_rm(self.memory, -1, start, -1)

    def decode(self, chosen: list[int], start: int, steps: int) -> None:
        """`steps` more tokens for each sequence."""
        for step in range(steps):
            chosen = self.run([(token, start + step, s, True) for s, token in enumerate(chosen)])


def _prompt(ids: list[int], sequence: int, start: int = 0) -> list[Token]:
    last = len(ids) - 1
    return [(token, start + i, sequence, i == last) for i, token in enumerate(ids)]


class Worker:
    """The loaded model, and one context for each shape of work that came up."""

    def __init__(self, path: str, threads: int) -> None:
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        self.model = lib.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            raise ValueError(f"llama.cpp cannot load {path}")
        self.threads = threads
        self.contexts: dict[tuple[int, int], Context] = {}

    def context(self, sequences: int, prompt: int) -> Context:
        """The context for prompts of this length."""
        key = (sequences, prompt)
        if key not in self.contexts:
            self.contexts[key] = Context(self.model, self.threads, sequences, prompt + ROOM)
        return self.contexts[key]

    def prefill(self, seed: int, prompt: int) -> Values:
        """Seconds to the first token of a prompt that was never seen."""
        context = self.context(1, prompt)
        context.forget()
        (ids,) = token_ids(seed, 1, prompt, context.vocabulary)
        start = time.perf_counter()
        context.prompt(_prompt(ids, 0))
        return {"value": prompt / (time.perf_counter() - start)}

    def decode(self, seed: int, sequences: int, prompt: int, new: int) -> Values:
        """Tokens a second while all sequences decode; see the module for what is kept."""
        context = self.context(sequences, prompt)
        if not context.prompted:
            prompts = token_ids(seed, sequences, prompt, context.vocabulary)
            context.prompted = context.prompt(t for s, ids in enumerate(prompts) for t in _prompt(ids, s))
        context.forget(prompt)
        start = time.perf_counter()
        context.decode(context.prompted, prompt, new - 1)
        return {"value": sequences * (new - 1) / (time.perf_counter() - start)}

    def prefix(self, seed: int, sequences: int, prefix: int, tail: int, new: int) -> Values:
        """Seconds for all requests, the shared prefix computed once."""
        context = self.context(sequences, prefix)
        context.forget()
        (shared,) = token_ids(seed, 1, prefix)
        tails = token_ids(seed + 1, sequences, tail)
        start = time.perf_counter()
        context.prompt(_prompt(shared, 0))
        for sequence in range(1, sequences):
            lib.llama_memory_seq_cp(context.memory, 0, sequence, -1, -1)
        chosen = context.prompt(t for s, ids in enumerate(tails) for t in _prompt(ids, s, prefix))
        context.decode(chosen, prefix + tail, new - 1)
        return {"value": time.perf_counter() - start}

    def first_token(self, seed: int, prompt: int) -> Values:
        """The first token of a fresh process; the parent has the clock."""
        self.prefill(seed, prompt)
        return {}

    def memory(self, seed: int, prompt: int, new: int) -> Values:
        """The most this process ever used, after one prompt and its answer."""
        self.decode(seed, 1, prompt, new)
        return {"value": peak_memory()}


def load() -> tuple[Values, Handlers]:
    worker = Worker(sys.argv[1], int(sys.argv[2]))
    names = ("prefill", "decode", "prefix", "first_token", "memory")
    return {"version": lib.__version__, "file": Path(sys.argv[1]).name}, {
        n: getattr(worker, n) for n in names
    }


if __name__ == "__main__":
    serve(load)
