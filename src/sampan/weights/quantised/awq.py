"""`quant_method` "awq" (arXiv:2306.00978), in the layout that AutoAWQ calls "gemm".

`qweight`: int32 [inputs, outputs / 8], `qzeros`: int32 [groups, outputs / 8]; the field at bits 4i of a word
is of its output _ORDER[i]. `scales`: [groups, outputs]. w = scale * (q - zero).
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sampan.models.fields import Fields
from sampan.weights.files import Floats
from sampan.weights.quantised.gptq import group_size
from sampan.weights.quantised.integers import Integers, constant, fields, short
from sampan.weights.quantised.module import SCALES, Module, Weight, chosen, named, obeyed

_VALUES = {
    "quant_method", "bits", "w_bit", "group_size", "q_group_size", "zero_point", "version", "format",
    "modules_to_not_convert",
}  # fmt: skip
# What other programs compute them with.
_HISTORY = {"backend", "do_fuse", "fuse_max_seq_len", "modules_to_fuse", "exllama_config"}
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_PLACES = np.argsort(_ORDER)
_PER = 8


class Awq:
    """See `module.Method`."""

    endings: Mapping[str, Collection[str]] = {"qweight": ("I32",)}

    def __init__(self, given: Fields) -> None:
        obeyed(given, _VALUES | _HISTORY)
        chosen(given, "bits", (4,), chosen(given, "w_bit", (4,), 4))
        self._group = group_size(given, "group_size" if "group_size" in given else "q_group_size")
        chosen(given, "zero_point", (True,), True)
        version = str(chosen(given, "version", ("gemm", "GEMM"), "gemm")).lower()
        chosen(given, "format", ("gemm", "GEMM"), version)
        self.skipped = named(given, "modules_to_not_convert")

    def weight(self, module: Module) -> Weight:
        """The weight of a quantised module."""
        qweight = module.matrix("qweight", ("I32",))
        inputs, outputs = qweight.shape[0], qweight.shape[1] * _PER
        group = min(self._group or inputs, inputs)
        groups = -(-inputs // group)
        scales = module.take("scales", SCALES, (groups, outputs))
        qzeros = module.take("qzeros", ("I32",), (groups, outputs // _PER))

        def q(start: int, stop: int) -> NDArray[np.uint8]:
            return _columns(qweight.bits(), start, stop).T

        def scale(start: int, stop: int) -> Floats:
            return scales.columns(start, stop)

        def zero(start: int, stop: int) -> NDArray[np.uint8]:
            return _columns(qzeros.bits(), start, stop).T

        return Integers(
            outputs, inputs, 4, group, q, scale, constant(zero, outputs, 4, qzeros), None,
            halves=scales.entry.dtype == "F16", short=short(scales), stored=(qweight, scales, qzeros),
        ).weight()  # fmt: skip


def _columns(words: NDArray[Any], start: int, stop: int) -> NDArray[np.uint8]:
    """The fields of outputs [start, stop), [rows, n]."""
    first = start // _PER
    some = fields(words[:, first : -(-stop // _PER)], 4).reshape(len(words), -1, _PER)[:, :, _PLACES]
    return some.reshape(len(words), -1)[:, start - first * _PER : stop - first * _PER]
