"""A tiny run of every kind of stage, done once for all who look at it; and models that are small enough to
train as a whole within a second."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sampan.cli.main import main
from sampan.core.types import ModelFiles

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}<|im_start|>"

# Rewards depend on sampled tokens in such a way that no two answers earn the same for long.
RECIPE = '''
"""A <b>tiny</b> recipe | for tests."""

from sampan.envs.gym import GymTask
from sampan.train.grpo import Grpo
from sampan.train.recipe import Lora, Measure, Recipe
from sampan.train.samples import Samples
from sampan.train.sft import Sft


def long(problem, answer):
    return answer.completion_tokens + answer.text.count("e")


def any_e(problem, answer):
    return float("e" in answer.text)


def recipe():
    task = GymTask("chain_sum", "\\nGive only the answer.", min_terms=3, max_terms=3)
    rewards = {"long": (1.0, long), "any e": (0.5, any_e)}
    shared = {"task": task, "rewards": rewards, "problems": 2, "samples": 4, "max_tokens": 16}
    return Recipe(
        stages=(
            Samples(steps=1, least=0.0, keep=4, **(shared | {"samples": 8, "max_tokens": 24})),
            Sft(steps=2, examples=2, rate=1e-3),
            Grpo(steps=3, rate=1e-3, **shared),
        ),
        tests={"e's": Measure(task, any_e, 6, 16), "long": Measure(task, long, 4, 16)},
        lora=Lora(rank=2, alpha=4),
        keep_every=1,
        test_every=2,
    )
'''


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pipeline that came to its end. Nobody writes there."""
    folder = tmp_path_factory.mktemp("watched")
    recipe = folder / "tiny.py"
    recipe.write_text(RECIPE)
    assert main(["train", "pipeline", str(recipe), "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def copied(watched: Path, tmp_path: Path) -> Callable[[], Path]:
    """A copy of it to change."""
    return lambda: Path(shutil.copytree(watched, tmp_path / "run"))


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
