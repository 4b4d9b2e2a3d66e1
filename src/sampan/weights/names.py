"""Tensor names. Canonical are Hugging Face's; GGUF's are translated by one table."""

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
