"""A random Qwen3-MoE in GGUF, to measure with: `python benchmarks/random_experts.py OUT.gguf [--layers N] …`.

Weights are Q4_1 blocks of random codes, which no kernel can tell from trained ones; routing is as good as
uniform, so that a step touches as many experts as it can. Tokens are the default model's. The file is for
`sampan bench` and for llama.cpp's own bench alike.

`--common` gives the routing of text its skew: so many times a token's own part of its embedding is a part
that all tokens have, which every router likes or dislikes its experts by. `--embedding` and `--layer` scale
what the residual stream begins with and what layers add to it: in trained models it changes slowly.
"""

import argparse
from pathlib import Path

import gguf
import numpy as np

from random_models import add_vocabulary

BLOCK, BYTES = 32, 20  # of Q4_1


class Writer:
    """`o`: the sizes, as the command has them."""

    def __init__(self, o: argparse.Namespace) -> None:
        self._file = gguf.GGUFWriter(o.out, "qwen3moe")
        self._draw = np.random.default_rng(0)
        self._o = o

    def write(self) -> None:
        """The whole file."""
        o = self._o
        for name, value in (
            ("block_count", o.layers), ("context_length", 4096), ("embedding_length", o.hidden),
            ("head_count", o.heads), ("head_count_kv", o.kv_heads), ("key_length", 128),
            ("value_length", 128), ("feed_forward_length", o.ffn), ("layer_norm_rms_eps", 1e-6),
            ("rope_freq_base", 1e6),
            ("expert_count", o.experts), ("expert_used_count", o.chosen),
            ("expert_feed_forward_length", o.ffn),
        ):  # fmt: skip
            getattr(self._file, f"add_{name}")(value)
        self._matrix("token_embd", add_vocabulary(self._file), o.hidden, gain=o.embedding, common=o.common)
        self._vector("output_norm", o.hidden)
        for layer in range(o.layers):
            self._layer(f"blk.{layer}.")
        self._file.write_header_to_file()
        self._file.write_kv_data_to_file()
        self._file.write_tensors_to_file()
        self._file.close()

    def _layer(self, at: str) -> None:
        o, size = self._o, 128
        for norm, width in (
            ("attn_norm", o.hidden),
            ("ffn_norm", o.hidden),
            ("attn_q_norm", size),
            ("attn_k_norm", size),
        ):
            self._vector(at + norm, width)
        self._matrix(at + "attn_q", o.heads * size, o.hidden)
        self._matrix(at + "attn_k", o.kv_heads * size, o.hidden)
        self._matrix(at + "attn_v", o.kv_heads * size, o.hidden)
        self._matrix(at + "attn_output", o.hidden, o.heads * size, gain=o.layer)
        router = self._draw.normal(0, o.hidden**-0.5, (o.experts, o.hidden)).astype(np.float32)
        self._file.add_tensor(at + "ffn_gate_inp.weight", router)
        for kind, rows, inputs in (
            ("gate", o.ffn, o.hidden),
            ("up", o.ffn, o.hidden),
            ("down", o.hidden, o.ffn),
        ):
            self._matrix(
                f"{at}ffn_{kind}_exps", rows, inputs, o.experts, gain=o.layer if kind == "down" else 1.0
            )

    def _matrix(
        self, name: str, rows: int, inputs: int, count: int = 0, gain: float = 1.0, common: float = 0.0
    ) -> None:
        """Of `gain` times the deviation of trained weights: codes around a mean of zero, or around what all
        rows have in common, in blocks."""
        shape = (*((count,) if count else ()), rows, inputs // BLOCK * BYTES)
        data = self._draw.integers(0, 256, shape, np.uint8)
        blocks = data.reshape(-1, BYTES)
        scale = np.float16(gain * inputs**-0.5 / 4.6)
        blocks[:, :2] = np.array([scale]).view(np.uint8)
        mean = common * gain * inputs**-0.5 * self._draw.normal(size=inputs // BLOCK) if common else 0.0
        low = np.broadcast_to((mean - 7.5 * scale) * np.ones(inputs // BLOCK), (*shape[:-1], inputs // BLOCK))
        blocks[:, 2:4] = np.ascontiguousarray(low, np.float16).reshape(-1, 1).view(np.uint8)
        self._file.add_tensor(f"{name}.weight", data, raw_dtype=gguf.GGMLQuantizationType.Q4_1)

    def _vector(self, name: str, width: int) -> None:
        self._file.add_tensor(f"{name}.weight", np.ones(width, np.float32))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    for name, size in (
        ("layers", 10), ("hidden", 1024), ("heads", 16), ("kv-heads", 4), ("experts", 128), ("chosen", 8),
        ("ffn", 256),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=size)
    for name, factor in (("common", 0.0), ("embedding", 1.0), ("layer", 1.0)):
        parser.add_argument(f"--{name}", type=float, default=factor)
    options = parser.parse_args()
    Writer(options).write()
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
