"""vLLM built for CPUs, optional: `worker_vllm.py FOLDER THREADS CACHE_TOKENS SEQUENCES`.

It takes gigabytes to install and minutes to start, so `make bench` does without it: make an environment as
vLLM's page on CPU installation says, then `make bench BENCH="--vllm-python PATH/bin/python"`. Only the bf16
checkpoint is measured; vLLM reads GGUF files on GPUs. The project's own figures are without vLLM.
"""

import os
import sys

from protocol import Clock, Handlers, Values, peak_memory, serve, token_ids


class Worker:
    """The engine as it comes, prefix caching included: prompts differ from round to round."""

    def __init__(self, path: str, threads: int, cache_tokens: int, sequences: int) -> None:
        # Read on import. The engine stays in this process, so that stopping it stops all of it.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{threads - 1}"
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = "2"  # GiB
        import vllm

        length = min(cache_tokens, 8192)
        made = vllm.LLM(path, dtype="bfloat16", max_model_len=length, max_num_seqs=sequences)
        self.engine = made.llm_engine
        self.sampling = vllm.SamplingParams
        self.version = vllm.__version__

    def run(self, prompts: list[list[int]], new: int) -> Clock:
        """All prompts to their ends, greedily."""
        sampling = self.sampling(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
        clock = Clock(len(prompts))
        given = dict.fromkeys(range(len(prompts)), 0)
        for request, ids in enumerate(prompts):
            self.engine.add_request(str(request), {"prompt_token_ids": ids}, sampling)
        while self.engine.has_unfinished_requests():
            fresh = []
            for output in self.engine.step():
                request, total = int(output.request_id), len(output.outputs[0].token_ids)
                fresh += [request] * (total - given[request])
                given[request] = total
            clock.step(fresh)
        return clock

    def prefill(self, seed: int, prompt: int) -> Values:
        """Prompt tokens a second until the first token."""
        return {"value": prompt / self.run(token_ids(seed, 1, prompt), 1).filled}

    def decode(self, seed: int, sequences: int, prompt: int, new: int) -> Values:
        """Tokens a second while all sequences decode."""
        return {"value": self.run(token_ids(seed, sequences, prompt), new).decode_tps}

    def prefix(self, seed: int, sequences: int, prefix: int, tail: int, new: int) -> Values:
        """Seconds for all requests."""
        (shared,) = token_ids(seed, 1, prefix)
        return {"value": self.run([shared + ids for ids in token_ids(seed + 1, sequences, tail)], new).end}

    def first_token(self, seed: int, prompt: int) -> Values:
        """The first token of a fresh process; the parent has the clock."""
        self.prefill(seed, prompt)
        return {}

    def memory(self, seed: int, prompt: int, new: int) -> Values:
        """The most this process ever used, after one prompt and its answer."""
        self.run(token_ids(seed, 1, prompt), new)
        return {"value": peak_memory()}


def load() -> tuple[Values, Handlers]:
    worker = Worker(sys.argv[1], *map(int, sys.argv[2:5]))
    names = ("prefill", "decode", "prefix", "first_token", "memory")
    return {"version": worker.version}, {name: getattr(worker, name) for name in names}


if __name__ == "__main__":
    serve(load)
