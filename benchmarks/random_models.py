"""Random models in GGUF of published shapes: `python benchmarks/random_models.py SHAPE OUT.gguf`.

Weights are blocks of random 4-bit codes (`--type Q4_1` or Q4_0), which no kernel can tell from trained ones.
Routing is as good as uniform, so that a step of many sequences touches as many experts as it can. A shape is
a whole small model, or one layer of a large one with a small vocabulary (`VOCABULARY`), so that the layer is
what is measured. The files are for `sampan bench` and for llama.cpp's own bench alike.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from sampan.catalog.catalog import DEFAULT, resolve
from sampan.core.settings import Settings
from sampan.weights.gguf import read_gguf

BLOCK = 32
# Bytes of a block, and what is added to its codes (in scales) so that they have a mean of zero.
TYPES = {"Q4_1": (20, -7.5), "Q4_0": (18, 0.0)}
VOCABULARY = 2048
BLOCKS = 1_000_003  # that are drawn: a prime, so that no two experts are alike
Fields = Mapping[str, int | float | bool]


@dataclass(frozen=True)
class Tensors:
    """Of one layer: matrices as (outputs, inputs) or (experts, outputs, inputs), vectors of ones, routers."""

    matrices: Mapping[str, tuple[int, ...]]
    norms: Mapping[str, int]
    routers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    biases: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Shape:
    """A model: `fields` are the metadata of its architecture, in the format's own names."""

    arch: str
    layers: int
    hidden: int
    tensors: Tensors
    fields: Fields
    vocabulary: int = VOCABULARY


def attention(hidden: int, heads: int, kv_heads: int, size: int) -> dict[str, tuple[int, ...]]:
    """The four matrices of grouped-query attention."""
    return {
        "attn_q": (heads * size, hidden),
        "attn_k": (kv_heads * size, hidden),
        "attn_v": (kv_heads * size, hidden),
        "attn_output": (hidden, heads * size),
    }


def gated(hidden: int, ffn: int) -> dict[str, tuple[int, ...]]:
    """A gated MLP."""
    return {"ffn_gate": (ffn, hidden), "ffn_up": (ffn, hidden), "ffn_down": (hidden, ffn)}


def experts(hidden: int, ffn: int, count: int) -> dict[str, tuple[int, ...]]:
    """The merged matrices of routed experts."""
    return {f"{name}_exps": (count, *shape) for name, shape in gated(hidden, ffn).items()}


def dense(arch: str, hidden: int, heads: int, kv_heads: int, ffn: int, theta: float) -> Shape:
    """One layer of a dense model; head size 128."""
    biases = {"attn_q": heads * 128, "attn_k": kv_heads * 128, "attn_v": kv_heads * 128}
    return Shape(
        arch, 1, hidden,
        Tensors(
            attention(hidden, heads, kv_heads, 128) | gated(hidden, ffn),
            {"attn_norm": hidden, "ffn_norm": hidden},
            biases=biases if arch == "qwen2" else {},
        ),
        {
            "feed_forward_length": ffn, "attention.head_count": heads, "attention.head_count_kv": kv_heads,
            "rope.freq_base": theta, "rope.dimension_count": 128,
        },
    )  # fmt: skip


def qwen3_moe(layers: int = 10, hidden: int = 1024, heads: int = 16, ffn: int = 256) -> Shape:
    """128 experts, 8 a token: a billion parameters as it comes."""
    return Shape(
        "qwen3moe", layers, hidden,
        Tensors(
            attention(hidden, heads, 4, 128) | experts(hidden, ffn, 128),
            {"attn_norm": hidden, "ffn_norm": hidden, "attn_q_norm": 128, "attn_k_norm": 128},
            {"ffn_gate_inp": (128, hidden)},
        ),
        {
            "feed_forward_length": ffn, "attention.head_count": heads, "attention.head_count_kv": 4,
            "attention.key_length": 128, "attention.value_length": 128, "rope.freq_base": 1e6,
            "expert_count": 128, "expert_used_count": 8, "expert_feed_forward_length": ffn,
        },
        49152,
    )  # fmt: skip


def deepseek_v3(mixture: bool) -> Shape:
    """One layer as published (deepseek-ai/DeepSeek-V3, config.json): the first, dense, or a mixture."""
    hidden, heads, lora, rope, nope, value, ffn = 7168, 128, 512, 64, 128, 128, 2048
    latent = {
        "attn_q_a": (1536, hidden), "attn_q_b": (heads * (nope + rope), 1536),
        "attn_kv_a_mqa": (lora + rope, hidden), "attn_k_b": (heads, lora, nope),
        "attn_v_b": (heads, value, lora), "attn_output": (hidden, heads * value),
    }  # fmt: skip
    shared = {f"{name}_shexp": shape for name, shape in gated(hidden, ffn).items()}
    norms = {"attn_norm": hidden, "ffn_norm": hidden, "attn_q_a_norm": 1536, "attn_kv_a_norm": lora}
    fields = {
        "feed_forward_length": 18432, "attention.head_count": heads, "attention.head_count_kv": 1,
        "attention.q_lora_rank": 1536, "attention.kv_lora_rank": lora,
        "attention.key_length": lora + rope, "attention.value_length": lora,
        "attention.key_length_mla": nope + rope, "attention.value_length_mla": value,
        "rope.dimension_count": rope, "rope.freq_base": 10000.0,
        "leading_dense_block_count": int(not mixture), "expert_count": 256, "expert_used_count": 8,
        "expert_shared_count": 1, "expert_group_count": 8,
        "expert_group_used_count": 4, "expert_feed_forward_length": ffn, "expert_weights_scale": 2.5,
        "expert_weights_norm": True, "expert_gating_func": 2,
    }  # fmt: skip
    if not mixture:
        return Shape("deepseek2", 1, hidden, Tensors(latent | gated(hidden, 18432), norms), fields)
    router = {"ffn_gate_inp": (256, hidden)}
    tensors = Tensors(latent | experts(hidden, ffn, 256) | shared, norms, router, {"exp_probs_b": 256})
    return Shape("deepseek2", 1, hidden, tensors, fields)


SHAPES = {
    "qwen3-moe-1b": qwen3_moe,
    "deepseek-v3-moe-layer": lambda: deepseek_v3(True),
    "deepseek-v3-mla-layer": lambda: deepseek_v3(False),
    "llama-3.1-405b-layer": lambda: dense("llama", 16384, 128, 8, 53248, 5e5),
    "qwq-32b-layer": lambda: dense("qwen2", 5120, 40, 8, 27648, 1e6),
}


class Writer:
    """One file of a shape."""

    def __init__(self, shape: Shape, out: Path, type_: str, blocks: int = BLOCKS) -> None:
        self._shape, self._type = shape, gguf.GGMLQuantizationType[type_]
        self._bytes, self._least = TYPES[type_]
        self._blocks = blocks
        self._file = gguf.GGUFWriter(out, shape.arch)
        self._draw = np.random.default_rng(0)
        self._drawn: dict[tuple[int, ...], npt.NDArray[np.uint8]] = {}

    def write(self) -> None:
        """The whole file."""
        shape, arch = self._shape, self._shape.arch
        self._file.add_block_count(shape.layers)
        self._file.add_context_length(4096)
        self._file.add_embedding_length(shape.hidden)
        self._file.add_layer_norm_rms_eps(1e-6)
        self._file.add_vocab_size(shape.vocabulary)
        for name, value in shape.fields.items():
            self._add(f"{arch}.{name}", value)
        add_vocabulary(self._file, shape.vocabulary)
        self._matrix("token_embd.weight", (shape.vocabulary, shape.hidden))
        self._vector("output_norm.weight", shape.hidden, 1)
        self._matrix("output.weight", (shape.vocabulary, shape.hidden))
        for layer in range(shape.layers):
            self._layer(f"blk.{layer}.")
        self._file.write_header_to_file()
        self._file.write_kv_data_to_file()
        self._file.write_tensors_to_file()
        self._file.close()

    def _add(self, name: str, value: float | bool) -> None:
        if isinstance(value, bool):
            self._file.add_bool(name, value)
        elif isinstance(value, int):
            self._file.add_uint32(name, value)
        else:
            self._file.add_float32(name, value)

    def _layer(self, at: str) -> None:
        t = self._shape.tensors
        for name, width in t.norms.items():
            self._vector(f"{at}{name}.weight", width, 1)
        for name, shape in t.matrices.items():
            self._matrix(f"{at}{name}.weight", shape)
        for name, (count, hidden) in t.routers.items():
            self._router(f"{at}{name}.weight", (count, hidden))
        for name, width in t.biases.items():
            self._vector(f"{at}{name}.bias", width, 0)

    def _matrix(self, name: str, shape: tuple[int, ...]) -> None:
        """Of the deviation of trained weights: codes around a mean of zero. Two of one shape are the same;
        very large ones repeat themselves."""
        if shape not in self._drawn:
            rows, inputs = shape[:-1], shape[-1]
            blocks = self._draw.integers(0, 256, (self._blocks, self._bytes), np.uint8)
            scale = np.float16(inputs**-0.5 / 4.6)
            blocks[:, :2] = np.array([scale]).view(np.uint8)
            if self._least:
                blocks[:, 2:4] = np.array([self._least * scale], np.float16).view(np.uint8)
            self._drawn[shape] = np.resize(blocks, (*rows, inputs // BLOCK * self._bytes))
        self._file.add_tensor(name, self._drawn[shape], raw_dtype=self._type)

    def _router(self, name: str, shape: tuple[int, int]) -> None:
        self._file.add_tensor(name, self._draw.normal(0, shape[1] ** -0.5, shape).astype(np.float32))

    def _vector(self, name: str, width: int, value: float) -> None:
        self._file.add_tensor(name, np.full(width, value, np.float32))


def add_vocabulary(file: gguf.GGUFWriter, count: int | None = None) -> int:
    """The default model's tokens, or its first, and those merges that make them; how many tokens."""
    metadata = read_gguf(resolve(DEFAULT, Settings.from_env()).path).metadata
    tokens, types = (list(metadata[f"tokenizer.ggml.{n}"])[:count] for n in ("tokens", "token_type"))  # type: ignore[call-overload]
    known = set(tokens)
    merges = [m for m in metadata["tokenizer.ggml.merges"] if "".join(m.split(" ")) in known]  # type: ignore[attr-defined]
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre(str(metadata["tokenizer.ggml.pre"]))
    file.add_token_list(tokens)
    file.add_token_types([int(each) for each in types])
    file.add_token_merges(merges)
    file.add_eos_token_id(int(metadata["tokenizer.ggml.eos_token_id"]))  # type: ignore[call-overload]
    return len(tokens)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", choices=TYPES, default="Q4_1")
    options = parser.parse_args()
    Writer(SHAPES[options.shape](), options.out, options.type).write()
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
