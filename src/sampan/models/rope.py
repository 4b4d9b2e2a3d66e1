"""Rotary frequencies (arXiv:2104.09864) and their stretchings: linear, Llama 3 and YaRN (arXiv:2309.00071).

The formulas are those of transformers' `modeling_rope_utils.py` and, for GGUF, of llama.cpp's `rope_yarn`
(ggml-cpu/ops.cpp) and `llama-context.cpp`. Powers are taken in float64, everything after them in float32 as
transformers does, so that the frequencies are the same on every machine and within two roundings of its own
(sixteen where Llama 3's blend subtracts nearly equal numbers).
A stretching that is not one of these is an `UnsupportedModel`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sampan.core.errors import UnsupportedModel, WeightsError
from sampan.models.fields import TINY, Fields

Floats = NDArray[np.float32]

_MAX_CONTEXT = 2**24


class Rotation(NamedTuple):
    """`inv_freq`: [head_dim / 2] radians per position. `scale` multiplies cos and sin. `context`: the tokens
    that the stretching makes room for."""

    inv_freq: Floats
    scale: float
    context: int


def frequencies(theta: float, dim: int) -> Floats:
    """theta ** (-2i / dim) for i < dim / 2."""
    return np.float32(1) / _wavelengths(theta, dim)


def llama3(inv_freq: Floats, factor: float, low: float, high: float, original: int) -> Floats:
    """Long waves slowed by `factor`, short ones kept, those between `original / high` and `original / low`
    positions blended (Llama 3.1)."""
    wavelength = np.float32(2 * math.pi) / inv_freq
    slowed = inv_freq / np.float32(factor)
    smooth = (np.float32(original) / wavelength - np.float32(low)) / np.float32(high - low)
    blended = (np.float32(1) - smooth) * slowed + smooth * inv_freq
    kept_or_blended = np.where(wavelength < original / high, inv_freq, blended)
    return np.where(wavelength > original / low, slowed, kept_or_blended).astype(np.float32)


def yarn(
    theta: float, dim: int, factor: float, original: int, beta_fast: float, beta_slow: float, truncate: bool
) -> Floats:
    """Frequencies that turn more than `beta_fast` times in `original` positions kept, those below `beta_slow`
    slowed by `factor`, a linear ramp between; `truncate` widens the ramp to whole dimensions."""
    low, high = (_dimension_of(turns, theta, dim, original) for turns in (beta_fast, beta_slow))
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = (np.arange(dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    kept = np.float32(1) - np.clip(ramp, np.float32(0), np.float32(1))
    wavelengths = _wavelengths(theta, dim)
    slowed = np.float32(1) / (np.float32(factor) * wavelengths)
    blended: Floats = slowed * (np.float32(1) - kept) + (np.float32(1) / wavelengths) * kept
    return blended


def yarn_scale(factor: float, mscale: float = 0.0, mscale_all_dim: float = 0.0) -> float:
    """YaRN's factor on cos and sin; the two mscales count only together (DeepSeek)."""

    def attention(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    return attention(mscale) / attention(mscale_all_dim) if mscale and mscale_all_dim else attention(1.0)


def from_hf(fields: Fields, head_dim: int, context: int, part: float | None = None) -> Rotation:
    """From `config.json`: `rope_scaling` beside `rope_theta`, or all of it in `rope_parameters`. `part`: of a
    head's features, those that are rotated where the file does not say; None: all, always."""
    given = fields.section("rope_scaling" if fields.values.get("rope_scaling") else "rope_parameters")
    theta = given.number("rope_theta", fields.number("rope_theta", 10000.0, low=1.001), low=1.001)
    name, default = "partial_rotary_factor", 1.0 if part is None else part
    partial = given.number(name, fields.number(name, default, high=1.0), high=1.0)
    rotated = int(head_dim * partial)
    if part is not None and rotated > 0 and rotated % 2 == 0:
        head_dim, partial = rotated, 1.0
    if partial != 1 or any(isinstance(value, dict) for value in given.values.values()):
        raise UnsupportedModel(
            f"{given.source}: rotating part of a head, or some layers only, is not supported"
        )
    kind = given.text("rope_type", given.text("type", "default"))
    if kind == "frequencies":
        return _listed_from_hf(given, head_dim, context)
    inv_freq = frequencies(theta, head_dim)
    if kind == "default":
        return Rotation(inv_freq, 1.0, context)
    if kind == "linear":
        return Rotation(inv_freq / np.float32(given.number("factor")), 1.0, context)
    if kind == "llama3":
        return Rotation(_llama3_from_hf(given, inv_freq, _original(fields, given, context)), 1.0, context)
    if kind == "yarn":
        return _yarn_from_hf(given, theta, head_dim, context, _original(fields, given, context))
    raise UnsupportedModel(
        f"{given.source}: rope type {kind[:40]!r} is not supported: default, linear, llama3 and yarn are"
    )


def from_gguf(
    fields: Fields, head_dim: int, context: int, factors: Floats | None, mscale: float = 1.0
) -> Rotation:
    """From GGUF's `ARCH.rope.*` keys; `factors` is the tensor `rope_freqs.weight`, [head_dim / 2]. `mscale`:
    YaRN's, which the file does not have."""
    if fields.integer("dimension_count", head_dim, high=2**16) != head_dim:
        raise UnsupportedModel(
            f"{fields.source}: {fields.prefix}dimension_count is not the head's {head_dim}"
        )
    theta = fields.number("freq_base", 10000.0, low=1.001)
    # llama.cpp: no type means linear, and a factor of zero means none.
    kind = fields.text("scaling.type", "linear")
    factor = fields.number("scaling.factor", fields.number("scale_linear", 1.0, low=0), low=0) or 1.0
    scale = fields.number("scaling.attn_factor", 1.0)
    if kind in ("none", "linear"):
        divisor = np.float32(factor if kind == "linear" else 1)
        rotation = Rotation(frequencies(theta, head_dim) / divisor, scale, context)
    elif kind == "yarn":
        rotation = _yarn_from_gguf(fields, theta, head_dim, context, factor, scale, mscale)
    else:
        raise UnsupportedModel(
            f"{fields.source}: {fields.prefix}scaling.type {kind[:40]!r} is not supported: "
            "none, linear and yarn are"
        )
    return rotation if factors is None else _divided(rotation, factors, fields.source)


def listed(inv_freq: Sequence[float], scale: float) -> dict[str, object]:
    """A `rope_scaling` of `config.json` with the frequencies one by one: GGUF's divisors have no other exact
    form."""
    return {"rope_type": "frequencies", "inv_freq": list(inv_freq), "attention_factor": scale}


def _wavelengths(theta: float, dim: int) -> Floats:
    """theta ** (2i / dim), the exponent rounded to float32 first."""
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return np.power(theta, exponents.astype(np.float64)).astype(np.float32)


def _dimension_of(turns: float, theta: float, dim: int, original: int) -> float:
    """The (fractional) frequency index that turns `turns` times in `original` positions."""
    return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))


def _original(fields: Fields, given: Fields, context: int) -> int:
    """The context of pre-training: beside the rope's own parameters it takes precedence over one inside."""
    name = "original_max_position_embeddings"
    holder = fields if name in fields else given
    return holder.integer(name, context, high=_MAX_CONTEXT)


def _listed_from_hf(given: Fields, head_dim: int, context: int) -> Rotation:
    """Sampan's own type, as `listed` writes it."""
    listed = given.values.get("inv_freq")
    values = listed if isinstance(listed, list) and len(listed) == head_dim // 2 else [None]
    if not all(isinstance(value, float) and TINY <= value <= 1e9 for value in values):
        raise given.fail("inv_freq", f"must list {head_dim // 2} positive numbers")
    return Rotation(np.array(values, np.float32), given.number("attention_factor", 1.0), context)


def _llama3_from_hf(given: Fields, inv_freq: Floats, original: int) -> Floats:
    low, high = given.number("low_freq_factor"), given.number("high_freq_factor")
    if low >= high:
        raise given.fail("high_freq_factor", f"must be greater than low_freq_factor {low:g}, not {high:g}")
    return llama3(inv_freq, given.number("factor"), low, high, original)


def _yarn_from_hf(given: Fields, theta: float, head_dim: int, context: int, original: int) -> Rotation:
    factor = given.number("factor", context / original)
    recommended = yarn_scale(
        factor, given.number("mscale", 0.0, low=0), given.number("mscale_all_dim", 0.0, low=0)
    )
    inv_freq = yarn(
        theta,
        head_dim,
        factor,
        original,
        given.number("beta_fast", 32.0),
        given.number("beta_slow", 1.0),
        given.flag("truncate", True),
    )
    return Rotation(
        inv_freq, given.number("attention_factor", recommended), _stretched(context, original, factor)
    )


def _yarn_from_gguf(
    fields: Fields, theta: float, head_dim: int, context: int, factor: float, scale: float, mscale: float
) -> Rotation:
    if fields.number("scaling.yarn_ext_factor", 1.0, low=-1e9) != 1:
        raise UnsupportedModel(
            f"{fields.source}: {fields.prefix}scaling.yarn_ext_factor other than 1 is not supported"
        )
    original = fields.integer("scaling.original_context_length", context, high=_MAX_CONTEXT)
    fast = fields.number("scaling.yarn_beta_fast", 32.0)
    slow = fields.number("scaling.yarn_beta_slow", 1.0)
    inv_freq = yarn(theta, head_dim, factor, original, fast, slow, truncate=True)
    multiplier = fields.number("scaling.yarn_log_multiplier", 0.0, low=0)
    return Rotation(
        inv_freq, scale * yarn_scale(factor, mscale, multiplier), _stretched(context, original, factor)
    )


def _stretched(context: int, original: int, factor: float) -> int:
    """YaRN's context: Qwen's configurations name the unstretched one as their maximum."""
    return min(max(context, int(original * factor)), _MAX_CONTEXT)


def _divided(rotation: Rotation, factors: Floats, source: str) -> Rotation:
    """llama.cpp stores Llama 3's stretching as one divisor a frequency."""
    if factors.shape != rotation.inv_freq.shape or not bool(np.all((factors > 0) & np.isfinite(factors))):
        raise WeightsError(
            f"{source}: rope_freqs.weight must hold {len(rotation.inv_freq)} positive finite factors"
        )
    return rotation._replace(inv_freq=rotation.inv_freq / factors)
