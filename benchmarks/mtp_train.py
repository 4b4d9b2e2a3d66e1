"""Trains a small model of DeepSeek-V3's shape with a layer for multi-token prediction, and one that drafts.

The text is two modules of Python's standard library, in a vocabulary of 2,048 made for them. Both models
learn it nearly by heart, which is what a few minutes on a CPU allow. Speed is a matter of the weights that a
step reads, of which a model that can be trained here has too few: between the trained layers stand `PASSING`
more of the same shape, whose outputs are zero. They are read and computed like any other and pass everything
on.
"""

import json
import math
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

MODULES, UNSEEN = ("heapq", "textwrap"), ("bisect", "shlex")
VOCABULARY, HIDDEN, FFN, INNER, DENSE, MIXED, PASSING = 2048, 256, 2048, 256, 1, 2, 32
SHARED = {
    "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_attention_heads": 8, "rms_norm_eps": 1e-6,
    "max_position_embeddings": 4096, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None,
    "tie_word_embeddings": False, "hidden_act": "silu",
}  # fmt: skip
MAIN = SHARED | {
    "model_type": "deepseek_v3", "num_key_value_heads": 8, "intermediate_size": FFN,
    "moe_intermediate_size": INNER, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": DENSE, "kv_lora_rank": 64, "q_lora_rank": 128,
    "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 32, "norm_topk_prob": True,
    "routed_scaling_factor": 1.0, "num_hidden_layers": DENSE + MIXED + 1,
}  # fmt: skip
SMALL = SHARED | {
    "model_type": "llama", "hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4,
    "intermediate_size": 384, "num_hidden_layers": 2,
}  # fmt: skip
ROWS, LENGTH, WEIGHT = 4, 128, 0.5  # of a batch; of the layer's loss


class Predicting(nn.Module):
    """The model, whose last layer is the one for multi-token prediction."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**MAIN), attn_implementation="sdpa"
        )
        for name in ("enorm", "hnorm", "norm"):
            setattr(self, name, nn.RMSNorm(HIDDEN, eps=1e-6))
        self.mix = nn.Linear(2 * HIDDEN, HIDDEN, bias=False)

    def losses(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Of the next token, and of the one behind it; `ids` [rows, length]."""
        model, head = self.whole.model, self.whole.lm_head
        x = model.embed_tokens(ids)
        places = torch.arange(ids.shape[1])[None]
        past = torch.full((ids.shape[1], ids.shape[1]), -torch.inf).triu(1)[None, None]
        options = {"attention_mask": past, "position_ids": places}
        options["position_embeddings"] = model.rotary_emb(x, places)
        embedded = x
        for layer in model.layers[:-1]:
            x = layer(x, **options)
        states = model.norm(x)
        guess = self.mix(torch.cat((self.enorm(embedded[:, 1:]), self.hnorm(states[:, :-1])), -1))
        options = {
            "attention_mask": past[..., :-1, :-1], "position_ids": places[:, :-1],
            "position_embeddings": model.rotary_emb(guess, places[:, :-1]),
        }  # fmt: skip
        guess = self.norm(model.layers[-1](guess, **options))
        return _loss(head(states[:, :-1]), ids[:, 1:]), _loss(head(guess[:, :-1]), ids[:, 2:])


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def text_of(names: tuple[str, ...]) -> str:
    """Modules of the standard library, one behind the other."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    return "\n\n".join((folder / f"{name}.py").read_text() for name in names)


def tokenizer_of(text: str) -> Tokenizer:
    """Byte-level BPE made for this text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def _batches(ids: Tensor, steps: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        starts = torch.randint(len(ids) - LENGTH, (ROWS,), generator=generator)
        yield torch.stack([ids[start : start + LENGTH] for start in starts.tolist()])


def fit(model: nn.Module, losses: Any, ids: Tensor, steps: int, rate: float, say: Any) -> None:
    """Train; the losses are weighted 1 and `WEIGHT`."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.01)
    warm = max(1, steps // 20)
    started = time.perf_counter()
    for step, batch in enumerate(_batches(ids, steps)):
        for group in optimiser.param_groups:
            done = (step - warm) / max(1, steps - warm)
            group["lr"] = rate * (
                (step + 1) / warm if step < warm else 0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2
            )
        with torch.autocast("cpu", torch.bfloat16):
            found = losses(batch)
        sum(loss * weight for loss, weight in zip(found, (1.0, WEIGHT), strict=False)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if step % 50 == 0 or step == steps - 1:
            shown = ", ".join(f"{loss.item():.3f}" for loss in found)
            say(f"step {step}: loss {shown}, {time.perf_counter() - started:.0f} s")


def train(folder: Path, steps: int, say: Any) -> tuple[Path, Path]:
    """Folders of the main model and of the small one, made where they are not there yet."""
    main, small = folder / "main", folder / "small"
    if (small / "model.safetensors").exists():
        return main, small
    torch.manual_seed(0)
    text = text_of(MODULES)
    tokenizer = tokenizer_of(text)
    ids = torch.tensor(tokenizer.encode(text).ids)
    say(f"{len(text)} characters, {len(ids)} tokens")
    predicting = Predicting()
    fit(predicting, predicting.losses, ids, steps, 2e-3, say)
    layers = DENSE + PASSING + MIXED
    write(main, _enlarged(predicting), MAIN | {"num_hidden_layers": layers, "num_nextn_predict_layers": 1,
          "first_k_dense_replace": DENSE + PASSING}, tokenizer)  # fmt: skip
    little = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SMALL))
    fit(little, lambda batch: (_loss(little(batch).logits[:, :-1], batch[:, 1:]),), ids, 2 * steps, 4e-3, say)
    write(small, dict(little.state_dict()), SMALL, tokenizer)
    return main, small


def _enlarged(model: Predicting) -> dict[str, Tensor]:
    """The trained tensors by their published names, with layers between them that pass everything on."""
    found: dict[str, Tensor] = {}
    trained = model.whole.state_dict()
    for name, x in trained.items():
        parts = name.split(".")
        if parts[1] == "layers" and int(parts[2]) >= DENSE:
            parts[2] = str(int(parts[2]) + PASSING)
        found[".".join(parts)] = x
    source = f"model.layers.{DENSE - 1}."
    for n in range(DENSE, DENSE + PASSING):
        for name, x in trained.items():
            if name.startswith(source):
                last = name.endswith(("o_proj.weight", "down_proj.weight"))
                found[name.replace(source, f"model.layers.{n}.")] = torch.zeros_like(x) if last else x.clone()
    behind = f"model.layers.{DENSE + PASSING + MIXED}."
    found[behind + "eh_proj.weight"] = model.mix.weight
    for name, own in (("enorm", model.enorm), ("hnorm", model.hnorm), ("shared_head.norm", model.norm)):
        found[f"{behind}{name}.weight"] = own.weight
    return found


def write(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any], tokenizer: Tokenizer) -> None:
    """A folder of bf16 safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": "bfloat16"}))
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": False}))
    kept = {name: x.detach().to(torch.bfloat16).contiguous() for name, x in tensors.items()}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
