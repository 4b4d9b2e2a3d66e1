"""Tiny models written by the reference packages, and a writer of GGUF bytes that may say anything."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import safetensors.torch
import torch
from gguf import GGMLQuantizationType, quants

from sampan.core.types import ModelFiles

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB = 64, 2, 4, 2, 16, 96, 80
Arrays = dict[str, np.ndarray]
STRING, ARRAY, U32 = 8, 9, 4


class GgufBytes:
    """A GGUF header, field by field; `write` adds the data."""

    def __init__(self, tensors: int, keys: int, version: int = 3, magic: bytes = b"GGUF") -> None:
        self.bytes = magic + struct.pack("<IQQ", version, tensors, keys)

    def add(self, form: str, *values: object) -> "GgufBytes":
        self.bytes += struct.pack("<" + form, *values)
        return self

    def text(self, text: bytes, length: int | None = None) -> "GgufBytes":
        self.bytes += struct.pack("<Q", len(text) if length is None else length) + text
        return self

    def key(self, name: bytes, kind: int) -> "GgufBytes":
        return self.text(name).add("I", kind)

    def tensor(
        self, name: bytes = b"t", dims: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0
    ) -> "GgufBytes":
        return self.text(name).add(f"I{len(dims)}QIQ", len(dims), *dims, kind, offset)

    def write(self, path: Path, data: int = 0) -> Path:
        path.write_bytes(self.bytes + bytes(-len(self.bytes) % 32 + data))
        return path


@pytest.fixture(scope="session")
def gguf_bytes() -> type[GgufBytes]:
    return GgufBytes


def random_weights(family: str, tied: bool = False) -> Arrays:
    """The weights of a tiny model by Hugging Face's names, float32."""
    shapes = {
        "self_attn.q_proj.weight": (HEADS * HEAD_DIM, HIDDEN),
        "self_attn.k_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
        "self_attn.v_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
        "self_attn.o_proj.weight": (HIDDEN, HEADS * HEAD_DIM),
        "mlp.gate_proj.weight": (FFN, HIDDEN),
        "mlp.up_proj.weight": (FFN, HIDDEN),
        "mlp.down_proj.weight": (HIDDEN, FFN),
        "input_layernorm.weight": (HIDDEN,),
        "post_attention_layernorm.weight": (HIDDEN,),
    }
    if family == "qwen2":
        shapes |= {"self_attn.q_proj.bias": (HEADS * HEAD_DIM,)}
        shapes |= {f"self_attn.{part}_proj.bias": (KV_HEADS * HEAD_DIM,) for part in "kv"}
    if family == "qwen3":
        shapes |= {f"self_attn.{part}_norm.weight": (HEAD_DIM,) for part in "qk"}
    everything = {f"model.layers.{n}.{name}": shape for n in range(LAYERS) for name, shape in shapes.items()}
    everything |= {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    if not tied:
        everything["lm_head.weight"] = (VOCAB, HIDDEN)
    rng = np.random.default_rng(11)
    return {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in everything.items()}


def hf_config(family: str, tied: bool = False) -> dict[str, object]:
    return {
        "model_type": family,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "intermediate_size": FFN,
        "vocab_size": VOCAB,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
    }


def interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to Llama's query and key rows."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def add_keys(writer: gguf.GGUFWriter) -> None:
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCAB)


def add_tensors(writer: gguf.GGUFWriter, family: str, weights: Arrays, type: GGMLQuantizationType) -> None:
    """As llama.cpp's converter does: its names, its order of rows, vectors in float32."""
    arch = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}
    table = gguf.get_tensor_name_map(arch[family], LAYERS + 1)
    for name, values in weights.items():
        if family == "llama" and ("q_proj" in name or "k_proj" in name):
            values = interleave(values, HEADS if "q_proj" in name else KV_HEADS)
        stored = GGMLQuantizationType.F32 if values.ndim == 1 else type
        writer.add_tensor(
            table.get_name(name, try_suffixes=(".weight", ".bias")),
            quants.quantize(values, stored),
            raw_dtype=stored,
        )


@pytest.fixture(scope="session")
def write_gguf(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Arrays]]:
    """Writes a tiny model with the `gguf` package; gives its path and the weights that went in."""

    def write(
        family: str = "llama",
        type: GGMLQuantizationType = GGMLQuantizationType.F32,
        *,
        tied: bool = False,
        more: Callable[[gguf.GGUFWriter], None] = lambda _: None,
        split: int = 0,
        weights: Arrays | None = None,
    ) -> tuple[Path, Arrays]:
        path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
        weights = random_weights(family, tied) if weights is None else weights
        writer = gguf.GGUFWriter(path, family, split_max_tensors=split)
        add_keys(writer)
        more(writer)
        add_tensors(writer, family, weights, type)
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
        return path, weights

    return write


@pytest.fixture(scope="session")
def write_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Arrays]]:
    """Writes a tiny folder with the `safetensors` package, in `shards` files; gives path and weights."""

    def write(
        family: str = "llama", dtype: torch.dtype = torch.float32, *, tied: bool = False, shards: int = 1
    ) -> tuple[Path, Arrays]:
        folder = tmp_path_factory.mktemp("folder")
        (folder / "config.json").write_text(json.dumps(hf_config(family, tied)))
        weights = {name: torch.from_numpy(v).to(dtype) for name, v in random_weights(family, tied).items()}
        names = sorted(weights)
        shard_map = {}
        for number in range(shards):
            part = {name: weights[name] for name in names[number::shards]}
            file = (
                "model.safetensors" if shards == 1 else f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
            )
            safetensors.torch.save_file(part, folder / file, metadata={"format": "pt"})
            shard_map |= dict.fromkeys(part, file)
        if shards > 1:
            index = {"metadata": {}, "weight_map": shard_map}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return folder, {name: tensor.float().numpy() for name, tensor in weights.items()}

    return write


@pytest.fixture(scope="session")
def files_at() -> Callable[[Path], ModelFiles]:
    def files(path: Path) -> ModelFiles:
        return ModelFiles(path, "folder" if path.is_dir() else "gguf", path.name, str(path))

    return files


@pytest.fixture(scope="session")
def quantised_folder(
    write_folder: Callable[..., tuple[Path, Arrays]], packers: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    """`quantised_folder(case)`: a folder of that case, written once, and its values."""
    plain, _ = write_folder("llama", torch.bfloat16)
    known: dict[str, Any] = {}

    def make(case: str) -> tuple[Path, dict[str, np.ndarray]]:
        if case not in known:
            folder = tmp_path_factory.mktemp("quantised")
            values = packers.quantise(plain, folder, *packers.CASES[case])
            known[case] = folder, {name: tensor.numpy() for name, tensor in values.items()}
        return known[case]

    return make


@pytest.fixture
def changed_folder(quantised_folder: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """`changed_folder(case, {tensor: new or None}, {option: value})`: a folder of a case, changed."""

    def make(case: str, tensors: dict[str, Any] | None = None, options: dict[str, Any] | None = None) -> Path:
        folder, _ = quantised_folder(case)
        found = safetensors.torch.load_file(folder / "model.safetensors") | (tensors or {})
        safetensors.torch.save_file(
            {k: v.contiguous() for k, v in found.items() if v is not None}, tmp_path / "model.safetensors"
        )
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] |= options or {}
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return make
