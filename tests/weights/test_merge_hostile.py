"""A damaged adapter is refused, or merged as what it says: nothing in a file may break out."""

import json
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from sampan.core.errors import SampanError, UnsupportedModel, WeightsError
from sampan.kernels.ops import Weight
from sampan.models import registry
from sampan.weights.merge.adapter import Adapter
from sampan.weights.merge.read import read

Write = Callable[..., Any]
CONFIG = registry.from_hf({
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
    "intermediate_size": 96, "vocab_size": 99, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
})  # fmt: skip
WEIGHTS = {name: Weight(name, w.shape) for name, w in registry.describe(CONFIG).weights().items()}
AT = "base_model.model.model."
LAYER = AT + "layers.0.self_attn."


@pytest.fixture
def folder(tmp_path: Path, write_adapter: Write) -> Path:
    """DoRA of two linears, tokens, a head and a norm."""
    shapes = {name: weight.shape for name, weight in WEIGHTS.items()}
    write_adapter(
        tmp_path, shapes, targets=("q_proj", "o_proj"), use_dora=True, modules_to_save=["norm", "lm_head"],
        trainable_token_indices=[3, 5],
    )  # fmt: skip
    more = {
        **{f"{LAYER}{name}.lora_magnitude_vector": np.ones(64, np.float32) for name in ("q_proj", "o_proj")},
        f"{AT}embed_tokens.token_adapter.trainable_tokens_delta": np.ones((2, 64), np.float32),
        f"{AT}norm.weight": np.ones(64, np.float32),
        "base_model.model.lm_head.weight": np.ones((99, 64), np.float32),
    }
    tensors(tmp_path, more)
    return tmp_path


def tensors(folder: Path, more: dict[str, Any]) -> None:
    path = folder / "adapter_model.safetensors"
    found = load_file(path) | more
    save_file({name: value for name, value in found.items() if value is not None}, path)


def taken(folder: Path) -> Adapter:
    """Read, and every change made of a tensor of the model's size."""
    adapter = read(folder, 1.0, CONFIG, WEIGHTS)
    shapes = {name: weight.shape for name, weight in WEIGHTS.items()} | {"lm_head.weight": (99, 64)}
    for name, changes in adapter.parts.items():
        for change in changes:
            rows = np.ones(shapes[name], np.float32)
            with np.errstate(all="ignore"):
                assert (
                    change.step(lambda a, b, rows=rows: rows[a:b], rows.shape)(rows, 0, rows).shape
                    == rows.shape
                )
    return adapter


def test_all_of_it_is_read(folder: Path) -> None:
    adapter = taken(folder)
    assert adapter.parts.keys() == {
        "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.o_proj.weight",
        "model.embed_tokens.weight", "lm_head.weight",
    }  # fmt: skip
    assert adapter.brought.keys() == {"model.norm.weight", "lm_head.weight"}
    assert not adapter.additive
    assert adapter.passed == []


@pytest.mark.parametrize(
    ("more", "kind", "said"),
    [
        ({f"{LAYER}q_proj.lora_magnitude_vector": np.ones(63, np.float32)}, WeightsError, r"shape \[63\]"),
        ({f"{LAYER}q_proj.lora_A.weight": None}, WeightsError, "has no partner"),
        ({f"{AT}norm.weight": np.ones(65, np.float32)}, WeightsError, r"shape \[65\], the model says \[64\]"),
        ({"base_model.model.lm_head.weight": np.ones((100, 64), np.float32)}, WeightsError, "resize the"),
        (
            {f"{AT}embed_tokens.token_adapter.trainable_tokens_delta": np.ones((3, 64), np.float32)},
            WeightsError, "but 2 tokens are named",
        ),
        ({f"{LAYER}q_proj.lora_C.weight": np.ones(3, np.float32)}, UnsupportedModel, "of no kind that"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(folder: Path, more: dict[str, Any], kind: Any, said: str) -> None:
    tensors(folder, more)
    with pytest.raises(kind, match=said):
        taken(folder)


def test_values_that_are_not_finite_are_refused(folder: Path) -> None:
    tensors(folder, {f"{AT}norm.weight": np.full(64, np.nan, np.float32)})
    adapter = taken(folder)
    with pytest.raises(WeightsError, match="not finite numbers"):
        adapter.brought["model.norm.weight"](0, 64)


@pytest.mark.parametrize("indices", [[3, 99], [3, -1], [3, "5"], [3, True], "3", {"lm_head": [1, 2]}])
def test_tokens_that_are_none_are_refused(folder: Path, indices: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"trainable_token_indices": indices}))
    with pytest.raises(WeightsError, match="trainable_token_indices must list tokens below 99"):
        taken(folder)


def test_what_the_model_lacks_is_passed_over_and_told(folder: Path) -> None:
    tensors(folder, {f"{AT}layers.0.self_attn.q_norm.weight": np.ones(16, np.float32)})
    assert taken(folder).passed == [
        "a tensor that this model lacks: 'model.layers.0.self_attn.q_norm.weight'"
    ]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_folder_is_refused_or_read(folder: Path, data: st.DataObject) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        path = folder / name
        whole = path.read_bytes()
        (length,) = struct.unpack_from("<Q", whole) if name.endswith("safetensors") else (len(whole),)
        damaged = bytearray(whole)
        for _ in range(data.draw(st.integers(1, 4))):
            damaged[data.draw(st.integers(0, min(len(whole) - 1, length + 8)))] = data.draw(
                st.integers(0, 255)
            )
        path.write_bytes(damaged)
        with suppress(SampanError):
            taken(folder).close()
        path.write_bytes(whole)
