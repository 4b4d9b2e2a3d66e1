"""PEFT's folders: what is read, and what is refused and in which words. Nothing in a file may break out."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from sampan.core.errors import SampanError, UnsupportedModel, WeightsError
from sampan.core.settings import Settings
from sampan.kernels.cpu.adapters import packed_adapter
from sampan.kernels.cpu.machine import machine
from sampan.kernels.ops import Weight
from sampan.weights.lora import Lora, read_lora

SIZES = {"q_proj": (64, 32), "k_proj": (32, 32), "v_proj": (32, 32), "o_proj": (32, 64)}
MLP = {"gate_proj": (96, 32), "up_proj": (96, 32), "down_proj": (32, 96)}
LAYER = {f"self_attn.{n}": s for n, s in SIZES.items()} | {f"mlp.{n}": s for n, s in MLP.items()}
SHAPES = {f"model.layers.{i}.{name}.weight": shape for i in range(2) for name, shape in LAYER.items()}
WEIGHTS = {name: Weight(name, shape) for name, shape in SHAPES.items()} | {
    "model.layers.0.self_attn.q_norm.weight": Weight("model.layers.0.self_attn.q_norm.weight", (32,))
}
Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
Write = Callable[..., dict[str, tuple[np.ndarray, np.ndarray]]]


@pytest.fixture
def folder(tmp_path: Path, write_adapter: Write) -> Path:
    write_adapter(tmp_path, SHAPES)
    return tmp_path


def edit(folder: Path, **fields: Any) -> None:
    """Other fields of the configuration."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def tensors(folder: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    """Other tensors."""
    path = folder / "adapter_model.safetensors"
    found = load_file(path)
    change(found)
    save_file(found, path)


def put(name: str, *shape: int) -> Callable[[dict[str, np.ndarray]], None]:
    return lambda found: found.update({name: np.zeros(shape, np.float32)})


def by_name(adapter: Lora) -> dict[str, tuple[int, float]]:
    return {part.weight.name: (part.rank, part.scale) for part in adapter.parts}


def test_every_linear_is_read_with_its_rank_and_scale(folder: Path) -> None:
    adapter = read_lora(folder, WEIGHTS)
    assert by_name(adapter) == dict.fromkeys(SHAPES, (4, 2.0))
    assert adapter.rank == 4


def test_patterns_give_single_modules_other_ranks_and_scales(tmp_path: Path, write_adapter: Write) -> None:
    ranks = {"layers.1.self_attn.v_proj": 2, "down_proj": 9}
    alphas = {"up_proj": 2, "^model.layers.0.self_attn.k_proj": 1, r"layers\.1\.mlp\.down_proj": 27}
    write_adapter(tmp_path, SHAPES, ranks=ranks, alpha_pattern=alphas)
    found = by_name(read_lora(tmp_path, WEIGHTS))
    assert found["model.layers.0.self_attn.v_proj.weight"] == (4, 2.0)
    assert found["model.layers.1.self_attn.v_proj.weight"] == (2, 4.0)
    assert found["model.layers.0.mlp.down_proj.weight"] == (9, 8 / 9)
    assert found["model.layers.1.mlp.down_proj.weight"] == (9, 3.0)
    assert found["model.layers.0.mlp.up_proj.weight"] == (4, 0.5)
    assert found["model.layers.0.self_attn.k_proj.weight"] == (4, 0.25)
    assert found["model.layers.1.self_attn.k_proj.weight"] == (4, 2.0)


def test_rank_stabilised_scales(folder: Path) -> None:
    edit(folder, use_rslora=True)
    assert set(by_name(read_lora(folder, WEIGHTS)).values()) == {(4, 4.0)}


def test_names_with_the_adapters_own_are_read_too(folder: Path) -> None:
    def rename(found: dict[str, np.ndarray]) -> None:
        for name in list(found):
            found[name.replace(".weight", ".default.weight")] = found.pop(name)

    tensors(folder, rename)
    assert by_name(read_lora(folder, WEIGHTS)) == dict.fromkeys(SHAPES, (4, 2.0))


@pytest.mark.parametrize(("dtype", "item"), [(np.float32, 4), (np.float16, 2)])
def test_values_keep_the_files_precision(tmp_path: Path, write_adapter: Write, dtype: Any, item: int) -> None:
    deltas = write_adapter(tmp_path, SHAPES, dtype=dtype)
    packed = packed_adapter(read_lora(tmp_path, WEIGHTS), machine(Settings(tmp_path), 1))
    assert packed.keys() == SHAPES.keys()
    for name, (a, b) in packed.items():
        expected_a, expected_b = deltas[name.removesuffix(".weight")]
        kind = {2: np.float16, 4: np.float32}[item]
        panels = a.data.view(kind).reshape(-1, a.k, 16)
        assert np.array_equal(panels.swapaxes(1, 2).reshape(-1, a.k)[:4], expected_a)
        panels = b.data.view(kind).reshape(-1, 16, 16)
        found = panels.swapaxes(1, 2).reshape(-1, 16)
        assert np.array_equal(found[:, :4], expected_b * 2)
        assert not found[:, 4:].any()


def test_a_scale_that_two_bytes_cannot_hold_takes_four(tmp_path: Path, write_adapter: Write) -> None:
    deltas = write_adapter(tmp_path, SHAPES, dtype=np.float16, alpha=3)
    packed = packed_adapter(read_lora(tmp_path, WEIGHTS), machine(Settings(tmp_path), 1))
    a, b = packed["model.layers.0.mlp.down_proj.weight"]
    assert (a.store, b.store) == (3, 5)
    expected = deltas["model.layers.0.mlp.down_proj"][1].astype(np.float32) * np.float32(0.75)
    assert np.array_equal(
        b.data.view(np.float32).reshape(-1, 16, 16).swapaxes(1, 2).reshape(-1, 16)[:, :4], expected
    )


def test_fused_modules_are_taken_apart(tmp_path: Path, write_adapter: Write) -> None:
    fused = {"model.layers.0.self_attn.qkv_proj": (128, 32), "model.layers.0.mlp.gate_up_proj": (192, 32)}
    names = ("qkv_proj", "gate_up_proj")
    deltas = write_adapter(tmp_path, {f"{n}.weight": s for n, s in fused.items()}, targets=names)
    adapter = read_lora(tmp_path, WEIGHTS)
    parts = [part.weight.name.split(".")[-2] for part in adapter.parts]
    assert parts == ["gate_proj", "up_proj", "q_proj", "k_proj", "v_proj"]
    packed = packed_adapter(adapter, machine(Settings(tmp_path), 1))
    _, b = packed["model.layers.0.self_attn.k_proj.weight"]
    found = b.data.view(np.float32).reshape(-1, 16, 16).swapaxes(1, 2).reshape(-1, 16)[:, :4]
    assert np.array_equal(found, deltas["model.layers.0.self_attn.qkv_proj"][1][64:96] * 2)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"peft_type": "IA3"}, "peft_type is not LORA"),
        ({"use_dora": True}, "asks for 'use_dora', which is not supported"),
        ({"lora_bias": True}, "'lora_bias'"),
        ({"modules_to_save": ["lm_head"]}, "'modules_to_save'"),
        ({"trainable_token_indices": [1, 2]}, "'trainable_token_indices'"),
        ({"layer_replication": [[0, 2]]}, "'layer_replication'"),
        ({"alora_invocation_tokens": [3]}, "'alora_invocation_tokens'"),
        ({"target_parameters": ["mlp.experts"]}, "'target_parameters'"),
        ({"something_new": {"x": 1}}, "'something_new'"),
        ({"init_lora_weights": "pissa_niter_4"}, r"init_lora_weights \(pissa\) changes the base model"),
        ({"init_lora_weights": "olora"}, "changes the base model"),
        ({"rank_pattern": {"(a": 4}}, "rank_pattern has an expression that cannot be read"),
        ({"exclude_modules": "x" * 5000}, "exclude_modules has an expression of more than 4096"),
        ({"use_dora": True}, "DoRA scales the rows of the base weights themselves: merge it .`sampan merge"),
        ({"init_lora_weights": "corda"}, r"\(corda\) changes the base model.*with `path_initial_model"),
    ],
)
def test_what_asks_for_more_is_refused_by_name(folder: Path, fields: dict[str, Any], what: str) -> None:
    edit(folder, **fields)
    with pytest.raises(UnsupportedModel, match=what):
        read_lora(folder, WEIGHTS)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"peft_type": None}, "peft_type is missing"),
        ({"r": 8}, r"has shape \[4, 96\], the model and the adapter's rank say \[8, 96\]"),
        ({"r": 0}, "r must be from 1"),
        ({"r": "16"}, "r must be a whole number"),
        ({"lora_alpha": None}, "lora_alpha is missing"),
        ({"lora_alpha": 1e9}, "scale of 2.5e"),
        ({"rank_pattern": {"q_proj": -1}}, "q_proj must be from 1"),
        ({"rank_pattern": [4]}, "rank_pattern must be an object"),
        (
            {"target_modules": ["x_proj"]},
            "nothing of the adapter would be used: target_modules does not name",
        ),
        ({"target_modules": 7}, "must be a list"),
    ],
)
def test_a_configuration_that_contradicts_the_file_is_refused(
    folder: Path, fields: dict[str, Any], what: str
) -> None:
    edit(folder, **fields)
    with pytest.raises(WeightsError, match=what):
        read_lora(folder, WEIGHTS)


@pytest.mark.parametrize(
    ("change", "kind", "what"),
    [
        (lambda t: t.pop(Q + "B.weight"), WeightsError, "has no partner"),
        (put(Q + "A.weight", 4, 31), WeightsError, r"\[4, 31\]"),
        (put(Q + "B.weight", 4, 64), WeightsError, r"\[4, 64\]"),
        (put(Q + "B.weight", 64), WeightsError, r"\[64\]"),
        (put(Q + "A.default.weight", 4, 32), WeightsError, "is the second lora_A"),
        (put("base_model.model.model.embed_tokens.lora_embedding_A", 4, 99), UnsupportedModel, "embedding"),
        (put(Q + "magnitude_vector", 64), UnsupportedModel, "DoRA"),
        (put(Q + "B.bias", 64), UnsupportedModel, "is a bias of the adapter's own products: merge"),
        (put(Q.removesuffix("lora_") + "base_layer.bias", 64), UnsupportedModel, "is a bias of the base"),
        (put("base_model.model.lm_head.weight", 9, 32), UnsupportedModel, "head, or stands in its place"),
        (put("base_model.model.model.norm.weight", 32), UnsupportedModel, "in the place of a norm"),
        (put("x\n" * 500, 1), UnsupportedModel, "is no LoRA of a linear"),
        (lambda t: t.clear(), WeightsError, "without any tensor"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused(folder: Path, change: Any, kind: Any, what: str) -> None:
    tensors(folder, change)
    with pytest.raises(kind, match=what) as caught:
        read_lora(folder, WEIGHTS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("module", ["model.layers.7.self_attn.q_proj", "model.layers.0.self_attn.q_norm"])
def test_a_module_that_the_model_does_not_have(tmp_path: Path, write_adapter: Write, module: str) -> None:
    write_adapter(tmp_path, {f"{module}.weight": (64, 32)}, targets=(module.split(".")[-1],))
    with pytest.raises(WeightsError, match=f"no linear '{module}'"):
        read_lora(tmp_path, WEIGHTS)


@pytest.mark.parametrize("module", ["lm_head", "model.embed_tokens"])
def test_the_head_and_the_embedding_are_refused_by_name(
    tmp_path: Path, write_adapter: Write, module: str
) -> None:
    write_adapter(tmp_path, {f"{module}.weight": (99, 32)}, targets=(module.split(".")[-1],))
    own = {f"{module}.weight": Weight(f"{module}.weight", (99, 32))}
    for weights in (WEIGHTS, WEIGHTS | own):  # a tied head is none of the weights
        with pytest.raises(UnsupportedModel, match=f"adapts '{module}', which is no layer's linear: merge"):
            read_lora(tmp_path, weights)


@pytest.mark.parametrize("side", ["A", "B"])
def test_values_that_are_not_finite_are_refused(folder: Path, side: str) -> None:
    tensors(folder, lambda t: t[f"{Q}{side}.weight"].fill(np.inf))
    with pytest.raises(WeightsError, match="finite"):
        packed_adapter(read_lora(folder, WEIGHTS), machine(Settings(folder), 1))


def test_files_that_are_missing_are_named(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(WeightsError, match=r"no adapter_model.safetensors: adapter_model.bin cannot be read"):
        read_lora(folder, WEIGHTS)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(WeightsError, match=r"adapter_config.json"):
        read_lora(folder, WEIGHTS)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_folder_is_refused_or_read(folder: Path, data: st.DataObject) -> None:
    """Any bytes of either file changed, or cut: an error of ours, or an adapter that fits the model."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        path = folder / name
        whole = path.read_bytes()
        (length,) = struct.unpack_from("<Q", whole) if name.endswith("safetensors") else (len(whole),)
        damaged = bytearray(whole)
        for _ in range(data.draw(st.integers(1, 4))):
            damaged[data.draw(st.integers(0, min(len(whole) - 1, length + 8)))] = data.draw(
                st.integers(0, 255)
            )
        path.write_bytes(damaged[: data.draw(st.sampled_from([len(whole), len(whole) - 1, length // 2, 3]))])
        try:
            for part in read_lora(folder, WEIGHTS).parts:
                assert part.tensor_a.shape == (part.rank, part.weight.shape[1])
        except SampanError:
            pass
        path.write_bytes(whole)
