"""The dense decoder that families share: in each layer attention, then a gated MLP, each after a norm.

This describes its weights; what is computed with them stands in each family's file.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

from sampan.kernels.ops import Attention, Linear, Norm, Rope, Weight
from sampan.models.config import DenseConfig


@dataclass(frozen=True)
class Layer:
    """One decoder layer."""

    attn_norm: Norm
    qkv: Linear
    attention: Attention
    out: Linear
    mlp_norm: Norm
    gate_up: Linear
    down: Linear


L = TypeVar("L", bound=Layer)


@dataclass(frozen=True)
class Decoder(Generic[L]):
    """Embedding, layers, final norm and head; one rotation for all layers."""

    embed: Weight
    layers: tuple[L, ...]
    norm: Norm
    head: Linear
    rope: Rope


def decoder(c: DenseConfig) -> Decoder[Layer]:
    """The weights by their Hugging Face names."""
    embed = Weight("model.embed_tokens.weight", (c.vocab, c.hidden))
    name = embed.name if c.tied_head else "lm_head.weight"
    head = Linear((Weight(name, (c.vocab, c.hidden), fine=True),))
    norm = Norm(Weight("model.norm.weight", (c.hidden,)), c.norm_eps)
    return Decoder(embed, tuple(_layer(c, i) for i in range(c.layers)), norm, head, c.rotation)


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
