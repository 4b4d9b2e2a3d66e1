"""A merged model as a GGUF file, of the families whose layers are dense: llama, qwen2, qwen3.

Names and keys are those of llama.cpp's convert_hf_to_gguf.py, and so are the rows of a Llama's queries and
keys. What the file says is read back before anything is written: if that is another model, it is refused.
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields as fields_of
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sampan.core.errors import UnsupportedModel
from sampan.kernels.formats import TensorType
from sampan.models import registry
from sampan.models.config import DenseConfig, GgufModel
from sampan.models.family import Family
from sampan.weights.gguf_write import Written
from sampan.weights.merge.model import Merged, Tensor
from sampan.weights.merge.write import rounded, type_of
from sampan.weights.naming import row_order

Floats = NDArray[np.float32]

_FAMILIES = ("llama", "qwen2", "qwen3")
_FILE_TYPES = {TensorType.F32: 0, TensorType.F16: 1, TensorType.BF16: 32}  # llama.h, `llama_ftype`
_FACTORS = "rope_freqs.weight"
_CLOSE = 1e-6  # of frequencies: a few roundings in float32
_DROPPED = ("split.", "quantize.", "general.file_type", "general.quantization_version")


def gguf_of(
    merged: Merged, dtype: str, name: str, licence: str | None, tokenizer: Mapping[str, object]
) -> tuple[dict[str, object], list[Written]]:
    """Key values and tensors. `tokenizer`: the keys of a folder's; a GGUF file's own are kept."""
    family, c = merged.family, merged.config
    if family.name not in _FAMILIES or not isinstance(c, DenseConfig):
        raise UnsupportedModel(
            f"{merged.checkpoint.where}: a {family.name} model is not written as GGUF, but "
            f"{', '.join(_FAMILIES)} are: leave out --format gguf for a folder of safetensors"
        )
    tensors = [_written(merged, tensor, family, dtype) for tensor in merged.tensors.values()]
    matrices = [tensor.type for tensor in tensors if len(tensor.shape) > 1]
    named: dict[str, object] = {
        "general.architecture": family.architectures[0],
        "general.type": "model",
        "general.name": name,
        "general.file_type": _FILE_TYPES[max(set(matrices), key=matrices.count)],
        "general.quantization_version": 2,
    } | ({"general.license": licence} if licence else {})
    if merged.checkpoint.path.is_dir():
        found = _keys(c, merged.fields, family.architectures[0])
    else:
        kept = merged.checkpoint.metadata.items()
        found = {key: value for key, value in kept if not key.startswith(_DROPPED)}
    keys = found | named | dict(tokenizer)
    return keys, _with_factors(keys, tensors, c, merged.checkpoint.where)


def _written(merged: Merged, tensor: Tensor, family: Family, dtype: str) -> Written:
    """A tensor under its name in GGUF; vectors are float32 there."""
    type = TensorType.F32 if len(tensor.shape) < 2 else type_of(tensor, dtype)
    order = row_order(family.interleaved, merged.config, tensor.name, tensor.shape[0])

    def data() -> Iterable[bytes]:
        if order is None:
            for block in merged.blocks(tensor):
                yield rounded(block, type, tensor.name)
            return
        whole = np.concatenate(list(merged.blocks(tensor)))
        yield rounded(whole[np.argsort(order)], type, tensor.name)

    return Written(_name(family, tensor.name), tensor.shape, type, data)


def _name(family: Family, name: str) -> str:
    for key, ours in family.whole.items():
        if ours == name:
            return key
    _, _, layer, rest = name.split(".", 3)
    part, _, kind = rest.rpartition(".")
    (key,) = (key for key, ours in family.layer.items() if ours == part)
    return f"blk.{layer}.{key}.{kind}"


def _keys(c: DenseConfig, fields: Mapping[str, Any], arch: str) -> dict[str, object]:
    """What a configuration is in GGUF."""
    sizes = {
        "vocab_size": c.vocab,
        "context_length": fields["max_position_embeddings"],
        "embedding_length": c.hidden,
        "block_count": c.layers,
        "feed_forward_length": c.ffn,
        "attention.head_count": c.heads,
        "attention.head_count_kv": c.kv_heads,
        "attention.key_length": c.head_dim,
        "attention.value_length": c.head_dim,
        "attention.layer_norm_rms_epsilon": float(c.norm_eps),
        "rope.dimension_count": c.head_dim,
    }
    return {f"{arch}.{key}": value for key, value in (sizes | _rope(fields)).items()}


def _rope(fields: Mapping[str, Any]) -> dict[str, object]:
    """The rotation; Llama 3's stretching is told by factors of the frequencies (`_with_factors`)."""
    given: Mapping[str, Any] = fields.get("rope_scaling") or fields.get("rope_parameters") or {}
    found: dict[str, object] = {
        "rope.freq_base": float(given.get("rope_theta") or fields.get("rope_theta") or 10000.0)
    }
    kind = given.get("rope_type") or given.get("type")
    if kind not in ("linear", "yarn"):
        return found
    found |= {"rope.scaling.type": kind, "rope.scaling.factor": float(given["factor"])}
    if kind == "yarn":
        original = fields.get("original_max_position_embeddings") or given.get(
            "original_max_position_embeddings"
        )
        found["rope.scaling.original_context_length"] = original or fields["max_position_embeddings"]
        betas = {f"rope.scaling.yarn_{name}": given.get(name) for name in ("beta_fast", "beta_slow")}
        found |= {key: float(value) for key, value in betas.items() if value}
    return found


def _with_factors(
    keys: Mapping[str, object], tensors: list[Written], c: DenseConfig, where: str
) -> list[Written]:
    """The tensors, and what frequencies are divided by where keys do not tell them; once the file's model is
    this one."""
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    read = registry.from_gguf(GgufModel(keys, shapes, None, where))
    assert isinstance(read, DenseConfig)
    said, own = (np.array(each.rope.inv_freq, np.float32) for each in (read, c))
    factors = (said / own).astype(np.float32)
    if np.abs(factors - 1).max() > _CLOSE:
        read = registry.from_gguf(GgufModel(keys, shapes, factors, where))
        data = factors.tobytes()
        tensors = [Written(_FACTORS, factors.shape, TensorType.F32, lambda: (data,)), *tensors]
    assert isinstance(read, DenseConfig)
    close = np.allclose(read.rope.inv_freq, c.rope.inv_freq, rtol=_CLOSE, atol=0)
    if close and abs(read.rope.scale - c.rope.scale) < _CLOSE:
        read = replace(read, rope=c.rope)
    lost = [each.name for each in fields_of(c) if getattr(read, each.name) != getattr(c, each.name)]
    if lost:
        raise UnsupportedModel(
            f"{where}: its {', '.join(lost)} cannot be told in a GGUF file: write a folder"
        )
    return tensors
