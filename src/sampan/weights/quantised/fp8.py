"""`quant_method` "fp8", as DeepSeek, Qwen and others publish it: weight = E4M3 times the scale of its block.

The tensor `weight_scale_inv` (or `weight_scale`) multiplies, whatever its name says. Without a
`weight_block_size` one scale is for a whole tensor or for each row. How activations would be rounded
(`activation_scheme` "dynamic") is the kernels' own matter here; fixed scales for them are refused.
"""

from collections.abc import Collection, Mapping
from math import prod

from sampan.models.fields import Fields
from sampan.weights.quantised.floats import blocks
from sampan.weights.quantised.module import SCALES, Module, Weight, chosen, named, obeyed

_OPTIONS = {
    "quant_method", "fmt", "activation_scheme", "weight_block_size", "scale_fmt", "expert_dtype",
    "modules_to_not_convert", "ignored_layers", "modules_to_convert", "dequantize",
}  # fmt: skip


class Fp8:
    """See `module.Method`."""

    endings: Mapping[str, Collection[str]] = {"weight": ("F8_E4M3",)}

    def __init__(self, fields: Fields) -> None:
        obeyed(fields, _OPTIONS)
        chosen(fields, "fmt", ("e4m3", "float8_e4m3fn"), "e4m3")
        chosen(fields, "activation_scheme", ("dynamic",), "dynamic")
        chosen(fields, "expert_dtype", ("fp8",), "fp8")
        powers = chosen(fields, "scale_fmt", ("float", "ue8m0"), "float") == "ue8m0"
        self.skipped = named(fields, "modules_to_not_convert") | named(fields, "ignored_layers")
        self._block = block_of(fields, "weight_block_size")
        self._scales = (*SCALES, "F8_E8M0", *(("U8",) if powers else ()))

    def weight(self, module: Module) -> Weight:
        """The weight of a quantised module."""
        stored = module.take("weight", self.endings["weight"])
        if len(stored.shape) < 2 or 0 in stored.shape:
            raise stored.fail(f"has shape {list(stored.shape)}, it must be a matrix")
        inverse = "weight_scale" not in module.tensors
        scale = module.take("weight_scale_inv" if inverse else "weight_scale", self._scales)
        if self._block:
            return blocks(stored, scale, self._block).weight()
        rows, inputs = stored.shape[-2:]
        return blocks(stored, scale, (rows if prod(scale.shape) == 1 else 1, inputs)).weight()


def block_of(fields: Fields, name: str) -> tuple[int, int] | None:
    """An option that gives rows and inputs of a block."""
    value = fields.values.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2:
        raise fields.fail(name, "must be two whole numbers")
    if not all(type(size) is int and 0 < size < 2**31 for size in value):
        raise fields.fail(name, "must be two whole numbers")
    return value[0], value[1]
