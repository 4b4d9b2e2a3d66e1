"""Qwen2 and Qwen2.5 (arXiv:2412.15115), and with them QwQ and the R1 distills of Qwen.

Llama's decoder with a bias on q, k and v.
"""

from sampan.models.config import DenseConfig, GgufModel, dense_from_gguf, dense_from_hf, dense_to_hf
from sampan.models.decoder import decoder
from sampan.models.family import LAYER, Family
from sampan.models.fields import Fields
from sampan.models.llama import forward


def read_hf(fields: Fields) -> DenseConfig:
    """Of a `config.json`."""
    return dense_from_hf(fields, "qwen2", qkv_bias=True)


def read_gguf(model: GgufModel) -> DenseConfig:
    """Of a GGUF file."""
    return dense_from_gguf(model, "qwen2", qkv_bias=True)


FAMILY = Family(
    name="qwen2",
    from_hf=read_hf,
    from_gguf=read_gguf,
    to_hf=dense_to_hf,
    layer=LAYER,
    build=decoder,
    forward=forward,
)
