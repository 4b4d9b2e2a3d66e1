"""Measures llama.cpp in its own process: one JSON object with prefill and decode speed of one sequence.

Run by speed.py with the Python of the benchmark environment, which has llama-cpp-python.
"""

import argparse
import json
import time

import llama_cpp
import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--decode-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    context = args.prompt_tokens + args.decode_tokens + 8
    llm = llama_cpp.Llama(
        args.model, n_ctx=context, n_batch=512, n_ubatch=512, flash_attn=True, verbose=False,
        n_threads=args.threads, n_threads_batch=args.threads,
    )  # fmt: skip
    ids = np.random.default_rng(0).integers(100, llm.n_vocab() - 100, args.prompt_tokens).tolist()
    llm.eval(ids[:32])
    best: dict[str, float] = {}
    for _ in range(3):
        llm.reset()
        start = time.perf_counter()
        llm.eval(ids)
        first = time.perf_counter()
        for _ in range(args.decode_tokens):
            llm.eval([ids[0]])
        end = time.perf_counter()
        speed = {
            "prefill_tps": args.prompt_tokens / (first - start),
            "decode_tps": args.decode_tokens / (end - first),
        }
        best = {k: max(v, best.get(k, 0.0)) for k, v in speed.items()}
    print(json.dumps(best))


if __name__ == "__main__":
    main()
