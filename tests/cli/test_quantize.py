"""`sampan quantize`: a folder that says what its source says, loads at once, and is whole or not there."""

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from sampan.core.settings import Settings
from sampan.core.types import ModelFiles
from sampan.kernels.cpu.machine import machine
from sampan.kernels.cpu.panels import PackedWeights
from sampan.kernels.ops import Linear
from sampan.llm import LLM
from sampan.models.registry import describe
from sampan.text.chat import ChatTemplate
from sampan.text.tokenizer import Tokenizer
from sampan.weights.checkpoint import open_checkpoint

TIMES = ("load_s", "ttft_s", "decode_tps")
TEXTS = ("Why is the sky blue?", " 12,345 \n\n\tnaïve 日本 <|im_end|>x", "def f(x):\n    return x", "")
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi\nthere"}]


@pytest.fixture(scope="module")
def packed(default_model: ModelFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model, packed as it is by the program; the test of its output is here too."""
    place = tmp_path_factory.mktemp("packed") / "smollm2"
    words = [sys.executable, "-m", "sampan", "quantize", "smollm2-135m", str(place), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "packing smollm2\n"), default_model
    row = json.loads(done.stdout)
    assert row.keys() == {"path", "bytes", "bits", "group", "seconds"}
    assert (row["path"], row["bits"], row["group"]) == (str(place), None, None)
    assert row["bytes"] == sum(file.stat().st_size for file in place.iterdir())
    return place


def files_of(folder: Path) -> ModelFiles:
    return ModelFiles(folder, "folder", "", "")


def test_the_answer_and_every_probability_are_the_sources(sampan: Any, packed: Path) -> None:
    """The template, the tokenizer and the default sampling are in the folder too."""
    words = ("Name three rivers.", "--max-tokens", "24", "--json", "--logprobs", "3", "--seed", "3")
    rows = [json.loads(sampan("run", model, *words).stdout) for model in ("smollm2-135m", str(packed))]
    found, expected = ({name: row[name] for name in row if name not in TIMES} for row in rows)
    assert found == expected
    assert len(found["logprobs"]) == 24


def test_tokenizer_and_template_are_the_sources(default_model: ModelFiles, packed: Path) -> None:
    with open_checkpoint(default_model) as source, open_checkpoint(files_of(packed)) as copy:
        assert copy.config == source.config
        assert copy.generation == source.generation
        expected, template = (kind.from_gguf(source.metadata) for kind in (Tokenizer, ChatTemplate))
    found = Tokenizer.from_folder(packed)
    assert (found.eos_ids, found.bos_id, found.vocab_size) == (expected.eos_ids, 1, 49152)
    for text in TEXTS:
        assert found.encode(text) == expected.encode(text)
    copied = ChatTemplate.from_folder(packed)
    assert copied is not None
    assert template is not None
    assert copied.render(MESSAGES) == template.render(MESSAGES)


def loading(files: ModelFiles) -> tuple[float, int]:
    """Seconds until every weight is where the kernels read it, and the bytes of it that are no file's."""
    here = machine(Settings(Path()))
    with open_checkpoint(files) as checkpoint:
        weights = PackedWeights(checkpoint, here)
        names = describe(checkpoint.config).weights()
        linears = [Linear((weight,)) for weight in names.values() if len(weight.shape) == 2]
        if checkpoint.packed:
            runs = {tuple(matrix.parts) for matrix in checkpoint.packed.values()}
            linears = [Linear(tuple(names[name] for name in run)) for run in runs]
        private = psutil.Process().memory_full_info().uss
        start = time.perf_counter()
        matrices = [weights.matrix(s) for linear in linears for s in weights.layout.segments(linear)]
        seconds = time.perf_counter() - start
        assert sum(matrix.data.nbytes for matrix in matrices) > 90_000_000
        return seconds, psutil.Process().memory_full_info().uss - private


def test_loading_does_no_work_and_takes_no_memory(default_model: ModelFiles, packed: Path) -> None:
    slow, memory = loading(default_model)
    fast, mapped = min(loading(files_of(packed)) for _ in range(3))
    assert fast < slow / 10, (fast, slow)
    assert mapped < 4_000_000 < 90_000_000 < memory


def test_eight_bits_hardly_change_the_model(default_model: ModelFiles, sampan: Any, tmp_path: Path) -> None:
    place = tmp_path / "out"
    done = sampan("quantize", "smollm2-135m", str(place), "--bits", "8", "--group", "128", "--json")
    row = json.loads(done.stdout)
    assert (done.returncode, row["bits"], row["group"]) == (0, 8, 128)
    said = done.stderr.splitlines()
    assert "group 64 instead of 128 for 91 matrices: 128 does not divide their inputs" in said
    assert any("210 tensors were rounded before, to Q4_1, and are rounded again" in line for line in said)
    found, expected = (perplexity(files) for files in (files_of(place), default_model))
    assert found != expected
    assert found == pytest.approx(expected, rel=0.02)


def perplexity(files: ModelFiles) -> float:
    with LLM(files, settings=Settings(Path(), tune=False), context=256) as llm:
        ids = llm.encode(
            "The Danube flows through ten countries, more than any other river.", templated=False
        )
        return llm.score(ids).perplexity or math.inf


def test_an_interrupt_leaves_nothing(sampan: Any, tmp_path: Path) -> None:
    process = sampan.start("quantize", "smollm2-135m", str(tmp_path / "out"), "--bits", "4")
    while "packing" not in process.stderr.readline():
        pass
    while not list(tmp_path.glob(".out.*.partial/model.safetensors")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (130, "", "")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(sampan: Any, tmp_path: Path) -> None:
    script = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000_000, 50_000_000))\n"
    script += "import sys; from sampan.cli.main import main; sys.exit(main())"
    words = [sys.executable, "-c", script, "quantize", "smollm2-135m", str(tmp_path / "out")]
    done = subprocess.run(words, env=sampan.env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"no space left for {tmp_path / 'out'}: make room" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("smollm2-135m", "{taken}"), 2, "is there already and is no empty folder"),
        (("smollm2-135m", "{free}", "--bits", "5"), 2, "--bits is 5: give 4 or 8"),
        (("smollm2-135m", "{free}", "--bits", "4", "--group", "48"), 2, "--group is 48: give 32, 64 or 128"),
        (("smollm2-135m", "{free}", "--group", "64"), 2, "--group says how to round: add --bits"),
        (("smollm2-135m", "{free}/deeper"), 2, "is no folder: make it first"),
        (("nomodel", "{free}"), 1, "no model is called 'nomodel'"),
        (("{taken}", "{free}"), 1, "is packed already: take the model that it was made from"),
        (("{taken}", "{free}", "--bits", "4"), 1, "is packed already"),
    ],
)
def test_what_cannot_be_done_is_said(
    words: tuple[str, ...], code: int, said: str, packed: Path, tmp_path: Path, capsys: Any
) -> None:
    from sampan.cli.main import main

    places = {"taken": str(packed), "free": str(tmp_path / "out")}
    assert main(["quantize", *(word.format(**places) for word in words)]) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert said in captured.err
    assert list(tmp_path.iterdir()) == []


def test_a_mixture_in_gguf_says_the_same_packed(sampan: Any, mixture: Path, tmp_path: Path) -> None:
    sampan("quantize", str(mixture), str(tmp_path / "packed"))
    found = []
    for model in (mixture, tmp_path / "packed"):
        with LLM(model, context=128, cache_tokens=256, max_sequences=1, threads=1) as llm:
            found.append(llm.score(list(range(50, 90))).logprobs)
    assert found[0] == found[1]
