"""GGUF files of every type give the logits that transformers gives on the dequantised weights."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf import quants
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sampan.core.types import ModelFiles
from sampan.kernels.backend import AdapterRoom

Make = Callable[..., Any]
HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB = 256, 3, 4, 2, 64, 512, 300
EARLY = 64  # positions whose activations keep 16 bits
LENGTH = 200

# Largest difference in parts of the logits' range. Floats: as for folders. 16-bit activations: measured up to
# 1.4e-4; a scale wrong by a fifth in one of a matrix's 16 groups gives 1.5e-2 or more. 8-bit activations, in
# two of three layers: up to 3.9e-2, with a root mean square of 4.1e-2 of the logits' standard deviation and a
# Kullback-Leibler divergence of 2.7e-3; groups in another order, or a minimum left out, give 0.4, 0.6, 0.7.
# bf16 weights: a difference at a boundary of the inputs' rounding becomes one of 2^-8: measured up to 3.2e-3.
FLOAT, FINE, ROUNDED = 1e-5, 5e-4, 5e-3
COARSE, COARSE_RMS, COARSE_KL = 0.07, 0.06, 5e-3

# Blocks of any bytes but these: the float16 at each offset, in parts of the block's scale. The minimum's part
# is the mean code, so that the mean weight is about zero.
HALVES = {
    Type.Q2_K: {80: 1.0, 82: 1.5},
    Type.Q3_K: {108: 1.0},
    Type.Q4_K: {0: 1.0, 2: 7.5},
    Type.Q5_K: {0: 1.0, 2: 15.5},
    Type.Q6_K: {208: 1.0},
    Type.IQ2_S: {0: 1.0},
    Type.IQ3_XXS: {0: 1.0},
    Type.IQ1_S: {0: 1.0},
    Type.IQ4_NL: {0: 1.0},
    Type.IQ4_XS: {0: 1.0},
}
SIMPLE = [Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.MXFP4, Type.TQ2_0]
INTEGERS = [("llama", [type]) for type in [*SIMPLE, *HALVES]] + [
    ("qwen2", [Type.Q4_1]),
    ("qwen2", [Type.Q6_K]),
    ("qwen3", [Type.Q4_1]),
    ("qwen3", [Type.Q6_K]),
    # Types in turn over the tensors: query, key and value, or gate and up, of one layer then differ.
    ("llama", [Type.Q4_K, Type.Q6_K, Type.Q5_0, Type.F16, Type.Q4_K]),
    ("qwen2", [Type.Q8_0, Type.Q8_0, Type.Q4_1, Type.BF16]),
    ("qwen2", [Type.Q8_0, Type.IQ4_NL, Type.IQ4_NL, Type.MXFP4]),
]
FLOATS = [("llama", [Type.F32]), ("llama", [Type.F16]), ("qwen2", [Type.BF16]), ("qwen3", [Type.F16])]
integers = pytest.mark.parametrize(
    ("family", "types"), INTEGERS, ids=lambda value: value if isinstance(value, str) else named(value)
)


def named(types: list[Type]) -> str:
    return "+".join(type.name for type in types)


def limit(types: list[Type], without: float) -> float:
    """Of the difference; `without` bf16 among the types it is this."""
    return ROUNDED if Type.BF16 in types else without


@dataclass(frozen=True)
class Tiny:
    """A GGUF file, and transformers' model of its dequantised weights; inputs of bf16 ones are bf16."""

    files: ModelFiles
    oracle: PreTrainedModel

    def expected(self, tokens: list[int]) -> np.ndarray:
        with torch.no_grad():
            return self.oracle(torch.tensor([tokens]), use_cache=False).logits[0].numpy()


def config(family: str, tied: bool) -> Any:
    return AutoConfig.for_model(
        family,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        intermediate_size=FFN,
        vocab_size=VOCAB,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        tie_word_embeddings=tied,
    )


def add_keys(writer: gguf.GGUFWriter) -> None:
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)


def stored(shape: tuple[int, ...], type: Type, rng: np.random.Generator) -> np.ndarray:
    """The bytes of a matrix of the size of trained weights, one row a row."""
    deviation = 1.5 * shape[1] ** -0.5
    if type not in HALVES:
        return quants.quantize(rng.normal(0, deviation, shape).astype(np.float32), type)
    size, nbytes = gguf.GGML_QUANT_SIZES[type]
    blocks = rng.integers(0, 256, (shape[0] * shape[1] // size, nbytes), np.uint8)
    scales = rng.uniform(0.5, 1.5, len(blocks))
    for _ in range(2):  # first at any scale, then at the one that gives the deviation
        for offset, part in HALVES[type].items():
            blocks[:, offset : offset + 2] = (scales * part).astype("<f2").view(np.uint8).reshape(-1, 2)
        scales *= deviation / quants.dequantize(blocks.reshape(shape[0], -1), type).std()
    return blocks.reshape(shape[0], -1)


def interleaved(rows: np.ndarray, name: str) -> np.ndarray:
    """What llama.cpp's converter does to a Llama's query and key rows."""
    heads = HEADS if "q_proj" in name else KV_HEADS
    return rows.reshape(heads, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def write(
    writer: gguf.GGUFWriter, oracle: PreTrainedModel, family: str, types: list[Type], rounding: Make
) -> None:
    """Random weights, into the file as llama.cpp's converter writes them and dequantised into the oracle."""
    rng = np.random.default_rng(5)
    arch = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}
    table = gguf.get_tensor_name_map(arch[family], LAYERS)
    for number, (name, weight) in enumerate(oracle.named_parameters()):
        if weight.ndim == 1:
            type, centre = Type.F32, 1.0 if name.endswith("norm.weight") else 0.0
            raw = values = rng.normal(centre, 0.3, tuple(weight.shape)).astype(np.float32)
        else:
            type = types[number % len(types)]
            raw = stored(tuple(weight.shape), type, rng)
            values = quants.dequantize(raw, type)
        weight.data = torch.from_numpy(values.copy())
        if type is Type.BF16 and "embed" not in name:
            rounding(oracle.get_submodule(name.removesuffix(".weight")))
        if family == "llama" and ("q_proj" in name or "k_proj" in name):
            raw = interleaved(raw, name)
        writer.add_tensor(table.get_name(name, try_suffixes=(".weight", ".bias")), raw, raw_dtype=type)


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory, rounding: Make) -> Make:
    @cache
    def make(family: str, *types: Type, tied: bool = False) -> Tiny:
        path: Path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
        oracle = AutoModelForCausalLM.from_config(config(family, tied)).eval()
        writer = gguf.GGUFWriter(path, family)
        add_keys(writer)
        write(writer, oracle, family, list(types), rounding)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return Tiny(ModelFiles(path, "gguf", path.name, str(path)), oracle)

    return make


@pytest.fixture(scope="module")
def prompt() -> list[int]:
    return np.random.default_rng(1).integers(0, VOCAB, LENGTH).tolist()


def divergence(expected: np.ndarray, found: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence of the rows, in nats."""
    p, q = (torch.from_numpy(x).double().log_softmax(-1) for x in (expected, found))
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.mark.parametrize(("family", "types"), FLOATS, ids=str)
def test_float_weights_give_the_logits_of_transformers(
    family: str, types: list[Type], quantised: Make, native: Make, error: Make, prompt: list[int]
) -> None:
    model = quantised(family, *types)
    assert error(native(model.files).logits(prompt), model.expected(prompt)) < limit(types, FLOAT)


@integers
def test_the_first_positions_are_computed_with_sixteen_bits(
    family: str, types: list[Type], quantised: Make, native: Make, error: Make, prompt: list[int]
) -> None:
    model = quantised(family, *types)
    found = native(model.files).logits(prompt)[:EARLY]
    assert error(found, model.expected(prompt)[:EARLY]) < limit(types, FINE)


@integers
def test_later_positions_differ_by_the_rounding_of_activations(
    family: str, types: list[Type], quantised: Make, native: Make, error: Make, prompt: list[int]
) -> None:
    model = quantised(family, *types)
    found, expected = native(model.files).logits(prompt)[EARLY:], model.expected(prompt)[EARLY:]
    assert error(found, expected) < COARSE
    assert np.sqrt(np.square(found - expected).mean()) < COARSE_RMS * expected.std()
    assert divergence(expected, found) < COARSE_KL


@pytest.mark.parametrize(("family", "types"), [*INTEGERS, *FLOATS], ids=str)
@pytest.mark.parametrize("cache", ["f32", "bf16", "int8"])
def test_no_bit_has_changed(
    family: str, types: list[Type], cache: str, quantised: Make, native: Make, digest: Make, prompt: list[int]
) -> None:
    model = quantised(family, *types)
    digest(f"gguf {family} {named(types)} {cache}", native(model.files, cache=cache).logits(prompt, 150))


@integers
@pytest.mark.parametrize("cache", ["f32", "bf16"])
def test_integer_kernels_give_the_same_bits_in_chunks_and_in_company(
    family: str, types: list[Type], cache: str, quantised: Make, native: Make, prompt: list[int]
) -> None:
    runner = native(quantised(family, *types).files, cache=cache)
    whole = runner.logits(prompt)
    for chunk in (50, 64, 13):
        assert np.array_equal(runner.logits(prompt, chunk), whole)
    a, b = runner.sequence(prompt), runner.sequence(prompt[::-1])
    parts = [runner.step((b, 3), (a, 62))[1], runner.step((a, 5), (b, 70))[0]]
    parts += [runner.step((b, 1), (a, 1))[1] for _ in range(20)]
    assert np.array_equal(np.concatenate(parts), whole[:87])
    for sequence in (a, b):
        runner.pool.release(sequence.pages)


@integers
def test_adapters_are_added_in_float32_to_integer_products(
    family: str, types: list[Type], quantised: Make, native: Make, adapted: Make, error: Make,
    prompt: list[int],
) -> None:  # fmt: skip
    model = quantised(family, *types)
    runner, adapter, merged = adapted(model, AdapterRoom(1, 16), scale=2.0, size=0.05)
    plain, other = runner.sequence(prompt), runner.sequence(prompt[:EARLY], adapter)
    together = runner.step((plain, 100), (other, EARLY - 1)) + runner.step((other, 1), (plain, LENGTH - 100))
    assert error(np.concatenate(together[1:3]), merged.expected(prompt[:EARLY])) < limit(types, FINE)
    # Beside rows with adapters, those without have the bits of a program that knows no adapters.
    assert np.array_equal(np.concatenate(together[::3]), native(model.files).logits(prompt))
    for sequence in (plain, other):
        runner.pool.release(sequence.pages)


def test_a_tied_head_reads_the_quantised_embedding(
    quantised: Make, native: Make, error: Make, prompt: list[int]
) -> None:
    model = quantised("llama", Type.Q5_K, tied=True)
    assert "lm_head.weight" not in dict(model.oracle.named_parameters())
    assert error(native(model.files).logits(prompt[:EARLY]), model.expected(prompt[:EARLY])) < FINE
