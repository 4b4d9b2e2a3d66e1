"""Tiny random models in the form of Qwen3-Embedding and Qwen3-Reranker: their folders, and transformers'
reading of them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

QUERY = "Instruct: find the answer\nQuery:"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WORDS = ("yes", "no")


@dataclass(frozen=True)
class Folder:
    """A folder, the model as transformers reads it, and its tokenizer."""

    path: Path
    oracle: Any
    tokenizer: PreTrainedTokenizerFast


def write(
    folder: Path, *, pooling: str | None = "lasttoken", head: bool = False, normalize: bool = True
) -> Folder:
    """`pooling`: None for a model that answers and, with "rerank" in its name, judges. Without a `head` the
    tensors are named as those of a base model."""
    torch.manual_seed(7)
    config = AutoConfig.for_model(
        "qwen3", hidden_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=32, intermediate_size=160, vocab_size=320, max_position_embeddings=512,
        initializer_range=0.3, tie_word_embeddings=pooling is None,
    )  # fmt: skip
    model = (AutoModelForCausalLM if head or pooling is None else AutoModel).from_config(config)
    model.save_pretrained(folder)
    if pooling is not None:
        _modules(folder, pooling, normalize)
    return Folder(folder, model.eval(), tokenizer(folder, closed=pooling is not None))


def _modules(folder: Path, pooling: str, normalize: bool) -> None:
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    paths = [f"{n}_{kind}" if n else "" for n, kind in enumerate(kinds)]
    types = [f"sentence_transformers.models.{kind}" for kind in kinds]
    modules = [{"path": path, "type": kind} for path, kind in zip(paths, types, strict=True)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    flags = {
        f"pooling_mode_{name}": name == pooling
        for name in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
    }
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 96, "include_prompt": True} | flags)
    )
    prompts = {"prompts": {"query": QUERY, "document": ""}, "similarity_fn_name": "cosine"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))


def tokenizer(folder: Path, *, closed: bool) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("y", "e"), ("ye", "s"), ("n", "o")]
    vocabulary = {entry: place for place, entry in enumerate([*alphabet, "ye", *WORDS])}
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIAL))
    if closed:
        end = SPECIAL[0]
        backend.post_processor = processors.TemplateProcessing(
            single=f"$A {end}", pair=f"$A $B {end}", special_tokens=[(end, backend.token_to_id(end))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token=SPECIAL[0]
    )
    tokenizer.save_pretrained(folder)
    return tokenizer
