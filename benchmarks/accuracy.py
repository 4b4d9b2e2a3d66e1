"""Perplexity and KL divergence against transformers in float32 on the dequantised weights of the same file.

    python benchmarks/accuracy.py [--cache int8] [--bf16]

reads at least 20,000 tokens of texts that every machine has (corpus.py). Needs the `test` extra (PyTorch,
transformers).
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

from bf16 import write_folder
from corpus import windows
from sampan.catalog.catalog import resolve
from sampan.core.settings import Settings
from sampan.core.types import ModelFiles, SamplingParams
from sampan.engine.budget import Wish
from sampan.engine.engine import Engine
from sampan.engine.sequence import Sequence, Span
from sampan.llm.drafts import DraftWish
from sampan.llm.load import load
from sampan.weights.checkpoint import open_checkpoint


def oracle(files: ModelFiles, rope_base: float) -> torch.nn.Module:
    """transformers' model with the files' weights, dequantised to float32."""
    with open_checkpoint(files) as checkpoint:
        c = checkpoint.config
        config = transformers.LlamaConfig(
            hidden_size=c.hidden, intermediate_size=c.ffn, num_hidden_layers=c.layers, vocab_size=c.vocab,
            num_attention_heads=c.heads, num_key_value_heads=c.kv_heads, head_dim=c.head_dim,
            max_position_embeddings=c.context, rms_norm_eps=c.norm_eps, tie_word_embeddings=c.tied_head,
            rope_theta=rope_base,
        )  # fmt: skip
        model = transformers.LlamaForCausalLM(config).eval()
        weights = {name: torch.from_numpy(checkpoint.array(name)) for name in checkpoint.tensors}
    missing = model.load_state_dict(weights, strict=False).missing_keys
    assert missing in ([], ["lm_head.weight"]), missing
    return model


def native_logits(engine: Engine, ids: list[int]) -> np.ndarray:
    """Logits after every token, float32 [tokens, vocabulary], in chunks as a prompt is read."""
    sequence = Sequence(0, ids, len(ids), SamplingParams(), 0, len(ids), frozenset())
    engine.pool.extend(sequence.pages, len(ids))
    rows = []
    for start in range(0, len(ids), 128):
        span = Span(sequence, start, min(128, len(ids) - start), sample=True)
        rows.append(engine.runner.rows([span], sample_all=True).logits.copy())
    engine.pool.release(sequence.pages)
    return np.concatenate(rows)


def compare(
    engine: Engine, model: torch.nn.Module, ids: list[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-probabilities of ids[1:] by the oracle and by Sampan, and the KL divergence at every token."""
    with torch.no_grad():
        wanted = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
    found = torch.log_softmax(torch.from_numpy(native_logits(engine, ids)).double(), -1)
    divergence = (wanted.exp() * (wanted - found)).sum(-1)
    following = torch.tensor(ids[1:])[:, None]
    return (
        wanted[:-1].gather(-1, following)[:, 0].numpy(),
        found[:-1].gather(-1, following)[:, 0].numpy(),
        divergence.numpy(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=20000)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--cache", default="bf16", help="type of the KV cache: bf16, int8 or f32")
    parser.add_argument("--bf16", action="store_true", help="the same weights rounded to bf16, and run so")
    args = parser.parse_args()
    files = resolve("smollm2-135m", Settings.from_env())
    with open_checkpoint(files) as checkpoint:
        rope_base = float(checkpoint.metadata["llama.rope.freq_base"])
    with tempfile.TemporaryDirectory() as folder:
        if args.bf16:
            write_folder(files.path, Path(folder) / "bf16")
            files = ModelFiles(Path(folder) / "bf16", "folder", "bf16", folder)
        print(json.dumps(measure(args, files, rope_base)))


def measure(args: argparse.Namespace, files: ModelFiles, rope_base: float) -> dict[str, object]:
    """Perplexity and divergence over at least `args.tokens` tokens."""
    settings = Settings.from_env()
    model = oracle(files, rope_base)
    collected: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    done = 0
    wish = Wish(context=args.context, cache=args.cache)
    loaded = load(files, settings, wish, threads=None, prefix_cache=False, draft=DraftWish("none"))
    for window in windows(
        lambda text: loaded.tokenizer.encode(text, add_bos=True), args.context, args.tokens
    ):
        collected.append(compare(loaded.engine, model, window))
        done += len(window)
        print(f"{done} tokens", file=sys.stderr)
    wanted, found, divergence = (np.concatenate(parts) for parts in zip(*collected, strict=True))
    ppl = {"transformers": float(np.exp(-wanted.mean())), "sampan": float(np.exp(-found.mean()))}
    return {
        "tokens": done,
        "cache": args.cache,
        "weights": "bf16" if args.bf16 else "Q4_1",
        "perplexity": ppl,
        "perplexity_ratio": ppl["sampan"] / ppl["transformers"],
        "kl_mean": float(divergence.mean()),
        "kl_median": float(np.median(divergence)),
        "kl_p99": float(np.quantile(divergence, 0.99)),
        "kl_max": float(divergence.max()),
    }


if __name__ == "__main__":
    main()
