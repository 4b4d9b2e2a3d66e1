"""LoRA adapters in GGUF, as llama.cpp's `convert_lora_to_gguf.py` writes them: `general.type` is "adapter".

Tensors are `NAME.lora_a` [rank, inputs] and `NAME.lora_b` [outputs, rank], under GGUF's names of what they
adapt; of merged experts they have one more axis. The scale is alpha / rank, or one where alpha is zero
(llama.cpp, `llama_adapter_lora_weight`). What llama.cpp passes over, changes of norms, is passed over too.
DeepSeek's matrices of keys and values have one pair for all heads: of `attn_k_b`, which lies [heads, latent,
head], B is shared; of `attn_v_b`, which lies [heads, head, latent], A is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from sampan.core.errors import UnsupportedModel, WeightsError, quoted
from sampan.kernels.ops import Weight
from sampan.models.config import ModelConfig
from sampan.models.family import Family
from sampan.models.fields import Fields
from sampan.models.registry import family_named
from sampan.weights.files import TensorInfo
from sampan.weights.folder import EMBED
from sampan.weights.gguf import Gguf, read_gguf
from sampan.weights.lora import Lora, LowRank, Pair, low_ranks, read_lora, wrong
from sampan.weights.lora_config import MERGE
from sampan.weights.naming import listed, row_order

_KINDS = (".lora_a", ".lora_b")
_KEYS, _VALUES = ".k_b_proj.weight", ".v_b_proj.weight"


def read_adapter(path: Path, config: ModelConfig, weights: Mapping[str, Weight]) -> Lora:
    """An adapter for a model: a folder that PEFT wrote, or a GGUF file. Raises as `read_lora` does."""
    gguf = path.suffix == ".gguf"
    return read_lora_gguf(path, config, weights) if gguf else read_lora(path, weights)


def read_lora_gguf(
    path: Path, config: ModelConfig, weights: Mapping[str, Weight], *, merging: bool = False
) -> Lora:
    """An adapter in a GGUF file. `merging`: any matrix may be adapted, embedding and head too."""
    found = read_gguf(path)
    try:
        family = family_named(config.family, "model family")
        alpha = _alpha(found, family, path)
        pairs, passed = _pairs(found)
        parts = [
            part
            for name, pair in pairs.items()
            for part in _parts(name, pair, found, config, family, weights, alpha, merging)
        ]
    except BaseException:
        found.file.close()
        raise
    return Lora(path, found.file, tuple(parts), passed)


def _alpha(found: Gguf, family: Family, path: Path) -> float:
    """What the metadata says, once it is of an adapter for this family."""
    fields = Fields(found.metadata, str(path))
    if fields.text("general.type", "model") != "adapter":
        raise WeightsError(f"{path}: general.type is not adapter: this is no LoRA adapter")
    if fields.text("adapter.type") != "lora":
        raise UnsupportedModel(f"{path}: adapter.type is not lora: only LoRA adapters can be loaded")
    architecture = fields.text("general.architecture")
    if architecture not in family.architectures:
        raise WeightsError(
            f"{path}: is an adapter of {quoted(architecture)}, the model is of {family.name}: take the "
            "model that it was trained on"
        )
    if found.metadata.get("adapter.alora.invocation_tokens"):
        raise UnsupportedModel(f"{path}: is an activated LoRA (adapter.alora), which is not supported")
    return fields.number("adapter.lora.alpha", 0.0, low=0, high=1e9)


def _pairs(found: Gguf) -> tuple[dict[str, Pair], tuple[str, ...]]:
    """Both tensors of everything that is adapted, and what is passed over."""
    sides: dict[str, dict[str, TensorInfo]] = {}
    norms = []
    for info in found.tensors.values():
        name, kind = info.name[:-7], info.name[-7:]
        if kind in _KINDS:
            sides.setdefault(name, {})[kind] = info
        elif info.name.endswith("_norm.weight"):
            norms.append(quoted(info.name))
        else:
            raise UnsupportedModel(
                f"{info.file}: tensor {quoted(info.name)} is no lora_a or lora_b of a linear: {MERGE}"
            )
    for pair in sides.values():
        if len(pair) != 2:
            raise wrong(next(iter(pair.values())), "has no partner: lora_a and lora_b belong together")
    if not sides:
        raise WeightsError(f"{found.file.path}: an adapter without any tensor adapts nothing")
    passed = (f"norms, as llama.cpp does: {listed(norms)}",) if norms else ()
    return {name: Pair(pair[".lora_a"], pair[".lora_b"]) for name, pair in sides.items()}, passed


def _parts(
    name: str, pair: Pair, found: Gguf, config: ModelConfig, family: Family, weights: Mapping[str, Weight],
    alpha: float, merging: bool,
) -> Iterator[LowRank]:  # fmt: skip
    canonical = family.canonical(name)
    if canonical is None:
        raise wrong(pair.a, "has no place: the model has no such tensor: take the model it was trained on")
    if canonical.endswith((_KEYS, _VALUES)):
        yield from _heads(canonical, pair, found, family, config, weights, alpha)
        return
    if merging and canonical == EMBED:
        yield _embedding(pair, found, weights[EMBED], alpha)
        return
    for module, own in _experts(canonical, pair, config, family).items():
        rank = own.a.shape[0]
        scale = alpha / rank if alpha else 1.0
        order = row_order(family.interleaved, config, f"{module}.weight", own.b.shape[0])
        yield from low_ranks(module, own, found.file, weights, rank, scale, order, merging=merging)


def _heads(
    name: str, pair: Pair, found: Gguf, family: Family, config: ModelConfig, weights: Mapping[str, Weight],
    alpha: float,
) -> Iterator[LowRank]:  # fmt: skip
    """Keys' or values' matrices of all heads. The model has a head's keys [head, latent], the file the other
    way: there A and B change places."""
    keys = name.endswith(_KEYS)
    shared, each = (pair.b, pair.a) if keys else (pair.a, pair.b)
    # Any shape that is big enough: what counts is the names of the heads' matrices.
    own = [weights[part] for part in family.parts(config, name, (1, 1, 1)) if part in weights]
    rank = each.shape[1 if keys else -1]
    size, latent = own[0].shape if own else (0, 0)
    expected = (len(own), rank, size) if keys else (len(own), size, rank)
    matrix = shared.shape[1:] if len(shared.shape) == 3 and shared.shape[0] == 1 else shared.shape
    if not own or each.shape != expected or matrix != ((latent, rank) if keys else (rank, latent)):
        shapes = f"has shape {list(pair.a.shape)}, and lora_b {list(pair.b.shape)}"
        raise wrong(pair.a, f"{shapes}: that is no pair of this model's")
    scale = alpha / rank if alpha else 1.0
    for head, weight in enumerate(own):
        yield LowRank(
            weight, found.file, replace(shared, shape=matrix), _slice(each, head), 0, scale,
            a_turned=keys, b_turned=keys,
        )  # fmt: skip


def _embedding(pair: Pair, found: Gguf, weight: Weight, alpha: float) -> LowRank:
    """The file has A as [vocabulary, rank] and B as [hidden, rank] (llama.cpp, `llm_build_inp_embd`)."""
    rank = pair.a.shape[-1]
    if pair.a.shape != (weight.shape[0], rank) or pair.b.shape != (weight.shape[1], rank):
        shapes = f"has shape {list(pair.a.shape)}, and lora_b {list(pair.b.shape)}"
        raise wrong(pair.a, f"{shapes}: that is no pair of this model's embedding")
    scale = alpha / rank if alpha else 1.0
    return LowRank(weight, found.file, pair.b, pair.a, 0, scale, a_turned=True)


def _experts(name: str, pair: Pair, config: ModelConfig, family: Family) -> dict[str, Pair]:
    """Modules and their tensors: one, or the experts whose matrices lie in one tensor."""
    dims = {len(info.shape) for info in pair}
    if dims == {3}:
        count, rank, inputs = pair.a.shape
        names = list(family.parts(config, name, (count, pair.b.shape[1], inputs)))
        if pair.b.shape[::2] == (count, rank) and len(names) == count:
            each = [Pair(_slice(pair.a, n), _slice(pair.b, n)) for n in range(count)]
            return {part.removesuffix(".weight"): own for part, own in zip(names, each, strict=True)}
    if dims != {2}:
        shapes = f"has shape {list(pair.a.shape)}, and lora_b {list(pair.b.shape)}"
        raise wrong(pair.a, f"{shapes}: that is no pair of this model's")
    return {name.removesuffix(".weight"): pair}


def _slice(info: TensorInfo, index: int) -> TensorInfo:
    """One matrix of those that a tensor holds; its name is its own."""
    size = info.nbytes // info.shape[0]
    name, offset = f"{info.name}.{index}", info.offset + index * size
    return replace(info, name=name, shape=info.shape[1:], offset=offset, nbytes=size)
