"""A small SentencePiece vocabulary, as Llama 2 and its descendants publish it."""

import json
from dataclasses import dataclass
from pathlib import Path

import gguf
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import generate_merges

from sampan.weights.gguf import read_gguf

CONTROL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
CORPUS = Path(__file__).parent / "text" / "corpus.txt"
CHAT = (
    "{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Trained:
    """A vocabulary as GGUF metadata and in a folder, with transformers' reading of the folder."""

    metadata: dict[str, object]
    folder: Path
    oracle: PreTrainedTokenizerFast
    vocab: dict[str, int]
    merges: list[tuple[str, str]]


def write(folder: Path, texts: list[str] | None = None) -> Trained:
    """A vocabulary trained on `texts`, with the template of Llama 2's chats."""
    pieces = CONTROL + BYTES + _train(texts or CORPUS.read_text("utf-8").split("%%\n"))
    first = len(CONTROL + BYTES)
    scores = [0.0] * first + [-float(rank) for rank in range(len(pieces) - first)]
    vocab = {piece: token for token, piece in enumerate(pieces)}
    merges = generate_merges(vocab, dict(zip(pieces, scores, strict=True)))
    (folder / "tokenizer.json").write_text(json.dumps(_published(vocab, merges)), "utf-8")
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": CHAT}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    metadata = read_gguf(_write_gguf(folder / "model.gguf", pieces, scores)).metadata
    return Trained(metadata, folder, PreTrainedTokenizerFast.from_pretrained(folder), vocab, merges)


def write_model(folder: Path) -> tuple[Trained, LlamaForCausalLM]:
    """A random model with this vocabulary."""
    trained = write(folder)
    (folder / "model.gguf").unlink()
    torch.manual_seed(5)
    config = LlamaConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=96, vocab_size=len(trained.vocab), max_position_embeddings=1024,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    return trained, model


def _train(corpus: list[str]) -> list[str]:
    """Pieces in SentencePiece's order: merged ones best first, then single characters."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=900, limit_alphabet=200, show_progress=False)
    )
    trained = backend.get_vocab()
    return sorted(trained, key=lambda piece: (len(piece) == 1, trained[piece]))


def _published(vocab: dict[str, int], merges: list[tuple[str, str]]) -> dict[str, object]:
    added = [
        {"id": token, "content": text, "special": True, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for token, text in enumerate(CONTROL)
    ]
    space = {"String": " "}
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "added_tokens": added,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": space, "content": "▁"},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, text],
            "pair": [bos, text],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocab,
            "merges": merges,
        },
    }


def _write_gguf(path: Path, pieces: list[str], scores: list[float]) -> Path:
    kinds = {"<unk>": gguf.TokenType.UNKNOWN, "<s>": gguf.TokenType.CONTROL, "</s>": gguf.TokenType.CONTROL}
    kinds |= dict.fromkeys(BYTES, gguf.TokenType.BYTE)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_types([kinds.get(piece, gguf.TokenType.NORMAL) for piece in pieces])
    writer.add_token_scores(scores)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
