"""Folders that are written: a config.json that says the same, whole or not at all."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from sampan.core.errors import SampanError, UnsupportedModel, UsageError, WeightsError
from sampan.core.types import ModelFiles
from sampan.models.registry import from_hf
from sampan.weights.checkpoint import open_checkpoint
from sampan.weights.safetensors import read_json
from sampan.weights.save import check_room, free_place, hf_config, staged


def yarn(writer: gguf.GGUFWriter) -> None:
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(32)


def linear(writer: gguf.GGUFWriter) -> None:
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(2.5)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("more", [lambda _: None, yarn, linear], ids=["plain", "yarn", "linear"])
@pytest.mark.parametrize("tied", [True, False])
def test_config_json_says_what_the_gguf_says(
    write_gguf: Callable[..., Any], family: str, more: Any, tied: bool, tmp_path: Path
) -> None:
    path, _ = write_gguf(family, more=more, tied=tied)
    with open_checkpoint(ModelFiles(path, "gguf", "", "")) as checkpoint:
        given = hf_config(checkpoint)
        (tmp_path / "config.json").write_text(json.dumps(given))
        assert from_hf(read_json(tmp_path / "config.json")) == checkpoint.config
        assert ("rope_scaling" in given) == (more in (yarn, linear))


def test_listed_frequencies_are_read_bit_for_bit_and_checked(write_gguf: Callable[..., Any]) -> None:
    def factors(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("rope_freqs.weight", np.linspace(1, 8, 8, dtype=np.float32))

    path, _ = write_gguf("llama", more=factors)
    with open_checkpoint(ModelFiles(path, "gguf", "", "")) as checkpoint:
        config = json.loads(json.dumps(hf_config(checkpoint)))
        assert from_hf(config) == checkpoint.config
    listed = config["rope_scaling"]["inv_freq"]
    for wrong in (None, [], listed[1:], [0.0] * 8, [True] * 8, ["1"] * 8, [float("inf")] * 8, [1e300] * 8):
        scaling = config["rope_scaling"] | {"inv_freq": wrong}
        with pytest.raises(WeightsError, match="rope_scaling: inv_freq must list 8 positive numbers"):
            from_hf(config | {"rope_scaling": scaling})


def test_biases_that_no_config_json_can_say_are_refused(write_gguf: Callable[..., Any]) -> None:
    _, weights = write_gguf("llama")
    biased = dict(weights)
    for layer in range(2):
        for part, rows in (("q", 64), ("k", 32), ("v", 32)):
            biased[f"model.layers.{layer}.self_attn.{part}_proj.bias"] = np.ones(rows, np.float32)
    path, _ = write_gguf("llama", weights=biased)
    with (
        open_checkpoint(ModelFiles(path, "gguf", "", "")) as checkpoint,
        pytest.raises(UnsupportedModel, match=r"biases cannot be written as a llama config\.json"),
    ):
        hf_config(checkpoint)


def test_more_than_the_disk_holds_is_refused_before_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(SampanError, match=r"needs 1152921504606\.8 MB and .* MB free: make room"):
        check_room(tmp_path / "out", 2**60)
    check_room(tmp_path / "out", 0)


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    place = tmp_path / "out"

    def write(error: BaseException) -> None:
        with staged(place) as folder:
            (folder / "half").write_text("half")
            assert folder.parent == tmp_path
            assert not place.exists()
            raise error

    for error in (KeyboardInterrupt(), WeightsError("no"), OSError("disk")):
        with pytest.raises(SampanError if isinstance(error, OSError) else type(error)):
            write(error)
        assert list(tmp_path.iterdir()) == []
    place.mkdir()  # an empty folder gives way
    with staged(free_place(place)) as folder:
        (folder / "whole").write_text("whole")
    assert [file.name for file in place.iterdir()] == ["whole"]
    assert list(tmp_path.iterdir()) == [place]


def test_a_place_that_is_taken_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    (tmp_path / "link").symlink_to("full")
    for name in ("file", "full", "link"):
        with pytest.raises(UsageError, match=f"{name} is there already and is no empty folder"):
            free_place(tmp_path / name)
    with pytest.raises(UsageError, match="gone is no folder: make it first"):
        free_place(tmp_path / "gone" / "out")
    (tmp_path / "elsewhere").symlink_to("new")
    assert free_place(tmp_path / "elsewhere") == tmp_path / "new"


@pytest.mark.parametrize("out", ["~nobody-of-this-name/x", "n" * 300, "a\0b", "loop/out", "n/" * 3000])
def test_a_place_that_cannot_be_is_refused(tmp_path: Path, out: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UsageError) as caught:
        free_place(Path(out) if out.startswith("~") else tmp_path / out)
    assert len(str(caught.value)) < 300


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with (
        pytest.raises(SampanError, match="out cannot be written: Permission denied"),
        staged(tmp_path / "out"),
    ):
        pass
