"""Models that are small enough to train as a whole within a second."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sampan.core.types import ModelFiles

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}<|im_start|>"


@pytest.fixture(scope="session")
def tiny(vectors: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ModelFiles]:
    """`tiny("qwen2")`: two layers, a tied head, biases where the family has them; every number is random."""

    def make(kind: str) -> ModelFiles:
        torch.manual_seed(7)
        config = AutoConfig.for_model(
            kind, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            head_dim=32, intermediate_size=96, vocab_size=320, max_position_embeddings=512,
            initializer_range=0.2, tie_word_embeddings=True, use_sliding_window=False,
        )  # fmt: skip
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for name, values in model.named_parameters():
                if values.dim() == 1:
                    values.normal_(float("norm" in name), 0.2)
        folder: Path = tmp_path_factory.mktemp(kind)
        model.save_pretrained(folder)
        vectors.tokenizer(folder, closed=False)
        (folder / "chat_template.jinja").write_text(TEMPLATE)
        return ModelFiles(folder, "folder", kind, str(folder))

    return make
