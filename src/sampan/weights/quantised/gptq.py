"""`quant_method` "gptq" (arXiv:2210.17323), as AutoGPTQ and GPTQModel write it.

`qweight`: int32 [inputs * bits / 32, outputs]; fields go along inputs. `qzeros`: int32
[groups, outputs * bits / 32], along outputs; format "gptq" (version 1) subtracts one from every field before
the words are stored, "gptq_v2" does not. `scales`: [groups, outputs]. `g_idx`: each input's group; any order
is obeyed, whatever `desc_act` says.
"""

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from sampan.models.fields import Fields
from sampan.weights.files import Floats
from sampan.weights.quantised.integers import Integers, constant, fields, short
from sampan.weights.quantised.module import SCALES, Module, Weight, chosen, named, obeyed

_VALUES = {
    "quant_method", "bits", "group_size", "desc_act", "sym", "format", "checkpoint_format", "pack_dtype",
    "lm_head", "is_marlin_format", "dynamic", "modules_to_not_convert", "data_type",
}  # fmt: skip
# How the weights were found, and what other programs compute them with.
_HISTORY = {
    "damp_percent", "damp_auto_increment", "true_sequential", "static_groups", "mse", "act_group_aware",
    "dataset", "tokenizer", "meta", "version", "quantizer", "model_name_or_path", "model_file_base_name",
    "backend", "use_exllama", "exllama_config", "use_cuda_fp16", "max_input_length", "disable_exllama",
    "cache_block_outputs", "batch_size", "pad_token_id", "model_seqlen", "modules_in_block_to_quantize",
    "block_name_to_quantize", "module_name_preceding_first_block", "inside_layer_modules", "parallel_packing",
    "uri", "offload_to_disk", "autoround_version", "iters", "lr", "minmax_lr", "nsamples", "seqlen", "amp",
    "gradient_accumulate_steps", "low_gpu_mem_usage", "enable_minmax_tuning", "enable_quanted_input",
    "to_quant_block_names", "scale_dtype",
}  # fmt: skip
_ONES = {4: 0x11111111, 8: 0x01010101}


class Gptq:
    """See `module.Method`."""

    endings: Mapping[str, Collection[str]] = {"qweight": ("I32",)}

    def __init__(self, given: Fields) -> None:
        obeyed(given, _VALUES | _HISTORY)
        self._bits: int = chosen(given, "bits", (4, 8))
        self._group = group_size(given, "group_size")
        self._ordered = given.flag("desc_act", False)
        given.flag("sym", True)
        form = chosen(given, "checkpoint_format", ("gptq", "gptq_v2"), "gptq")
        form = chosen(given, "format", ("gptq", "gptq_v2"), form)
        self._one = np.uint32(_ONES[self._bits] if form == "gptq" else 0)
        chosen(given, "pack_dtype", ("int32",), "int32")
        chosen(given, "is_marlin_format", (False,), False)
        chosen(given, "data_type", ("int",), "int")
        given.flag("lm_head", False)
        chosen(given, "dynamic", (None, {}))
        self.skipped = named(given, "modules_to_not_convert")

    def weight(self, module: Module) -> Weight:
        """The weight of a quantised module."""
        bits, per = self._bits, 32 // self._bits
        qweight = module.matrix("qweight", ("I32",))
        inputs, outputs = qweight.shape[0] * per, qweight.shape[1]
        group = min(self._group or inputs, inputs)
        groups = -(-inputs // group)
        scales = module.take("scales", SCALES, (groups, outputs))
        qzeros = module.take("qzeros", ("I32",), (groups, -(-outputs // per)))
        order = order_of(module, "g_idx", inputs, group, required=self._ordered)
        words, one = qzeros.bits().view("<u4"), self._one

        def q(start: int, stop: int) -> NDArray[np.uint8]:
            return fields(qweight.bits()[:, start:stop].T, bits)

        def scale(start: int, stop: int) -> Floats:
            return scales.columns(start, stop)

        def zero(start: int, stop: int) -> NDArray[np.uint8]:
            first = start // per
            some = fields(words[:, first : -(-stop // per)] + one, bits)
            return some[:, start - first * per : stop - first * per].T

        return Integers(
            outputs, inputs, bits, group, q, scale, constant(zero, outputs, bits, qzeros), order,
            halves=scales.entry.dtype == "F16", short=short(scales),
            stored=(qweight, scales, qzeros),
        ).weight()  # fmt: skip


def group_size(given: Fields, name: str) -> int:
    """Inputs of a group; 0 for -1, which stands for all of them."""
    value = given.integer(name, 128, low=-1, high=2**20)
    if value == 0:
        raise given.fail(name, "must not be 0")
    return max(value, 0)


def order_of(
    module: Module, ending: str, inputs: int, group: int, *, required: bool = False
) -> NDArray[np.intp] | None:
    """The group of each input, where a tensor says another one than input // group."""
    if ending not in module.tensors and not required:
        return None
    stored = module.take(ending, ("I32", "I64"), (inputs,))
    order = stored.bits().astype(np.intp)
    if (order == -1).all() or np.array_equal(order, np.arange(inputs) // group):
        return None
    if order.min() < 0 or order.max() >= -(-inputs // group):
        raise stored.fail("names groups that are not there: the file is damaged")
    return order
