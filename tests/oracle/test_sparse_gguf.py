"""Mixtures of experts in GGUF, all experts of a layer in one tensor: transformers' logits of the dequantised
weights, and the same bits in any company. Mixtral's older files have a tensor for each expert."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sampan.core.types import ModelFiles
from sampan.kernels.torch.backend import TorchBackend
from sampan.models.registry import load_file

GgufFile: Any = load_file(Path(__file__).parent / "gguf_file.py").GgufFile

Make = Callable[..., Any]
EXPERTS, CHOSEN, FFN, LAYERS, LENGTH, EARLY = 8, 3, 96, 3, 200, 64
# As for dense models (test_gguf.py). 8-bit activations move a router's input too, and with it a choice that
# is nearly a tie: the logits of that row alone.
FLOAT, FINE, COARSE = 1e-5, 5e-4, 0.1
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate": "ffn_gate_inp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp", "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp", "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def config(family: str) -> Any:
    rest = {"shared_expert_intermediate_size": 128, "mlp_only_layers": [1]} if family == "qwen2_moe" else {}
    if family == "mixtral":
        rest = {"intermediate_size": FFN, "num_local_experts": EXPERTS, "sliding_window": None}
    return AutoConfig.for_model(
        family, hidden_size=256, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2,
        head_dim=64, num_experts_per_tok=CHOSEN, norm_topk_prob=family == "qwen3_moe", vocab_size=300,
        max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=1e4,
        **{"moe_intermediate_size": FFN, "num_experts": EXPERTS, "intermediate_size": 512} | rest,
    )  # fmt: skip


class Writer(GgufFile):
    """`apart`: a tensor for each expert."""

    def __init__(self, path: Path, family: str, type: Type, apart: bool = False) -> None:
        self._apart, self._llama = apart, family == "mixtral"  # which the file describes as a llama
        super().__init__(path, "llama" if self._llama else family.replace("_", ""), type, 5)
        for add, value in (
            ("block_count", LAYERS), ("context_length", 512), ("embedding_length", 256), ("head_count", 4),
            ("feed_forward_length", FFN if self._llama else 512), ("head_count_kv", 2), ("key_length", 64),
            ("value_length", 64),
            ("layer_norm_rms_eps", 1e-5), ("rope_freq_base", 1e4), ("expert_count", EXPERTS),
            ("expert_used_count", CHOSEN), ("expert_feed_forward_length", None if self._llama else FFN),
        ):  # fmt: skip
            if value is not None:
                getattr(self._file, f"add_{add}")(value)
        if family == "qwen2_moe":
            self._file.add_expert_shared_feed_forward_length(128)

    def _tensors(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name in WHOLE:
            return self._tensor(WHOLE[name], shape)
        _, _, layer, rest = name.split(".", 3)
        at = f"blk.{layer}."
        if rest == "mlp.experts.gate_up_proj":
            half = (shape[0], shape[1] // 2, shape[2])
            parts = [self._experts(f"{at}ffn_{kind}", half) for kind in ("gate", "up")]
            return np.concatenate(parts, axis=1)
        if rest == "mlp.experts.down_proj":
            return self._experts(f"{at}ffn_down", shape)
        part, _, kind = rest.rpartition(".")
        values = self._tensor(f"{at}{NAMES[part]}.{kind}", shape)
        if self._llama and part.endswith(("q_proj", "k_proj")):  # the file has pairs side by side
            heads = shape[0] // 64
            return np.ascontiguousarray(values.reshape(heads, 32, 2, -1).swapaxes(1, 2).reshape(shape))
        return values

    def _experts(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if not self._apart:
            return self._tensor(f"{name}_exps.weight", shape)
        return np.stack([self._tensor(f"{name}.{n}.weight", shape[1:]) for n in range(shape[0])])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    @cache
    def make(family: str, type: Type, apart: bool = False) -> tuple[ModelFiles, PreTrainedModel]:
        path = tmp_path_factory.mktemp("sparse") / "tiny.gguf"
        oracle = AutoModelForCausalLM.from_config(config(family)).eval()
        Writer(path, family, type, apart).write(oracle)
        return ModelFiles(path, "gguf", path.name, str(path)), oracle

    return make


@pytest.fixture(scope="module")
def prompt() -> list[int]:
    return np.random.default_rng(1).integers(0, 300, LENGTH).tolist()


@pytest.mark.parametrize("family", ["qwen3_moe", "qwen2_moe", "mixtral"])
@pytest.mark.parametrize("type", [Type.F32, Type.F16, Type.Q8_0, Type.Q4_1, Type.Q5_0], ids=lambda t: t.name)
def test_merged_experts_give_the_logits_of_transformers(
    family: str, type: Type, made: Make, native: Make, error: Make, prompt: list[int]
) -> None:
    files, oracle = made(family, type)
    with torch.no_grad():
        expected = oracle(torch.tensor([prompt]), use_cache=False).logits[0].numpy()
    whole = native(files).logits(prompt)
    if type in (Type.F32, Type.F16):
        assert error(whole, expected) < FLOAT
        assert error(native(files, backend=TorchBackend()).logits(prompt), expected) < FLOAT
        return
    assert error(whole[:EARLY], expected[:EARLY]) < FINE
    differences = np.abs(whole - expected).max(-1) / (expected.max() - expected.min())
    assert np.quantile(differences, 0.95) < COARSE


@pytest.mark.parametrize("type", [Type.F32, Type.Q8_0], ids=lambda t: t.name)
def test_experts_in_tensors_of_their_own_are_the_same(
    type: Type, made: Make, native: Make, prompt: list[int]
) -> None:
    merged, apart = (native(made("mixtral", type, apart)[0]).logits(prompt) for apart in (False, True))
    assert np.array_equal(merged, apart)


@pytest.mark.parametrize("type", [Type.Q8_0, Type.Q4_1], ids=lambda t: t.name)
def test_integer_experts_give_the_same_bits_in_chunks_and_in_company(
    type: Type, made: Make, native: Make, prompt: list[int]
) -> None:
    files, _ = made("qwen3_moe", type)
    whole = native(files, cache="bf16", threads=2).logits(prompt)
    for chunk in (40, 7, 1):
        assert np.array_equal(native(files, cache="bf16").logits(prompt, chunk), whole)
    here = native(files, cache="bf16")
    one, other = here.sequence(prompt[:60]), here.sequence(prompt)
    parts = [
        here.step((one, 50), (other, 130)),
        here.step((other, 69), (one, 9)),
        here.step((one, 1), (other, 1)),
    ]
    found = np.concatenate([parts[0][1], parts[1][0], parts[2][1]])
    assert np.array_equal(found, whole)
    alone = np.concatenate([parts[0][0], parts[1][1], parts[2][0]])
    assert np.array_equal(alone, whole[:60])
    for sequence in (one, other):
        here.pool.release(sequence.pages)
