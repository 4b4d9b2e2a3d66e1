"""A family of the tests' own, with what no built-in one has; `SAMPAN_FAMILIES` names this file.

Attention and MLP read one norm and are added together; keys and values differ in size; the end of each head
is rotated, in interleaved pairs; the attention's output is gated; the embedding is scaled; the file holds
gate and up as one tensor. `write` makes a random tiny model, `logits` computes it without Sampan.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sampan.kernels.ops import Attention, Batch, Linear, Norm, Ops, Rope, Weight
from sampan.models.config import ModelConfig
from sampan.models.family import Family, Parts
from sampan.models.fields import Fields
from sampan.models.rope import frequencies

MOST = 2**20


@dataclass(frozen=True, kw_only=True)
class Config(ModelConfig):
    """`scale`: of the embedding; `rope`: of q and k."""

    heads: int
    kv_heads: int
    key_size: int
    value_size: int
    ffn: int
    norm_eps: float
    scale: float
    rope: Rope


@dataclass(frozen=True)
class Layer:
    """`mix`: q, k, v and the gate of the attention's output."""

    norm: Norm
    mix: Linear
    attention: Attention
    out: Linear
    gate_up: Linear
    down: Linear


@dataclass(frozen=True)
class Model:
    """Embedding and its scale, layers, final norm and head."""

    embed: Weight
    scale: float
    rope: Rope
    layers: tuple[Layer, ...]
    norm: Norm
    head: Linear


def read_hf(fields: Fields) -> Config:
    """Of a `config.json`."""
    key, rotary = fields.integer("key_size", high=MOST), fields.integer("rotary_size", high=MOST)
    inv_freq = frequencies(fields.number("rope_theta", 10000.0, low=1.001), rotary)
    return Config(
        family="parallel",
        hidden=fields.integer("hidden_size", high=MOST),
        layers=fields.integer("num_hidden_layers", high=MOST),
        vocab=fields.integer("vocab_size", high=MOST),
        context=fields.integer("max_position_embeddings", high=MOST),
        tied_head=False,
        heads=fields.integer("num_attention_heads", high=MOST),
        kv_heads=fields.integer("num_key_value_heads", high=MOST),
        key_size=key,
        value_size=fields.integer("value_size", high=MOST),
        ffn=fields.integer("intermediate_size", high=MOST),
        norm_eps=fields.number("rms_norm_eps", high=1.0),
        scale=fields.number("embedding_scale", 1.0),
        rope=Rope(tuple(map(float, inv_freq)), key, form="interleaved", first=key - rotary),
    )


def parts(c: Config, name: str, _shape: tuple[int, ...]) -> Parts:
    """The file's `gate_up_proj` is gate, then up."""
    if not name.endswith("mlp.gate_up_proj.weight"):
        return {}
    return {name.replace("gate_up", part): c.ffn for part in ("gate", "up")}


def build(c: Config) -> Model:
    """The weights by their names."""
    table = (c.vocab, c.hidden)
    return Model(
        embed=Weight("model.embed_tokens.weight", table),
        scale=c.scale,
        rope=c.rope,
        layers=tuple(_layer(c, index) for index in range(c.layers)),
        norm=Norm(Weight("model.norm.weight", (c.hidden,)), c.norm_eps),
        head=Linear((Weight("lm_head.weight", table, fine=True),)),
    )


def _layer(c: Config, index: int) -> Layer:
    at = f"model.layers.{index}."
    values = c.heads * c.value_size
    mix = {"q": c.heads * c.key_size, "k": c.kv_heads * c.key_size, "v": c.kv_heads * c.value_size}
    mix |= {"gate": values}
    fine = (index == c.layers - 1,)
    return Layer(
        norm=Norm(Weight(at + "input_layernorm.weight", (c.hidden,)), c.norm_eps),
        mix=Linear.of(
            *(f"{at}self_attn.{part}_proj" for part in mix),
            sizes=tuple(mix.values()),
            inputs=c.hidden,
            fine=fine * 4,
        ),
        attention=Attention(index, c.heads, c.kv_heads, c.key_size, c.value_size, c.key_size**-0.5),
        out=Linear.of(at + "self_attn.o_proj", sizes=(c.hidden,), inputs=values, fine=fine),
        gate_up=Linear.of(
            at + "mlp.gate_proj", at + "mlp.up_proj", sizes=(c.ffn,) * 2, inputs=c.hidden, fine=fine * 2
        ),
        down=Linear.of(at + "mlp.down_proj", sizes=(c.hidden,), inputs=c.ffn, fine=fine),
    )


def forward(ops: Ops, model: Model, batch: Batch) -> Any:
    """Logits of the sampled rows."""
    x = ops.scale(ops.embed(model.embed, batch.ids), model.scale)
    for layer in model.layers:
        h = ops.norm(x, layer.norm)
        q, k, v, gate = ops.linear(h, layer.mix)
        q, k = ops.rope(q, batch.positions, model.rope), ops.rope(k, batch.positions, model.rope)
        y = ops.gate(ops.attend(q, k, v, batch.cache, layer.attention), gate)
        z = ops.swiglu(ops.linear(h, layer.gate_up))
        if layer is model.layers[-1]:
            x, y, z = (ops.rows(value, batch.sampled) for value in (x, y, z))
        x = x + ops.linear(y, layer.out) + ops.linear(z, layer.down)
    return ops.head(ops.keep(ops.norm(x, model.norm), "hidden"), model.head)


FAMILY = Family(name="parallel", from_hf=read_hf, parts=parts, build=build, forward=forward)

SPECIAL = ("<|im_start|>", "<|im_end|>")
HIDDEN, LAYERS, HEADS, KV_HEADS, KEY, VALUE, ROTARY, FFN, VOCAB = 64, 2, 4, 2, 64, 32, 32, 96, 264
THETA, EPS, SCALE = 10000.0, 1e-5, 3.0
CONFIG = {
    "model_type": "parallel",
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "key_size": KEY,
    "value_size": VALUE,
    "rotary_size": ROTARY,
    "intermediate_size": FFN,
    "vocab_size": VOCAB,
    "max_position_embeddings": 512,
    "rms_norm_eps": EPS,
    "rope_theta": THETA,
    "embedding_scale": SCALE,
    "eos_token_id": 257,
}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LAYER = {
    "input_layernorm": (HIDDEN,),
    "self_attn.q_proj": (HEADS * KEY, HIDDEN),
    "self_attn.k_proj": (KV_HEADS * KEY, HIDDEN),
    "self_attn.v_proj": (KV_HEADS * VALUE, HIDDEN),
    "self_attn.gate_proj": (HEADS * VALUE, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * VALUE),
    "mlp.gate_up_proj": (2 * FFN, HIDDEN),
    "mlp.down_proj": (HIDDEN, FFN),
}
Arrays = dict[str, np.ndarray]


def write(folder: Path, dtype: str = "F32", seed: int = 0) -> Arrays:
    """A tiny random model with a tokenizer of bytes and a chat template; `dtype`: F32 or BF16. Gives the
    file's tensors."""
    shapes = {
        f"model.layers.{n}.{name}.weight": shape for n in range(LAYERS) for name, shape in LAYER.items()
    }
    shapes |= {f"{name}.weight": (VOCAB, HIDDEN) for name in ("model.embed_tokens", "lm_head")}
    shapes |= {"model.norm.weight": (HIDDEN,)}
    rng = np.random.default_rng(seed)
    values = {name: _random(rng, shape) for name, shape in shapes.items()}
    stored = {
        name: x if dtype == "F32" else (x.view("<u4") >> 16).astype("<u2") for name, x in values.items()
    }
    header, end = {}, 0
    for name, x in stored.items():
        header[name] = {"dtype": dtype, "shape": x.shape, "data_offsets": [end, end := end + x.nbytes]}
    text = json.dumps(header).encode()
    data = b"".join(x.tobytes() for x in stored.values())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": False}))
    _write_text(folder)
    return {name: x if dtype == "F32" else _rounded(x) for name, x in values.items()}


def logits(weights: Arrays, ids: Sequence[int]) -> np.ndarray:
    """Logits after every token [T, vocabulary], in float64."""
    w = {name.removesuffix(".weight"): x.astype(np.float64) for name, x in weights.items()}
    x = w["model.embed_tokens"][list(ids)] * SCALE
    for layer in range(LAYERS):
        part = {name: w[f"model.layers.{layer}.{name}"] for name in LAYER}
        h = _norm(x, part["input_layernorm"])
        q, k, v, gate = (h @ part[f"self_attn.{name}_proj"].T for name in ("q", "k", "v", "gate"))
        y = _attention(_turned(q), _turned(k), v) / (1 + np.exp(-gate))
        a, b = np.split(h @ part["mlp.gate_up_proj"].T, 2, axis=1)
        x = x + y @ part["self_attn.o_proj"].T + (a / (1 + np.exp(-a)) * b) @ part["mlp.down_proj"].T
    return _norm(x, w["model.norm"]) @ w["lm_head"].T


def _norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return weight * x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS)


def _turned(x: np.ndarray) -> np.ndarray:
    """The last features of each head, neighbours as one complex number."""
    heads = x.reshape(len(x), -1, KEY)
    pairs = heads[..., KEY - ROTARY :: 2] + 1j * heads[..., KEY - ROTARY + 1 :: 2]
    angles = np.arange(len(x))[:, None] * THETA ** (-2 * np.arange(ROTARY // 2) / ROTARY)
    turned = pairs * np.exp(1j * angles)[:, None]
    ends = np.stack([turned.real, turned.imag], -1).reshape(*heads.shape[:2], ROTARY)
    return np.concatenate([heads[..., : KEY - ROTARY], ends], -1)


def _attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    k = k.repeat(HEADS // KV_HEADS, axis=1)
    v = v.reshape(len(v), KV_HEADS, VALUE).repeat(HEADS // KV_HEADS, axis=1)
    scores = np.einsum("thd,shd->hts", q, k) * KEY**-0.5
    scores[:, np.triu(np.ones(scores.shape[1:], bool), 1)] = -np.inf
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hts,shd->thd", p / p.sum(-1, keepdims=True), v).reshape(len(q), -1)


def _random(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    noise = rng.standard_normal(shape, np.float32)
    return 1 + np.float32(0.3) * noise if len(shape) == 1 else noise * np.float32(1.5 * shape[1] ** -0.5)


def _rounded(x: np.ndarray) -> np.ndarray:
    """As bf16, towards zero."""
    return (x.view("<u4") & np.uint32(0xFFFF0000)).view("<f4")


def _write_text(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({byte: n for n, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": SPECIAL[1]}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
