"""Small models of three families trained alike on text, as GGUF: routers that have learnt to choose.

Two modules of Python's standard library in a vocabulary of 2,048 made for them (`mtp_train.py`). The routers
are balanced as those of the published models: Qwen3-MoE's by a loss beside the other (arXiv:2101.03961, as
transformers has it), DeepSeek-V3's by its correction bias (arXiv:2412.19437, 2.1.2).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import quants
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from accuracy_shapes import COUNT, FAMILIES, Made, Sizes
from mtp_train import MODULES, UNSEEN, VOCABULARY, fit, text_of, tokenizer_of
from random_models import Writer
from sampan.models.registry import family_named

SIZES = Sizes(hidden=256, vocabulary=VOCABULARY, heads=4, head=64, ffn=512, inner=128)
BALANCE, NUDGE = 0.02, 0.001  # weight of the loss (halved by `fit`); step of a bias
Say = Callable[[str], None]


def texts_of() -> dict[str, list[int]]:
    """Tokens of what is learnt, and of what is not."""
    tokenizer = tokenizer_of(text_of(MODULES))
    return {"learnt": tokenizer.encode(text_of(MODULES)).ids, "unseen": tokenizer.encode(text_of(UNSEEN)).ids}


def trained(name: str, folder: Path, steps: int, say: Say) -> Path:
    """The GGUF file of a family's model in Q4_1, made where it is not there yet."""
    path = folder / f"{name}.gguf"
    if not path.exists():
        torch.manual_seed(0)
        made = FAMILIES[name](SIZES)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**made[1]), attn_implementation="sdpa")
        say(f"{name}: {sum(x.numel() for x in model.parameters()) / 1e6:.1f} million parameters")
        fit(model, _losses(name, model), torch.tensor(texts_of()["learnt"]), steps, 2e-3, say)
        folder.mkdir(parents=True, exist_ok=True)
        Trained(made, model, path).write()
    return path


def _losses(name: str, model: Any) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Of a batch of tokens: the next token's, and the routers' where they have one."""

    def losses(ids: Tensor) -> tuple[Tensor, ...]:
        if name != "qwen3_moe":
            return (model(ids, labels=ids, use_cache=False).loss,)
        out = model(ids, use_cache=False, output_router_logits=True)
        own = nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())
        return own, BALANCE * out.aux_loss

    if name == "deepseek_v3":
        for layer in model.model.layers:
            layer.mlp.gate.register_forward_hook(_nudge)
    return losses


def _nudge(router: Any, _inputs: Any, outputs: Any) -> None:
    """Experts that are chosen too often get a little less bias, the others a little more."""
    load = torch.bincount(outputs[2].flatten(), minlength=COUNT).float()
    router.e_score_correction_bias += NUDGE * (load.mean() - load).sign()


class Trained(Writer):
    """One file of a trained model, matrices but the routers rounded to Q4_1."""

    def __init__(self, made: Made, model: nn.Module, out: Path) -> None:
        super().__init__(made[0], out, "Q4_1")
        self._family = family_named(str(made[1]["model_type"]), "benchmark")
        self._values = {name: x.detach().float().numpy() for name, x in model.state_dict().items()}

    def _matrix(self, name: str, shape: tuple[int, ...]) -> None:
        values = self._found(name)
        assert values.shape == shape, (name, values.shape, shape)
        self._file.add_tensor(name, quants.quantize(values, self._type), raw_dtype=self._type)

    def _vector(self, name: str, width: int, value: float) -> None:  # noqa: ARG002
        self._file.add_tensor(name, self._found(name))

    def _router(self, name: str, shape: tuple[int, int]) -> None:  # noqa: ARG002
        self._file.add_tensor(name, self._found(name))

    def _found(self, name: str) -> np.ndarray:
        """transformers keeps gates and ups of all experts in one tensor, without an ending."""
        there = self._family.canonical(name)
        assert there is not None, name
        if ".experts." not in there:
            return np.ascontiguousarray(self._values[there])
        at, _, kind = there.removesuffix(".weight").rpartition(".")
        if kind == "down_proj":
            return self._values[f"{at}.down_proj"]
        both = np.split(self._values[f"{at}.gate_up_proj"], 2, axis=1)
        return np.ascontiguousarray(both[kind == "up_proj"])
