"""What PEFT makes of an adapter that it wrote is what Sampan makes of it; what it cannot make is refused."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from sampan.core.errors import UnsupportedModel
from sampan.kernels.backend import AdapterRoom
from sampan.weights.lora import read_lora

peft = pytest.importorskip("peft", reason="of the extra `test`")

Make = Callable[..., Any]
NOISE, LENGTH, ROOM = 2e-5, 60, AdapterRoom(1, 16)
UNSLOTH = (  # as that trainer writes it
    r"(?:.*?(?:self_attn|mlp).*?(?:q_proj|o_proj|up_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.mlp\.(?:down_proj))"
)
# LoraConfig's fields, and beginnings of what Sampan says of what it passed over.
READ: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "every linear": ({"target_modules": "all-linear", "r": 5}, ()),
    "an expression": ({"target_modules": UNSLOTH}, ()),
    "excluded": (
        {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["model.layers.1.self_attn.q_proj"]}, (),
    ),
    "excluded by an expression": (
        {"target_modules": ["q_proj", "up_proj"], "exclude_modules": r".*\.1\.mlp\..*"}, (),
    ),
    "a target that the model lacks": (
        {"target_modules": ["o_proj", "c_attn", "query_key_value"]}, ("targets without tensors",),
    ),
    "expressions of ranks and scales": (
        {
            "target_modules": ["q_proj", "k_proj", "down_proj"],
            "rank_pattern": {r"layers\.\d+\.self_attn\.(q|k)_proj": 3, r"^model\.layers\.1\.mlp.*": 7},
            "alpha_pattern": {r".*\.1\.mlp\.down_proj": 32, "[qk]_proj": 5},
        }, (),
    ),
    "some layers": ({"target_modules": ["q_proj"], "layers_to_transform": [1]}, ()),
    "biases of a model without any": ({"target_modules": ["v_proj"], "bias": "all", "use_rslora": True}, ()),
}  # fmt: skip
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": ({"use_dora": True}, "'use_dora'.*DoRA scales the rows of the base weights"),
    "a head": ({"modules_to_save": ["lm_head"]}, "'modules_to_save'.*it brings whole modules"),
    "LoRA of the embedding": ({"target_modules": ["embed_tokens"]}, "adapts the embedding"),
    "LoRA of the head": ({"target_modules": ["lm_head"]}, "lm_head"),
    "tokens": ({"trainable_token_indices": [1, 2]}, "'trainable_token_indices'.*new rows of the embedding"),
    "biases of products": ({"lora_bias": True}, "'lora_bias'.*biases of their own"),
    "PiSSA": ({"init_lora_weights": "pissa"}, r"\(pissa\) changes the base model.*convert it with PEFT"),
    "OLoRA": ({"init_lora_weights": "olora"}, r"\(olora\) changes the base model.*convert it with PEFT"),
}


def written(model: Any, folder: Path, **fields: Any) -> None:
    """An adapter of random weights, as `save_pretrained` writes it."""
    base = AutoModelForCausalLM.from_pretrained(model.files.path, dtype=torch.float32)
    given = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]} | fields
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it passes over
        adapted = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **given))
        generator = torch.Generator().manual_seed(3)
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
        adapted.save_pretrained(folder)


@pytest.mark.parametrize("name", READ)
def test_logits_are_those_of_peft(name: str, tiny: Make, native: Make, error: Make, tmp_path: Path) -> None:
    fields, passed = READ[name]
    model = tiny("llama")
    written(model, tmp_path, **fields)
    here, prompt = native(model.files, room=ROOM), model.prompt(LENGTH)
    adapter = read_lora(tmp_path, here.weights)
    assert [said.split(":")[0] for said in adapter.passed] == list(passed)
    found = here.runner.adapters.load(adapter)
    logits = here.logits(prompt, adapter=found)
    here.runner.adapters.unload(found)
    adapter.close()
    base = AutoModelForCausalLM.from_pretrained(
        model.files.path, dtype=torch.float32, attn_implementation="eager"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    with torch.no_grad():
        expected = theirs(torch.tensor([prompt])).logits[0].numpy()
    assert error(logits, expected) < NOISE
    assert error(logits, model.expected(prompt)) > 0.01  # it does change the answer


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_added_is_refused_with_the_reason(
    name: str, tiny: Make, native: Make, tmp_path: Path
) -> None:
    fields, said = REFUSED[name]
    written(tiny("llama"), tmp_path, **fields)
    with pytest.raises(UnsupportedModel, match=f"{said}.*merge it .`sampan merge"):
        read_lora(tmp_path, native(tiny("llama").files, room=ROOM).weights)
