"""Configurations: what transformers' classes make of a config.json, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import LlamaConfig, Qwen2Config, Qwen3Config

from sampan.core.errors import UnsupportedModel, WeightsError
from sampan.models.config import GgufModel, ModelConfig
from sampan.models.registry import from_gguf as read_gguf
from sampan.models.registry import from_hf

QWEN25 = {
    "model_type": "qwen2",
    "hidden_act": "silu",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 21,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
GGUF = {
    "general.architecture": "qwen2",
    "qwen2.embedding_length": 896,
    "qwen2.block_count": 24,
    "qwen2.feed_forward_length": 4864,
    "qwen2.attention.head_count": 14,
    "qwen2.attention.head_count_kv": 2,
    "qwen2.context_length": 32768,
    "qwen2.attention.layer_norm_rms_epsilon": 1e-06,
    "qwen2.rope.freq_base": 1000000.0,
}
SHAPES = {"token_embd.weight": (151936, 896)}


def from_gguf(metadata, shapes, rope_factors=None, source="GGUF metadata"):  # type: ignore[no-untyped-def]
    return read_gguf(GgufModel(metadata, shapes, rope_factors, source))


def saved(config: LlamaConfig | Qwen2Config | Qwen3Config, folder: Path) -> dict[str, object]:
    """The config.json that transformers writes for it."""
    config.save_pretrained(folder)
    fields: dict[str, object] = json.loads((folder / "config.json").read_text())
    return fields


@pytest.mark.parametrize(
    "make",
    [
        lambda: LlamaConfig(),
        lambda: LlamaConfig(num_key_value_heads=8, attention_bias=True, mlp_bias=True, head_dim=64),
        lambda: LlamaConfig(tie_word_embeddings=True, rms_norm_eps=1e-5, rope_parameters={"rope_theta": 1e5}),
        lambda: Qwen2Config(hidden_size=896, num_attention_heads=14, num_key_value_heads=2),
        lambda: Qwen3Config(num_key_value_heads=8, tie_word_embeddings=True),
        lambda: Qwen3Config(attention_bias=True, num_key_value_heads=8),
    ],
)
def test_sizes_are_what_transformers_reads(
    make: Callable[[], LlamaConfig | Qwen2Config | Qwen3Config], tmp_path: Path
) -> None:
    theirs = make()
    ours = from_hf(saved(theirs, tmp_path))
    assert ours.family == theirs.model_type
    assert ours.hidden == theirs.hidden_size
    assert ours.layers == theirs.num_hidden_layers
    assert (ours.heads, ours.kv_heads) == (theirs.num_attention_heads, theirs.num_key_value_heads)
    assert ours.head_dim == getattr(theirs, "head_dim", theirs.hidden_size // theirs.num_attention_heads)
    assert (ours.ffn, ours.vocab) == (theirs.intermediate_size, theirs.vocab_size)
    assert ours.context == theirs.max_position_embeddings
    assert ours.norm_eps == theirs.rms_norm_eps
    assert ours.tied_head == theirs.tie_word_embeddings
    bias = getattr(theirs, "attention_bias", False)
    assert (ours.qkv_bias, ours.out_bias) == (bias or ours.family == "qwen2", bias)
    assert ours.mlp_bias == getattr(theirs, "mlp_bias", False)
    assert len(ours.rope.inv_freq) == ours.head_dim // 2


def test_published_qwen() -> None:
    config = from_hf(QWEN25)
    assert (config.hidden, config.layers, config.heads, config.kv_heads, config.ffn) == (896, 24, 14, 2, 4864)
    assert (config.head_dim, config.context, config.tied_head) == (64, 32768, True)
    assert config.qkv_bias
    assert not config.out_bias


def test_gguf_and_hugging_face_give_one_configuration() -> None:
    assert from_gguf(GGUF, SHAPES) == from_hf(QWEN25)


def test_gguf_biases_and_heads_are_there_if_their_tensors_are() -> None:
    llama = {key.replace("qwen2", "llama"): value for key, value in GGUF.items()}
    llama["general.architecture"] = "llama"
    assert from_gguf(llama, SHAPES).tied_head
    assert not from_gguf(llama, SHAPES).qkv_bias
    names = ["output.weight", "blk.0.attn_q.bias", "blk.0.attn_output.bias", "blk.0.ffn_down.bias"]
    config = from_gguf(llama, SHAPES | dict.fromkeys(names, (896,)))
    assert not config.tied_head
    assert config.qkv_bias
    assert config.out_bias
    assert config.mlp_bias


def test_gguf_vocabulary_is_the_embeddings_rows() -> None:
    with pytest.warns(UserWarning, match=r"qwen2\.vocab_size 100: its embedding has 151936 rows"):
        assert from_gguf(GGUF | {"qwen2.vocab_size": 100}, SHAPES).vocab == 151936
    assert from_gguf(GGUF | {"qwen2.vocab_size": 100}, {}).vocab == 100
    with pytest.raises(WeightsError, match=r"m\.gguf: qwen2\.vocab_size is missing"):
        from_gguf(GGUF, {}, source="m.gguf")


def test_older_llamas_leave_fields_out() -> None:
    fields = {key: value for key, value in QWEN25.items() if key not in ("num_key_value_heads", "rope_theta")}
    config = from_hf(fields | {"model_type": "llama", "head_dim": None, "rope_scaling": None})
    assert config.kv_heads == 14
    assert config.rope.inv_freq[1] == pytest.approx(10000 ** (-1 / 32))


REQUIRED = (
    *("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("vocab_size", "max_position_embeddings", "rms_norm_eps"),
)


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_field_is_named(name: str) -> None:
    fields = {key: value for key, value in QWEN25.items() if key != name}
    for absent in (fields, fields | {name: None}):
        with pytest.raises(WeightsError, match=f"/m/config.json: {name} is missing"):
            from_hf(absent, "/m/config.json")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hidden_size", 0, "must be from 1 to"),
        ("hidden_size", -896, "must be from 1 to"),
        ("hidden_size", 2**40, "must be from 1 to"),
        ("hidden_size", 10**300, "must be from 1 to"),
        ("hidden_size", "896", "must be a whole number, not a value of type str"),
        ("hidden_size", 896.0, "must be a whole number, not a value of type float"),
        ("hidden_size", True, "must be a whole number, not a value of type bool"),
        ("num_hidden_layers", 10**9, "must be from 1 to"),
        ("vocab_size", 2**31, "must be from 1 to"),
        ("max_position_embeddings", 2**40, "must be from 1 to"),
        ("intermediate_size", 2**33, "must be from 1 to"),
        ("num_key_value_heads", 3, "is 3, which does not divide the 14 attention heads"),
        ("num_attention_heads", 13, "is 2, which does not divide the 13 attention heads"),
        ("head_dim", 63, "is 63: rotary embedding needs an even number"),
        ("head_dim", 10**6, "must be from 1 to"),
        ("rms_norm_eps", float("nan"), "must be from"),
        ("rms_norm_eps", 0, "must be from"),
        ("rms_norm_eps", float("inf"), "must be from"),
        ("tie_word_embeddings", "false", "must be true or false"),
        ("rope_scaling", [1], "must be an object"),
        ("model_type", 5, "must be a string"),
    ],
)
def test_a_wrong_field_is_named(name: str, value: object, message: str) -> None:
    with pytest.raises(WeightsError, match=rf"config\.json: \w+ {message}") as caught:
        from_hf(QWEN25 | {name: value})
    assert len(str(caught.value)) < 200


def test_heads_that_do_not_divide_need_a_head_dim() -> None:
    odd = QWEN25 | {"hidden_size": 900, "num_attention_heads": 8}
    with pytest.raises(
        WeightsError, match="head_dim is missing, and 8 heads do not divide the hidden size 900"
    ):
        from_hf(odd)
    assert from_hf(odd | {"head_dim": 64}).head_dim == 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "mistral"},
            "model_type 'mistral' is not supported: deepseek_v2, ",
        ),
        ({"use_sliding_window": True}, "sliding-window attention is not supported"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding-window attention is not"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported: silu is"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope type 'dynamic' is not supported"),
    ],
)
def test_what_is_not_implemented_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=rf"config\.json: .*{message}|config\.json: {message}"):
        from_hf(QWEN25 | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"general.architecture": "gemma3"},
            "general.architecture 'gemma3' is not supported: .*llama, qwen2",
        ),
        ({"qwen2.expert_count": 8}, "qwen2.expert_count is not supported"),
        ({"qwen2.attention.sliding_window": 4096}, "qwen2.attention.sliding_window is not supported"),
        ({"qwen2.attention.value_length": 128}, "qwen2.attention.value_length differs from the key's 64"),
        ({"qwen2.rope.scaling.type": "longrope"}, "'longrope' is not supported"),
    ],
)
def test_gguf_variants_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        from_gguf(GGUF | change, SHAPES)


@pytest.mark.parametrize("value", [[], ["14"] * 24, "14", None, 0, 10**9, 14.0])
def test_gguf_fields_are_checked(value: object) -> None:
    with pytest.raises(WeightsError, match=r"m\.gguf: qwen2\.attention\.head_count (must|is)"):
        from_gguf(GGUF | {"qwen2.attention.head_count": value}, SHAPES, source="m.gguf")


def test_a_configuration_is_hashable_and_frozen() -> None:
    config: ModelConfig = from_hf(QWEN25)
    assert hash(config) == hash(from_hf(QWEN25))
    with pytest.raises(AttributeError):
        config.hidden = 1  # type: ignore[misc]
