"""Writes the tokenizer and the chat templates of a GGUF file as a model folder has them.

Read back from the folder, both give what they give from the file.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sampan.text.metadata import Metadata
from sampan.text.vocab.gguf import read_gguf
from sampan.text.vocab.vocabulary import Spelling, Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend
    from tokenizers.decoders import Decoder


def export_gguf(metadata: Mapping[str, object], folder: Path) -> dict[str, object]:
    """Write `tokenizer.json`, `tokenizer_config.json` and the templates into `folder`.

    Returns the fields that `config.json` must have: the ids that start a sequence and end a turn. Raises
    what `Tokenizer.from_gguf` raises.
    """
    values = Metadata(metadata)
    vocabulary = read_gguf(metadata)
    (folder / "tokenizer.json").write_text(_complete(vocabulary).to_str(), "utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast"} | _named(values, vocabulary)
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", "utf-8")
    _write_templates(values, folder)
    return _ids(vocabulary)


def _complete(vocabulary: Vocabulary) -> "Backend":
    """The backend with what a folder reads from it: the spelling, and whether a text starts with BOS."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    backend = Tokenizer.from_str(vocabulary.backend.to_str())
    if not vocabulary.spelling.byte_level:
        backend.decoder = _sentencepiece_decoder(vocabulary.spelling)
    if vocabulary.adds_bos and vocabulary.bos_id is not None:
        bos = backend.id_to_token(vocabulary.bos_id)
        backend.post_processor = TemplateProcessing(
            single=[bos, "$A"], pair=[bos, "$A", "$B:1"], special_tokens=[(bos, vocabulary.bos_id)]
        )
    return backend


def _sentencepiece_decoder(spelling: Spelling) -> "Decoder":
    from tokenizers import decoders

    steps: list[Decoder] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if spelling.strip_left:
        steps.append(decoders.Strip(" ", spelling.strip_left, 0))
    return decoders.Sequence(steps)


def _named(values: Metadata, vocabulary: Vocabulary) -> dict[str, object]:
    """The special entries that the file names itself; null where the model has none."""
    named: dict[str, object] = {}
    for name, token in (("bos", vocabulary.bos_id), ("eos", vocabulary.eos_id)):
        if token is None:
            named[f"{name}_token"] = None
        elif values.token_id(f"tokenizer.ggml.{name}_token_id", vocabulary.size) is not None:
            named[f"{name}_token"] = vocabulary.backend.id_to_token(token)
    return named


def _ids(vocabulary: Vocabulary) -> dict[str, object]:
    """`bos_token_id`, and `eos_token_id` with the entry that ends a sequence first."""
    eos = vocabulary.eos_id
    ends = sorted(vocabulary.eos_ids, key=lambda token: (token != eos, token))
    return {"bos_token_id": vocabulary.bos_id, "eos_token_id": ends or None}


def _write_templates(values: Metadata, folder: Path) -> None:
    for key, path in (
        ("tokenizer.chat_template", folder / "chat_template.jinja"),
        ("tokenizer.chat_template.tool_use", folder / "additional_chat_templates" / "tool_use.jinja"),
    ):
        source = values.text(key)
        if source is not None:
            path.parent.mkdir(exist_ok=True)
            # Opened for bytes: a template's line ends are part of the prompt.
            path.write_bytes(source.encode())
