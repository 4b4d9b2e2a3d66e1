"""What a tokenizer is made of, whatever file it came from, and how its entries spell bytes."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from sampan.core.errors import TokenizerError, UnsupportedModel

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

# Entries that end a turn wherever they occur: ChatML, Llama 3, Qwen, DeepSeek, Phi, Gemma.
TURN_ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|end|>",
    "<end_of_turn>",
    "<｜end▁of▁sentence｜>",
)

# What else ends generation from a GGUF file, as in llama.cpp (src/llama-vocab.cpp): it lists nothing itself.
# The last ones are what code models write around files, where one is completed in its middle.
GGUF_ENDS = (
    *TURN_ENDS,
    *(
        "</s>",
        "<eos>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<end_of_utterance>",
        "<turn|>",
        "<|tool_response>",
    ),
    *("<|return|>", "<|call|>", "<|calls|>", "<|flush|>"),
    *("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    *("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "<|file_sep|>",
)
# Entries that end nothing where all of the others are there: they end a part of a turn.
PART_ENDS = {
    "<|end|>": ({"<|return|>", "<|call|>"}, {"<|call|>", "<|flush|>"}, {"<|calls|>", "<|flush|>"}),
    "</s>": ({"<|tool_response>"},),
}

_BYTE_ENTRY = re.compile("<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True)
class Spelling:
    """How vocabulary entries spell bytes.

    `byte_level`: every character of an entry stands for one byte, in GPT-2's alphabet; otherwise
    SentencePiece: "▁" stands for a space and `<0x0A>` for one byte. `strip_left`: the number of
    leading spaces that belong to the encoding and are removed from a decoded text. `unknown`: what is said
    where bytes are asked for and the tokenizer does not tell how its entries spell them.
    """

    byte_level: bool
    strip_left: int = 0
    unknown: str = ""

    def to_bytes(self, entry: str, *, added: bool) -> bytes:
        """The bytes of one entry; `added` entries of a byte-level vocabulary are plain text."""
        if self.unknown:
            raise UnsupportedModel(self.unknown)
        if self.byte_level:
            return entry.encode() if added else _from_byte_alphabet(entry)
        if match := _BYTE_ENTRY.fullmatch(entry):
            return bytes([int(match[1], 16)])
        return entry.replace("▁", " ").encode()

    def strip(self, data: bytes) -> bytes:
        """`data` without the leading spaces that the encoding added."""
        spaces = len(data) - len(data.lstrip(b" "))
        return data[min(spaces, self.strip_left) :]


@dataclass(frozen=True)
class Vocabulary:
    """A rebuilt vocabulary.

    `size` counts every id a model may produce, rows that only pad an embedding included. `eos_ids`
    holds every id that ends a turn. `adds_bos`: an encoded text starts with `bos_id`. `closing`: ids that
    end a text which is not to be continued.
    """

    backend: "Backend"
    spelling: Spelling
    size: int
    bos_id: int | None
    eos_id: int | None
    eos_ids: frozenset[int]
    adds_bos: bool
    closing: tuple[int, ...] = ()


def is_byte(entry: str) -> bool:
    """Whether an entry is one byte's of SentencePiece, such as `<0x0A>`."""
    return _BYTE_ENTRY.fullmatch(entry) is not None


@contextmanager
def backend_errors(what: str) -> Iterator[None]:
    """Turn every failure of the Rust library, its panics included, into a `TokenizerError`."""
    try:
        yield
    except Exception as error:
        raise TokenizerError(f"{what}: {_first_line(error)}") from error
    except BaseException as error:
        # pyo3 derives PanicException from BaseException and exports no name to catch it by.
        if type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{what}: {_first_line(error)}") from error


def spelling_of(decoder: Mapping[str, object] | None) -> Spelling:
    """The spelling that a tokenizer.json's `decoder` describes: byte-level's, SentencePiece's, or an unknown
    one, with which ids can be scored and none be read."""
    steps = _decoder_steps(decoder)
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        return Spelling(byte_level=True)
    if "Replace" in kinds and all(_is_sentencepiece(step) for step in steps):
        return Spelling(byte_level=False, strip_left=sum(_stripped(step) for step in steps))
    return Spelling(
        byte_level=False,
        unknown=f"tokenizer.json: field decoder is {' + '.join(map(str, kinds)) or 'empty'}, so that tokens "
        "cannot be read as text; byte-level (ByteLevel) and SentencePiece (Replace + ByteFallback + Fuse + "
        "Strip) are implemented",
    )


def _decoder_steps(decoder: Mapping[str, object] | None) -> list[Mapping[str, object]]:
    if decoder is None:
        return []
    steps = decoder.get("decoders") if decoder.get("type") == "Sequence" else [decoder]
    return [step for step in steps if isinstance(step, Mapping)] if isinstance(steps, list) else []


def _is_sentencepiece(step: Mapping[str, object]) -> bool:
    match step.get("type"):
        case "Replace":
            return step.get("pattern") == {"String": "▁"} and step.get("content") == " "
        case "Strip":
            return step.get("content") == " " and step.get("stop") == 0
        case kind:
            return kind in ("ByteFallback", "Fuse")


def _stripped(step: Mapping[str, object]) -> int:
    start = step.get("start")
    return start if isinstance(start, int) else 0


def _from_byte_alphabet(entry: str) -> bytes:
    alphabet = _byte_alphabet()
    try:
        return bytes([alphabet[character] for character in entry])
    except KeyError:  # an entry outside the alphabet is plain text, such as "[PAD151665]▁"
        return entry.encode()


@cache
def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes follow from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
