"""What a family's file says of itself: how its configuration is read, how its tensors are named, what it
computes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sampan.kernels.ops import Batch, Ops
from sampan.kernels.tensors import Floats
from sampan.models.config import GgufModel, ModelConfig
from sampan.models.fields import Fields
from sampan.models.predictor import Draft

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
# Of a layer for drafts, behind the last one.
DRAFT_LAYER = {
    "nextn.eh_proj": "eh_proj",
    "nextn.enorm": "enorm",
    "nextn.hnorm": "hnorm",
    "nextn.embed_tokens": "embed_tokens",
    "nextn.shared_head_head": "shared_head.head",
    "nextn.shared_head_norm": "shared_head.norm",
}
# GGUF's names of the other tensors.
WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}

Parts = Mapping[str, int]
"""Our tensors in one of a file's, in the order of its rows, and how many rows each has."""


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor that a GGUF file keeps otherwise than Hugging Face does. `rows`, `columns`: row or column i is
    the file's `rows[i]`, `columns[i]`. `read`: what the values mean, of those in the file."""

    rows: NDArray[np.intp] | None = None
    columns: NDArray[np.intp] | None = None
    read: Callable[[Floats], Floats] | None = None


def _as_published(_config: Any, _name: str) -> Stored | None:
    return None


def _itself(_config: Any, _name: str, _shape: tuple[int, ...]) -> Parts:
    return {}


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model file. `name`: of the family; `model_types`: in `config.json`, and `architectures`: in GGUF,
    for a family that is read from it, are `name` alone where none are given.

    `from_hf`, `from_gguf`: readers of the configuration, whose `family` is `name`; `to_hf`: the way back, for
    a folder made from GGUF. `build`: the description of a configuration, all of whose tensors are `Weight`s
    within it; `forward`: what it computes.

    `layer`, `whole`: GGUF's names of a layer's tensors, with or without their ending, and of others; a `*` is
    the number of an expert, and a name that has no ending has a dot behind it. `special`: of a family that
    shares GGUF's name of its architecture with another, whether a file is its own. `turned`: endings, by
    Hugging Face's names, of tensors whose `parts` lie [inputs, outputs]. `interleaved`: linears whose rows
    GGUF keeps in another order, with the field of the configuration that counts their heads. `ignored`:
    endings of names, as a file has them, of no weights.
    `draft`: the layer behind the last one that guesses a token more, where files have one.
    `beside`: beginnings of names of what else is passed over: encoders of pictures.
    `stored(config, name)`: how GGUF keeps a tensor of ours, by its name, where that is not as Hugging Face
    has it.
    `parts(config, name, shape)`: for a tensor of the file, by Hugging Face's name, that holds many of ours
    one after another: these, each [rows, last axis]; rows are counted over all axes but the last, of a vector
    over its elements. Empty for any other tensor.
    """

    name: str
    from_hf: Callable[[Fields], ModelConfig]
    build: Callable[[Any], Any]
    forward: Callable[[Ops, Any, Batch], Any]
    from_gguf: Callable[[GgufModel], ModelConfig] | None = None
    to_hf: Callable[[Any, Mapping[str, object]], dict[str, object]] | None = None
    model_types: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    layer: Mapping[str, str] = field(default_factory=dict)
    whole: Mapping[str, str] = field(default_factory=WHOLE.copy)
    interleaved: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = (".rotary_emb.inv_freq",)
    draft: Draft | None = None
    beside: tuple[str, ...] = ()
    special: Callable[[GgufModel], bool] | None = None
    turned: tuple[str, ...] = ()
    parts: Callable[[Any, str, tuple[int, ...]], Parts] = _itself
    stored: Callable[[Any, str], Stored | None] = _as_published

    def __post_init__(self) -> None:
        for name in ("from_hf", "build", "forward", "from_gguf", "to_hf", "parts"):
            value = getattr(self, name)
            if not (callable(value) or (value is None and name in ("from_gguf", "to_hf"))):
                raise TypeError(f"{name} is {value!r}, no function")
        object.__setattr__(self, "model_types", self.model_types or (self.name,))
        if self.from_gguf is not None:
            object.__setattr__(self, "architectures", self.architectures or (self.name,))

    def canonical(self, name: str) -> str | None:
        """Hugging Face's name of a GGUF tensor, or None where the family has no such tensor."""
        if name in self.whole:
            return self.whole[name]
        match name.split("."):
            case ["blk", layer, first, *rest] if layer.isdecimal():
                at, whole = f"model.layers.{layer}.", f"{first}.{'.'.join(rest)}"
                part, _, kind = whole.rpartition(".")
                if whole in self.layer:
                    return at + self.layer[whole]
                if part in self.layer and kind in ("weight", "bias"):
                    return f"{at}{self.layer[part]}.{kind}"
                part, _, expert = part.rpartition(".")
                found = self.layer.get(f"{part}.*") if expert.isdecimal() and kind == "weight" else None
                return None if found is None else f"{at}{found.replace('*', expert)}.weight"
        return None

    def ignores(self, name: str, config: ModelConfig) -> bool:
        """Whether a file's tensor is no weight, or a second copy of a tied head, which transformers ignores
        too."""
        if self.beside and name.startswith(self.beside):
            return True
        if self.draft and name.startswith("blk.") and self.canonical(name) is None:
            layer = name.split(".")[1]
            return name.endswith(self.ignored) or (layer.isdecimal() and int(layer) >= config.layers)
        return name.endswith(self.ignored) or (config.tied_head and name == "lm_head.weight")
