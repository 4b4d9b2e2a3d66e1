"""`sampan doctor`: this machine, measured."""

import json
from pathlib import Path
from typing import Any

from sampan.core.types import ModelFiles

KEYS = {"isa", "kernels", "threads", "read_gbps", "int8_tops", "bf16_tflops", "memory_bytes"}


def test_json_has_the_promised_keys_and_sane_figures(sampan: Any) -> None:
    done = sampan("doctor", "--json", "--threads", "1", SAMPAN_ISA="scalar")
    assert (done.returncode, done.stderr) == (0, "")
    row = json.loads(done.stdout)
    assert set(row) >= KEYS
    assert (row["kernels"], row["threads"], row["isa"][-1]) == ("scalar", 1, "scalar")
    assert 0.3 < row["read_gbps"] < 2000
    assert 0.001 < row["int8_tops"] < 20
    assert 0.001 < row["bf16_tflops"] < 20
    assert row["memory_bytes"] > row["memory_available_bytes"] > 0
    assert "smollm2-135m" in row["fits"]
    capacity = row["capacity"]["smollm2-135m"]
    assert 9e7 < capacity["weights_bytes"] < 1e8 < capacity["weights_bytes"] + capacity["workspace_bytes"]
    per_token = row["memory_available_bytes"] / capacity["cache_tokens"]["bf16"]
    assert 23_040 <= per_token < 40_000
    planned = {each["model"]: each for each in row["plan"]}
    assert planned["smollm2-135m"]["fits"] is True
    assert planned["deepseek-r1"]["weights_bytes"] > planned["llama-3.1-405b"]["weights_bytes"] > 2e11
    assert planned["deepseek-r1"]["decode_tps"] > planned["llama-3.1-405b"]["decode_tps"] > 0
    assert "llama-3.1-70b" not in row["fits"] or row["memory_bytes"] > 1.2 * 141e9


def test_words_for_people(sampan: Any) -> None:
    out = sampan("doctor").stdout
    for name in (
        "instruction sets",
        "kernels",
        "threads",
        "read bandwidth",
        "int8 peak",
        "bf16 peak",
        "models that fit",
        "cache that fits",
        "tuning",
        "disk",
        "planned",
    ):
        assert f"\n{name} " in out
    assert "GB/s" in out
    assert "\ntuning            off (SAMPAN_TUNE=0)\n" in out


def test_what_a_first_load_measured_is_shown(sampan: Any, default_model: ModelFiles, tmp_path: Path) -> None:
    env = {"SAMPAN_HOME": str(tmp_path), "SAMPAN_TUNE": "1"}
    assert "\ntuning            nothing yet" in sampan("doctor", **env).stdout
    path = str(default_model.path)
    words = ("run", path, "Hi", "--max-tokens", "1", "--cache", "int8", "--context", "1024")
    first, second = sampan(*words, **env), sampan(*words, **env)
    said = f"measuring this machine for {path} (once)\n"
    assert first.stderr.count(said) == 1
    assert said not in second.stderr
    (row,) = json.loads(sampan("doctor", "--json", **env).stdout)["tuning"]
    (file,) = (tmp_path / "tuning").iterdir()
    assert row == {"model": path, "cache": "int8"} | json.loads(file.read_text())["tuning"]
    shown = sampan("doctor", **env).stdout
    assert f"\ntuning            {path}, int8 cache: " in shown
    assert f"chunks of {row['chunk_rows']}" in shown
