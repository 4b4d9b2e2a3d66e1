"""Rotary frequencies against transformers' own functions."""

from collections.abc import Mapping

import numpy as np
import pytest
from transformers import LlamaConfig, Qwen2Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from sampan.core.errors import UnsupportedModel, WeightsError
from sampan.models import rope
from sampan.models.fields import Fields

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def ours(parameters: Mapping[str, object], head_dim: int, theta: float, context: int) -> rope.Rotation:
    fields = {"rope_theta": theta, "rope_scaling": parameters}
    return rope.from_hf(Fields(fields, "config.json"), head_dim, context)


def theirs(
    parameters: Mapping[str, object], head_dim: int, theta: float, context: int
) -> tuple[np.ndarray, float]:
    config = LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        max_position_embeddings=context,
        rope_parameters={"rope_theta": theta, **parameters},
    )
    inv_freq, scale = ROPE_INIT_FUNCTIONS[str(parameters["rope_type"])](config)
    return inv_freq.numpy(), scale


def assert_within_ulps(found: np.ndarray, expected: np.ndarray, ulps: int) -> None:
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_array_max_ulp(found, expected, ulps)


@pytest.mark.parametrize("head_dim", [64, 80, 128])
@pytest.mark.parametrize("theta", [1e4, 1e5, 5e5, 1e6])
@pytest.mark.parametrize(
    "parameters",
    [
        {"rope_type": "linear", "factor": 1.0},  # transformers has no function for the plain frequencies
        {"rope_type": "linear", "factor": 2.5},
        LLAMA3,
        LLAMA3 | {"factor": 32.0, "high_freq_factor": 8.0},
        YARN,
        YARN | {"truncate": False},
        YARN | {"attention_factor": 1.25, "beta_fast": 16.0, "beta_slow": 2.0},
        YARN
        | {"factor": 40.0, "mscale": 0.707, "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096},
        YARN | {"mscale": 0.707},
        YARN | {"factor": 1.0},
    ],
    ids=lambda parameters: " ".join(str(value) for value in parameters.values()),
)
def test_frequencies_and_scale_are_transformers(
    parameters: dict[str, object], theta: float, head_dim: int
) -> None:
    inv_freq, scale = theirs(dict(parameters), head_dim, theta, 131072)
    found = ours(parameters, head_dim, theta, 131072)
    # Llama 3's blend subtracts nearly equal numbers, which multiplies a last bit of theirs or ours.
    assert_within_ulps(found.inv_freq, inv_freq, 16 if parameters["rope_type"] == "llama3" else 2)
    assert found.scale == pytest.approx(scale, rel=1e-12)


def test_plain_frequencies() -> None:
    found = ours({}, 64, 1e5, 8192)
    assert_within_ulps(found.inv_freq, (1e5 ** -(np.arange(32) / 32)).astype(np.float32), 1)
    assert (found.scale, found.context) == (1.0, 8192)


def test_the_published_scale_of_qwens_yarn() -> None:
    found = ours(YARN, 128, 1e6, 32768)
    assert found.scale == pytest.approx(1.1386, abs=5e-5)
    assert found.context == 131072


def test_yarn_without_a_factor_stretches_to_the_context() -> None:
    given = YARN | {"factor": None}
    explicit = theirs(YARN | {"factor": 3.0}, 64, 1e6, 98304)
    found = ours(given, 64, 1e6, 98304)
    assert_within_ulps(found.inv_freq, explicit[0], 4)
    assert found.scale == pytest.approx(explicit[1])


@pytest.mark.parametrize("parameters", [LLAMA3, YARN], ids=["llama3", "yarn"])
def test_every_spelling_gives_the_same(parameters: dict[str, object]) -> None:
    expected = ours(parameters, 64, 5e5, 131072)
    flat = {"type" if key == "rope_type" else key: value for key, value in parameters.items()}
    nested = {"rope_parameters": {"rope_theta": 5e5, **parameters}}
    outside = dict(parameters)
    beside = {"original_max_position_embeddings": outside.pop("original_max_position_embeddings")}
    for fields in (
        {"rope_theta": 5e5, "rope_scaling": flat},
        nested,
        {"rope_theta": 5e5, "rope_parameters": parameters, "rope_scaling": None},
        {"rope_theta": 5e5, "rope_scaling": outside} | beside,
    ):
        found = rope.from_hf(Fields(fields, "config.json"), 64, 131072)
        assert found.inv_freq.tolist() == expected.inv_freq.tolist()
        assert found[1:] == expected[1:]


def test_transformers_5_writes_what_is_read() -> None:
    config = Qwen2Config(rope_parameters={"rope_theta": 1e6, **YARN}).to_dict()
    assert "rope_parameters" in config
    assert rope.from_hf(Fields(config, "config.json"), 128, 32768).scale == ours(YARN, 128, 1e6, 32768).scale


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "proportional", "su"])
def test_another_stretching_is_named(kind: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"rope type '{kind}' is not supported: default, linear"):
        ours({"rope_type": kind, "factor": 2.0}, 64, 1e4, 2048)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (LLAMA3 | {"factor": None}, "factor is missing"),
        (LLAMA3 | {"factor": 0}, "factor must be from"),
        (LLAMA3 | {"factor": "8"}, "factor must be a number, not a value of type str"),
        (LLAMA3 | {"factor": float("inf")}, "factor must be from"),
        (LLAMA3 | {"high_freq_factor": 1.0}, "high_freq_factor must be greater than low_freq_factor 1"),
        (YARN | {"original_max_position_embeddings": 0}, "original_max_position_embeddings must be from 1"),
        (YARN | {"attention_factor": float("nan")}, "attention_factor must be from"),
        (YARN | {"truncate": 1}, "truncate must be true or false"),
    ],
)
def test_contradictory_parameters_are_named(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(WeightsError, match=rf"config\.json: rope_scaling: {message}"):
        ours(parameters, 64, 1e4, 2048)


@pytest.mark.parametrize("theta", [1.0, 0, -5, float("nan"), True, "10000", 1e30])
def test_theta_is_bounded(theta: object) -> None:
    with pytest.raises(WeightsError, match=r"config\.json: rope_theta must be"):
        rope.from_hf(Fields({"rope_theta": theta}, "config.json"), 64, 2048)


def test_partial_and_per_layer_rotation_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="part of a head"):
        rope.from_hf(Fields({"partial_rotary_factor": 0.5}, "config.json"), 64, 2048)
    layers = {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}
    with pytest.raises(UnsupportedModel, match="some layers only"):
        rope.from_hf(Fields(layers, "config.json"), 64, 2048)


def gguf(**fields: object) -> Fields:
    return Fields({f"qwen2.rope.{name}": value for name, value in fields.items()}, "m.gguf", "qwen2.rope.")


def test_gguf_keys_give_what_hugging_faces_give() -> None:
    yarn = {"freq_base": 1e6, "scaling.type": "yarn", "scaling.factor": 4.0}
    yarn["scaling.original_context_length"] = 32768
    cases = [
        ({"freq_base": 1e6}, {}),
        ({"freq_base": 1e6, "scaling.type": "none", "scaling.factor": 4.0}, {}),
        (
            {"freq_base": 1e6, "scaling.type": "linear", "scaling.factor": 4.0},
            {"type": "linear", "factor": 4},
        ),
        ({"freq_base": 1e6, "scale_linear": 4.0}, {"type": "linear", "factor": 4}),
        (yarn, YARN),
        (yarn | {"scaling.yarn_log_multiplier": 0.5}, YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}),
        (yarn | {"scaling.yarn_beta_fast": 16.0}, YARN | {"beta_fast": 16}),
    ]
    for keys, parameters in cases:
        found = rope.from_gguf(gguf(**keys), 128, 32768, None)
        expected = ours(parameters, 128, 1e6, 32768)
        assert found.inv_freq.tolist() == expected.inv_freq.tolist()
        assert found[1:] == expected[1:]


def test_gguf_factors_are_llama_3s_stretching() -> None:
    plain = rope.frequencies(5e5, 128)
    expected = ours(LLAMA3, 128, 5e5, 131072).inv_freq
    found = rope.from_gguf(gguf(freq_base=5e5), 128, 131072, plain / expected)
    assert_within_ulps(found.inv_freq, expected, 1)


@pytest.mark.parametrize("factors", [np.ones(3), np.zeros(64), np.full(64, np.nan), -np.ones(64)])
def test_gguf_factors_must_be_one_a_frequency(factors: np.ndarray) -> None:
    with pytest.raises(WeightsError, match=r"m\.gguf: rope_freqs\.weight must hold 64 positive finite"):
        rope.from_gguf(gguf(), 128, 2048, factors.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "value"),
    [("scaling.type", "longrope"), ("dimension_count", 32), ("scaling.yarn_ext_factor", 0.5)],
)
def test_gguf_variants_are_named(name: str, value: object) -> None:
    keys = {"scaling.type": "yarn", "scaling.factor": 2.0} | {name: value}
    with pytest.raises(UnsupportedModel, match=rf"m\.gguf: qwen2\.rope\.{name}"):
        rope.from_gguf(gguf(**keys), 64, 2048, None)
