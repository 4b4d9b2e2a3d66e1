"""Sampan's engine as it comes: `worker_sampan.py MODEL THREADS CACHE_TOKENS SEQUENCES`.

Drafts are off but where they are the question, since peers decode plainly; the prefix cache is on. The
machine's limits are measured here too, by the probes behind `sampan doctor`.
"""

import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from editing import CONVERSATIONS
from protocol import Clock, Handlers, Values, peak_memory, serve, token_ids
from sampan.core.settings import Settings
from sampan.core.types import ModelFiles, SamplingParams
from sampan.engine.budget import Wish
from sampan.kernels.cpu import _native
from sampan.kernels.formats import TensorType
from sampan.llm.drafts import DraftWish
from sampan.llm.load import Loaded, load
from sampan.weights.checkpoint import open_checkpoint

# The product of the kernel scenario: a chunk of a prompt through the default model's gate projection.
KERNEL_SHAPE = {"rows": 512, "n": 1536, "k": 576, "source": TensorType.Q4_1.number}
KERNEL_TURNS = 5


def model_files(path: Path) -> ModelFiles:
    """A model on disk."""
    return ModelFiles(path, "folder" if path.is_dir() else "gguf", path.name, str(path))


def open_model(path: Path, threads: int, cache_tokens: int, sequences: int) -> Loaded:
    """The model with a cache of this size; what drafts is off until it is asked for."""
    wish = Wish(max_sequences=sequences, cache_tokens=cache_tokens)
    return load(
        model_files(path),
        Settings.from_env(),
        wish,
        threads=threads,
        prefix_cache=True,
        draft=DraftWish("lookup"),
    )


class Worker:
    """The loaded model."""

    def __init__(self, path: Path, *sizes: int) -> None:
        self.path = path
        self.runtime_bytes = peak_memory()
        self.model = open_model(path, *sizes)
        self.engine = self.model.engine
        self.engine.scheduler.drafting.rows = 0

    def run(self, prompts: list[list[int]], new: int, *, ignore_eos: bool = True) -> Clock:
        """All prompts to their ends, greedily."""
        sampling = SamplingParams(max_tokens=new, temperature=0, ignore_eos=ignore_eos)
        clock = Clock(len(prompts))
        for ids in prompts:
            self.engine.add(ids, sampling)
        while not self.engine.idle:
            events = self.engine.step()
            wrong = next((event.error for event in events if event.error), None)
            if wrong is not None:
                raise RuntimeError(wrong)
            clock.step([event.request for event in events])
        if ignore_eos and clock.tokens != len(prompts) * new:
            raise RuntimeError(f"{clock.tokens} tokens came back, {len(prompts) * new} were asked for")
        return clock

    def _ids(self, seed: int, count: int, length: int) -> list[list[int]]:
        return token_ids(seed, count, length, self.model.tokenizer.vocab_size)

    def prefill(self, seed: int, prompt: int) -> Values:
        """Prompt tokens a second until the first token."""
        return {"value": prompt / self.run(self._ids(seed, 1, prompt), 1).filled}

    def decode(self, seed: int, sequences: int, prompt: int, new: int) -> Values:
        """Tokens a second while all sequences decode."""
        return {"value": self.run(self._ids(seed, sequences, prompt), new).decode_tps}

    def prefix(self, seed: int, sequences: int, prefix: int, tail: int, new: int) -> Values:
        """Seconds for all requests."""
        (shared,) = token_ids(seed, 1, prefix)
        return {"value": self.run([shared + ids for ids in token_ids(seed + 1, sequences, tail)], new).end}

    def edit(self, text: str, drafts: bool) -> Values:
        """Tokens a second of one greedy answer, up to its own end, with and without drafts."""
        assert self.model.template is not None
        prompt = self.model.template.render(CONVERSATIONS[text], add_generation_prompt=True)
        ids = self.model.tokenizer.encode(prompt, add_bos=False)
        self.engine.scheduler.drafting.rows = self.model.tuning.draft_rows if drafts else 0
        clock = self.run([ids], 400, ignore_eos=False)
        self.engine.scheduler.drafting.rows = 0
        return {"value": clock.decode_tps, "tokens": clock.tokens}

    def first_token(self, seed: int, prompt: int) -> Values:
        """The first token of a fresh process; the parent has the clock."""
        self.prefill(seed, prompt)
        return {}

    def memory(self, seed: int, prompt: int, new: int) -> Values:
        """The most this process ever used, after one prompt and its answer; what it had before loading."""
        self.run(token_ids(seed, 1, prompt), new)
        cache = self.model.plan.cache_bytes
        return {"value": peak_memory(), "cache_bytes": cache, "runtime_bytes": self.runtime_bytes}

    def work(self) -> Values:
        """What one token costs by the file (`scenarios.Work`)."""
        with open_checkpoint(model_files(self.path)) as checkpoint:
            c, tensors = checkpoint.config, checkpoint.tensors
            matrices = {name: i.shape[0] * i.shape[1] for name, i in tensors.items() if len(i.shape) == 2}
            unread = 0 if c.tied_head else tensors["model.embed_tokens.weight"].nbytes
            return {
                "weight_bytes": sum(info.nbytes for info in tensors.values()) - unread,
                "layer_macs": sum(size for name, size in matrices.items() if ".layers." in name),
                "head_macs": c.vocab * c.hidden,
                "cache_bytes": 2 * 2 * c.layers * c.kv_heads * c.head_dim,
                "file_bytes": sum(file.path.stat().st_size for file in checkpoint.files.values()),
            }

    def limits(self) -> Values:
        """Bytes and operations a second that this machine reaches now."""
        pool = self.model.backend.machine.pool
        return {
            "read": _native.read_bandwidth(pool),
            "int8": _native.int8_peak(pool)[0],
            "bf16": _native.float_peak(pool)[0],
        }

    def kernel(self) -> Values:
        """The matrix product alone as a part of the integer peak: the best of either, measured in turns."""
        here = self.model.backend.machine
        peak = speed = 0.0
        for _ in range(KERNEL_TURNS):
            peak = max(peak, _native.int8_peak(here.pool)[0])
            speed = max(speed, _native.linear_speed(here.pool, here.isa, **KERNEL_SHAPE))
        return {"value": speed / peak}


def load_worker() -> tuple[Values, Handlers]:
    worker = Worker(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
    names = ["prefill", "decode", "prefix", "edit", "first_token", "memory", "work", "limits", "kernel"]
    ready = {"version": version("sampan"), "tuning": asdict(worker.model.tuning)}
    return ready, {name: getattr(worker, name) for name in names}


if __name__ == "__main__":
    serve(load_worker)
