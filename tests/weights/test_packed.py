"""Packed folders: a standard container, mapped as it lies, equal to its source, refused when damaged."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Ggml
from gguf import quants
from safetensors import safe_open

from sampan.cli.main import main
from sampan.core.errors import SampanError, UnsupportedModel
from sampan.core.settings import Settings
from sampan.core.types import ModelFiles
from sampan.kernels.cpu.machine import machine
from sampan.kernels.cpu.panels import PackedWeights
from sampan.kernels.ops import Linear, Weight
from sampan.llm import LLM
from sampan.weights.checkpoint import open_checkpoint
from sampan.weights.safetensors import read_json, read_safetensors_folder

Change = Callable[[dict[str, Any]], object]

SETTINGS = Settings(Path(), tune=False)
IDS = [5, 7, 1, 30, 2, 9, 9, 41]
HIDDEN, FFN, VOCAB, HEADS, KV_HEADS, HEAD_DIM = 96, 160, 50, 3, 1, 32
Q = "model.layers.0.self_attn.q_proj.weight"
# Neighbours of one linear in several types: q and k together, v alone; gate and up apart.
TYPES = {
    "token_embd": Ggml.Q8_0, "output": Ggml.F16,
    "attn_q": Ggml.Q4_0, "attn_k": Ggml.Q4_0, "attn_v": Ggml.Q5_1,
    "attn_output": Ggml.F32, "ffn_gate": Ggml.Q4_1, "ffn_up": Ggml.Q5_0, "ffn_down": Ggml.BF16,
}  # fmt: skip
SHAPES = {
    "token_embd": (VOCAB, HIDDEN), "output": (VOCAB, HIDDEN), "attn_q": (HEADS * HEAD_DIM, HIDDEN),
    "attn_k": (KV_HEADS * HEAD_DIM, HIDDEN), "attn_v": (KV_HEADS * HEAD_DIM, HIDDEN),
    "attn_output": (HIDDEN, HEADS * HEAD_DIM), "ffn_gate": (FFN, HIDDEN), "ffn_up": (FFN, HIDDEN),
    "ffn_down": (HIDDEN, FFN), "attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,), "output_norm": (HIDDEN,),
    "rope_freqs": (HEAD_DIM // 2,),
}  # fmt: skip


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    """A tiny Llama in one GGUF file with every kind of store, stretched frequencies and a vocabulary."""
    path = tmp_path_factory.mktemp("mixed") / "mixed.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(["a", "b", "ab", *(f"t{token}" for token in range(3, VOCAB))])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(3)
    rng = np.random.default_rng(8)
    for name, shape in SHAPES.items():
        values = rng.normal(0, 0.1, shape).astype(np.float32)
        values = np.exp2(values) if len(shape) == 1 else values
        type = TYPES.get(name, Ggml.F32)
        layer = "" if name in ("token_embd", "output", "output_norm", "rope_freqs") else "blk.0."
        writer.add_tensor(f"{layer}{name}.weight", quants.quantize(values, type), raw_dtype=type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return ModelFiles(path, "gguf", "mixed", str(path))


@pytest.fixture(scope="module")
def original(mixed: ModelFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "mixed"
    assert main(["quantize", str(mixed.path), str(folder)]) == 0
    return folder


@pytest.fixture
def packed(original: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(original, tmp_path / "mixed"))


def files_of(folder: Path) -> ModelFiles:
    return ModelFiles(folder, "folder", "mixed", str(folder))


def scores(files: ModelFiles) -> list[float]:
    with LLM(files, settings=SETTINGS, threads=1) as llm:
        return llm.engine.score(IDS).tolist()


def refusal(folder: Path) -> str:
    """What is said against a folder when it is opened and loaded."""
    with pytest.raises(SampanError) as caught:
        scores(files_of(folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mixed_types_run_as_the_source_does_bit_for_bit(mixed: ModelFiles, original: Path) -> None:
    assert scores(files_of(original)) == scores(mixed)


def test_the_container_is_standard_and_aligned(original: Path) -> None:
    path = original / "model.safetensors"
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    entries = json.loads(path.read_bytes()[8 : 8 + length])
    texts = entries.pop("__metadata__")
    assert (texts["format"], texts["version"], (8 + length) % 64) == ("sampan", "2", 0)
    with safe_open(path, "np") as file:
        for name in file.keys():  # noqa: SIM118
            assert file.get_tensor(name).nbytes == np.subtract(*entries[name]["data_offsets"][::-1])
    assert all(entry["data_offsets"][0] % 64 == 0 for entry in entries.values())
    matrices = {name for name, entry in entries.items() if entry["dtype"] == "U8"}
    parts = [sorted(part.split(".")[-2] for part in json.loads(texts[name])["parts"]) for name in matrices]
    assert ["k_proj", "q_proj"] in parts
    assert [each for each in parts if len(each) > 1] == [["k_proj", "q_proj"]]
    assert {entries[name]["dtype"] for name in entries.keys() - matrices} == {"F32"}
    assert json.loads(texts[f"{Q}.packed"]) == {
        "parts": {Q: 96, Q.replace("q_proj", "k_proj"): 32}, "n": 128, "k": 96, "store": 0, "group": 32,
        "wide": False, "has_min": False, "zero": 8, "bytes": 128 // 16 * 3 * 288, "source": "Q4_0",
    }  # fmt: skip


def test_matrices_are_the_mapped_bytes_themselves(original: Path) -> None:
    with open_checkpoint(files_of(original)) as checkpoint:
        weights = PackedWeights(checkpoint, machine(SETTINGS, 1))
        parts = [Q, Q.replace("q_proj", "k_proj"), Q.replace("q_proj", "v_proj")]
        linear = Linear(tuple(Weight(name, checkpoint.tensors[name].shape) for name in parts))
        segments = weights.layout.segments(linear)
        matrices = [weights.matrix(segment) for segment in segments]
        assert [segment.offset for segment in segments] == [0, 128]
        for matrix, name in zip(matrices, (parts[0], parts[2]), strict=True):
            assert matrix.data.ctypes.data == checkpoint.panels(name).ctypes.data
            assert matrix.data.ctypes.data % 64 == 0
    assert matrices[0].data.sum() > 0  # the mapping outlives the checkpoint


def test_what_wants_values_is_refused(original: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"holds weights packed by `sampan quantize`"):
        read_safetensors_folder(original)
    with open_checkpoint(files_of(original)) as checkpoint:
        for read in (checkpoint.raw, checkpoint.array, checkpoint.row_order):
            with pytest.raises(UnsupportedModel, match=r"q_proj\.weight is packed for the kernels"):
                read(Q)


METADATA: dict[str, tuple[Change, str]] = {
    "version": (lambda texts: texts.update(version="1"), "packed in format '1', this version"),
    "no version": (lambda texts: texts.pop("version"), "write it again with `sampan quantize`"),
    "format": (lambda texts: texts.update(format="pt"), "has dtype 'U8': readable are BF16, F16, F32"),
    "missing": (lambda texts: texts.pop(f"{Q}.packed"), "q_proj.weight.packed' is no JSON object"),
    "not JSON": (lambda texts: texts.update({f"{Q}.packed": "{"}), "is no JSON object"),
    "not text": (lambda texts: texts.update({f"{Q}.packed": 3}), "is no JSON object"),
}  # fmt: skip
FACTS: dict[str, tuple[Change, str]] = {
    "no parts": (lambda facts: facts.update(parts={}), "parts names no tensor"),
    "parts": (lambda facts: facts.update(parts=[Q]), "parts must be an object"),
    "rows": (lambda facts: facts["parts"].update({Q: 80}), "has shape [80, 96]"),
    "n": (lambda facts: facts.update(n=127), "is 127 x 96, its parts are 128 x 96: the file is damaged"),
    "huge": (lambda facts: facts.update(n=2**40), "n must be from 1 to 2147483647"),
    "k": (lambda facts: facts.update(k=64), "has shape [96, 64], the configuration says [96, 96]"),
    "store": (lambda facts: facts.update(store=2), "packed bytes do not match the shape"),
    "group": (lambda facts: facts.update(group=64), "k must be a multiple of the group"),
    "odd group": (lambda facts: facts.update(group=48), "group must be 16, 32, 64 or 128"),
    "unknown store": (lambda facts: facts.update(store=9), "sizes and store must be known"),
    "wide": (lambda facts: facts.update(wide=1), "wide must be true or false"),
    "no zero": (lambda facts: facts.pop("zero"), "zero is missing"),
    "bytes": (lambda facts: facts.update(bytes=64), "64 bytes are stored as 64"),
    "source": (lambda facts: facts.update(source="Q9"), "source is 'Q9', which is no known type"),
    "other tensor": (
        lambda facts: facts.update(parts={"ghost": 96, Q.replace("q_proj", "k_proj"): 32}),
        f"tensor {Q} is missing",
    ),
    "twice": (
        lambda facts: facts.update(parts={Q: 96, Q.replace("q_proj", "v_proj"): 32}),
        "v_proj.weight' is there twice",
    ),
    "order": (
        lambda facts: facts.update(parts={Q: 96, "model.layers.0.self_attn.o_proj.weight": 32}),
        "is there twice",
    ),
}  # fmt: skip


def change_header(folder: Path, change: Change) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


@pytest.mark.parametrize("kind", METADATA)
def test_metadata_of_another_version_or_damaged(packed: Path, kind: str) -> None:
    change, message = METADATA[kind]
    change_header(packed, lambda header: change(header["__metadata__"]))
    assert message in refusal(packed)


@pytest.mark.parametrize("kind", FACTS)
def test_facts_that_contradict_tensor_or_configuration(packed: Path, kind: str) -> None:
    change, message = FACTS[kind]

    def spoil(header: dict[str, Any]) -> None:
        texts = header["__metadata__"]
        facts = json.loads(texts[f"{Q}.packed"])
        change(facts)
        texts[f"{Q}.packed"] = json.dumps(facts)

    change_header(packed, spoil)
    assert message in refusal(packed)


def test_parts_that_the_model_does_not_read_together(packed: Path) -> None:
    def swap(header: dict[str, Any]) -> None:
        texts = header["__metadata__"]
        facts = json.loads(texts[f"{Q}.packed"])
        facts["parts"] = dict(reversed(facts["parts"].items()))
        texts[f"{Q}.packed"] = json.dumps(facts)

    change_header(packed, swap)
    assert "k_proj.weight, model.layers.0.self_attn.q_proj.weight together, the model reads" in refusal(
        packed
    )


def test_a_file_cut_short_anywhere_is_refused(packed: Path) -> None:
    path = packed / "model.safetensors"
    content = path.read_bytes()
    for cut in {0, 7, 8, 100, *range(64, len(content), 5003), len(content) - 1}:
        path.write_bytes(content[:cut])
        refusal(packed)


def test_a_configuration_of_another_model_is_refused(packed: Path) -> None:
    config = read_json(packed / "config.json")
    for field, value in (("intermediate_size", 192), ("num_hidden_layers", 2), ("vocab_size", 64)):
        (packed / "config.json").write_text(json.dumps(config | {field: value}))
        assert "tensor" in refusal(packed)
