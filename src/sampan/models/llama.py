"""Llama (arXiv:2407.21783), and with it SmolLM2 and the R1 distills of Llama."""

from typing import Any

from sampan.kernels.ops import HIDDEN, Batch, Ops
from sampan.models.config import DenseConfig, GgufModel, dense_from_gguf, dense_from_hf, dense_to_hf
from sampan.models.decoder import Decoder, Layer, decoder
from sampan.models.family import LAYER, Family
from sampan.models.fields import Fields


def read_hf(fields: Fields) -> DenseConfig:
    """Of a `config.json`."""
    bias = fields.flag("attention_bias", False)
    return dense_from_hf(
        fields, "llama", qkv_bias=bias, out_bias=bias, mlp_bias=fields.flag("mlp_bias", False)
    )


def read_gguf(model: GgufModel) -> DenseConfig:
    """Of a GGUF file."""
    return dense_from_gguf(model, "llama")


def forward(ops: Ops, model: Decoder[Layer], batch: Batch) -> Any:
    """Logits of the sampled rows."""
    x = ops.embed(model.embed, batch.ids)
    for layer in model.layers:
        q, k, v = ops.linear(ops.norm(x, layer.attn_norm), layer.qkv)
        q, k = ops.rope(q, batch.positions, model.rope), ops.rope(k, batch.positions, model.rope)
        y = ops.attend(q, k, v, batch.cache, layer.attention)
        if layer is model.layers[-1]:  # nothing reads the other rows any more
            x, y = ops.rows(x, batch.sampled), ops.rows(y, batch.sampled)
        x = x + ops.linear(y, layer.out)
        h = ops.linear(ops.norm(x, layer.mlp_norm), layer.gate_up)
        x = x + ops.linear(ops.swiglu(h), layer.down)
    return ops.head(ops.keep(ops.norm(x, model.norm), HIDDEN), model.head)


FAMILY = Family(
    name="llama",
    from_hf=read_hf,
    from_gguf=read_gguf,
    to_hf=dense_to_hf,
    layer=LAYER,
    interleaved={"q_proj": "heads", "k_proj": "kv_heads"},  # convert_hf_to_gguf.py, `permute`
    build=decoder,
    forward=forward,
)
