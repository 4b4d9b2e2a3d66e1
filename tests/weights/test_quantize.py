"""Rounding to 8 and 4 bits: how far from the weights, where it applies, and what the model then says."""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from sampan.core.errors import WeightsError
from sampan.core.settings import Settings
from sampan.core.types import ModelFiles
from sampan.kernels.cpu.machine import machine
from sampan.kernels.cpu.pieces import pieces
from sampan.kernels.cpu.rounding import Scheme, quantise, scheme_for
from sampan.llm import LLM
from sampan.llm.load import graph_of
from sampan.weights.checkpoint import open_checkpoint
from sampan.weights.save import PackedFile, copy_companions, staged

HERE = Settings(Path(), tune=False)
SCHEMES = [Scheme(bits, group) for bits in (8, 4) for group in (32, 64, 128)]
# 128 does not divide 192 inputs, and 200 tokens are no whole number of panels.
TINY = {
    "hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 192,
    "num_hidden_layers": 2, "vocab_size": 200, "max_position_embeddings": 256,
}  # fmt: skip
CASES = {
    "llama": ({"model_type": "llama"}, torch.bfloat16),
    "qwen2": ({"model_type": "qwen2", "tie_word_embeddings": True}, torch.float32),
}
HYBRID = {
    "qwen3_5": (
        {
            "model_type": "qwen3_5_text", "linear_num_key_heads": 2, "linear_num_value_heads": 4,
            "linear_key_head_dim": 32, "linear_value_head_dim": 32, "head_dim": 64,
            "layer_types": ["linear_attention", "full_attention"],
        },
        torch.bfloat16,
    ),
}  # fmt: skip
# No inputs are of whole blocks of 32: 72, 80 and 100 are written as 96, 96 and 128.
ODD = {
    "odd": (
        {"model_type": "llama", "hidden_size": 72, "head_dim": 20, "intermediate_size": 100},
        torch.bfloat16,
    ),
}
IDS = np.random.default_rng(3).integers(0, 200, 80).tolist()

Pack = Callable[..., Path]


def dequantised(codes: Any) -> np.ndarray:
    scale = np.repeat(codes.scale, codes.group, axis=1)
    least = 0 if codes.minimum is None else np.repeat(codes.minimum, codes.group, axis=1)
    return (codes.q.astype(np.float32) - codes.zero) * scale + least


def plainly_rounded(x: np.ndarray) -> np.ndarray:
    """Groups [G, group] at 16 levels from the least to the greatest weight."""
    low = x.min(axis=1, keepdims=True)
    scale = (x.max(axis=1, keepdims=True) - low) / 15
    return np.rint((x - low) / scale) * scale + low


def sample(seed: int, shape: tuple[int, int], kind: str = "normal") -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.standard_t(3, shape) if kind == "heavy" else rng.normal(size=shape)
    return (0.02 * values + (0.3 if kind == "shifted" else 0)).astype(np.float32)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("kind", ["normal", "heavy", "shifted"])
def test_an_error_is_half_a_step_or_less_than_plain_rounding(scheme: Scheme, kind: str) -> None:
    x = sample(1, (96, 256), kind)
    codes = quantise(x, scheme)
    assert (codes.q.max() <= 15) == (scheme.bits == 4)
    assert np.array_equal(codes.scale, codes.scale.astype(np.float16))
    error = (dequantised(codes) - x).reshape(-1, scheme.group)
    groups = x.reshape(error.shape)
    if scheme.bits == 8:
        step = np.abs(groups).max(axis=1, keepdims=True) / 127 * (1 + 2**-10) + 2**-24
        assert (np.abs(error) <= step / 2 * 1.0001).all()
        return
    plain = ((plainly_rounded(groups) - groups) ** 2).sum(axis=1)
    found = (error**2).sum(axis=1)
    assert (found <= 1.02 * plain).all()  # scale and minimum in 16 bits instead of 32
    assert found.sum() < 0.85 * plain.sum()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), power=st.integers(-30, 15), scheme=st.sampled_from(SCHEMES))
def test_weights_of_any_size(seed: int, power: int, scheme: Scheme) -> None:
    """Float16 reaches from 2^-24 to 65504: where a scale has few bits left, so has a weight."""
    x = np.ldexp(sample(seed, (2, 128)), power)
    error = np.abs(dequantised(quantise(x, scheme)) - x)
    steps, few = (0.005, 2**-24) if scheme.bits == 8 else (0.3, 2**-21)
    assert error.max() <= np.abs(x).max() * steps + few


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_groups_without_range_or_with_one_outlier(scheme: Scheme) -> None:
    x = np.zeros((5, 128), np.float32)
    x[1], x[2, 7], x[3, ::2], x[4] = 0.25, 3.0, -1.0, 1e-12
    found = dequantised(quantise(x, scheme))
    np.testing.assert_allclose(found, x, rtol=0.005, atol=3e-4)


def test_a_group_is_rounded_the_same_whatever_is_beside_it() -> None:
    for scheme in SCHEMES:
        x = sample(5, (1100, 128))
        whole, alone = quantise(x, scheme), quantise(x[700:703], scheme)
        assert np.array_equal(whole.q[700:703], alone.q)
        assert np.array_equal(whole.scale[700:703], alone.scale)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModelFiles]:
    """A tiny random model by transformers, with a tokenizer."""
    made: dict[str, ModelFiles] = {}

    def make(case: str) -> ModelFiles:
        if case not in made:
            folder = tmp_path_factory.mktemp(case)
            fields, dtype = (CASES | HYBRID | ODD)[case]
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**TINY | fields))
            generator = torch.Generator().manual_seed(17)
            for weight in model.parameters():
                noise = 0.08 * torch.randn(weight.shape, generator=generator)
                weight.data = noise + (weight.data if weight.ndim == 1 else 0)
            model.to(dtype).save_pretrained(folder)
            backend = Tokenizer(models.BPE(vocab={f"t{i}": i for i in range(200)}, merges=[]))
            backend.pre_tokenizer = pre_tokenizers.ByteLevel()
            backend.decoder = decoders.ByteLevel()
            PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="t1").save_pretrained(folder)
            made[case] = ModelFiles(folder, "folder", case, str(folder))
        return made[case]

    return make


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    """Writes the packed folder of a model."""

    def write(files: ModelFiles, bits: int | None = None, group: int = 32) -> Path:
        place = tmp_path / "packed"
        with open_checkpoint(files) as checkpoint, staged(place) as folder:
            found = pieces(
                graph_of(checkpoint.config),
                checkpoint,
                lambda weight: scheme_for(weight, bits, group) if bits else None,
            )
            copy_companions(files.path, folder)
            PackedFile(checkpoint, found).write(
                folder / "model.safetensors", machine(HERE, 2), lambda _bytes: None
            )
        return place

    return write


def scores(folder: Path) -> np.ndarray:
    with LLM(ModelFiles(folder, "folder", "", ""), settings=HERE, threads=2) as llm:
        return llm.engine.score(IDS)


def unpacked(folder: Path) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    """Every tensor of a packed file, from its panels as kernels.h lays them out, and what is said of it."""
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    with safe_open(folder / "model.safetensors", "np") as file:
        said = {name: json.loads(text) for name, text in file.metadata().items() if name in tensors}
    found = {name: (tensor, {}) for name, tensor in tensors.items() if name not in said}
    for name, facts in said.items():
        matrix, first = panels(tensors[name][: facts["bytes"]], facts), 0
        for part, rows in facts["parts"].items():
            found[part] = matrix[first : first + rows], facts
            first += -(-rows // 16) * 16
    return found


def panels(data: np.ndarray, facts: dict[str, Any]) -> np.ndarray:
    """16 outputs by `group` inputs: scales, minima, then codes as [8 chunks][16 outputs][4 inputs]."""
    n, k, group, four = facts["n"], facts["k"], facts["group"], facts["store"] == 0
    count = -(-n // 16)
    groups = data.reshape(count, k // group, -1)
    heads = 64 if facts["has_min"] else 32
    halves = np.ascontiguousarray(groups[..., :heads]).view(np.float16).astype(np.float32)
    codes = groups[..., heads:].reshape(count, k // group, group // 32, 4 if four else 8, 16, 4)
    if four:
        codes = np.concatenate([codes & 15, codes >> 4], axis=3)
    q = codes.astype(np.float32).transpose(0, 4, 1, 2, 3, 5).reshape(count, 16, k // group, group)
    values = (q - facts["zero"]) * halves[..., :16].transpose(0, 2, 1)[..., None]
    if facts["has_min"]:
        values = values + halves[..., 16:].transpose(0, 2, 1)[..., None]
    return values.reshape(count * 16, k)[:n]


def logprobs(model: PreTrainedModel) -> np.ndarray:
    with torch.no_grad():
        rows = model(torch.tensor([IDS])).logits[0].log_softmax(-1).numpy()
    return rows[np.arange(len(IDS) - 1), IDS[1:]]


@pytest.mark.parametrize(
    ("case", "scheme"),
    [*product(CASES, SCHEMES), ("odd", Scheme(8, 64)), ("odd", Scheme(4, 32))],
    ids=str,
)
def test_a_rounded_model_is_close_to_the_original(
    source: Callable[[str], ModelFiles], pack: Pack, case: str, scheme: Scheme
) -> None:
    files = source(case)
    folder = pack(files, scheme.bits, scheme.group)
    oracle = AutoModelForCausalLM.from_pretrained(files.path, dtype=torch.float32).eval()
    original = logprobs(oracle)
    state = oracle.state_dict()
    found = unpacked(folder)
    for name, (values, facts) in found.items():
        expected = state[name].numpy()
        if expected.ndim == 1:
            np.testing.assert_array_equal(values, expected)
            continue
        sensitive = name.split(".")[-2] in ("embed_tokens", "lm_head", "v_proj", "down_proj")
        assert facts["store"] == (2 if scheme.bits == 8 or sensitive else 0)
        inputs = expected.shape[1]
        assert facts["k"] % 32 == 0 <= facts["k"] - inputs < 32
        assert facts.get("inputs", facts["k"]) == inputs
        fits = [size for size in (32, 64, 128) if size <= scheme.group and facts["k"] % size == 0]
        assert facts["group"] == fits[-1]
        values = values[:, :inputs]
        error = np.sqrt(((values - expected) ** 2).mean() / (expected**2).mean())
        assert error < (0.007 if facts["store"] == 2 else 0.095)
        state[name].copy_(torch.from_numpy(values.copy()))
    assert found.keys() == state.keys() - ({"lm_head.weight"} if oracle.config.tie_word_embeddings else set())
    native = scores(folder)
    error = np.abs(native - logprobs(oracle))  # the kernels compute with these very weights,
    assert error[:60].max() < 0.03  # on inputs in 16 bits,
    assert error.max() < 0.08  # then 8
    assert np.abs(native - original).mean() < (0.03 if scheme.bits == 8 else 0.3)


@pytest.mark.parametrize("case", [*CASES, *HYBRID, *ODD])
def test_without_bits_a_folder_says_exactly_the_same(
    source: Callable[[str], ModelFiles], pack: Pack, case: str
) -> None:
    files = source(case)
    np.testing.assert_array_equal(scores(pack(files)), scores(files.path))


@pytest.mark.filterwarnings("ignore:.*stored head is used")
def test_a_stored_head_that_the_configuration_ties_is_used_and_packed(
    source: Callable[[str], ModelFiles], pack: Pack, tmp_path: Path
) -> None:
    files = source("qwen2")  # tied
    own = tmp_path / "merged"
    own.mkdir()
    copy_companions(files.path, own)
    tensors = safetensors.numpy.load_file(files.path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"][::-1].copy()
    safetensors.numpy.save_file(tensors, own / "model.safetensors", metadata={"format": "pt"})
    expected = logprobs(AutoModelForCausalLM.from_pretrained(own, dtype=torch.float32).eval())
    assert np.abs(expected - scores(files.path)).max() > 3  # what dropping it cost
    found = scores(own)
    assert np.abs(found - expected)[:60].max() < 0.03
    np.testing.assert_array_equal(scores(pack(ModelFiles(own, "folder", "", ""))), found)


def test_weights_beyond_float16_are_refused(
    source: Callable[[str], ModelFiles], pack: Pack, tmp_path: Path
) -> None:
    files = source("qwen2")
    tensors = safetensors.numpy.load_file(files.path / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][3, 5] = 1e30
    wild = tmp_path / "wild"
    wild.mkdir()
    copy_companions(files.path, wild)
    safetensors.numpy.save_file(tensors, wild / "model.safetensors")
    wild_files = ModelFiles(wild, "folder", "", "")
    for bits in (8, 4):
        with pytest.raises(WeightsError, match=r"up_proj\.weight holds weights too large for float16"):
            pack(wild_files, bits)
    assert sorted(tmp_path.iterdir()) == [wild]
    np.testing.assert_array_equal(scores(pack(wild_files)), scores(wild))
