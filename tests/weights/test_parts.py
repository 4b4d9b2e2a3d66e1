"""Tensors of a file that hold many of ours: the same bytes and values as in a file that has them apart."""

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from safetensors.numpy import save_file

from sampan.core.errors import UnsupportedModel, WeightsError
from sampan.core.types import ModelFiles
from sampan.weights.checkpoint import Checkpoint, open_checkpoint

pytestmark = pytest.mark.usefixtures("own_families")
Arrays = dict[str, np.ndarray]
Write = Callable[..., tuple[Path, Arrays]]
FilesAt = Callable[[Path], ModelFiles]
QKV, GATE_UP = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")


def fused(weights: Arrays) -> Arrays:
    """Neighbours as one tensor; other tensors as they are."""
    found = dict(weights)
    for whole, parts in (("self_attn.qkv_proj", QKV), ("mlp.gate_up_proj", GATE_UP)):
        for layer in range(2):
            for kind in ("weight", "bias"):
                at = f"model.layers.{layer}.{whole.partition('.')[0]}."
                names = [f"{at}{part}.{kind}" for part in parts]
                if names[0] in found:
                    found[f"model.layers.{layer}.{whole}.{kind}"] = np.concatenate(
                        [found.pop(name) for name in names]
                    )
    return found


def same(found: Checkpoint, expected: Checkpoint) -> None:
    """Whatever can be asked of one is what the other says, and nothing is copied for it."""
    assert found.tensors.keys() == expected.tensors.keys()
    for name, info in expected.tensors.items():
        own = found.info(name)
        assert (own.shape, own.type, own.nbytes) == (info.shape, info.type, info.nbytes)
        raw, order = found.raw(name), expected.row_order(name)
        assert not raw.flags.owndata
        np.testing.assert_array_equal(raw, expected.raw(name))
        np.testing.assert_array_equal(found.array(name), expected.array(name))
        np.testing.assert_array_equal(found.row_order(name), order)
        if len(info.shape) == 2:
            np.testing.assert_array_equal(found.rows(name, 3, 29), expected.rows(name, 3, 29))
        found.release(name)
        np.testing.assert_array_equal(raw, expected.raw(name))


def write_fused(path: Path, given: Checkpoint, edit: Callable[[Arrays], None] = lambda _: None) -> Path:
    """The GGUF file of a Llama as one of the family `fused`, gate and up as [2, rows, columns]."""
    writer = gguf.GGUFWriter(path, "fused2")
    for key, value in given.metadata.items():
        if key.startswith("llama."):
            add = writer.add_uint32 if isinstance(value, int | np.integer) else writer.add_float32
            add(key.replace("llama", "fused2"), value)
    matrices = {name: info for name, info in given.tensors.items() if len(info.shape) == 2}
    raw = {name: given.raw(name).reshape(info.shape[0], -1) for name, info in matrices.items()}
    stored = fused(raw)
    for name in [name for name in stored if "gate_up" in name]:
        stored[name] = stored[name].reshape(2, -1, stored[name].shape[1])
    edit(stored)
    names = {info.name.rpartition(".")[0]: name.rpartition(".")[0] for name, info in given.tensors.items()}
    back = {ours: theirs for theirs, ours in names.items()}
    type = GGMLQuantizationType[next(iter(matrices.values())).type.name]
    for name, values in stored.items():
        module = name.removesuffix(".weight")
        layer = module.split(".")[2] if "layers" in module else ""
        made = {"qkv_proj": f"blk.{layer}.attn_qkv", "gate_up_proj": f"blk.{layer}.ffn_gate_up"}
        theirs = made.get(module.rpartition(".")[2]) or back[module]
        writer.add_tensor(f"{theirs}.weight", values, raw_dtype=type)
    for name, info in given.tensors.items():
        if len(info.shape) == 1:
            writer.add_tensor(info.name, given.array(name))
    writer.add_tensor("blk.0.attn_rot_embd.weight", np.ones(8, np.float32))  # which the family ignores
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("type", [GGMLQuantizationType.F32, GGMLQuantizationType.Q8_0])
def test_parts_of_a_gguf(write_gguf: Write, files_at: FilesAt, tmp_path: Path, type: object) -> None:
    path, _ = write_gguf("llama", type)
    with (
        open_checkpoint(files_at(path)) as apart,
        open_checkpoint(files_at(write_fused(tmp_path / "fused.gguf", apart))) as together,
    ):
        assert together.config.family == "fused"
        same(together, apart)
        gate, up = (together.info(f"model.layers.1.mlp.{part}.weight") for part in GATE_UP)
        assert gate.name == up.name == "blk.1.ffn_gate_up.weight"
        assert up.offset == gate.offset + gate.nbytes


def test_parts_of_a_folder_and_of_its_biases(write_folder: Write, files_at: FilesAt, tmp_path: Path) -> None:
    path, weights = write_folder("qwen2")
    config = json.loads((path / "config.json").read_text())
    for kind in ("fused", "fused-text"):
        changed = {"model_type": kind, "attention_bias": True}
        (tmp_path / "config.json").write_text(json.dumps(config | changed))
        save_file(fused(weights), tmp_path / "model.safetensors")
        with open_checkpoint(files_at(path)) as apart, open_checkpoint(files_at(tmp_path)) as together:
            assert together.info("model.layers.0.self_attn.k_proj.bias").shape == (32,)
            assert "model.layers.0.self_attn.qkv_proj.bias" not in together.tensors
            same(together, apart)


def test_what_does_not_fit_is_named(write_folder: Write, files_at: FilesAt, tmp_path: Path) -> None:
    path, weights = write_folder("llama")
    config = json.loads((path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "fused"}))
    name = "model.layers.1.mlp.gate_up_proj.weight"
    gate = "model.layers.1.mlp.gate_proj.weight"
    whole = fused(weights)
    for change, kind, message in (
        ({name: whole[name][:-2]}, WeightsError, rf"'{name}' at byte \d+ has 190 rows, .* says 192 for "),
        ({name: whole[name][:0]}, WeightsError, "has 0 rows"),
        ({gate: whole[name][:96]}, WeightsError, f"holds {gate} a second time"),
        ({name: whole[name].reshape(2, -1, 32)}, WeightsError, "has 384 rows"),
    ):
        save_file(
            {k: np.ascontiguousarray(v) for k, v in (whole | change).items()}, tmp_path / "m.safetensors"
        )
        with pytest.raises(kind, match=message):
            open_checkpoint(files_at(tmp_path))


def test_a_quantised_vector_has_no_parts(write_gguf: Write, files_at: FilesAt, tmp_path: Path) -> None:
    path, _ = write_gguf("llama", GGMLQuantizationType.Q8_0)

    def flatten(stored: Arrays) -> None:
        # 128 elements, as many as q, k and v have rows
        stored["model.layers.0.self_attn.qkv_proj.weight"] = np.zeros(4 * 34, np.uint8)

    with (
        open_checkpoint(files_at(path)) as apart,
        pytest.raises(UnsupportedModel, match=r"'blk\.0\.attn_qkv\.weight' is a quantised vector"),
    ):
        open_checkpoint(files_at(write_fused(tmp_path / "fused.gguf", apart, flatten)))


def test_what_is_not_there_is_no_tensor(write_folder: Write, files_at: FilesAt) -> None:
    path, _ = write_folder("llama")
    with open_checkpoint(files_at(path)) as checkpoint:
        assert checkpoint.where == str(path)
        for ask in (checkpoint.info, checkpoint.raw, checkpoint.panels, checkpoint.release):
            with pytest.raises(WeightsError, match="has no tensor 'nothing'"):
                ask("nothing")
