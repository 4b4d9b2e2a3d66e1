"""Qwen3 dense (arXiv:2505.09388): Llama's decoder with RMSNorm over each head of q and k before RoPE."""

from dataclasses import dataclass
from typing import Any

from sampan.kernels.ops import HIDDEN, Batch, Norm, Ops, Weight
from sampan.models import decoder
from sampan.models.config import DenseConfig, GgufModel, dense_from_gguf, dense_from_hf, dense_to_hf
from sampan.models.decoder import Decoder
from sampan.models.family import LAYER, Family
from sampan.models.fields import Fields

_HEAD_DIM = 128  # where config.json says none


@dataclass(frozen=True)
class Layer(decoder.Layer):
    """The shared layer and the two head norms."""

    q_norm: Norm
    k_norm: Norm


def read_hf(fields: Fields) -> DenseConfig:
    """Of a `config.json`."""
    bias = fields.flag("attention_bias", False)
    return dense_from_hf(fields, "qwen3", qkv_bias=bias, out_bias=bias, head_dim=_HEAD_DIM)


def read_gguf(model: GgufModel) -> DenseConfig:
    """Of a GGUF file."""
    return dense_from_gguf(model, "qwen3")


def build(c: DenseConfig) -> Decoder[Layer]:
    """The weights by their Hugging Face names."""
    base = decoder.decoder(c)
    layers = tuple(_layer(c, layer) for layer in base.layers)
    return Decoder(base.embed, layers, base.norm, base.head, base.rope)


def _layer(c: DenseConfig, layer: decoder.Layer) -> Layer:
    at = f"model.layers.{layer.attention.layer}.self_attn."
    return Layer(
        **vars(layer),
        q_norm=Norm(Weight(at + "q_norm.weight", (c.head_dim,)), c.norm_eps),
        k_norm=Norm(Weight(at + "k_norm.weight", (c.head_dim,)), c.norm_eps),
    )


def forward(ops: Ops, model: Decoder[Layer], batch: Batch) -> Any:
    """Logits of the sampled rows."""
    x = ops.embed(model.embed, batch.ids)
    for layer in model.layers:
        q, k, v = ops.linear(ops.norm(x, layer.attn_norm), layer.qkv)
        q, k = ops.norm(q, layer.q_norm), ops.norm(k, layer.k_norm)
        q, k = ops.rope(q, batch.positions, model.rope), ops.rope(k, batch.positions, model.rope)
        y = ops.attend(q, k, v, batch.cache, layer.attention)
        if layer is model.layers[-1]:  # nothing reads the other rows any more
            x, y = ops.rows(x, batch.sampled), ops.rows(y, batch.sampled)
        x = x + ops.linear(y, layer.out)
        h = ops.linear(ops.norm(x, layer.mlp_norm), layer.gate_up)
        x = x + ops.linear(ops.swiglu(h), layer.down)
    return ops.head(ops.keep(ops.norm(x, model.norm), HIDDEN), model.head)


FAMILY = Family(
    name="qwen3",
    from_hf=read_hf,
    from_gguf=read_gguf,
    to_hf=dense_to_hf,
    layer=LAYER,
    build=build,
    forward=forward,
)
