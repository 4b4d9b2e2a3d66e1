"""Files as people have them: what transformers and llama.cpp load is loaded; what was passed over is told."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

from sampan.core.errors import UnsupportedModel, WeightsError
from sampan.core.types import ModelFiles
from sampan.weights.checkpoint import Checkpoint, open_checkpoint

Arrays = dict[str, np.ndarray]
Write = Callable[..., tuple[Path, Arrays]]
Tensors = dict[str, torch.Tensor]
HEAD, EMBED = "lm_head.weight", "model.embed_tokens.weight"


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> Path:
    file = folder / "model.safetensors"
    tensors = change(safetensors.torch.load_file(file))
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
    return folder


def oracle(folder: Path) -> Mapping[str, np.ndarray]:
    """The weights of transformers' model of a folder, the tied head included."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def opened(folder: Path) -> Checkpoint:
    return open_checkpoint(ModelFiles(folder, "folder", folder.name, str(folder)))


def assert_as_transformers(folder: Path) -> None:
    """Every weight, and by which of them tokens are embedded and judged."""
    expected = oracle(folder)
    with opened(folder) as checkpoint:
        for name in checkpoint.tensors:
            np.testing.assert_array_equal(checkpoint.array(name), expected[name])
        head = EMBED if checkpoint.config.tied_head else HEAD
        np.testing.assert_array_equal(checkpoint.array(head), expected[HEAD])
        assert {*checkpoint.tensors, HEAD} == expected.keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_stored_head_that_differs_is_used_though_the_configuration_ties_it(
    write_folder: Write, dtype: torch.dtype
) -> None:
    folder, _ = write_folder("llama", dtype, tied=True)

    def one_value_apart(tensors: Tensors) -> Tensors:
        head = tensors[EMBED].clone()
        head[-1, -1] += 1
        return tensors | {HEAD: head}

    rewrite(folder, one_value_apart)
    with pytest.warns(
        UserWarning, match=r"lm_head.weight is stored with other values .*: the stored head is"
    ):
        assert_as_transformers(folder)
    with pytest.warns(UserWarning, match="lm_head"), opened(folder) as checkpoint:
        assert not checkpoint.config.tied_head


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_an_equal_head_stays_tied(write_folder: Write, dtype: torch.dtype) -> None:
    folder, _ = write_folder("llama", torch.float16, tied=True)
    rewrite(folder, lambda tensors: tensors | {HEAD: tensors[EMBED].to(dtype).clone()})
    with opened(folder) as checkpoint:
        assert checkpoint.config.tied_head
        assert HEAD not in checkpoint.tensors
    assert_as_transformers(folder)


def test_a_tied_head_may_be_stored_in_the_embeddings_place(write_folder: Write) -> None:
    folder, _ = write_folder("llama", tied=True)
    rewrite(folder, lambda tensors: {HEAD if name == EMBED else name: t for name, t in tensors.items()})
    assert_as_transformers(folder)


@pytest.mark.parametrize("tied", [False, True])
def test_a_body_without_its_prefix_and_with_a_value_head(write_folder: Write, tied: bool) -> None:
    folder, _ = write_folder("qwen3", tied=tied)
    value = {"v_head.summary.weight": torch.ones(1, 64), "v_head.summary.bias": torch.ones(1)}
    rewrite(folder, lambda tensors: {name.removeprefix("model."): t for name, t in tensors.items()} | value)
    with pytest.warns(UserWarning, match="passed over 'v_head.summary.bias', 'v_head.summary.weight'"):
        assert_as_transformers(folder)


def test_a_body_may_lack_its_prefix_in_part(write_folder: Write) -> None:
    folder, _ = write_folder("llama")
    rewrite(
        folder, lambda tensors: {name.replace("model.layers", "layers"): t for name, t in tensors.items()}
    )
    with opened(folder) as checkpoint:
        assert "model.layers.1.mlp.down_proj.weight" in checkpoint.tensors


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_proj.bias", "lm_head.bias", "model.extra"])
def test_what_could_change_an_answer_is_refused(write_folder: Write, name: str) -> None:
    folder, _ = write_folder("llama")
    rewrite(folder, lambda tensors: tensors | {name: torch.ones(64)})
    with pytest.raises(UnsupportedModel, match=f"tensor '{name}' has no place"):
        opened(folder)


def test_a_quantised_body_without_its_prefix(quantised_folder: Any, tmp_path: Path) -> None:
    folder, values = quantised_folder("awq")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    safetensors.torch.save_file(bare, tmp_path / "model.safetensors")
    with opened(tmp_path) as checkpoint:
        name = "model.layers.0.mlp.up_proj.weight"
        np.testing.assert_array_equal(checkpoint.array(name), values[name])


def test_an_index_that_lists_a_tied_head_which_is_not_stored(write_folder: Write) -> None:
    folder, _ = write_folder("llama", tied=True, shards=2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][HEAD] = "model-00002-of-00002.safetensors"
    path.write_text(json.dumps(index))
    with pytest.warns(UserWarning, match="passed over what it says of tensor 'lm_head.weight'"):
        assert_as_transformers(folder)


def test_an_index_does_not_make_up_for_what_is_missing(write_folder: Write) -> None:
    folder, _ = write_folder("llama", shards=2)
    first = sorted(folder.glob("*.safetensors"))[0]
    tensors = safetensors.torch.load_file(first)
    tensors.pop(lost := min(tensors))
    safetensors.torch.save_file(tensors, first)
    with pytest.warns(UserWarning, match=lost), pytest.raises(WeightsError, match=f"{lost} is missing"):
        opened(folder)


def gguf_with(write_gguf: Write, **keys: Any) -> Checkpoint:
    """A tiny Llama in GGUF whose keys are overwritten by these."""

    def more(writer: gguf.GGUFWriter) -> None:
        for name, (value, kind) in keys.items():
            key = f"llama.{name}".replace("__", ".")
            writer.kv_data[0][key] = gguf.GGUFValue(value, kind)

    path, _ = write_gguf("llama", more=more)
    return open_checkpoint(ModelFiles(path, "gguf", path.name, str(path)))


def test_the_rows_of_a_gguf_count_more_than_its_vocab_size(write_gguf: Write) -> None:
    kind = gguf.GGUFValueType.UINT32
    with (
        pytest.warns(UserWarning, match="passed over llama.vocab_size 96: its embedding has 80 rows"),
        gguf_with(write_gguf, vocab_size=(96, kind)) as checkpoint,
    ):
        assert checkpoint.config.vocab == 80


def test_a_value_that_all_layers_share_is_that_value(write_gguf: Write) -> None:
    kind = gguf.GGUFValueType.ARRAY
    keys = ("attention__head_count_kv", "attention__head_count", "feed_forward_length")
    values = dict(zip(keys, (2, 4, 96), strict=True))
    with gguf_with(write_gguf, **{key: ([value] * 2, kind) for key, value in values.items()}) as checkpoint:
        config: Any = checkpoint.config
        assert (config.kv_heads, config.heads, config.ffn) == (2, 4, 96)
    with pytest.raises(UnsupportedModel, match="head_count_kv differs from layer to layer"):
        gguf_with(write_gguf, attention__head_count_kv=([2, 4], kind))
