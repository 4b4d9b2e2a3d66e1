"""`quant_method` "compressed-tensors", as llm-compressor writes it: one scheme for all quantised modules.

"pack-quantized": `weight_packed`, int32 [rows, inputs * bits / 32], fields along inputs, each the signed code
plus 2^(bits - 1); zero points likewise, but along rows. "int-quantized": `weight`, int8. "float-quantized":
`weight`, E4M3. `weight_scale` is of a tensor, of rows, of groups of inputs or of blocks, by the strategy. How
activations would be rounded is the kernels' own matter here, unless the file fixes their scales.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sampan.core.errors import UnsupportedModel
from sampan.models.fields import Fields
from sampan.weights.files import Floats
from sampan.weights.quantised.floats import blocks
from sampan.weights.quantised.fp8 import block_of
from sampan.weights.quantised.gptq import order_of
from sampan.weights.quantised.integers import Integers, Zero, constant, fields, short
from sampan.weights.quantised.module import SCALES, Module, Stored, Weight, chosen, named, obeyed

_OPTIONS = {
    "quant_method", "config_groups", "format", "ignore", "quantization_status", "kv_cache_scheme",
    "sparsity_config", "transform_config", "global_compression_ratio", "version", "run_compressed",
    "dequantize",
}  # fmt: skip
_GROUP = {"weights", "targets", "input_activations", "output_activations", "format"}
_WEIGHTS = {
    "num_bits", "type", "symmetric", "strategy", "group_size", "block_structure", "dynamic", "actorder",
    "observer", "observer_kwargs", "scale_dtype", "zp_dtype",
}  # fmt: skip
_ORDERS = ("group", "static", "weight", True, False)
_FORMATS: Mapping[tuple[str, str], Mapping[str, Collection[str]]] = {
    ("pack-quantized", "int"): {"weight_packed": ("I32",)},
    ("int-quantized", "int"): {"weight": ("I8",)},
    ("float-quantized", "float"): {"weight": ("F8_E4M3",)},
    ("naive-quantized", "int"): {"weight": ("I8",)},
    ("naive-quantized", "float"): {"weight": ("F8_E4M3",)},
}


class Compressed:
    """See `module.Method`."""

    def __init__(self, given: Fields) -> None:
        obeyed(given, _OPTIONS)
        chosen(given, "quantization_status", ("compressed",), "compressed")
        chosen(given, "kv_cache_scheme", (None,))
        chosen(given, "transform_config", (None, {}))
        if "sparsity_config" in given:
            chosen(given.section("sparsity_config"), "format", ("dense",), "dense")
        scheme = _only(given)
        obeyed(scheme, _GROUP)
        for name in ("input_activations", "output_activations"):
            if name in scheme:
                chosen(scheme.section(name), "dynamic", (True, "local"), False)
        weights = scheme.section("weights")
        obeyed(weights, _WEIGHTS)
        form = chosen(given, "format", tuple(dict.fromkeys(form for form, _ in _FORMATS)))
        chosen(scheme, "format", (form,), form)
        kind = chosen(weights, "type", tuple(kind for one, kind in _FORMATS if one == form), "int")
        chosen(weights, "dynamic", (False,), False)
        self.endings = _FORMATS[form, kind]
        self._bits: int = chosen(weights, "num_bits", (4, 8) if form == "pack-quantized" else (8,))
        self._symmetric = weights.flag("symmetric", True)
        if kind == "float" and not self._symmetric:
            raise UnsupportedModel(f"{weights.source}: symmetric false is not supported for floats")
        strategies = ("tensor", "channel", "group") + (("block",) if kind == "float" else ())
        self._strategy: str = chosen(weights, "strategy", strategies, _strategy(weights))
        self._group = weights.integer("group_size", 0, low=-1, high=2**20)
        self._block = block_of(weights, "block_structure")
        self._ordered = chosen(weights, "actorder", _ORDERS, False) in ("group", True)
        self._check_sizes(weights)
        self.skipped = named(given, "ignore")  # "re:…", a pattern, is no module's name

    def _check_sizes(self, weights: Fields) -> None:
        if self._strategy == "group" and self._group < 1:
            raise weights.fail("group_size", "must say how many inputs share a scale")
        if self._strategy == "block" and self._block is None:
            raise weights.fail("block_structure", "must say how large a block is")

    def weight(self, module: Module) -> Weight:
        """The weight of a quantised module."""
        ending, types = next(iter(self.endings.items()))
        stored = module.matrix(ending, types)
        if stored.entry.dtype == "F8_E4M3":
            rows, inputs = stored.shape
            sizes = {"tensor": (rows, inputs), "channel": (1, inputs), "group": (1, self._group)}
            block = sizes.get(self._strategy, self._block)
            assert block is not None
            return blocks(stored, module.take("weight_scale", SCALES), block).weight()
        return self._integers(module, stored)

    def _integers(self, module: Module, stored: Stored) -> Weight:
        rows, inputs = stored.shape
        if stored.entry.dtype == "I32":
            inputs = _shape(module, stored, self._bits)
        group = min(self._group, inputs) if self._strategy == "group" else inputs
        groups = -(-inputs // group)
        scales = module.take("weight_scale", SCALES)
        if scales.shape not in ((rows, groups), *(((1,), ()) if self._strategy == "tensor" else ())):
            raise scales.fail(f"has shape {list(scales.shape)}, its module asks for {[rows, groups]}")

        def q(start: int, stop: int) -> NDArray[np.uint8]:
            some = stored.bits()[start:stop]
            if some.dtype == np.int8:
                return _offset(some, 8)
            return fields(some, self._bits)[:, :inputs]

        def scale(start: int, stop: int) -> Floats:
            if len(scales.shape) == 2:
                return scales.rows(start, stop)
            return np.broadcast_to(scales.floats().reshape(1, 1), (stop - start, 1))

        return Integers(
            rows, inputs, self._bits, group, q, scale, self._zero(module, rows, groups),
            order_of(module, "weight_g_idx", inputs, group, required=self._ordered),
            halves=scales.entry.dtype == "F16", short=short(scales), stored=(stored, scales),
        ).weight()  # fmt: skip

    def _zero(self, module: Module, rows: int, groups: int) -> Zero | int:
        if self._symmetric:
            return int(2 ** (self._bits - 1))
        per = 32 // self._bits
        stored = module.take("weight_zero_point", ("I32", "I8"))
        packed = stored.entry.dtype == "I32"
        whole = len(stored.shape) < 2 and self._strategy == "tensor"
        expected = (-(-rows // per) if packed else rows, groups)
        if stored.shape != (stored.shape if whole and stored.bits().size == 1 else expected):
            raise stored.fail(f"has shape {list(stored.shape)}, its module asks for {list(expected)}")

        def zero(start: int, stop: int) -> NDArray[np.uint8]:
            if whole:
                return np.broadcast_to(_offset(stored.bits().reshape(1, 1), self._bits), (stop - start, 1))
            if not packed:
                return _offset(stored.bits()[start:stop], self._bits)
            first = start // per
            some = fields(stored.bits()[first : -(-stop // per)].T, self._bits)
            return some[:, start - first * per : stop - first * per].T

        return constant(zero, rows, self._bits, stored)


def _only(given: Fields) -> Fields:
    groups = given.section("config_groups")
    if len(groups.values) != 1:
        raise UnsupportedModel(
            f"{given.source}: {len(groups.values)} config_groups are not supported: one for all modules is"
        )
    return groups.section(next(iter(groups.values)))


def _strategy(weights: Fields) -> str:
    """Where none is given, as the format's own defaults have it."""
    if "group_size" not in weights:
        return "tensor"
    return "group" if weights.integer("group_size", low=-1, high=2**20) > 0 else "channel"


def _shape(module: Module, stored: Stored, bits: int) -> int:
    """Inputs of a packed matrix."""
    shape = module.take("weight_shape", ("I64", "I32"), (2,))
    rows, inputs = (int(size) for size in shape.bits())
    if rows != stored.shape[0] or inputs < 1 or -(-inputs * bits // 32) != stored.shape[1]:
        raise shape.fail(f"says {[rows, inputs]}, which {list(stored.shape)} words do not hold")
    return inputs


def _offset(signed: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Int8 plus 2^(bits - 1), modulo 256."""
    codes: NDArray[np.uint8] = np.ascontiguousarray(signed).view(np.uint8) + np.uint8(1 << (bits - 1))
    return codes
