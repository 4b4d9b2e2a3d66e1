"""Quantised folders as the published formats have them: each linear of a plain folder, packed by the format's
own formula, one field after another, and the values that it then stands for.

The formulas: OCP 8-bit floats and MX; AutoGPTQ's `QuantLinear.pack`; AutoAWQ's `WQLinear_GEMM.from_linear`;
compressed-tensors' `pack_to_int32`. Values are float32 products of float32 factors.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
Packed = tuple[Tensors, torch.Tensor]
"""The tensors of a module by their endings, and the values of its weight."""
Pack = Callable[[torch.Tensor], Packed]

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def quantise(
    source: Path, folder: Path, config: Mapping[str, Any], pack: Pack, linears: Any = LINEARS
) -> Tensors:
    """Write `folder` from the plain one at `source`; gives every tensor's values, float32."""
    plain = load_file(source / "model.safetensors")
    written: Tensors = {}
    values: Tensors = {}
    for name, tensor in plain.items():
        module = name.removesuffix(".weight")
        if module.split(".")[-1] in linears and tensor.ndim == 2:
            found, values[name] = pack(tensor.float())
            written |= {f"{module}.{ending}": part.contiguous() for ending, part in found.items()}
        else:
            written[name], values[name] = tensor, tensor.float()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(written, folder / "model.safetensors", metadata={"format": "pt"})
    fields = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"quantization_config": dict(config)}))
    return values


def words(fields: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """Int32 words of unsigned fields, the first one lowest, along `dim`; padded with zeros."""
    per = 32 // bits
    fields = fields.to(torch.int64).movedim(dim, 0)
    padded = torch.zeros((-(-len(fields) // per) * per, *fields.shape[1:]), dtype=torch.int64)
    padded[: len(fields)] = fields
    out = torch.zeros((len(padded) // per, *fields.shape[1:]), dtype=torch.int64)
    for i in range(per):
        out |= padded[i::per] << (bits * i)
    return as_int32(out).movedim(0, dim)


def as_int32(word: torch.Tensor) -> torch.Tensor:
    word = word % 2**32
    return torch.where(word >= 2**31, word - 2**32, word).to(torch.int32)


def steps(
    w: torch.Tensor, bits: int, group: torch.Tensor, dtype: torch.dtype, symmetric: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes [rows, inputs], scales and zero points [rows, groups] for the groups of the inputs."""
    groups, top = int(group.max()) + 1, 2**bits - 1
    low = torch.stack([w[:, group == g].amin(1) for g in range(groups)], 1).clamp(max=0)
    high = torch.stack([w[:, group == g].amax(1) for g in range(groups)], 1).clamp(min=0)
    if symmetric:
        high = torch.maximum(high, -low)
        low = -high
    scale = ((high - low) / top).clamp(min=1e-4).to(dtype)
    zero = (
        torch.full_like(low, 2 ** (bits - 1)) if symmetric else (-low / scale.float()).round().clamp(1, top)
    )
    q = (w / scale.float()[:, group] + zero[:, group]).round().clamp(0, top)
    return q, scale, zero


def gptq(
    *, bits: int = 4, group: int = 32, symmetric: bool = True, version: int = 1, shuffled: bool = False,
    dtype: torch.dtype = torch.float16,
) -> Pack:  # fmt: skip
    def pack(w: torch.Tensor) -> Packed:
        inputs = w.shape[1]
        order = torch.arange(inputs) // (group if group > 0 else inputs)
        if shuffled:
            order = order[torch.randperm(inputs, generator=torch.Generator().manual_seed(inputs))]
        q, scale, zero = steps(w, bits, order, dtype, symmetric)
        ones = sum(1 << (bits * i) for i in range(32 // bits)) if version == 1 else 0
        qzeros = as_int32(words(zero.T, bits, 1).to(torch.int64) - ones)
        tensors = {"qweight": words(q.T, bits, 0), "qzeros": qzeros, "scales": scale.T}
        return tensors | {"g_idx": order.to(torch.int32)}, scale.float()[:, order] * (q - zero[:, order])

    return pack


def awq(*, group: int = 32) -> Pack:
    def pack(w: torch.Tensor) -> Packed:
        order = torch.arange(w.shape[1]) // group
        q, scale, zero = steps(w, 4, order, torch.float16, symmetric=False)

        def packed(fields: torch.Tensor) -> torch.Tensor:  # [n, outputs]
            eights = fields.reshape(len(fields), -1, 8)[:, :, AWQ_ORDER]
            return words(eights.reshape(fields.shape), 4, 1)

        tensors = {"qweight": packed(q.T), "qzeros": packed(zero.T), "scales": scale.T}
        return tensors, scale.float()[:, order] * (q - zero[:, order])

    return pack


def integers(
    *, bits: int = 4, group: int = 32, symmetric: bool = True, packed: bool = True, shuffled: bool = False,
    dtype: torch.dtype = torch.bfloat16,
) -> Pack:  # fmt: skip
    """compressed-tensors, a scale for each group or, where that is -1, each row."""

    def pack(w: torch.Tensor) -> Packed:
        rows, inputs = w.shape
        order = torch.arange(inputs) // (group if group > 0 else inputs)
        if shuffled:
            order = order[torch.randperm(inputs, generator=torch.Generator().manual_seed(inputs))]
        q, scale, zero = steps(w, bits, order, dtype, symmetric)
        values = scale.float()[:, order] * (q - zero[:, order])
        offset = 2 ** (bits - 1)
        tensors = {"weight_scale": scale}
        if packed:
            tensors |= {"weight_packed": words(q, bits, 1), "weight_shape": torch.tensor([rows, inputs])}
        else:
            tensors["weight"] = (q - offset).to(torch.int8)
        if not symmetric:
            tensors["weight_zero_point"] = words(zero, bits, 0) if packed else (zero - offset).to(torch.int8)
        if shuffled:
            tensors["weight_g_idx"] = order.to(torch.int32)
        return tensors, values

    return pack


def fp8(
    block: tuple[int, int], *, dtype: torch.dtype = torch.float32, powers: bool = False,
    name: str = "weight_scale_inv", flat: bool = False,
) -> Pack:  # fmt: skip
    """E4M3 with a scale for each block; sizes of 0 stand for all rows or inputs."""

    def pack(w: torch.Tensor) -> Packed:
        rows, inputs = block[0] or w.shape[0], block[1] or w.shape[1]
        scale = torch.zeros(-(-w.shape[0] // rows), -(-w.shape[1] // inputs))
        full = torch.zeros_like(w)
        for i in range(scale.shape[0]):
            for j in range(scale.shape[1]):
                part = slice(i * rows, (i + 1) * rows), slice(j * inputs, (j + 1) * inputs)
                own = w[part].abs().max() / 448
                scale[i, j] = own.log2().ceil().exp2() if powers else own
                full[part] = scale[i, j].to(dtype).float()
        q = (w / full).clamp(-448, 448).to(torch.float8_e4m3fn)
        kept = scale.to(dtype)
        return {"weight": q, name: kept.reshape(-1) if flat else kept}, q.float() * full

    return pack


GPTQ = {
    "quant_method": "gptq",
    "bits": 4,
    "group_size": 32,
    "desc_act": False,
    "sym": True,
    "damp_percent": 0.01,
}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
FP8 = {
    "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
    "modules_to_not_convert": ["lm_head"],
}  # fmt: skip


def compressed(form: str, more: Mapping[str, Any] | None = None, **weights: Any) -> dict[str, Any]:
    """A `quantization_config` of compressed-tensors with these arguments of the weights."""
    fields = {
        "num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32,
        "block_structure": None, "dynamic": False, "actorder": None, "observer": "minmax",
        "observer_kwargs": {},
    }  # fmt: skip
    scheme = {
        "weights": fields | weights,
        "targets": ["Linear"],
        "input_activations": None,
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed",
        "config_groups": {"group_0": scheme}, "ignore": ["lm_head"], "kv_cache_scheme": None,
        "global_compression_ratio": 1.5, "sparsity_config": {}, "transform_config": {}, "version": "0.11.0",
        **(more or {}),
    }  # fmt: skip


BYTES = {"num_bits": 8, "strategy": "channel", "group_size": None}
FLOAT = BYTES | {"type": "float"}
CASES: dict[str, tuple[Mapping[str, Any], Pack]] = {
    "fp8": (FP8, fp8((128, 128))),
    "fp8 small blocks": (FP8 | {"weight_block_size": [48, 40]}, fp8((48, 40))),
    "fp8 bf16 scales": (FP8, fp8((128, 128), dtype=torch.bfloat16)),
    "fp8 ue8m0": (FP8 | {"scale_fmt": "ue8m0"}, fp8((128, 128), dtype=torch.float8_e8m0fnu, powers=True)),
    "fp8 powers": (FP8 | {"scale_fmt": "ue8m0"}, fp8((128, 128), powers=True)),
    "fp8 whole": (FP8 | {"weight_block_size": None}, fp8((0, 0), name="weight_scale", flat=True)),
    "gptq": (GPTQ, gptq()),
    "gptq asymmetric": (GPTQ | {"sym": False}, gptq(symmetric=False)),
    "gptq v2": (GPTQ | {"sym": False, "checkpoint_format": "gptq_v2"}, gptq(symmetric=False, version=2)),
    "gptq 8 bits": (GPTQ | {"bits": 8}, gptq(bits=8)),
    "gptq 8 bits asymmetric": (GPTQ | {"bits": 8, "sym": False}, gptq(bits=8, symmetric=False)),
    "gptq bf16 scales": (GPTQ, gptq(dtype=torch.bfloat16)),
    "gptq f32 scales": (GPTQ | {"sym": False}, gptq(symmetric=False, dtype=torch.float32)),
    "gptq rows": (GPTQ | {"group_size": -1}, gptq(group=-1)),
    "gptq ordered": (GPTQ | {"desc_act": True, "sym": False}, gptq(shuffled=True, symmetric=False)),
    "awq": (AWQ, awq()),
    "compressed 4": (compressed("pack-quantized"), integers()),
    "compressed 4 asymmetric": (compressed("pack-quantized", symmetric=False), integers(symmetric=False)),
    "compressed 4 ordered": (compressed("pack-quantized", actorder="group"), integers(shuffled=True)),
    "compressed 4 rows": (
        compressed("pack-quantized", strategy="channel", group_size=None),
        integers(group=-1, dtype=torch.float16),
    ),
    "compressed 8 packed": (compressed("pack-quantized", **BYTES), integers(bits=8, group=-1)),
    "compressed int8": (
        compressed("int-quantized", **BYTES), integers(bits=8, group=-1, packed=False, dtype=torch.float32)
    ),
    "compressed int8 asymmetric": (
        compressed("int-quantized", **BYTES | {"symmetric": False}),
        integers(bits=8, group=-1, packed=False, symmetric=False),
    ),
    "compressed fp8": (
        compressed("float-quantized", **FLOAT), fp8((1, 0), dtype=torch.bfloat16, name="weight_scale")
    ),
    "compressed fp8 blocks": (
        compressed("float-quantized", **FLOAT | {"strategy": "block", "block_structure": [128, 128]}),
        fp8((128, 128), name="weight_scale"),
    ),
}  # fmt: skip
