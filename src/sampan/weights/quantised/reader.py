"""What the `quantization_config` of a folder says, and the folder's weights as it says they are to be read.

A module is quantised where the tensors of its method are there; every other tensor has to have values of its
own. Options that change values are obeyed or refused by name.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping

from sampan.core.errors import UnsupportedModel, WeightsError, quoted
from sampan.models.fields import Fields
from sampan.weights.files import TensorInfo
from sampan.weights.quantised.awq import Awq
from sampan.weights.quantised.compressed import Compressed
from sampan.weights.quantised.fp8 import Fp8
from sampan.weights.quantised.gptq import Gptq
from sampan.weights.quantised.module import Method, Module, Stored
from sampan.weights.safetensors import TYPES, Safetensors, typed

_METHODS: Mapping[str, Callable[[Fields], Method]] = {
    "fp8": Fp8,
    "gptq": Gptq,
    "awq": Awq,
    "compressed-tensors": Compressed,
}


def method_of(config: Mapping[str, object], source: str) -> Method | None:
    """The method of a `config.json`, its options read; None where it names none."""
    given = Fields(config, source)
    if "quantization_config" not in given:
        return None
    fields = given.section("quantization_config")
    name = fields.text("quant_method", "unnamed")
    if name not in _METHODS:
        listed = ", ".join(_METHODS)
        raise UnsupportedModel(
            f"{source}: quantization_config quant_method {quoted(name)} is not supported: {listed} are, "
            "and BF16, F16 and F32 safetensors and GGUF"
        )
    return _METHODS[name](fields)


def read(
    method: Method, shards: Iterable[Safetensors], reads: Callable[[str, tuple[int, ...]], bool]
) -> dict[str, TensorInfo]:
    """Every tensor of the folder by name, those of quantised modules as their weight.

    `reads`: whether the model has a tensor of this name and shape. A quantised module's bias that it does not
    have is left out if it is zero: AutoGPTQ writes one for every module.
    """
    modules: dict[str, dict[str, Stored]] = defaultdict(dict)
    every = {entry.name: Stored(shard.file, entry) for shard in shards for entry in shard.entries}
    for name, one in every.items():
        module, ending = _module(name, every)
        modules[module][ending] = one
    found: dict[str, TensorInfo] = {}
    for name, tensors in modules.items():
        own = Module(name, tensors)
        if any(
            tensors[ending].entry.dtype in types
            for ending, types in method.endings.items()
            if ending in tensors
        ):
            found[f"{name}.weight"] = _weight(method, own)
        for ending in tensors.keys() - own.taken:
            whole, stored = f"{name}.{ending}" if name else ending, tensors[ending]
            info = _plain(stored)
            if own.taken and ending == "bias" and _idle(stored) and not reads(whole, info.shape):
                continue
            found[whole] = info
    return found


def _module(name: str, names: Collection[str]) -> tuple[str, str]:
    """A tensor's module, and its ending there. Merged experts are a module of their own: transformers writes
    `gate_up_proj` and `gate_up_proj_scale_inv`."""
    base = name.removesuffix("_scale_inv")
    if base in names and f"{base}_scale_inv" in names and not base.endswith(".weight"):
        return base, name.replace(base, "weight", 1)
    module, _, ending = name.rpartition(".")
    return module, ending


def _weight(method: Method, module: Module) -> TensorInfo:
    if skipped := _names(module.name) & method.skipped:
        some = next(iter(module.tensors.values()))
        raise WeightsError(
            f"{some.file.path}: {quoted(module.name)} is quantised, but the quantization_config leaves "
            f"{quoted(min(skipped))} as it was: fetch configuration and weights from one revision"
        )
    weight = method.weight(module)
    stored = weight.stored
    return TensorInfo(
        stored.entry.name,
        weight.shape,
        weight.type,
        stored.file.path,
        stored.entry.offset,
        stored.entry.nbytes,
        weight.form,
        weight.decoder,
    )


def _names(module: str) -> set[str]:
    """What a list may call a module: its name, the end of it, or a module that it lies in."""
    parts = module.split(".")
    cuts = range(len(parts))
    return {".".join(parts[cut:]) for cut in cuts} | {".".join(parts[: cut + 1]) for cut in cuts}


def _idle(bias: Stored) -> bool:
    return len(bias.shape) == 1 and not bias.floats().any()


def _plain(stored: Stored) -> TensorInfo:
    if stored.entry.dtype not in TYPES:
        raise UnsupportedModel(
            str(
                stored.fail(
                    f"has dtype {stored.entry.dtype}, which this quantization_config does not explain"
                )
            )
        )
    return typed(stored.file.path, stored.entry)
