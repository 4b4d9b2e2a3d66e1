"""Reads a `tokenizer.model`, a vocabulary of SentencePiece (google/sentencepiece, sentencepiece_model.proto).

Own reader of its few fields: the file is plain protobuf, and the package would bring a second tokenizer and
a library for protobuf to say what these lines do. What it says is given as GGUF says it, whose types of
entries are SentencePiece's.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from sampan.core.errors import TokenizerError, UnsupportedModel

_MODELS = {1: "t5", 2: "llama"}  # as GGUF calls unigram and bpe
_KINDS = {3: "word", 4: "char"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
Value = int | bytes


def read_sentencepiece(path: Path) -> dict[str, object]:
    """`tokenizer.ggml.*` of the file. `TokenizerError` for what is no such file, `UnsupportedModel` for
    another algorithm than byte-pair merging and unigram, for texts that are normalised before they are
    merged, and for spaces that stand behind words."""
    try:
        fields = list(_fields(path.read_bytes()))
        pieces = [dict(_fields(_bytes(value))) for number, value in fields if number == 1]
        trainer, normalizer = (_last(fields, number) for number in (2, 3))
        tokens = [_bytes(piece.get(1, b"")).decode() for piece in pieces]
        scores = [struct.unpack("<f", _bytes(piece.get(2, bytes(4))))[0] for piece in pieces]
        ids = {name: _signed(trainer.get(number, default)) for name, number, default in _IDS}
        charsmap = list(_bytes(normalizer.get(2, b"")))
        kind, kinds = _number(trainer.get(3, 1)), [_number(piece.get(3, 1)) for piece in pieces]
    except (OSError, ValueError, IndexError, struct.error) as error:
        raise TokenizerError(f"{path}: is no SentencePiece model ({error}): fetch it again") from error
    if not pieces:
        raise TokenizerError(f"{path}: is no SentencePiece model, or an empty one: fetch it again")
    if kind not in _MODELS:
        raise UnsupportedModel(
            f"{path}: model_type {_KINDS.get(kind, kind)} is not supported: bpe and unigram are; with a "
            "tokenizer.json beside it, that is read"
        )
    # Unigram alone: that of models which merge and generate text is off.
    if _MODELS[kind] == "llama" and (charsmap or normalizer.get(4, 1)):
        raise UnsupportedModel(
            f"{path}: normalises texts ({_bytes(normalizer.get(1, b'')).decode('utf-8', 'replace')[:40]!r}, "
            "spaces collapsed), which is not supported: convert it to tokenizer.json"
        )
    if trainer.get(24, 0) or not normalizer.get(5, 1):
        name = "treat_whitespace_as_suffix" if trainer.get(24, 0) else "escape_whitespaces false"
        raise UnsupportedModel(f"{path}: {name} is not supported: convert it to tokenizer.json")
    named = {f"tokenizer.ggml.{name}_token_id": token for name, token in ids.items() if token >= 0}
    return named | {
        "tokenizer.ggml.model": _MODELS[kind],
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.add_space_prefix": bool(normalizer.get(3, 1)),
        "tokenizer.ggml.remove_extra_whitespaces": bool(normalizer.get(4, 1)),
        "tokenizer.ggml.precompiled_charsmap": charsmap,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }


_IDS = (("unknown", 40, 0), ("bos", 41, 1), ("eos", 42, 2))  # TrainerSpec's fields and their defaults


def _last(fields: list[tuple[int, Value]], number: int) -> dict[int, Value]:
    """The fields of a message that may be missing."""
    found = [value for own, value in fields if own == number]
    return dict(_fields(_bytes(found[-1]))) if found else {}


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Numbers and values of a message (protobuf.dev, "Encoding")."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"a field of kind {kind} at byte {at}")
        if size > len(data) - at:
            raise ValueError(f"a field of {size} bytes at byte {at}")
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = 0
    for place in range(10):
        byte = data[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError(f"a number of more than 64 bits at byte {at}")


def _bytes(value: Value) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number where bytes should be")
    return value


def _number(value: Value) -> int:
    if not isinstance(value, int):
        raise ValueError("bytes where a number should be")
    return value


def _signed(value: Value) -> int:
    """Of an int32, which is written in 64 bits: -1 is none."""
    number = _number(value)
    return number - 2**64 if number >= 2**63 else number
