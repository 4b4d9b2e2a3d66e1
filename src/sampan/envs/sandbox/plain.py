"""Values on their way into and out of a sandbox: what can be written as a literal, as JSON, never as a
pickle.

What comes out is of Python's own types exactly, whatever a program made of its side: no method of it can run
here.
"""

from typing import Any

_DEEPEST = 60


def encode(value: object, depth: int = 0) -> Any:
    """As JSON's values. Raises TypeError for what is no plain value, ValueError for what is too deep."""
    if depth > _DEEPEST:
        raise ValueError(f"a value nested deeper than {_DEEPEST}")
    if value is None or value is True or value is False:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return value if value - value == 0 else {"float": repr(float(value))}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytes | bytearray):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, complex):
        return {"complex": [encode(value.real), encode(value.imag)]}
    if isinstance(value, list):
        return [encode(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {"dict": [[encode(k, depth + 1), encode(v, depth + 1)] for k, v in value.items()]}
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [encode(item, depth + 1) for item in value]}
    raise TypeError(f"a value of type {type(value).__name__}")


def decode(value: Any, depth: int = 0) -> Any:
    """What was encoded. Raises ValueError for anything else."""
    if depth > _DEEPEST:
        raise ValueError(f"a value nested deeper than {_DEEPEST}")
    if isinstance(value, list):
        return [decode(item, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise ValueError("no plain value")
    ((kind, inner),) = value.items()
    try:
        return _made(kind, inner, depth)
    except (TypeError, KeyError) as error:
        raise ValueError("no plain value") from error


def _made(kind: str, inner: Any, depth: int) -> Any:
    if kind == "float":
        return {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}[inner]
    if kind == "bytes":
        return bytes.fromhex(inner)
    if kind == "complex":
        real, imaginary = (decode(part) for part in inner)
        return complex(real, imaginary)
    if kind == "dict":
        return {decode(key, depth + 1): decode(item, depth + 1) for key, item in inner}
    kinds: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset}
    return kinds[kind](decode(item, depth + 1) for item in inner)
