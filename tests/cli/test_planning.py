"""What is planned before a model is here is what it takes once it is."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sampan.catalog.catalog import configuration, entries, find
from sampan.cli import planning, quantize
from sampan.cli.models import models
from sampan.core.disk import read_rate, read_rate_of
from sampan.core.settings import Settings
from sampan.core.types import ModelFiles
from sampan.kernels.cpu.backend import CpuBackend
from sampan.kernels.cpu.survey import rounded, survey
from sampan.kernels.graph import LOGITS, Graph
from sampan.llm import LLM
from sampan.llm.load import MAX_ROWS, graph_of
from sampan.models import registry
from sampan.weights.checkpoint import open_checkpoint
from sampan.weights.unseen import published

HERE = Settings(Path(), tune=False)
SIZES = {
    "hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 192,
    "num_hidden_layers": 3, "vocab_size": 200, "max_position_embeddings": 256,
}  # fmt: skip
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "head_dim": 32}
LATENT = {
    "num_key_value_heads": 4, "q_lora_rank": 64, "kv_lora_rank": 64, "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 32, "v_head_dim": 32, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 2,
    "topk_group": 1, "moe_intermediate_size": 64, "first_k_dense_replace": 1,
}  # fmt: skip
FAMILIES = {
    "qwen2": {"tie_word_embeddings": True},
    "llama": {"tie_word_embeddings": False},
    "qwen3_moe": EXPERTS,
    "deepseek_v3": LATENT,
}
PACE_KEYS = {"decode_tps", "prefill_tps", "weights_bytes", "active_bytes", "cache_bytes_per_1000_tokens"}


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A random model, as transformers writes it."""
    config = AutoConfig.for_model(request.param, **(SIZES | FAMILIES[request.param]))
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").write_text("{}")
    return tmp_path / "m"


def first_of(config: Any) -> Callable[[int], Graph]:
    return lambda layers: graph_of(replace(config, layers=layers))


@pytest.mark.parametrize("entry", [each for each in entries() if each.source], ids=lambda entry: entry.alias)
def test_a_published_configuration_has_the_models_parameters(entry: Any) -> None:
    given = configuration(entry.alias)
    assert given is not None
    graph = registry.describe(registry.from_hf(given)).graph(LOGITS)
    counts = [torch.Size(weight.shape).numel() for weight in graph.weights().values()]
    assert (sum(counts), given["model_type"]) == (entry.parameters, entry.family)


def test_a_models_bytes_are_known_from_its_configuration(folder: Path, tmp_path: Path) -> None:
    backend = CpuBackend(HERE)
    given = json.loads((folder / "config.json").read_text())
    with open_checkpoint(ModelFiles(folder, "folder", "m", str(folder))) as checkpoint:
        graph = graph_of(checkpoint.config)
        taken = backend.needs(graph, checkpoint, MAX_ROWS)
        found = survey(
            first_of(checkpoint.config), 3, lambda graph: published(graph, given), backend, MAX_ROWS
        )
    assert found.needs == replace(taken, parts={})
    for bits in (4, 8):
        place = tmp_path / f"{bits}"
        quantize.command(str(folder), place, bits=bits)
        files = ModelFiles(place, "folder", "q", str(place))
        with open_checkpoint(files) as packed:
            taken = backend.needs(graph, packed, MAX_ROWS)
            whole = planning.of_files(files).survey("as it is", backend).needs
            assert whole == replace(taken, parts={})
            tensors = rounded(graph, published(graph, given), bits)
            assert backend.needs(graph, tensors, MAX_ROWS) == taken


def test_a_loaded_model_takes_what_was_planned(default_model: ModelFiles) -> None:
    planned = planning.of_files(default_model)
    needs = planned.survey("as it is", CpuBackend(HERE)).needs
    with LLM(str(default_model.path), context=256, max_sequences=1) as llm:
        plan = llm.plan
        assert plan.weights_bytes == needs.weights
        assert plan.cache_bytes == plan.pages * needs.page[plan.cache]
        assert plan.workspace_bytes == needs.workspace + 128 * needs.logits


@pytest.mark.parametrize("alias", ["llama-3.1-405b", "qwen3-30b-a3b"])
def test_many_alike_layers_are_counted_from_a_few(alias: str) -> None:
    given = configuration(alias)
    assert given is not None
    config, backend = registry.from_hf(given), CpuBackend(HERE)
    asked = []

    def first(layers: int) -> Graph:
        asked.append(layers)
        return graph_of(replace(config, layers=layers))

    found = survey(first, config.layers, lambda graph: published(graph, given), backend, MAX_ROWS)
    assert max(asked) < 16
    graph = graph_of(config)
    assert found.needs == replace(backend.needs(graph, published(graph, given), MAX_ROWS), parts={})
    vectors = found.needs.weights - found.work.dense_bytes - found.work.expert_bytes - found.work.idle
    assert 0 < vectors < 0.001 * found.needs.weights


def test_a_latent_cache_takes_576_values_a_token_and_layer() -> None:
    entry = find("deepseek-r1")
    assert entry is not None
    model = planning.of_catalogue(entry)
    assert model is not None
    assert list(model.precisions) == ["fp8", "bf16", "8-bit", "4-bit"]
    found = model.survey("bf16", CpuBackend(HERE))
    assert found.needs.page["bf16"] == 32 * 61 * 576 * 2
    # 37 billion parameters work for a token, as the authors say; the embedding is read by rows.
    assert found.work.dense_bytes + found.work.chosen_bytes == pytest.approx(2 * 36.6e9, rel=0.01)


def test_show_plans_a_users_own_file(default_model: ModelFiles, capsys: pytest.CaptureFixture[str]) -> None:
    models("show", str(default_model.path), as_json=True, settings=HERE)
    row = json.loads(capsys.readouterr().out)
    assert (row["alias"], row["local"], row["bytes"]) == (None, True, default_model.path.stat().st_size)
    assert [each["precision"] for each in row["plan"]["precisions"]] == ["as it is", "8-bit", "4-bit"]
    assert all(each.keys() >= PACE_KEYS and each["fits"] for each in row["plan"]["precisions"])
    assert all(each["decode_tps"] > 1 and each["prefill_tps"] > 1 for each in row["plan"]["precisions"])
    assert row["machine"]["read_gbps"] > 0


def test_show_says_where_nothing_can_be_planned(
    sampan_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models("show", "hf:some/model", as_json=True, settings=Settings(sampan_home, offline=True))
    row = json.loads(capsys.readouterr().out)
    assert row["plan"] is None
    assert "does not know its configuration" in row["plan_missing"]


def test_hit_rates_grow_with_the_part_in_memory() -> None:
    parts = [place / 50 for place in range(51)]
    rates = [planning.hit_rate(part) for part in parts]
    assert rates == sorted(rates)
    assert (rates[0], planning.hit_rate(0.12), rates[-1]) == (0, 0.62, 1)


def test_a_disk_is_read_past_the_cache_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(b"short")
    assert read_rate(file) is None
    assert read_rate(tmp_path / "nothing") is None
    file.write_bytes(bytes(40 << 20))
    for rate in (read_rate(file), read_rate_of(tmp_path)):
        assert rate is None or rate > 1e6
    assert read_rate_of(tmp_path / "nothing") is None
    assert list(tmp_path.iterdir()) == [file]
