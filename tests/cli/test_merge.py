"""`sampan merge`: the default model with an adapter in it, as a folder and a GGUF file that answer alike."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sampan.core.types import ModelFiles, SamplingParams
from sampan.llm import LLM
from sampan.models.registry import describe
from sampan.weights.checkpoint import open_checkpoint

PROMPT, TOKENS = "Name three rivers.", 12


@pytest.fixture(scope="module")
def adapter(default_model: ModelFiles, write_adapter: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a run leaves it: every linear, B not zero any more, and a card of how it was trained."""
    with open_checkpoint(default_model) as checkpoint:
        shapes = {name: w.shape for name, w in describe(checkpoint.config).weights().items()}
    folder = tmp_path_factory.mktemp("run") / "adapter"
    write_adapter(folder, shapes, rank=4, alpha=8, size=0.02, dtype=np.float32)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Sums\n\nGRPO, seed 3.\n")
    return folder


def merge(*words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "sampan", "merge", *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=200)


@pytest.fixture(scope="module")
def outputs(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder and a GGUF file of bf16; the test of what the command says is here too."""
    place = tmp_path_factory.mktemp("merged")
    folder, file = place / "sums", place / "sums.gguf"
    done = merge("smollm2-135m", str(folder), "--adapter", f"{adapter}:0.5", "--json")
    assert done.returncode == 0, done.stderr
    assert "quantised tensors are written as bf16" in done.stderr
    row = json.loads(done.stdout)
    assert row.keys() == {"path", "bytes", "format", "dtype", "adapters", "seconds"}
    assert (row["path"], row["format"], row["dtype"]) == (str(folder), "safetensors", "keep")
    assert row["adapters"] == [{"path": str(adapter), "scale": 0.5}]
    assert row["bytes"] == sum(each.stat().st_size for each in folder.iterdir())
    done = merge("smollm2-135m", str(file), f"--adapter={adapter}:0.5", "--dtype", "bf16")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"{re.escape(str(file))}: \d+\.\d MB in \d+\.\d s\n", done.stdout)
    return folder, file


def test_both_answer_alike_and_not_as_the_base(outputs: tuple[Path, Path], tmp_path: Path) -> None:
    """Greedy answers with every log-probability; a file made from the folder, with its tokenizer told in
    GGUF's keys, is the third."""
    third = tmp_path / "third.gguf"
    assert merge(str(outputs[0]), str(third)).returncode == 0
    answers = []
    for model in (*outputs, third, "smollm2-135m"):
        with LLM(str(model), context=256, max_sequences=2) as llm:
            sampling = SamplingParams(temperature=0, max_tokens=TOKENS, logprobs=3)
            answers.append(llm.chat([{"role": "user", "content": PROMPT}], sampling))
    assert len(answers[0].tokens) > 3
    assert answers[0] == answers[1] == answers[2]
    assert answers[0] != answers[3]


def test_the_card_says_what_it_is(outputs: tuple[Path, Path]) -> None:
    text = (outputs[0] / "README.md").read_text()
    assert text.startswith("---\nbase_model: smollm2-135m\nlicense: apache-2.0\n")
    assert "| adapter | 0.5 | 4 | model |" in text
    assert "Licence of the base: apache-2.0. Use, change, sell" in text
    assert "### Sums\n\nGRPO, seed 3." in text
    assert "license: mit" not in text
    assert str(outputs[0].parent) not in text


def test_memory_stays_far_below_the_model(adapter: Path, tmp_path: Path) -> None:
    """Half a gigabyte of float32 is written by a process that has less than half of it, the mapped source and
    all: the largest tensor, the embedding, is a fifth of the model."""
    peaks = {}
    for name, words in {
        "help": ["--help"],
        "f32": ["smollm2-135m", str(tmp_path / "out"), "--adapter", str(adapter), "--dtype", "f32"],
    }.items():
        code = (
            "import resource, sys; from sampan.cli.main import main; main(sys.argv[1:]); "
            "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        line = [sys.executable, "-c", code, "merge", *words]
        done = subprocess.run(line, capture_output=True, text=True, timeout=200)
        peaks[name] = int(done.stdout.rsplit("peak ", 1)[1]) * 1024
    size = sum(each.stat().st_size for each in (tmp_path / "out").glob("*.safetensors"))
    assert size > 5e8
    assert peaks["f32"] - peaks["help"] < size / 2


REFUSED = {
    "a format": (["x", "out", "--format", "onnx"], "--format is 'onnx': safetensors and gguf are written"),
    "an ending": (["x", "out", "--format", "gguf"], "--format gguf needs a name that ends in .gguf"),
    "another ending": (["x", "o.gguf", "--format", "safetensors"], "needs a folder"),
    "a type": (["x", "out", "--dtype", "q4_k"], "--dtype is 'q4_k': keep, bf16, f16, f32 are written"),
    "a scale": (["x", "out", "--adapter", "a:0"], "the scale is from -100 to 100, and not 0"),
    "no adapter": (["smollm2-135m", "out", "--adapter", "nowhere"], "nowhere: has no adapter_model"),
    "no model": (["nowhere", "out"], "nowhere"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_one_line(name: str, tmp_path: Path) -> None:
    words, said = REFUSED[name]
    line = [sys.executable, "-m", "sampan", "merge", *words]
    done = subprocess.run(line, capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_is_kept(default_model: ModelFiles, tmp_path: Path) -> None:
    assert default_model.path.exists()
    (tmp_path / "out.gguf").write_text("mine")
    done = merge("smollm2-135m", str(tmp_path / "out.gguf"))
    assert done.returncode == 2
    assert "is there already" in done.stderr
    assert (tmp_path / "out.gguf").read_text() == "mine"
