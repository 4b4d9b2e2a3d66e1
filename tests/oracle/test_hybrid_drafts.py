"""The layer for multi-token prediction of Qwen's hybrids gives the logits of its formula, on both backends:
transformers' model of one layer that attends, between what the published names say (`mtp.fc` of the norms of
the next token's embedding and of the state after the final norm; `mtp.norm` and the head behind)."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from sampan.core.settings import Settings
from sampan.core.types import ModelFiles
from sampan.kernels.backend import Backend, CacheSize, Span
from sampan.kernels.cpu.backend import CpuBackend
from sampan.kernels.graph import LOGITS
from sampan.kernels.ops import HIDDEN, STATES
from sampan.kernels.torch.backend import TorchBackend
from sampan.models.registry import describe
from sampan.models.registry import load_file as load_module
from sampan.weights.checkpoint import open_checkpoint

add_layer = load_module(Path(__file__).parent / "drafting.py").add_layer

Make = Callable[..., Any]
NOISE, LENGTH = 2e-5, 100
CASES = ("qwen3_next", "qwen3_5", "qwen3_5-last", "qwen3_5_moe")
BACKENDS = {"cpu": lambda: CpuBackend(Settings(Path()), 1), "torch": TorchBackend}


@pytest.fixture(params=CASES)
def model(request: pytest.FixtureRequest, tiny: Make, tmp_path: Path) -> Any:
    """A case's tiny model, and a folder of it with the layer."""
    found = tiny(request.param)
    folder = tmp_path / "drafts"
    shutil.copytree(found.files.path, folder)
    add_layer(folder)
    return found, folder


def guesses(found: Any, folder: Path, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the formula gives after each token but the first: logits; and the states that go in."""
    oracle, tensors = found.oracle, load_file(folder / "model.safetensors")
    with torch.no_grad():
        states = oracle.model(torch.tensor([ids])).last_hidden_state[0]
    config = AutoConfig.from_pretrained(folder)
    config.num_hidden_layers, config.layer_types = 1, ["full_attention"]
    layer = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    inner = {f"model.{n[4:]}": x for n, x in tensors.items() if n.startswith("mtp.")}
    kept = {n: x for n, x in tensors.items() if n.startswith(("lm_head", "model.embed"))}
    missing = layer.load_state_dict(_merged(inner, config) | kept, strict=False).missing_keys
    assert missing in ([], ["lm_head.weight"])

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        weight = 1 + tensors[f"mtp.{name}.weight"].float()
        return torch.nn.functional.rms_norm(x, x.shape[-1:], weight, eps=config.rms_norm_eps)

    embedded = norm(tensors["model.embed_tokens.weight"].float()[ids[1:]], "pre_fc_norm_embedding")
    mixed = torch.cat((embedded, norm(states[:-1], "pre_fc_norm_hidden")), -1)
    with torch.no_grad():
        logits = layer(
            inputs_embeds=(mixed @ tensors["mtp.fc.weight"].float().T)[None], use_cache=False
        ).logits
    return logits[0], states


def _merged(tensors: dict[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
    """Experts of a file, each in its own tensors, as transformers keeps them."""
    at, found = "model.layers.0.mlp.experts.", dict(tensors)
    if f"{at}0.gate_proj.weight" not in found:
        return found
    each = [
        [found.pop(f"{at}{n}.{x}_proj.weight") for x in ("gate", "up", "down")]
        for n in range(config.num_experts)
    ]
    found[f"{at}gate_up_proj"] = torch.stack([torch.cat(one[:2]) for one in each])
    found[f"{at}down_proj"] = torch.stack([one[2] for one in each])
    return found


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS.keys())
def test_the_layer_gives_the_logits_of_the_formula(backend: Make, model: Any, error: Make) -> None:
    found, folder = model
    ids = found.prompt(LENGTH)
    expected, states = guesses(found, folder, ids)
    main, layer = compiled(folder, backend())
    pages = np.arange(8, dtype=np.int32)
    rows = main.run([Span(ids, 0, pages, LENGTH, writes=0)])
    own = rows.kept(STATES).copy()
    assert error(own, states.numpy()) < NOISE
    parts = []
    for start, stop in ((0, 40), (40, 41), (41, LENGTH - 1)):  # chunks
        span = Span(ids[start + 1 : stop + 1], start, pages, stop - start, given=own[start:stop])
        parts.append(layer.run([span]).logits.copy())
    assert error(np.concatenate(parts), expected.numpy()) < NOISE


def compiled(folder: Path, backend: Backend) -> tuple[Any, Any]:
    """The main model, which gives the states of every row, and the layer, on the same weights."""
    with open_checkpoint(ModelFiles(folder, "folder", "drafts", str(folder))) as checkpoint:
        assert checkpoint.drafts
        model = describe(checkpoint.config)
        layer = model.draft()
        assert layer is not None
        placed = backend.place(checkpoint, 0)
        graphs = model.graph(LOGITS, HIDDEN).of_every_row(HIDDEN, STATES), layer.graph(LOGITS, HIDDEN)
        return tuple(backend.compile(graph, placed, CacheSize(8, "f32", 2), 128) for graph in graphs)
