"""A family of the tests' own whose files hold q, k and v as one tensor, and gate and up: Llama otherwise.

In GGUF the rows of q and k are interleaved as Llama's are, and gate and up are stacked along an axis more.
"""

from sampan.models import llama
from sampan.models.config import DenseConfig, GgufModel, dense_from_gguf, dense_from_hf
from sampan.models.decoder import decoder
from sampan.models.family import LAYER, Family, Parts
from sampan.models.fields import Fields


def read_hf(fields: Fields) -> DenseConfig:
    """Of a `config.json`."""
    return dense_from_hf(fields, "fused", qkv_bias=fields.flag("attention_bias", False))


def read_gguf(model: GgufModel) -> DenseConfig:
    """Of a GGUF file."""
    return dense_from_gguf(model, "fused", qkv_bias="blk.0.attn_qkv.bias" in model.shapes)


def parts(c: DenseConfig, name: str, _shape: tuple[int, ...]) -> Parts:
    """What a tensor of the file holds."""
    module, _, kind = name.rpartition(".")
    if module.endswith("mlp.gate_up_proj"):
        sizes = {"gate_up_proj": {"gate_proj": c.ffn, "up_proj": c.ffn}}
    else:
        kv = c.kv_heads * c.head_dim
        sizes = {"qkv_proj": {"q_proj": c.heads * c.head_dim, "k_proj": kv, "v_proj": kv}}
    at, _, linear = module.rpartition(".")
    return {f"{at}.{part}.{kind}": rows for part, rows in sizes.get(linear, {}).items()}


FAMILY = Family(
    name="fused",
    model_types=("fused-text", "fused"),
    architectures=("fused2",),
    from_hf=read_hf,
    from_gguf=read_gguf,
    layer=LAYER | {"attn_qkv": "self_attn.qkv_proj", "ffn_gate_up": "mlp.gate_up_proj"},
    ignored=(".rotary_emb.inv_freq", ".attn_rot_embd.weight"),
    interleaved=llama.FAMILY.interleaved,
    parts=parts,
    build=decoder,
    forward=llama.forward,
)
