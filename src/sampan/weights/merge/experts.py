"""Adapters of experts as transformers 5 keeps these: one parameter [experts, outputs, inputs] for all of a
layer, wrapped by PEFT one within another (`target_parameters`, tuners/lora/layer.py, ParamWrapper)."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from sampan.kernels.ops import Weight
from sampan.weights.files import MappedFile
from sampan.weights.lora import Pair, wrong
from sampan.weights.merge.changes import Added, Change, stacked

_LAYER = ".base_layer"
# What a parameter holds of each expert, in the order of its rows, by either name.
_HOLDS = {
    "gate_up_proj": (("gate_proj", "w1"), ("up_proj", "w3")),
    "down_proj": (("down_proj", "w2"),),
}


def is_stack(module: str) -> bool:
    """Whether it is a layer's experts, at any depth of wrapping."""
    return module.split(_LAYER)[0].endswith(".experts")


def unwrapped(
    names: Collection[str], adapts: Callable[[str], bool]
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Each layer's experts, with its parameters and under which name each one's pair is: those that come
    first in the module lie innermost. No parameters: the configuration does not say which."""
    for module in sorted({name.split(_LAYER)[0] for name in names}):
        own = [parameter for parameter in _HOLDS if adapts(f"{module}.{parameter}")]
        depths = [module + _LAYER * depth for depth in range(len(own))]
        found = {name for name in names if name.split(_LAYER)[0] == module}
        yield module, list(zip(own, reversed(depths), strict=True)) if found == {*depths} else []


def experts_of(weights: Mapping[str, Weight], module: str, parameter: str) -> list[list[Weight]]:
    """The matrices of each expert that a parameter holds."""
    found: list[list[Weight]] = []
    while True:
        at = f"{module}.{len(found)}."
        names = [[f"{at}{name}.weight" for name in either] for either in _HOLDS[parameter]]
        own = [weights[name] for either in names for name in either if name in weights]
        if len(own) != len(names):
            return found
        found.append(own)


def changes_of(
    file: MappedFile, pair: Pair, experts: Sequence[Sequence[Weight]], rank: int, scale: float
) -> Iterator[tuple[str, Change]]:
    """What each matrix gets, once the pair has the experts' sizes."""
    outputs, inputs = sum(weight.shape[0] for weight in experts[0]), experts[0][0].shape[1]
    count = len(experts)
    for info, shape in ((pair.a, (rank * count, inputs)), (pair.b, (outputs, rank * count))):
        if info.shape != shape:
            said = f"has shape {list(info.shape)}, the model and the adapter's rank say {list(shape)}"
            raise wrong(info, said)
    for number, weights in enumerate(experts):
        first = 0
        for weight in weights:
            rows = slice(first, first + weight.shape[0])
            yield weight.name, Added(stacked(file, pair.a, pair.b, scale, (number, count), rows))
            first = rows.stop
