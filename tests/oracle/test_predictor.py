"""The layer for multi-token prediction gives the logits of its published formula, on both backends: the
decoder layer is transformers' own, around it stands what the paper says (arXiv:2412.19437, equations 21 to
23)."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from sampan.core.settings import Settings
from sampan.core.types import ModelFiles
from sampan.kernels.backend import PAGE, Backend, CacheSize, Span
from sampan.kernels.cpu.backend import CpuBackend
from sampan.kernels.graph import LOGITS
from sampan.kernels.ops import HIDDEN, STATES
from sampan.kernels.torch.backend import TorchBackend
from sampan.models.registry import describe
from sampan.weights.checkpoint import open_checkpoint

Make = Callable[..., Any]
NOISE, LENGTH = 1e-5, 100
BACKENDS = {"cpu": lambda: CpuBackend(Settings(Path()), 1), "torch": TorchBackend}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, predicted: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("predicted")
    predicted.write(folder, predicted.random_tensors(mixed=1.0), copies=True)
    return folder


class Oracle:
    """transformers' model with one layer more, which is the one behind the last."""

    def __init__(self, folder: Path, predicted: Any) -> None:
        longer = folder / "longer"
        longer.mkdir(exist_ok=True)
        shutil.copy(folder / "model.safetensors", longer)
        (longer / "config.json").write_text(
            json.dumps(predicted.CONFIG | {"num_hidden_layers": predicted.LAYERS + 1})
        )
        load = AutoModelForCausalLM.from_pretrained
        options = {"dtype": torch.float32, "attn_implementation": "eager"}
        self.main = load(folder, **options).eval()
        self.layer = load(longer, **options).eval().model.layers[predicted.LAYERS]
        self.tensors = {name: torch.from_numpy(x) for name, x in predicted.random_tensors(mixed=1.0).items()}
        self.behind = predicted.BEHIND

    @torch.no_grad()
    def states(self, ids: list[int]) -> torch.Tensor:
        """After the final norm [T, H]."""
        return self.main.model(torch.tensor([ids])).last_hidden_state[0]

    @torch.no_grad()
    def guesses(self, ids: list[int], states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits after rows of these tokens and states, and the rows' own states."""
        embedded = self._norm(self.tensors["model.embed_tokens.weight"][ids], "enorm")
        mixed = torch.cat((embedded, self._norm(states, "hnorm")), -1)
        x = (mixed @ self.tensors[self.behind + "eh_proj.weight"].T)[None]
        positions = torch.arange(len(ids))[None]
        angles = self.main.model.rotary_emb(x, positions)
        mask = torch.full((len(ids), len(ids)), -torch.inf).triu(1)[None, None]
        y = self.layer(x, attention_mask=mask, position_ids=positions, position_embeddings=angles)
        y = y[0] if isinstance(y, tuple) else y
        out = self._norm(y.reshape(len(ids), -1), "shared_head.norm")
        return out @ self.tensors["lm_head.weight"].T, out

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return torch.nn.functional.rms_norm(
            x, x.shape[-1:], self.tensors[f"{self.behind}{name}.weight"], eps=1e-6
        )


@pytest.fixture(scope="module")
def oracle(folder: Path, predicted: Any) -> Oracle:
    return Oracle(folder, predicted)


def compiled(folder: Path, backend: Backend, cache: str = "f32") -> tuple[Any, Any]:
    """The main model, which gives the states of every row, and the layer, on the same weights."""
    with open_checkpoint(ModelFiles(folder, "folder", "predicted", str(folder))) as checkpoint:
        assert checkpoint.drafts
        model = describe(checkpoint.config)
        layer = model.draft()
        placed, size = backend.place(checkpoint, 0), CacheSize(8, cache)
        main = model.graph(LOGITS, HIDDEN).of_every_row(HIDDEN, STATES)
        graphs = main, layer.graph(LOGITS, HIDDEN)
        return tuple(backend.compile(graph, placed, size, 128) for graph in graphs)


def pages() -> np.ndarray:
    return np.arange(8, dtype=np.int32)


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS.keys())
def test_the_layer_gives_the_logits_of_the_formula(
    backend: Make, folder: Path, oracle: Oracle, error: Make, predicted: Any
) -> None:
    main, layer = compiled(folder, backend())
    ids = np.random.default_rng(1).integers(0, predicted.VOCAB, LENGTH + 1).tolist()
    rows = main.run([Span(ids[:LENGTH], 0, pages(), 1)])
    states = rows.kept(STATES).copy()
    expected = oracle.states(ids[:LENGTH])
    assert error(states, expected.numpy()) < NOISE
    logits, own = oracle.guesses(ids[1:], expected)
    parts = []
    for start, stop in ((0, 40), (40, 41), (41, LENGTH)):  # chunks
        span = Span(ids[start + 1 : stop + 1], start, pages(), stop - start, given=states[start:stop])
        rows = layer.run([span])
        assert not rows.unsound
        parts.append(rows.logits.copy())
    assert error(np.concatenate(parts), logits.numpy()) < NOISE
    # From the second guess on, the layer's own state after its norm takes the place of the model's.
    assert error(rows.kept(HIDDEN)[-1:], own[-1:].numpy()) < NOISE
    token = int(logits[-1].argmax())
    rows = layer.run([Span([token], LENGTH, pages(), 1, given=rows.kept(HIDDEN)[-1:].copy())])
    second, _ = oracle.guesses([*ids[1:], token], torch.cat((expected, own[-1:])))
    assert error(rows.logits, second[-1:].numpy()) < NOISE
    assert LENGTH + 1 < 8 * PAGE


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS.keys())
def test_states_of_another_shape_are_refused(backend: Make, folder: Path) -> None:
    _, layer = compiled(folder, backend())
    for shape in ((3, 64), (2, 32)):
        with pytest.raises(ValueError, match="floats are given"):
            layer.run([Span([1, 2], 0, pages(), 1, given=np.zeros(shape, np.float32))])


def test_states_of_every_row_cost_no_bit_in_any_family(sparse_case: str, tiny: Make, native: Make) -> None:
    model = tiny(sparse_case, torch.bfloat16)
    ids, backend = model.prompt(LENGTH), CpuBackend(Settings(Path()), 1)
    with open_checkpoint(model.files) as checkpoint:
        graph = describe(checkpoint.config).graph(LOGITS, HIDDEN).of_every_row(HIDDEN, STATES)
        program = backend.compile(graph, backend.place(checkpoint, 0), CacheSize(8, states=1), 128)
    found = program.run([Span(ids, 0, pages(), LENGTH, writes=0)])
    assert np.array_equal(found.logits, native.__wrapped__(model.files, cache="bf16").logits(ids))
    assert found.kept(STATES).shape[0] == LENGTH


def test_states_of_every_row_cost_no_bit(folder: Path, native: Make, predicted: Any) -> None:
    files = ModelFiles(folder, "folder", "predicted", str(folder))
    ids = np.random.default_rng(2).integers(0, predicted.VOCAB, LENGTH).tolist()
    for cache in ("f32", "bf16", "int8"):
        main, _ = compiled(folder, CpuBackend(Settings(Path()), 1), cache)
        plain = native.__wrapped__(files, cache=cache).logits(ids)
        assert np.array_equal(main.run([Span(ids, 0, pages(), LENGTH)]).logits, plain)
        main.run([Span(ids[:70], 0, pages(), 0)])
        assert np.array_equal(main.run([Span(ids[70:], 70, pages(), 3)]).logits, plain[-3:])
