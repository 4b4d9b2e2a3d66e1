"""What is added up before loading is what the loaded model takes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from sampan.core.settings import Settings
from sampan.core.types import ModelFiles
from sampan.kernels.backend import PAGE, AdapterRoom, CacheSize
from sampan.kernels.cpu import backend as cpu_backend
from sampan.kernels.cpu.adapters import packed_adapter
from sampan.kernels.cpu.backend import CpuBackend
from sampan.kernels.cpu.plan import Plan
from sampan.kernels.cpu.planner import make_plan
from sampan.llm.load import graph_of
from sampan.models.registry import describe
from sampan.weights.checkpoint import Checkpoint, open_checkpoint
from sampan.weights.lora import read_lora

SETTINGS = Settings(Path(), tune=False)
SIZES = {"block_count": 2, "embedding_length": 256, "feed_forward_length": 512, "context_length": 64}
SIZES |= {
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.key_length": 64,
    "vocab_size": 333,
}
SIZES |= {"attention.value_length": 64}
SHAPES = {
    "attn_q": (256, 256), "attn_k": (128, 256), "attn_v": (128, 256), "attn_output": (256, 256),
    "ffn_gate": (512, 256), "ffn_up": (512, 256), "ffn_down": (256, 512),
    "attn_norm": (256,), "ffn_norm": (256,),
}  # fmt: skip
# Types by tensor, "" for the others: one type; the usual mixture; floats beside integers.
MIXTURES = {
    "Q4_1": {"": Type.Q4_1},
    "Q4_K_M": {"": Type.Q4_K, "attn_v": Type.Q6_K, "ffn_down": Type.Q6_K, "output": Type.Q6_K},
    "Q2_K": {"": Type.Q2_K, "attn_v": Type.Q3_K, "ffn_down": Type.Q5_K, "token_embd": Type.Q8_0},
    "legacy": {"": Type.Q4_0, "attn_k": Type.Q5_0, "attn_v": Type.Q5_1, "token_embd": Type.F16},
    "floats": {"": Type.BF16, "ffn_up": Type.Q8_0, "output": Type.F32},
    "F32": {"": Type.F32},
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., ModelFiles]:
    """Writes a tiny model of zeros in the given types."""

    def make(types: dict[str, Type], family: str = "llama", tied: bool = False) -> ModelFiles:
        writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", family)
        for name, value in SIZES.items():
            writer.add_uint32(f"{family}.{name}", value)
        writer.add_float32(f"{family}.attention.layer_norm_rms_epsilon", 1e-5)
        shapes = {f"blk.{n}.{name}.weight": shape for n in range(2) for name, shape in SHAPES.items()}
        if family == "qwen2":
            rows = {"q": 256, "k": 128, "v": 128}
            shapes |= {f"blk.{n}.attn_{part}.bias": (size,) for n in range(2) for part, size in rows.items()}
        if family == "qwen3":
            shapes |= {f"blk.{n}.attn_{part}_norm.weight": (64,) for n in range(2) for part in "qk"}
        shapes |= {"token_embd.weight": (333, 256), "output_norm.weight": (256,)}
        for name, shape in (shapes | ({} if tied else {"output.weight": (333, 256)})).items():
            type = types.get(name.split(".")[-2], types[""]) if len(shape) == 2 else Type.F32
            block, size = gguf.GGML_QUANT_SIZES[type]
            data = np.zeros((*shape[:-1], shape[-1] // block * size), np.uint8)
            writer.add_tensor(name, data, raw_dtype=type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return ModelFiles(tmp_path / "tiny.gguf", "gguf", "tiny", "")

    return make


def check(checkpoint: Checkpoint, *, threads: int, rows: int, room: AdapterRoom | None = None) -> None:
    """Load the model really, and compare byte for byte."""
    backend, graph = CpuBackend(SETTINGS, threads), graph_of(checkpoint.config)
    expected = backend.needs(graph, checkpoint, rows, room)
    weights = backend.place(checkpoint)
    for dtype, page in expected.page.items():
        program = backend.compile(graph, weights, CacheSize(8, dtype), rows, room)
        assert program.workspace_bytes == expected.workspace, dtype
        assert program.program.cache_bytes == 8 * page
    matrices = {id(m): m.data.nbytes for m in map(weights.matrix, program.plan.segments.values())}
    vectors = sum(weights.vector(vector).nbytes for vector in program.plan.vectors.values())
    assert sum(matrices.values()) + vectors == expected.weights


@pytest.mark.parametrize("mixture", MIXTURES)
def test_every_type_and_mixture(write: Callable[..., ModelFiles], mixture: str) -> None:
    with open_checkpoint(write(MIXTURES[mixture])) as checkpoint:
        check(checkpoint, threads=1, rows=64)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_family(write: Callable[..., ModelFiles], family: str, tied: bool) -> None:
    with open_checkpoint(write({"": Type.Q8_0}, family, tied)) as checkpoint:
        check(checkpoint, threads=1, rows=32)


@pytest.mark.parametrize("mixture", MIXTURES)
def test_room_for_adapters(
    mixture: str, write: Callable[..., ModelFiles], write_adapter: Callable[..., Any], tmp_path: Path
) -> None:
    room = AdapterRoom(3, 20)
    with open_checkpoint(write(MIXTURES[mixture])) as checkpoint:
        check(checkpoint, threads=2, rows=64, room=room)
        weights = describe(checkpoint.config).weights()
        write_adapter(tmp_path / "adapter", {n: w.shape for n, w in weights.items()}, rank=20)
        backend = CpuBackend(SETTINGS, 1)
        packed = packed_adapter(read_lora(tmp_path / "adapter", weights), backend.machine)
        size = sum(matrix.data.nbytes for pair in packed.values() for matrix in pair)
        needs = backend.needs(graph_of(checkpoint.config), checkpoint, 64, room)
        assert needs.adapters == 3 * size


def test_threads_and_rows(write: Callable[..., ModelFiles]) -> None:
    with open_checkpoint(write(MIXTURES["Q4_K_M"])) as checkpoint:
        check(checkpoint, threads=1, rows=1)
        check(checkpoint, threads=2, rows=300)


def test_a_plan_is_made_once_and_kept_until_it_is_compiled(
    write: Callable[..., ModelFiles], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Plan] = []

    def counted(*given: Any) -> Plan:
        made.append(make_plan(*given))
        return made[-1]

    monkeypatch.setattr(cpu_backend, "make_plan", counted)
    with open_checkpoint(write(MIXTURES["Q4_1"])) as checkpoint:
        backend, graph = CpuBackend(SETTINGS, 1), graph_of(checkpoint.config)
        weights = backend.place(checkpoint)
        backend.needs(graph, checkpoint, 64)
        backend.compile(graph, weights, CacheSize(8), 64)
        assert len(made) == 1
        backend.compile(graph, weights, CacheSize(8), 64)
        assert len(made) == 2, "the plan outlived loading"
        backend.needs(graph, checkpoint, 64, AdapterRoom(1, 8))
        program = backend.compile(graph, weights, CacheSize(8), 64)
        assert program.plan.room is None, "a plan of another room"


def test_the_default_model(default_model: ModelFiles) -> None:
    with open_checkpoint(default_model) as checkpoint:
        check(checkpoint, threads=2, rows=512)
        found = CpuBackend(SETTINGS, 1).needs(graph_of(checkpoint.config), checkpoint, 512)
    file = default_model.path.stat().st_size
    assert 0.97 * file < found.weights < file  # the vocabulary is the rest
    assert found.dtype == "bf16"
    elements = {"bf16": 64 * 2, "f32": 64 * 4, "int8": 64 + 4}
    assert found.page == {dtype: 2 * 30 * 3 * PAGE * size for dtype, size in elements.items()}
    assert found.logits == 4 * 49152
