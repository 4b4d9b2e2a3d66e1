"""What a model file says of its architecture, read from `config.json` or from GGUF metadata."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RopeConfig:
    """Rotary embedding, half-split. `inv_freq`: head_dim/2 angular frequencies per position;
    `scale` multiplies cos and sin (YaRN's attention factor)."""

    inv_freq: tuple[float, ...]
    scale: float = 1.0


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of one dense decoder. Units are elements; `context` is in tokens."""

    family: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    context: int
    norm_eps: float
    rope: RopeConfig
    tied_head: bool
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
