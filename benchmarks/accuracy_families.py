"""KL divergence from transformers in float32 on the same dequantised weights: families of one size compared.

    python benchmarks/accuracy_families.py [--tokens 4096] [--cache bf16] [--alike]
    python benchmarks/accuracy_families.py --trained FOLDER [--steps 400]

Each family's model has the same width and depth, and Q4_1 weights, so that only what a family adds differs:
experts, a router, latent attention. Random ones have weights of a trained model's deviation, and flat
distributions: their routers decide by nothing, and a choice that is nearly a tie falls otherwise. `--alike`
leaves that out: then a choice changes nothing. `--trained`: small models fitted alike to two modules of
Python's library (`accuracy_train.py`), into FOLDER where they are not there yet, on that text and on modules
that they have never seen. Beside it stands what transformers' own bf16 makes of the same weights.
`accuracy_routing.py` counts choices that fall otherwise. Needs the `test` extra.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

from accuracy import native_logits
from accuracy_shapes import FAMILIES, Sizes
from random_models import BLOCKS, Writer
from sampan.core.settings import Settings
from sampan.core.types import ModelFiles
from sampan.engine.budget import Wish
from sampan.llm.drafts import DraftWish
from sampan.llm.load import load
from sampan.weights.checkpoint import open_checkpoint

CONTEXT = 512
Texts = dict[str, list[list[int]]]


def made(name: str, folder: Path, args: argparse.Namespace) -> tuple[ModelFiles, dict[str, Any], Texts]:
    """A family's file, its `config.json`, and what it is measured on: lists of tokens by name."""
    if args.trained is None:
        shape, config = FAMILIES[name](Sizes())
        path = folder / "model.gguf"
        Writer(shape, path, "Q4_1", 4096 if args.alike else BLOCKS).write()
        draw = np.random.default_rng(1)
        windows = args.tokens // CONTEXT
        texts = {"random": [draw.integers(0, shape.vocabulary, CONTEXT).tolist() for _ in range(windows)]}
    else:
        from accuracy_train import SIZES, texts_of, trained

        path = trained(name, args.trained, args.steps, lambda text: print(text, flush=True))
        _, config = FAMILIES[name](SIZES)
        texts = {kind: _windows(ids, args.tokens) for kind, ids in texts_of().items()}
    return ModelFiles(path, "gguf", path.name, str(path)), config, texts


def _windows(ids: list[int], tokens: int) -> list[list[int]]:
    starts = range(0, min(tokens, len(ids)) - CONTEXT + 1, CONTEXT)
    return [ids[start : start + CONTEXT] for start in starts]


def joined(tensors: dict[str, Any]) -> dict[str, Any]:
    """Latent keys and values as the published files have them: heads one after another in one matrix."""
    for first in [name for name in tensors if name.endswith(".kv_b_proj.k.0.weight")]:
        stem = first.removesuffix("k.0.weight")
        heads = sum(name.startswith(f"{stem}k.") for name in tensors)
        parts = [tensors.pop(f"{stem}{kind}.{head}.weight") for head in range(heads) for kind in "kv"]
        tensors[f"{stem}weight"] = np.concatenate(parts)
    return tensors


def oracle(files: ModelFiles, config: dict[str, Any], folder: Path) -> list[torch.nn.Module]:
    """transformers' model of the file's values, in float32 and as it is in bf16."""
    with open_checkpoint(files) as checkpoint:
        save_file(joined({n: checkpoint.array(n) for n in checkpoint.tensors}), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model, said = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager", output_loading_info=True
        )
        assert not said["missing_keys"], said
        assert not said["unexpected_keys"], said
        found.append(model.eval())
    return found


def divergence(wanted: torch.Tensor, found: torch.Tensor) -> dict[str, float]:
    """Of log-probabilities [rows, vocabulary]."""
    each = (wanted.exp() * (wanted - found)).sum(-1)
    return {
        "kl_mean": float(each.mean()),
        "kl_median": float(each.median()),
        "kl_99": float(each.quantile(0.99)),
        "same_best": float((wanted.argmax(-1) == found.argmax(-1)).double().mean()),
    }


def measure(name: str, args: argparse.Namespace) -> None:
    """A line for each text."""
    with tempfile.TemporaryDirectory() as folder:
        files, config, texts = made(name, Path(folder), args)
        models = oracle(files, config, Path(folder))
        loaded = load(
            files, Settings.from_env(), Wish(context=CONTEXT, cache=args.cache), threads=args.threads,
            prefix_cache=False, draft=DraftWish("none"),
        )  # fmt: skip
        for kind, windows in texts.items():
            found: tuple[list[torch.Tensor], ...] = ([], [], [])
            for ids in windows:
                with torch.no_grad():
                    logits = [model(torch.tensor([ids])).logits[0] for model in models]
                logits.append(torch.from_numpy(native_logits(loaded.engine, ids)))
                for kept, own in zip(found, logits, strict=True):
                    kept.append(torch.log_softmax(own.double(), -1))
            p, bf16, q = map(torch.cat, found)
            row = {"family": name, "text": kind, "tokens": len(p), **divergence(p, q)}
            row["transformers_bf16_kl_mean"] = divergence(p, bf16)["kl_mean"]
            row["entropy"] = float(-(p.exp() * p).sum(-1).mean())
            print(json.dumps(row), flush=True)


def arguments(what: str | None) -> argparse.ArgumentParser:
    """Of this command, and of `accuracy_routing.py`."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--trained", type=Path, help="the folder of models that are trained, not random")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--alike", action="store_true", help="all experts of a layer have the same weights")
    return parser


def main() -> None:
    """The command."""
    parser = arguments(__doc__)
    parser.add_argument("--cache", default="bf16")
    args = parser.parse_args()
    for name in FAMILIES:
        measure(name, args)


if __name__ == "__main__":
    main()
