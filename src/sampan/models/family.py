"""What a family's file says of itself: how its configuration is read, how its tensors are named, what it
computes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sampan.kernels.ops import Batch, Ops
from sampan.models.config import GgufModel, ModelConfig
from sampan.models.fields import Fields

# GGUF "blk.N.KEY.weight" is "model.layers.N.VALUE.weight", and so with ".bias".
LAYER = {
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
_WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


@dataclass(frozen=True)
class Slice:
    """One of our tensors in a file's tensor that holds many: rows [start, stop) of the file's tensor, whose
    rows are counted over all axes but the last."""

    name: str
    start: int
    stop: int


def _none(_name: str, _shape: tuple[int, ...]) -> Sequence[Slice]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model file. `name`: `model_type` in `config.json`, and the architecture in GGUF.

    `from_hf`, `from_gguf`: readers of the configuration; `to_hf`: the way back, for a folder made from GGUF.
    `layer`: GGUF's names of a layer's tensors, without which the family is not read from GGUF. `interleaved`:
    linears whose rows GGUF keeps in another order, with the field of the configuration that counts their
    heads. `slices(name, shape)`: what a file's tensor holds of ours, if it holds many. `build`: the
    description, of which every `Weight` is read; `forward`: what it computes.
    """

    name: str
    from_hf: Callable[[Fields], ModelConfig]
    build: Callable[[Any], Any]
    forward: Callable[[Ops, Any, Batch], Any]
    from_gguf: Callable[[GgufModel], ModelConfig] | None = None
    to_hf: Callable[[Any, Mapping[str, object]], dict[str, object]] | None = None
    layer: Mapping[str, str] = field(default_factory=dict)
    interleaved: Mapping[str, str] = field(default_factory=dict)
    slices: Callable[[str, tuple[int, ...]], Sequence[Slice]] = _none

    def canonical(self, name: str) -> str | None:
        """Hugging Face's name of a GGUF tensor, or None where the family has no such tensor."""
        if name in _WHOLE:
            return _WHOLE[name]
        match name.split("."):
            case ["blk", layer, part, ("weight" | "bias") as kind] if (
                layer.isdecimal() and part in self.layer
            ):
                return f"model.layers.{layer}.{self.layer[part]}.{kind}"
        return None
