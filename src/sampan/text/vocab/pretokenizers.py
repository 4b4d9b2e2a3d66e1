"""How each family cuts text before byte-pair merging, by the name that GGUF gives it.

Every pipeline is the one of the family's published tokenizer.json; the names that share one are
those of llama.cpp's `tokenizer.ggml.pre`. Normalisation is the published one too: Qwen's NFC is
applied here although llama.cpp leaves it out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sampan.core.errors import UnsupportedModel, quoted

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend
    from tokenizers.pre_tokenizers import PreTokenizer

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_PUNCTUATION_AND_SPACE = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _PUNCTUATION_AND_SPACE
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _PUNCTUATION_AND_SPACE
_QWEN35 = _CONTRACTIONS + (  # transformers, Qwen3_5Tokenizer: marks belong to their letters
    r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)


@dataclass(frozen=True)
class Pipeline:
    """`splits`: regular expressions, each isolating its matches in what the one before it left; none
    means GPT-2's own. `digits`: every digit stands alone. `nfc`: text is composed first.
    `ignore_merges`: a piece that is an entry is that entry, whatever the merges say.
    `adds_bos`: the default where the file does not say.
    """

    splits: tuple[str, ...] = ()
    digits: bool = False
    nfc: bool = False
    ignore_merges: bool = False
    adds_bos: bool = False

    def install(self, backend: "Backend") -> None:
        """Give `backend` this normaliser, pre-tokenizer and the byte-level decoder."""
        from tokenizers import decoders, normalizers, pre_tokenizers

        if self.nfc:
            backend.normalizer = normalizers.NFC()
        backend.pre_tokenizer = pre_tokenizers.Sequence(self._steps())
        backend.decoder = decoders.ByteLevel()

    def _steps(self) -> "list[PreTokenizer]":
        from tokenizers import Regex
        from tokenizers.pre_tokenizers import ByteLevel, Digits, Split

        steps: list[PreTokenizer] = [Digits(individual_digits=True)] if self.digits else []
        steps += [Split(Regex(split), behavior="isolated") for split in self.splits]
        return [*steps, ByteLevel(add_prefix_space=False, use_regex=not self.splits)]


_BY_NAMES = {
    ("gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "exaone4", "trillion", "granite-docling"): Pipeline(),
    ("smollm", "starcoder", "refact", "codeshell", "minerva-7b"): Pipeline(digits=True),
    ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"): Pipeline(
        splits=(_LLAMA3,), ignore_merges=True, adds_bos=True
    ),
    ("dbrx", "smaug-bpe"): Pipeline(splits=(_LLAMA3,)),
    ("qwen2", "deepseek-r1-qwen", "kormo", "megrez"): Pipeline(splits=(_QWEN2,), nfc=True),
    ("qwen35",): Pipeline(splits=(_QWEN35,), nfc=True),
    ("deepseek-v3", "joyai-llm"): Pipeline(splits=_DEEPSEEK3),
}
_PIPELINES = {name: pipeline for names, pipeline in _BY_NAMES.items() for name in names}


# Entries that have this id in no other family's vocabulary, and the family, by its published tokenizer.json.
_MARKS = (
    ("<|begin_of_text|>", 128000, "llama-bpe"),
    ("<｜begin▁of▁sentence｜>", 128000, "llama-bpe"),  # DeepSeek-R1's distilled ones
    ("<|endoftext|>", 151643, "qwen2"),
    ("<｜end▁of▁sentence｜>", 151643, "deepseek-r1-qwen"),
    ("<｜begin▁of▁sentence｜>", 151643, "deepseek-r1-qwen"),
    ("<｜begin▁of▁sentence｜>", 0, "deepseek-v3"),
    ("<repo_name>", 3, "smollm"),
    ("<fim_prefix>", 1, "starcoder"),
    ("<|endoftext|>", 50256, "gpt-2"),
)


def told_by(ids: Mapping[str, int]) -> str | None:
    """The name of the family that has such a vocabulary, None where it tells none."""
    return next((name for text, token, name in _MARKS if ids.get(text) == token), None)


def pipeline(pre: str | None) -> Pipeline:
    """The pipeline that `tokenizer.ggml.pre` names; raises `UnsupportedModel` for any other name."""
    found = _PIPELINES.get(pre or "")
    if found is None:
        raise UnsupportedModel(
            f"GGUF key tokenizer.ggml.pre is {quoted(pre)}; implemented are {', '.join(sorted(_PIPELINES))}: "
            "use a file of one of these families, or convert the model again with a current llama.cpp"
        )
    return found
