"""Qwen's hybrids in GGUF: transformers' logits of the dequantised weights, and those of the folder with the
same weights. Laid out as llama.cpp's conversion/qwen.py does; `older` are files of before it took the delta
rule's inputs apart."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sampan.core.errors import WeightsError
from sampan.core.types import ModelFiles
from sampan.kernels.torch.backend import TorchBackend
from sampan.models import registry
from sampan.models.registry import describe, load_file
from sampan.weights.checkpoint import open_checkpoint
from sampan.weights.save import hf_config

GgufFile: Any = load_file(Path(__file__).parent / "gguf_file.py").GgufFile

Make = Callable[..., Any]
LAYERS, LENGTH, EARLY, HIDDEN, FFN, EXPERTS, CHOSEN = 4, 150, 64, 128, 96, 8, 3
KEYS, HEADS, KEY, VALUE, TAPS, SIZE = 2, 6, 32, 64, 4, 64  # key heads, heads, their features; of attention
FLOAT, FINE, COARSE = 3e-5, 2e-3, 0.1  # as in test_sparse_gguf.py
MIXED = {
    "num_experts": EXPERTS, "num_experts_per_tok": CHOSEN, "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": FFN, "norm_topk_prob": True,
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3_next": ("qwen3next", MIXED),
    "qwen3_next-older": ("qwen3next", MIXED),
    "qwen3_5_text": ("qwen35", {}),
    "qwen3_5_moe_text": ("qwen35moe", MIXED),
}
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
    "mlp.gate": "ffn_gate_inp", "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp", "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "linear_attn.in_proj_ba": "ssm_ba", "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.in_proj_a": "ssm_alpha", "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_qkv": "attn_qkv", "linear_attn.in_proj_qkvz": "ssm_in",
    "linear_attn.out_proj": "ssm_out", "linear_attn.norm": "ssm_norm",
}  # fmt: skip
WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
DRAFT = {
    "eh_proj": (HIDDEN, 2 * HIDDEN),
    "enorm": (HIDDEN,),
    "hnorm": (HIDDEN,),
    "shared_head_norm": (HIDDEN,),
}


def config(case: str) -> Any:
    return AutoConfig.for_model(
        case.removesuffix("-older"), hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, head_dim=SIZE, intermediate_size=160, vocab_size=300, rms_norm_eps=1e-5,
        max_position_embeddings=512, linear_num_key_heads=KEYS, linear_num_value_heads=HEADS,
        linear_key_head_dim=KEY, linear_value_head_dim=VALUE, linear_conv_kernel_dim=TAPS,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25},
        **CASES[case][1],
    )  # fmt: skip


class Writer(GgufFile):
    """`drafts`: with the layer for multi-token prediction."""

    def __init__(self, path: Path, case: str, type: Type, drafts: bool) -> None:
        arch = CASES[case][0]
        super().__init__(path, arch, type, 5)
        self._older, self._drafts = case.endswith("-older"), drafts
        self._turns = arch != "qwen3next"  # value heads go through the key heads in turn
        file, mixed = self._file, bool(CASES[case][1])
        for add, value in (
            ("block_count", LAYERS + drafts), ("context_length", 512), ("embedding_length", HIDDEN),
            ("feed_forward_length", 160), ("head_count", 4), ("head_count_kv", 2), ("key_length", SIZE),
            ("value_length", SIZE), ("layer_norm_rms_eps", 1e-5), ("rope_freq_base", 1e4),
            ("rope_dimension_count", SIZE // 4), ("ssm_conv_kernel", TAPS), ("ssm_state_size", KEY),
            ("ssm_group_count", KEYS), ("ssm_time_step_rank", HEADS), ("ssm_inner_size", HEADS * VALUE),
            ("full_attention_interval", 4), ("expert_count", EXPERTS if mixed else None),
            ("expert_used_count", CHOSEN if mixed else None),
            ("expert_feed_forward_length", 64 if mixed else None),
            ("expert_shared_feed_forward_length", FFN if mixed else None),
            ("nextn_predict_layers", 1 if drafts else None),
        ):  # fmt: skip
            if value is not None:
                getattr(file, f"add_{add}")(value)
        if self._turns:
            file.add_rope_dimension_sections([3, 3, 2, 0])

    def write(self, oracle: PreTrainedModel) -> None:
        if self._drafts:  # a layer like the last one, which attends
            for name, weight in oracle.model.layers[LAYERS - 1].named_parameters():
                self._tensors(f"model.layers.{LAYERS}.{name}", tuple(weight.shape))
            for name, shape in DRAFT.items():
                self._tensor(f"blk.{LAYERS}.nextn.{name}.weight", shape)
        super().write(oracle)

    def _tensors(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Of the file's values, what transformers' are."""
        if name in WHOLE:
            return self._tensor(WHOLE[name], shape) - (1 if "norm" in name else 0)
        _, _, layer, rest = name.split(".", 3)
        at = f"blk.{layer}."
        if rest.startswith("mlp.experts."):
            return self._experts(at, rest, shape)
        if rest.startswith("linear_attn."):
            return self._rule(at, rest.removeprefix("linear_attn."), shape)
        part, _, kind = rest.rpartition(".")
        return self._tensor(f"{at}{NAMES[part]}.{kind}", shape) - (1 if part.endswith("norm") else 0)

    def _experts(self, at: str, rest: str, shape: tuple[int, ...]) -> np.ndarray:
        if rest.endswith("down_proj"):
            return self._tensor(f"{at}ffn_down_exps.weight", shape)
        half = (shape[0], shape[1] // 2, shape[2])
        return np.concatenate(
            [self._tensor(f"{at}ffn_{kind}_exps.weight", half) for kind in ("gate", "up")], 1
        )

    def _rule(self, at: str, rest: str, shape: tuple[int, ...]) -> np.ndarray:
        keys = 2 * KEYS * KEY
        match rest:
            case "A_log":
                return self._grouped(
                    np.log(-self._floats(f"{at}ssm_a", -np.exp(self._rng.normal(size=HEADS)))), 1
                )
            case "dt_bias":
                return self._grouped(self._floats(f"{at}ssm_dt.bias", self._rng.normal(size=HEADS)), 1)
            case "conv1d.weight":
                values = self._floats(f"{at}ssm_conv1d.weight", 0.5 * self._rng.normal(size=(shape[0], TAPS)))
                return np.concatenate([values[:keys], self._grouped(values[keys:], VALUE)])[:, None]
            case "in_proj_qkvz.weight" if not self._older:
                qkv = self._tensor(f"{at}attn_qkv.weight", (keys + HEADS * VALUE, HIDDEN))
                z = self._tensor(f"{at}attn_gate.weight", (HEADS * VALUE, HIDDEN))
                parts = [*np.split(qkv, [KEYS * KEY, keys]), z]
                each = [x.reshape(KEYS, -1, HIDDEN) for x in parts]  # of a key head
                return np.concatenate(each, 1).reshape(shape)
        part, _, kind = rest.rpartition(".")
        values = self._tensor(f"{at}{NAMES[f'linear_attn.{part}']}.{kind}", shape)
        match part:
            case "in_proj_qkv":
                return np.concatenate([values[:keys], self._grouped(values[keys:], VALUE)])
            case "in_proj_z":
                return self._grouped(values, VALUE)
            case "in_proj_a" | "in_proj_b":
                return self._grouped(values, 1)
            case "out_proj":
                return np.ascontiguousarray(self._grouped(values.T, VALUE).T)
        return values

    def _grouped(self, values: np.ndarray, size: int) -> np.ndarray:
        """Value heads of `size` rows, those of a key head together."""
        if not self._turns:
            return values
        heads = values.reshape(HEADS // KEYS, KEYS, size, *values.shape[1:])
        return np.ascontiguousarray(heads.swapaxes(0, 1).reshape(values.shape))

    def _floats(self, name: str, values: np.ndarray) -> np.ndarray:
        kept = values.astype(np.float32)
        self._file.add_tensor(name, kept)
        return kept


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    @cache
    def make(case: str, type: Type, drafts: bool = False) -> tuple[ModelFiles, PreTrainedModel]:
        path = tmp_path_factory.mktemp("hybrid") / "tiny.gguf"
        oracle = AutoModelForCausalLM.from_config(config(case), attn_implementation="eager").eval()
        Writer(path, case, type, drafts).write(oracle)
        return ModelFiles(path, "gguf", path.name, str(path)), oracle

    return make


@pytest.fixture(scope="module")
def prompt() -> list[int]:
    return np.random.default_rng(1).integers(0, 300, LENGTH).tolist()


@pytest.mark.parametrize("case", CASES)
def test_the_configuration_is_that_of_the_folder(case: str, made: Make) -> None:
    files, oracle = made(case, Type.F32)
    with open_checkpoint(files) as checkpoint:
        found, expected = checkpoint.config, registry.from_hf(oracle.config.to_dict())
        again = registry.from_hf(hf_config(checkpoint))
    assert vars(found) == vars(expected) | {"norm_eps": pytest.approx(expected.norm_eps, rel=1e-7)}
    assert again == found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("type", [Type.F32, Type.F16, Type.Q8_0, Type.Q4_1], ids=lambda t: t.name)
def test_a_file_gives_the_logits_of_transformers(
    case: str, type: Type, made: Make, native: Make, error: Make, prompt: list[int]
) -> None:
    files, oracle = made(case, type)
    with torch.no_grad():
        expected = oracle(torch.tensor([prompt]), use_cache=False).logits[0].numpy()
    whole = native(files).logits(prompt)
    if type in (Type.F32, Type.F16):
        assert error(whole, expected) < FLOAT
        assert error(native(files, backend=TorchBackend()).logits(prompt), expected) < FLOAT
        return
    differences = np.abs(whole - expected).max(-1) / (expected.max() - expected.min())
    # A choice that is nearly a tie goes otherwise in a few rows, and the state carries that on.
    assert np.median(differences[:EARLY]) < FINE
    assert np.quantile(differences, 0.75) < COARSE


@pytest.mark.parametrize("case", ["qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"])
def test_file_and_folder_of_the_same_weights_give_the_same_bits(
    case: str, made: Make, native: Make, prompt: list[int], tmp_path: Path
) -> None:
    """The layer for drafts among them."""
    files, oracle = made(case, Type.F32, drafts=True)
    with open_checkpoint(files) as checkpoint:
        assert checkpoint.drafts
        arrays = {name: checkpoint.array(name) for name in checkpoint.tensors}
        needed = describe(checkpoint.config).draft()
        assert needed is not None
        assert needed.weights().keys() <= arrays.keys()
    save_file(arrays, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(oracle.config.to_dict()))
    folder = ModelFiles(tmp_path, "folder", case, str(tmp_path))
    assert np.array_equal(native(files).logits(prompt), native(folder).logits(prompt))
    with open_checkpoint(folder) as other:
        assert other.drafts


def test_heads_that_do_not_fit_are_refused(made: Make, tmp_path: Path) -> None:
    files, _ = made("qwen3_5_text", Type.F32)
    path = tmp_path / "odd.gguf"
    old, new = (f"qwen35.ssm.group_count\x04\x00\x00\x00{chr(n)}\x00\x00\x00".encode() for n in (KEYS, 4))
    path.write_bytes(files.path.read_bytes().replace(old, new))
    with pytest.raises(WeightsError, match=r"ssm.group_count is 4, which does not divide the 6 heads"):
        open_checkpoint(ModelFiles(path, "gguf", path.name, str(path)))
