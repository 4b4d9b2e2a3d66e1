"""Tensor names. Canonical are Hugging Face's; GGUF's are translated by one table."""

from collections.abc import Iterator

from sampan.models.config import ModelConfig

# GGUF "blk.N.KEY.weight" is "model.layers.N.VALUE.weight", and so with ".bias".
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GLOBAL = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
# Not a weight: read into the configuration's frequencies.
ROPE_FREQS = "rope_freqs.weight"


def from_gguf(name: str) -> str | None:
    """The canonical name of a GGUF tensor, or None where this project knows no such tensor."""
    if name in _GLOBAL:
        return _GLOBAL[name]
    match name.split("."):
        case ["blk", layer, part, ("weight" | "bias") as kind] if layer.isdecimal() and part in _LAYER:
            return f"model.layers.{layer}.{_LAYER[part]}.{kind}"
    return None


def expected(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of a model, by canonical name, with its shape."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocab, config.hidden),
        "model.norm.weight": (config.hidden,),
    }
    if not config.tied_head:
        shapes["lm_head.weight"] = (config.vocab, config.hidden)
    layer = dict(_layer_shapes(config))
    for number in range(config.layers):
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    return shapes


def _layer_shapes(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    linears = [
        ("self_attn.q_proj", queries, config.hidden, config.qkv_bias),
        ("self_attn.k_proj", keys, config.hidden, config.qkv_bias),
        ("self_attn.v_proj", keys, config.hidden, config.qkv_bias),
        ("self_attn.o_proj", config.hidden, queries, config.out_bias),
        ("mlp.gate_proj", config.ffn, config.hidden, config.mlp_bias),
        ("mlp.up_proj", config.ffn, config.hidden, config.mlp_bias),
        ("mlp.down_proj", config.hidden, config.ffn, config.mlp_bias),
    ]
    for name, rows, columns, bias in linears:
        yield f"{name}.weight", (rows, columns)
        if bias:
            yield f"{name}.bias", (rows,)
    yield "input_layernorm.weight", (config.hidden,)
    yield "post_attention_layernorm.weight", (config.hidden,)
    if config.family == "qwen3":
        yield "self_attn.q_norm.weight", (config.head_dim,)
        yield "self_attn.k_norm.weight", (config.head_dim,)
