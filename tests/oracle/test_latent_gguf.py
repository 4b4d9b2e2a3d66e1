"""DeepSeek's families in GGUF, in the older and the later layout of keys and values: transformers' logits of
the dequantised weights, and the same bits in any company. Laid out as convert_hf_to_gguf.py does."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sampan.core.errors import WeightsError
from sampan.core.settings import Settings
from sampan.core.types import ModelFiles
from sampan.kernels.backend import CacheSize, Span
from sampan.kernels.cpu.backend import CpuBackend
from sampan.kernels.graph import LOGITS
from sampan.kernels.torch.backend import TorchBackend
from sampan.models import registry
from sampan.models.latent import LatentConfig
from sampan.models.registry import load_file
from sampan.weights.checkpoint import open_checkpoint
from sampan.weights.save import hf_config

GgufFile: Any = load_file(Path(__file__).parent / "gguf_file.py").GgufFile

Make = Callable[..., Any]
EXPERTS, CHOSEN, FFN, LAYERS, LENGTH, EARLY = 8, 3, 64, 3, 150, 64
HEADS, PLAIN, ROTATED, VALUE, LATENT = 4, 64, 32, 96, 128
FLOAT, FINE, COARSE = 3e-5, 1e-3, 0.1  # as in test_sparse_gguf.py
YARN = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "rope_theta": 1e4,
    "mscale": 0.707, "mscale_all_dim": 0.707, "beta_fast": 32, "beta_slow": 1,
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "deepseek_v3": {"n_group": 4, "topk_group": 2, "q_lora_rank": 96, "routed_scaling_factor": 2.5},
    "deepseek_v2": {
        "n_group": 1, "topk_group": 1, "q_lora_rank": None, "topk_method": "greedy", "rope_parameters": YARN,
    },
}  # fmt: skip
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b", "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm", "self_attn.o_proj": "attn_output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate": "ffn_gate_inp",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp", "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LATER, OLDER = True, False


def config(family: str) -> Any:
    return AutoConfig.for_model(
        family, hidden_size=128, num_hidden_layers=LAYERS, num_attention_heads=HEADS, kv_lora_rank=LATENT,
        num_key_value_heads=HEADS, qk_nope_head_dim=PLAIN, qk_rope_head_dim=ROTATED, v_head_dim=VALUE,
        intermediate_size=160, moe_intermediate_size=FFN, n_routed_experts=EXPERTS, n_shared_experts=2,
        num_experts_per_tok=CHOSEN, norm_topk_prob=family == "deepseek_v3", first_k_dense_replace=1,
        vocab_size=300, max_position_embeddings=512, rms_norm_eps=1e-5, **CASES[family],
    )  # fmt: skip


class Writer(GgufFile):
    """`later`: the file has keys' and values' matrices apart."""

    def __init__(self, path: Path, family: str, type: Type, later: bool) -> None:
        super().__init__(path, "deepseek2", type, 5)
        self._later, file = later, self._file
        c, v3 = CASES[family], family == "deepseek_v3"
        for add, value in (
            ("block_count", LAYERS + (v3 and later)), ("context_length", 512), ("embedding_length", 128),
            ("feed_forward_length", 160), ("head_count", HEADS), ("head_count_kv", 1 if later else HEADS),
            ("layer_norm_rms_eps", 1e-5), ("rope_freq_base", 1e4), ("expert_used_count", CHOSEN),
            ("expert_group_count", c["n_group"]), ("expert_group_used_count", c["topk_group"]),
            ("expert_gating_func", gguf.ExpertGatingFuncType.SIGMOID if v3 else None),
            ("leading_dense_block_count", 1), ("vocab_size", 300), ("q_lora_rank", c["q_lora_rank"]),
            ("kv_lora_rank", LATENT), ("key_length", LATENT + ROTATED if later else PLAIN + ROTATED),
            ("value_length", LATENT if later else VALUE),
            ("key_length_mla", PLAIN + ROTATED if later else None),
            ("value_length_mla", VALUE if later else None), ("rope_dimension_count", ROTATED),
            ("expert_feed_forward_length", FFN), ("expert_count", EXPERTS), ("expert_shared_count", 2),
            ("expert_weights_scale", c.get("routed_scaling_factor", 1.0)),
            ("expert_weights_norm", v3 or None),
        ):  # fmt: skip
            if value is not None:
                getattr(file, f"add_{add}")(value)
        if v3 and later:
            file.add_nextn_predict_layers(1)
        if rope := c.get("rope_parameters"):
            file.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            file.add_rope_scaling_factor(rope["factor"])
            file.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
            file.add_rope_scaling_yarn_log_mul(0.1 * rope["mscale_all_dim"])

    def write(self, oracle: PreTrainedModel) -> None:
        if self._later and hasattr(oracle.model.layers[-1].mlp.gate, "e_score_correction_bias"):
            last = oracle.model.layers[-1]  # V3's layer for drafts is like it
            for name, weight in [*last.named_parameters(), *last.named_buffers()]:
                self._tensors(f"model.layers.{LAYERS}.{name}", tuple(weight.shape))
            self._tensor(f"blk.{LAYERS}.nextn.eh_proj.weight", (128, 256))
            for name in ("enorm", "hnorm", "shared_head_norm"):
                self._tensor(f"blk.{LAYERS}.nextn.{name}.weight", (128,))
            self._tensor(f"blk.{LAYERS}.nextn.embed_tokens.weight", (300, 128))  # a copy, not read
        super().write(oracle)

    def _tensors(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name in WHOLE:
            return self._tensor(WHOLE[name], shape)
        _, _, layer, rest = name.split(".", 3)
        at = f"blk.{layer}."
        match rest:
            case "mlp.experts.gate_up_proj":
                half = (shape[0], shape[1] // 2, shape[2])
                return np.concatenate(
                    [self._tensor(f"{at}ffn_{kind}_exps.weight", half) for kind in ("gate", "up")], axis=1
                )
            case "mlp.experts.down_proj":
                return self._tensor(f"{at}ffn_down_exps.weight", shape)
            case "mlp.gate.e_score_correction_bias":
                return self._tensor(f"{at}exp_probs_b.bias", shape)
            case "self_attn.kv_b_proj.weight" if self._later:
                keys = self._tensor(f"{at}attn_k_b.weight", (HEADS, LATENT, PLAIN))
                values = self._tensor(f"{at}attn_v_b.weight", (HEADS, VALUE, LATENT))
                return np.concatenate([keys.swapaxes(1, 2), values], axis=1).reshape(shape)
            case "self_attn.kv_b_proj.weight":
                return self._tensor(f"{at}attn_kv_b.weight", shape)
        part, _, kind = rest.rpartition(".")
        return self._tensor(f"{at}{NAMES[part]}.{kind}", shape)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    @cache
    def make(family: str, type: Type, later: bool) -> tuple[ModelFiles, PreTrainedModel]:
        path = tmp_path_factory.mktemp("latent") / "tiny.gguf"
        oracle = AutoModelForCausalLM.from_config(config(family)).eval()
        Writer(path, family, type, later).write(oracle)
        return ModelFiles(path, "gguf", path.name, str(path)), oracle

    return make


@pytest.fixture(scope="module")
def prompt() -> list[int]:
    return np.random.default_rng(1).integers(0, 300, LENGTH).tolist()


@pytest.mark.parametrize("later", [LATER, OLDER], ids=["later", "older"])
@pytest.mark.parametrize("family", CASES)
def test_the_configuration_is_that_of_the_folder(family: str, later: bool, made: Make) -> None:
    files, oracle = made(family, Type.F32, later)
    with open_checkpoint(files) as checkpoint:
        found, expected = checkpoint.config, registry.from_hf(oracle.config.to_dict())
        assert registry.from_hf(hf_config(checkpoint)) == found
    assert isinstance(found, LatentConfig)
    assert isinstance(expected, LatentConfig)
    rounded = {name: pytest.approx(getattr(expected, name), rel=1e-7) for name in ("scale", "norm_eps")}
    assert vars(found) == vars(expected) | rounded


@pytest.mark.parametrize("later", [LATER, OLDER], ids=["later", "older"])
@pytest.mark.parametrize("family", CASES)
@pytest.mark.parametrize("type", [Type.F32, Type.F16, Type.Q8_0, Type.Q4_1], ids=lambda t: t.name)
def test_both_layouts_give_the_logits_of_transformers(
    family: str, later: bool, type: Type, made: Make, native: Make, error: Make, prompt: list[int]
) -> None:
    files, oracle = made(family, type, later)
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


def test_the_layer_for_drafts_is_that_of_the_folder(made: Make, tmp_path: Path) -> None:
    """Compared on both: its logits after made-up states."""
    files, oracle = made("deepseek_v3", Type.F32, LATER)
    with open_checkpoint(files) as checkpoint:
        arrays = {name: checkpoint.array(name) for name in checkpoint.tensors}
    save_file(arrays, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(oracle.config.to_dict()))
    states = np.random.default_rng(3).standard_normal((40, 128)).astype(np.float32)
    span = Span(list(range(40)), 0, np.arange(4, dtype=np.int32), 40, given=states)
    found = []
    for each in (files, ModelFiles(tmp_path, "folder", "tiny", str(tmp_path))):
        with open_checkpoint(each) as checkpoint:
            assert checkpoint.drafts
            layer, backend = registry.describe(checkpoint.config).draft(), CpuBackend(Settings(Path()), 1)
            assert layer is not None
            placed = backend.place(checkpoint, 0)
            program = backend.compile(layer.graph(LOGITS), placed, CacheSize(4, "f32"), 64)
        found.append(program.run([span]).logits.copy())
    assert np.array_equal(*found)


def test_integer_keys_and_values_give_the_same_bits_in_chunks_and_in_company(
    made: Make, native: Make, prompt: list[int]
) -> None:
    files, _ = made("deepseek_v3", Type.Q8_0, LATER)
    whole = native(files, cache="bf16", threads=2).logits(prompt)
    for chunk in (40, 1):
        assert np.array_equal(native(files, cache="bf16").logits(prompt, chunk), whole)
    here = native(files, cache="bf16")
    one, other = here.sequence(prompt[:60]), here.sequence(prompt)
    parts = [here.step((one, 50), (other, 130)), here.step((other, 20), (one, 10))]
    assert np.array_equal(np.concatenate([parts[0][1], parts[1][0]]), whole)
    assert np.array_equal(np.concatenate([parts[0][0], parts[1][1]]), whole[:60])
    for sequence in (one, other):
        here.pool.release(sequence.pages)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        ("blk.1.ffn_up_exps.weight", r"layers.1.mlp.experts.0.up_proj.weight, .*is missing"),
        ("blk.2.exp_probs_b.bias", "layers.2.mlp.gate.e_score_correction_bias is missing"),
        ("blk.0.attn_k_b.weight", r"layers.0.self_attn.kv_b_proj.k.0.weight, .*is missing"),
    ],
)
def test_a_file_without_experts_or_keys_is_refused(
    tensor: str, said: str, made: Make, tmp_path: Path
) -> None:
    files, _ = made("deepseek_v3", Type.F32, LATER)
    content = files.path.read_bytes()
    hidden = content.replace(tensor.encode(), f"blk.{LAYERS}".encode().ljust(len(tensor), b"x"), 1)
    path = tmp_path / "tiny.gguf"
    path.write_bytes(hidden.replace(b"blk.3xx", b"blk.3.x"))
    with pytest.raises(WeightsError, match=said):
        open_checkpoint(ModelFiles(path, "gguf", path.name, str(path)))
