"""Multi-head latent attention (arXiv:2405.04434) and the decoder of DeepSeek's families.

The cache keeps a latent vector and one rotated key for all heads. Attention is always absorbed: queries go
through the keys' matrices and attend to the latent vectors themselves, whose mixture goes through the
values' matrices. One arithmetic for one token and for a long prompt gives every row the same bits; a
prompt's scores cost (latent + rotated) features a pair instead of (plain + rotated).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sampan.kernels.ops import HIDDEN, Attention, Batch, Form, Linear, Norm, Ops, PerHead, Rope, Weight
from sampan.models.config import ModelConfig, RopeConfig
from sampan.models.mixture import ExpertConfig, Mixture, Mlp, Names, mixture, mlp, run
from sampan.models.mixture import parts as experts_parts

NAMES = Names(shared="mlp.shared_experts.")


@dataclass(frozen=True, kw_only=True)
class LatentConfig(ModelConfig):
    """DeepSeek's decoder. `query`, `latent`: features of the latent vectors of queries (0: there is none) and
    of keys and values; `plain`, `rotated`, `value`: features of a head. `scale`: of the scores. `dense`:
    layers from the first on with an MLP of `ffn` features."""

    heads: int
    query: int
    latent: int
    plain: int
    rotated: int
    value: int
    scale: float
    ffn: int
    dense: int
    experts: ExpertConfig
    norm_eps: float
    rope: RopeConfig
    form: Form = "interleaved"
    bias: bool = False


@dataclass(frozen=True)
class Layer:
    """One decoder layer. `query`: from the norm's output, or from the queries' latent vector."""

    attn_norm: Norm
    query_down: Linear | None
    query_norm: Norm | None
    query: Linear
    latent: Linear
    latent_norm: Norm
    keys: PerHead
    attention: Attention
    values: PerHead
    out: Linear
    mlp_norm: Norm
    mlp: Mlp | Mixture


@dataclass(frozen=True)
class Model:
    """Embedding, layers, final norm and head; the rotations of queries and keys."""

    embed: Weight
    layers: tuple[Layer, ...]
    norm: Norm
    head: Linear
    query_rope: Rope
    key_rope: Rope
    latent: int
    rotated: int


def build(c: LatentConfig) -> Model:
    """The weights by their Hugging Face names."""
    embed = Weight("model.embed_tokens.weight", (c.vocab, c.hidden))
    name = embed.name if c.tied_head else "lm_head.weight"
    rope = (c.rope.inv_freq,)
    return Model(
        embed,
        tuple(_layer(c, index) for index in range(c.layers)),
        Norm(Weight("model.norm.weight", (c.hidden,)), c.norm_eps),
        Linear((Weight(name, (c.vocab, c.hidden), fine=True),)),
        Rope(*rope, c.plain + c.rotated, c.rope.scale, c.form, c.plain),
        Rope(*rope, c.rotated, c.rope.scale, c.form),
        c.latent,
        c.rotated,
    )


def _layer(c: LatentConfig, index: int) -> Layer:
    at, last = f"model.layers.{index}.", index == c.layers - 1
    attn = at + "self_attn."
    head = c.plain + c.rotated
    # Queries and keys pass products one behind another: 8 bits in each add up (docs/numerics.md).

    def norm(name: str, size: int) -> Norm:
        return Norm(Weight(f"{name}.weight", (size,)), c.norm_eps)

    def linear(name: str, size: int, inputs: int, *, bias: bool = False, fine: bool = last) -> Linear:
        return Linear.of(attn + name, sizes=(size,), inputs=inputs, bias=bias, fine=(fine,))

    down = c.query > 0
    return Layer(
        attn_norm=norm(at + "input_layernorm", c.hidden),
        query_down=linear("q_a_proj", c.query, c.hidden, bias=c.bias, fine=True) if down else None,
        query_norm=norm(attn + "q_a_layernorm", c.query) if down else None,
        query=linear(
            "q_b_proj" if down else "q_proj", c.heads * head, c.query or c.hidden, fine=down or last
        ),
        latent=linear("kv_a_proj_with_mqa", c.latent + c.rotated, c.hidden, bias=c.bias, fine=True),
        latent_norm=norm(attn + "kv_a_layernorm", c.latent),
        keys=PerHead(_up(attn, "k", c, c.plain), head, transposed=True),
        attention=Attention(index, c.heads, 1, c.latent + c.rotated, c.latent, c.scale, latent=True),
        values=PerHead(_up(attn, "v", c, c.value), c.latent),
        out=linear("o_proj", c.hidden, c.heads * c.value, bias=c.bias),
        mlp_norm=norm(at + "post_attention_layernorm", c.hidden),
        mlp=mlp(at + "mlp.", c.hidden, c.ffn, fine=last)
        if index < c.dense
        else mixture(at, c.hidden, c.experts, NAMES, fine=last),
    )


def _up(attn: str, kind: str, c: LatentConfig, size: int) -> tuple[Weight, ...]:
    at = f"{attn}kv_b_proj.{kind}."
    return tuple(Weight(f"{at}{head}.weight", (size, c.latent), fine=True) for head in range(c.heads))


def forward(ops: Ops, model: Model, batch: Batch) -> Any:
    """Logits of the sampled rows."""
    x = ops.embed(model.embed, batch.ids)
    for layer in model.layers:
        h = ops.norm(x, layer.attn_norm)
        latent, key = ops.split(ops.linear(h, layer.latent), (model.latent, model.rotated))
        key = ops.rope(key, batch.positions, model.key_rope)
        keys = ops.concat((ops.norm(latent, layer.latent_norm), key))
        q = ops.rope(ops.linear(_query(ops, h, layer), layer.query), batch.positions, model.query_rope)
        y = ops.attend(ops.per_head(q, layer.keys), keys, None, batch.cache, layer.attention)
        if layer is model.layers[-1]:  # nothing reads the other rows any more
            x, y = ops.rows(x, batch.sampled), ops.rows(y, batch.sampled)
        x = x + ops.linear(ops.per_head(y, layer.values), layer.out)
        x = x + run(ops, ops.norm(x, layer.mlp_norm), layer.mlp)
    return ops.head(ops.keep(ops.norm(x, model.norm), HIDDEN), model.head)


def _query(ops: Ops, h: Any, layer: Layer) -> Any:
    """What queries are made of."""
    if layer.query_down is None or layer.query_norm is None:
        return h
    return ops.norm(ops.linear(h, layer.query_down), layer.query_norm)


def parts(c: LatentConfig, name: str, shape: tuple[int, ...]) -> Mapping[str, int]:
    """See `Family.parts`: keys' and values' matrices of a head lie one behind the other."""
    for kind, file, rows in (("k", ".k_b_proj.weight", c.latent), ("v", ".v_b_proj.weight", c.value)):
        if name.endswith(file):  # GGUF
            at = name.removesuffix(file)
            return {f"{at}.kv_b_proj.{kind}.{head}.weight": rows for head in range(c.heads)}
    if name.endswith("kv_b_proj.weight"):
        at = name.removesuffix("weight")
        return {
            f"{at}{kind}.{head}.weight": size
            for head in range(c.heads)
            for kind, size in (("k", c.plain), ("v", c.value))
        }
    return experts_parts(NAMES, name, shape)
