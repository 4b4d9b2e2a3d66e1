"""What a run leaves is merged by `sampan merge`: every matrix is W + scale * B A."""

from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sampan.core.types import ModelFiles
from sampan.models.registry import describe
from sampan.train.checkpoint import export
from sampan.train.lora import TrainedAdapter
from sampan.weights.checkpoint import open_checkpoint
from sampan.weights.merge.model import Merged
from sampan.weights.merge.read import read


def test_a_runs_adapter_is_merged(tmp_path: Path) -> None:
    config = AutoConfig.for_model(
        "llama", hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=96, vocab_size=200,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    with open_checkpoint(ModelFiles(tmp_path / "base", "folder", "base", "base")) as checkpoint:
        weights = describe(checkpoint.config).weights()
        linears = [weight for name, weight in weights.items() if name.endswith("_proj.weight")]
        trained = TrainedAdapter.begin(linears, rank=6, alpha=9.0, seed=1)
        for part in trained.parts:
            part.matrix_b.data.copy_(
                torch.randn(part.matrix_b.shape, generator=torch.Generator().manual_seed(2))
            )
        export(tmp_path / "adapter", trained, "base", 9.0)
        adapter = read(tmp_path / "adapter", 1.0, checkpoint.config, weights)
        merged = Merged(checkpoint, [adapter])
        parts = {part.weight.name: part for part in trained.parts}
        assert adapter.passed == []
        assert parts.keys() == adapter.parts.keys()
        for name, tensor in merged.tensors.items():
            found, expected = np.concatenate(list(merged.blocks(tensor))), checkpoint.array(name)
            if name in parts:
                expected = expected + parts[name].b() @ parts[name].a()
            assert np.allclose(found, expected, rtol=0, atol=1e-6), name
        adapter.close()
