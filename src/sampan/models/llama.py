"""Llama (arXiv:2407.21783), and with it SmolLM2 and the R1 distills of Llama."""

from dataclasses import dataclass
from typing import Any

from sampan.kernels.ops import Attention, Batch, Linear, Norm, Ops, Rope, Weight
from sampan.models.config import DenseConfig, GgufModel, dense_from_gguf, dense_from_hf, dense_to_hf
from sampan.models.family import LAYER, Family
from sampan.models.fields import Fields


@dataclass(frozen=True)
class Layer:
    """One decoder layer: attention, then a gated MLP."""

    attn_norm: Norm
    qkv: Linear
    attention: Attention
    out: Linear
    mlp_norm: Norm
    gate_up: Linear
    down: Linear


@dataclass(frozen=True)
class Llama:
    """Embedding, layers, final norm and head; one rotation for all layers."""

    embed: Weight
    layers: tuple[Layer, ...]
    norm: Norm
    head: Linear
    rope: Rope


def read_hf(fields: Fields) -> DenseConfig:
    """Of a `config.json`."""
    bias = fields.flag("attention_bias", False)
    return dense_from_hf(
        fields, "llama", qkv_bias=bias, out_bias=bias, mlp_bias=fields.flag("mlp_bias", False)
    )


def read_gguf(model: GgufModel) -> DenseConfig:
    """Of a GGUF file."""
    return dense_from_gguf(model, "llama")


def build(c: DenseConfig) -> Llama:
    """The model's weights by their Hugging Face names."""
    embed = Weight("model.embed_tokens.weight", (c.vocab, c.hidden))
    name = embed.name if c.tied_head else "lm_head.weight"
    head = Linear((Weight(name, (c.vocab, c.hidden), fine=True),))
    norm = Norm(Weight("model.norm.weight", (c.hidden,)), c.norm_eps)
    return Llama(embed, tuple(_layer(c, i) for i in range(c.layers)), norm, head, c.rotation)


def _layer(c: DenseConfig, index: int) -> Layer:
    at = f"model.layers.{index}."
    q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
    attn, mlp = at + "self_attn.", at + "mlp."
    last = index == c.layers - 1
    return Layer(
        attn_norm=Norm(Weight(at + "input_layernorm.weight", (c.hidden,)), c.norm_eps),
        qkv=Linear.of(
            attn + "q_proj",
            attn + "k_proj",
            attn + "v_proj",
            sizes=(q, kv, kv),
            inputs=c.hidden,
            bias=c.qkv_bias,
            fine=(last, last, last),
        ),
        attention=Attention(index, c.heads, c.kv_heads, c.head_dim, c.head_dim, c.head_dim**-0.5),
        out=Linear.of(attn + "o_proj", sizes=(c.hidden,), inputs=q, bias=c.out_bias, fine=(last,)),
        mlp_norm=Norm(Weight(at + "post_attention_layernorm.weight", (c.hidden,)), c.norm_eps),
        gate_up=Linear.of(
            mlp + "gate_proj",
            mlp + "up_proj",
            sizes=(c.ffn, c.ffn),
            inputs=c.hidden,
            bias=c.mlp_bias,
            fine=(last, last),
        ),
        down=Linear.of(mlp + "down_proj", sizes=(c.hidden,), inputs=c.ffn, bias=c.mlp_bias, fine=(last,)),
    )


def forward(ops: Ops, model: Llama, batch: Batch) -> Any:
    """Logits of the sampled rows."""
    x = ops.embed(model.embed, batch.ids)
    for layer in model.layers:
        q, k, v = ops.linear(ops.norm(x, layer.attn_norm), layer.qkv)
        q, k = ops.rope(q, batch.positions, model.rope), ops.rope(k, batch.positions, model.rope)
        y = ops.attend(q, k, v, batch.cache, layer.attention)
        if layer is model.layers[-1]:  # nothing reads the other rows any more
            x, y = ops.rows(x, batch.sampled), ops.rows(y, batch.sampled)
        x = x + ops.linear(y, layer.out)
        h = ops.linear(ops.norm(x, layer.mlp_norm), layer.gate_up)
        x = x + ops.linear(ops.swiglu(h), layer.down)
    return ops.head(ops.keep(ops.norm(x, model.norm), "hidden"), model.head)


FAMILY = Family(
    name="llama",
    from_hf=read_hf,
    from_gguf=read_gguf,
    to_hf=dense_to_hf,
    layer=LAYER,
    interleaved={"q_proj": "heads", "k_proj": "kv_heads"},
    build=build,
    forward=forward,
)
