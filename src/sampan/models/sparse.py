"""The decoder of the mixture-of-experts families with grouped-query attention: Llama's layers, some with a
mixture in the place of the MLP."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sampan.kernels.ops import HIDDEN, Attention, Batch, Linear, Norm, Ops, Weight
from sampan.models import decoder
from sampan.models.config import DenseConfig, GgufModel, dense_from_gguf, dense_to_hf
from sampan.models.decoder import Decoder
from sampan.models.family import LAYER as DENSE_LAYER
from sampan.models.mixture import QWEN, ExpertConfig, Mixture, Mlp, Names, experts_of, mixture, run
from sampan.models.mixture import parts as parts_of


@dataclass(frozen=True, kw_only=True)
class SparseConfig(DenseConfig):
    """A dense decoder's, and its experts'. `dense`: layers with an MLP. `head_norms`: q and k are normalised
    head by head."""

    experts: ExpertConfig
    dense: frozenset[int] = frozenset()
    head_norms: bool = False


@dataclass(frozen=True)
class Layer:
    """One decoder layer."""

    attn_norm: Norm
    qkv: Linear
    attention: Attention
    out: Linear
    mlp_norm: Norm
    mlp: Mlp | Mixture
    q_norm: Norm | None = None
    k_norm: Norm | None = None


def sparse(c: DenseConfig, experts: ExpertConfig, **rest: Any) -> SparseConfig:
    """A configuration of the rest."""
    return SparseConfig(**vars(c), experts=experts, **rest)


# GGUF's names of a layer's tensors.
LAYER = {
    **DENSE_LAYER,
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}


def sparse_from_gguf(
    model: GgufModel, family: str, *, qkv_bias: bool = False, head_norms: bool = False,
    ffn: str = "expert_feed_forward_length", **rest: Any,
) -> SparseConfig:  # fmt: skip
    """Of a GGUF file. `ffn`: the key of an expert's features; `rest`: of the experts. Layers without a router
    have an MLP."""
    c = dense_from_gguf(model, family, qkv_bias=qkv_bias, experts=True)
    experts = experts_of(model.fields(), "expert_count", "expert_used_count", ffn, **rest)
    routed = {layer for layer in range(c.layers) if f"blk.{layer}.ffn_gate_inp.weight" in model.shapes}
    return sparse(c, experts, dense=frozenset(range(c.layers)) - routed, head_norms=head_norms)


def sparse_to_hf(c: SparseConfig, metadata: Mapping[str, object]) -> dict[str, object]:
    """The `config.json` of a GGUF file's model."""
    experts = c.experts
    given: dict[str, object] = {
        "num_experts": experts.count,
        "num_experts_per_tok": experts.chosen,
        "moe_intermediate_size": experts.ffn,
        "norm_topk_prob": experts.normalised,
        "decoder_sparse_step": 1,
        "mlp_only_layers": sorted(c.dense),
    }
    shared = {"shared_expert_intermediate_size": experts.shared} if experts.shared else {}
    return dense_to_hf(c, metadata) | given | shared


def build(c: SparseConfig, names: Names = QWEN) -> Any:
    """The weights by their Hugging Face names."""
    base = decoder.decoder(c)
    layers = tuple(_layer(c, layer, names) for layer in base.layers)
    return Decoder(base.embed, layers, base.norm, base.head, base.rope)


def _layer(c: SparseConfig, layer: decoder.Layer, names: Names) -> Layer:
    index = layer.attention.layer
    at, last = f"model.layers.{index}.", index == c.layers - 1
    dense = index in c.dense
    norms = {}
    for x in "qk" if c.head_norms else "":
        norms[f"{x}_norm"] = Norm(Weight(f"{at}self_attn.{x}_norm.weight", (c.head_dim,)), c.norm_eps)
    return Layer(
        layer.attn_norm,
        layer.qkv,
        layer.attention,
        layer.out,
        layer.mlp_norm,
        Mlp(layer.gate_up, layer.down) if dense else mixture(at, c.hidden, c.experts, names, fine=last),
        **norms,
    )


def forward(ops: Ops, model: Any, batch: Batch) -> Any:
    """Logits of the sampled rows."""
    x = ops.embed(model.embed, batch.ids)
    for layer in model.layers:
        q, k, v = ops.linear(ops.norm(x, layer.attn_norm), layer.qkv)
        if layer.q_norm is not None:
            q, k = ops.norm(q, layer.q_norm), ops.norm(k, layer.k_norm)
        q, k = ops.rope(q, batch.positions, model.rope), ops.rope(k, batch.positions, model.rope)
        y = ops.attend(q, k, v, batch.cache, layer.attention)
        if layer is model.layers[-1]:  # nothing reads the other rows any more
            x, y = ops.rows(x, batch.sampled), ops.rows(y, batch.sampled)
        x = x + ops.linear(y, layer.out)
        x = x + run(ops, ops.norm(x, layer.mlp_norm), layer.mlp)
    return ops.head(ops.keep(ops.norm(x, model.norm), HIDDEN), model.head)


def parts(_c: SparseConfig, name: str, shape: tuple[int, ...]) -> Mapping[str, int]:
    """See `Family.parts`."""
    return parts_of(QWEN, name, shape)
