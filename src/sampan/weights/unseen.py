"""What a model's tensors are, from its configuration alone, and as a checkpoint has them: for planning.

A configuration says how its weights are published: bf16, or FP8 with a scale for each block
(`quantization_config`), then all matrices of layers but routers.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, cast

import numpy as np

from sampan.core.errors import UnsupportedModel
from sampan.kernels.formats import TensorType
from sampan.kernels.graph import Graph
from sampan.kernels.imagined import Imagined, ImaginedTensors
from sampan.kernels.ops import Weight
from sampan.kernels.tensors import Tensors
from sampan.models.fields import Fields
from sampan.weights.quantised.floats import Blocks
from sampan.weights.quantised.fp8 import block_of
from sampan.weights.quantised.module import Stored
from sampan.weights.safetensors import Entry


def published(graph: Graph, config: Mapping[str, object]) -> ImaginedTensors:
    """The tensors of a graph as a folder with this `config.json` has them."""
    block = published_block(config)
    linear = {
        weight.name
        for node in graph.nodes
        if node.op in ("linear", "per_head", "experts")
        for weight in Graph((node,), {}).weights().values()
    }

    def info(weight: Weight) -> Imagined:
        if block and weight.name in linear and len(weight.shape) == 2 and not weight.exact:
            return _fp8(weight.shape, block)
        return Imagined(weight.shape, TensorType.BF16)

    return ImaginedTensors({name: info(weight) for name, weight in graph.weights().items()})


def of_checkpoint(graph: Graph, tensors: Tensors) -> ImaginedTensors:
    """The same of tensors that are there."""
    infos = {name: tensors.info(name) for name in graph.weights()}
    found = {name: Imagined(info.shape, info.type, info.form, info.turned) for name, info in infos.items()}
    return ImaginedTensors(found, tensors.packed, tensors.where)


def published_block(config: Mapping[str, object]) -> tuple[int, int] | None:
    """Rows and inputs of an FP8 block; None for a model that is published as bf16."""
    fields = Fields(config, "the published configuration")
    if "quantization_config" not in fields:
        return None
    given = fields.section("quantization_config")
    if given.text("quant_method", "unnamed") != "fp8":
        method = given.text("quant_method", "unnamed")
        raise UnsupportedModel(f"{given.source}: sizes of {method[:40]!r} are known from its files alone")
    return block_of(given, "weight_block_size")


@cache
def _fp8(shape: tuple[int, int], block: tuple[int, int]) -> Imagined:
    """As the reader of FP8 says that such a matrix comes out."""
    entry = Entry("weight", "F8_E4M3", shape, 0, shape[0] * shape[1])
    stored = Stored(cast(Any, None), entry)
    scales = np.full((-(-shape[0] // block[0]), -(-shape[1] // block[1])), 0.3, np.float32)
    weight = Blocks(stored, scales, block).weight()
    return Imagined(weight.shape, weight.type, weight.form)
