"""One view of both containers, held against transformers and the `gguf` package."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import psutil
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType, quants

from sampan.core.errors import UnsupportedModel, WeightsError
from sampan.core.types import ModelFiles
from sampan.kernels.formats import TensorType
from sampan.weights.checkpoint import open_checkpoint

FAMILIES = ("llama", "qwen2", "qwen3")
Arrays = dict[str, np.ndarray]
Write = Callable[..., tuple[Path, Arrays]]
FilesAt = Callable[[Path], ModelFiles]


def assert_equal(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gguf_holds_what_its_converter_put_in(write_gguf: Write, files_at: FilesAt, family: str) -> None:
    path, weights = write_gguf(family)
    with open_checkpoint(files_at(path)) as checkpoint:
        assert checkpoint.tensors.keys() == weights.keys()
        assert checkpoint.config.family == family
        assert checkpoint.config.qkv_bias == (family == "qwen2")
        assert not checkpoint.config.tied_head
        assert not checkpoint.generation
        assert checkpoint.metadata[f"{family}.block_count"] == 2
        for name, expected in weights.items():
            assert checkpoint.tensors[name].shape == expected.shape
            assert_equal(checkpoint.array(name), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_holds_what_its_writer_put_in(write_folder: Write, files_at: FilesAt, family: str) -> None:
    path, weights = write_folder(family)
    with open_checkpoint(files_at(path)) as checkpoint:
        assert checkpoint.tensors.keys() == weights.keys()
        for name, expected in weights.items():
            assert_equal(checkpoint.array(name), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shards", [1, 3])
def test_half_precision_and_sharded_folders(
    write_folder: Write, files_at: FilesAt, dtype: torch.dtype, shards: int
) -> None:
    path, weights = write_folder("qwen2", dtype, shards=shards)
    with open_checkpoint(files_at(path)) as checkpoint:
        assert len(checkpoint.files) == shards
        for name, expected in weights.items():
            assert checkpoint.tensors[name].type in (TensorType.BF16, TensorType.F16)
            assert_equal(checkpoint.array(name), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_reads_the_same_weights_from_the_same_gguf(
    write_gguf: Write, write_folder: Write, files_at: FilesAt, family: str
) -> None:
    folder, _ = write_folder(family)
    tokens = [f"<{n}>" for n in range(80)]
    path, _ = write_gguf(family, GGMLQuantizationType.Q8_0, more=lambda writer: writer.add_token_list(tokens))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = transformers.AutoConfig.from_pretrained(folder)  # it drops a GGUF Qwen3's head_dim
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, config=config
        )
    oracle = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
    with open_checkpoint(files_at(path)) as checkpoint:
        assert checkpoint.tensors.keys() == oracle.keys()
        for name in oracle:
            assert_equal(checkpoint.array(name), oracle[name])


def test_row_order_is_where_hugging_faces_rows_lie(write_gguf: Write, files_at: FilesAt) -> None:
    path, weights = write_gguf("llama")
    with open_checkpoint(files_at(path)) as checkpoint:
        for part, rows in (("q", 64), ("k", 32)):
            name = f"model.layers.1.self_attn.{part}_proj.weight"
            stored = checkpoint.raw(name).view(np.float32).reshape(rows, 64)
            order = checkpoint.row_order(name)
            assert order is not None
            assert_equal(stored[order], weights[name])
        assert checkpoint.row_order("model.layers.1.self_attn.v_proj.weight") is None


def test_llama_biases_are_reordered_with_their_rows(write_gguf: Write, files_at: FilesAt) -> None:
    rng = np.random.default_rng(2)
    path, weights = write_gguf("llama")
    biased = dict(weights)
    for layer in range(2):
        for part, rows in (("q", 64), ("k", 32), ("v", 32)):
            biased[f"model.layers.{layer}.self_attn.{part}_proj.bias"] = rng.normal(size=rows).astype("f4")
    path, _ = write_gguf("llama", weights=biased)
    with open_checkpoint(files_at(path)) as checkpoint:
        assert checkpoint.config.qkv_bias
        for name, expected in biased.items():
            assert_equal(checkpoint.array(name), expected)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_qwens_rows_lie_as_hugging_faces(write_gguf: Write, files_at: FilesAt, family: str) -> None:
    path, _ = write_gguf(family)
    with open_checkpoint(files_at(path)) as checkpoint:
        assert all(checkpoint.row_order(name) is None for name in checkpoint.tensors)


def test_a_tied_head_is_no_tensor(write_gguf: Write, write_folder: Write, files_at: FilesAt) -> None:
    for path, _ in (write_gguf("llama", tied=True), write_folder("llama", tied=True)):
        with open_checkpoint(files_at(path)) as checkpoint:
            assert checkpoint.config.tied_head
            assert "lm_head.weight" not in checkpoint.tensors


def test_a_split_gguf_is_read_from_its_first_part(write_gguf: Write, files_at: FilesAt) -> None:
    path, weights = write_gguf("qwen3", split=9)
    parts = sorted(path.parent.glob("*.gguf"))
    assert len(parts) == 3
    with open_checkpoint(files_at(parts[0])) as checkpoint:
        assert {info.file for info in checkpoint.tensors.values()} == set(parts)
        for name, expected in weights.items():
            assert_equal(checkpoint.array(name), expected)
    with pytest.raises(WeightsError, match="is part 2 of 3: open the first part"):
        open_checkpoint(files_at(parts[1]))
    renamed = parts[0].rename(path.parent / "other.gguf")
    with pytest.raises(WeightsError, match=r"must end in -00001-of-00003.gguf"):
        open_checkpoint(files_at(renamed))
    renamed.rename(parts[0])
    parts[2].write_bytes(parts[1].read_bytes())
    with pytest.raises(
        WeightsError, match=r"00003-of-00003.gguf: split.no and split.count do not say part 3"
    ):
        open_checkpoint(files_at(parts[0]))
    parts[2].unlink()
    with pytest.raises(WeightsError, match=r"00003-of-00003.gguf: part 3 of 3 is missing"):
        open_checkpoint(files_at(parts[0]))


def test_rope_freqs_is_configuration_and_no_weight(write_gguf: Write, files_at: FilesAt) -> None:
    factors = np.linspace(1, 8, 8, dtype=np.float32)
    path, _ = write_gguf("llama", more=lambda writer: writer.add_tensor("rope_freqs.weight", factors))
    plain, _ = write_gguf("llama")
    with open_checkpoint(files_at(path)) as checkpoint, open_checkpoint(files_at(plain)) as unscaled:
        assert checkpoint.tensors.keys() == unscaled.tensors.keys()
        expected = np.float32(unscaled.config.rope.inv_freq) / factors
        assert_equal(np.float32(checkpoint.config.rope.inv_freq), expected)


def test_generation_defaults_and_merged_metadata_of_a_folder(write_folder: Write, files_at: FilesAt) -> None:
    path, _ = write_folder("llama")
    (path / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "eos_token_id": [1, 2]}))
    with open_checkpoint(files_at(path)) as checkpoint:
        assert checkpoint.generation == {"temperature": 0.6, "eos_token_id": [1, 2]}
        assert checkpoint.metadata["temperature"] == 0.6
        assert checkpoint.metadata["model_type"] == "llama"


def test_bytes_are_not_copied_and_cannot_be_written(write_gguf: Write, files_at: FilesAt) -> None:
    path, _ = write_gguf("llama")
    with open_checkpoint(files_at(path)) as checkpoint:
        info = checkpoint.tensors["model.norm.weight"]
        raw = checkpoint.raw("model.norm.weight")
        assert raw.tobytes() == path.read_bytes()[info.offset : info.offset + info.nbytes]
        assert not raw.flags.writeable
        assert not raw.flags.owndata
    assert raw.size == info.nbytes
    assert int(raw.sum()) > 0  # still mapped: the last view keeps the file


def test_released_pages_leave_the_process_and_come_back(default_model: ModelFiles) -> None:
    name = "model.embed_tokens.weight"
    with open_checkpoint(default_model) as checkpoint:
        before = checkpoint.raw(name).sum()
        resident = psutil.Process().memory_info().rss
        checkpoint.release(name)
        freed = resident - psutil.Process().memory_info().rss
        assert freed > 0.8 * checkpoint.tensors[name].nbytes
        assert checkpoint.raw(name).sum() == before


def test_the_default_model_is_what_the_gguf_package_reads(default_model: ModelFiles) -> None:
    reader = gguf.GGUFReader(default_model.path)
    theirs = {tensor.name: tensor for tensor in reader.tensors}
    with open_checkpoint(default_model) as checkpoint:
        config = checkpoint.config
        assert (config.hidden, config.layers, config.heads, config.kv_heads) == (576, 30, 9, 3)
        assert (config.ffn, config.vocab, config.context, config.head_dim) == (1536, 49152, 8192, 64)
        assert config.tied_head
        assert len(checkpoint.tensors) == len(theirs)
        for key, value in checkpoint.metadata.items():
            plain = value.tolist() if hasattr(value, "tolist") else value
            assert plain == reader.fields[key].contents(), key
        for name in ("model.layers.7.mlp.down_proj.weight", "model.layers.29.input_layernorm.weight"):
            tensor = theirs[checkpoint.tensors[name].name]
            assert_equal(checkpoint.array(name), quants.dequantize(tensor.data, tensor.tensor_type))


def test_a_missing_a_misshapen_and_a_foreign_tensor_are_named(write_gguf: Write, files_at: FilesAt) -> None:
    _, weights = write_gguf("llama")
    norm = "model.layers.1.input_layernorm.weight"
    for change, kind, message in (
        ({norm: None}, WeightsError, f"tensor {norm} is missing"),
        (
            {norm: np.ones(32, np.float32)},
            WeightsError,
            r"blk.1.attn_norm.weight' at byte \d+ has shape \[32\]",
        ),
        (
            {"model.layers.2.input_layernorm.weight": weights[norm]},
            UnsupportedModel,
            "no place in a llama model",
        ),
    ):
        changed = {name: value for name, value in (weights | change).items() if value is not None}
        path, _ = write_gguf("llama", weights=changed)
        with pytest.raises(kind, match=message):
            open_checkpoint(files_at(path))


def test_a_tensor_of_another_architecture_is_named(write_gguf: Write, files_at: FilesAt) -> None:
    router = np.ones((4, 64), np.float32)
    path, _ = write_gguf("llama", more=lambda w: w.add_tensor("blk.0.ffn_gate_inp.weight", router))
    with pytest.raises(UnsupportedModel, match=r"blk\.0\.ffn_gate_inp\.weight"):
        open_checkpoint(files_at(path))


def test_weights_that_are_not_finite_are_refused_where_they_are_read(
    write_gguf: Write, files_at: FilesAt
) -> None:
    _, weights = write_gguf("llama")
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name][3, 5] = np.nan
    path, _ = write_gguf("llama", weights=weights)
    with open_checkpoint(files_at(path)) as checkpoint:
        with pytest.raises(WeightsError, match=r"blk\.0\.ffn_up\.weight.* not finite"):
            checkpoint.array(name)
        with pytest.raises(WeightsError, match="has no tensor 'nothing'"):
            checkpoint.array("nothing")


def test_what_transformers_ignores_is_ignored(write_folder: Write, files_at: FilesAt) -> None:
    path, weights = write_folder("llama", tied=True)
    more = {
        "lm_head.weight": weights["model.embed_tokens.weight"],
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32),
    }
    from safetensors.numpy import save_file

    save_file(weights | more, path / "model.safetensors")
    with open_checkpoint(files_at(path)) as checkpoint:
        assert checkpoint.tensors.keys() == weights.keys()
