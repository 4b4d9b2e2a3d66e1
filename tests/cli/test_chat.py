"""`sampan chat`, through pipes and on a terminal."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

READY = "\x1b[?2004h"  # prompt_toolkit asks the terminal to mark what is pasted
SHORT = ("chat", "--temperature", "0", "--max-tokens", "8")


def _saved(path: Path) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in json.loads(path.read_text())]


def test_history_and_commands(sampan: Any, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("one.json", "two.json", "three.json")]
    files[0].write_text("old")
    lines = [
        "My name is Ada.",
        "/system You are brief.",
        "What is my name?",
        f"/save {files[0]}",
        "/clear",
        f"/save {files[1]}",
        "/etc/hosts is a file.",
        "/system",
        f"/save {files[2]}",
        "/save /no/such/folder/file",
        "/save",
        "/nonsense",
        "/help",
        "",
        "/exit",
        "never read",
    ]
    done = sampan(*SHORT, stdin="\n".join(lines))
    assert done.returncode == 0
    saved = _saved(files[0])
    assert [role for role, _ in saved] == ["system", "user", "assistant", "user", "assistant"]
    assert [saved[0][1], saved[1][1], saved[3][1]] == [
        "You are brief.",
        "My name is Ada.",
        "What is my name?",
    ]
    assert _saved(files[1]) == [("system", "You are brief.")]
    assert [role for role, _ in _saved(files[2])] == ["user", "assistant"]
    answers = [saved[2][1], saved[4][1], _saved(files[2])[1][1]]
    assert done.stdout == "".join(f"{answer}\n" for answer in answers)
    for said in (
        "5 messages",
        "cannot be written: No such file",
        "/save needs",
        "/nonsense is no command",
        "Ctrl-C",
    ):
        assert said in done.stderr
    assert sorted(tmp_path.iterdir()) == sorted(files)


def test_the_model_sees_what_was_said_before(sampan: Any) -> None:
    story = "Remember the word crocodile."
    question = "Which word should you remember?"
    alone = sampan(*SHORT, stdin=question).stdout
    after = sampan(*SHORT, stdin=f"{story}\n{question}").stdout
    assert not after.endswith(alone)


def test_interrupt_keeps_the_partial_answer_and_the_conversation_goes_on(sampan: Any, tmp_path: Path) -> None:
    process = sampan.start("chat", "--temperature", "0", "--system", "You write novels without an end.")
    process.stdin.write("Write a very long story.\n")
    process.stdin.flush()
    beginning = process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    process.stdin.write(f"/save {tmp_path / 'cut.json'}\n/clear\nHi\n/save {tmp_path / 'all.json'}\n")
    process.stdin.close()
    process.stdin = None
    rest, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "Traceback" not in errors
    _, (_, question), (_, partial) = _saved(tmp_path / "cut.json")
    assert question == "Write a very long story."
    assert (beginning + rest).startswith(partial + "\n")
    assert len(_saved(tmp_path / "all.json")) == 3


def test_interrupt_at_the_prompt_of_a_pipe_leaves(sampan: Any) -> None:
    process = sampan.start(*SHORT)
    process.stdin.write("Hi\n")
    process.stdin.flush()
    assert process.stdout.readline().endswith("\n")
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (130, "", "")


def test_a_history_that_does_not_fit_is_said_with_numbers(sampan: Any, tmp_path: Path) -> None:
    lines = ["Hi", "river " * 100, f"/save {tmp_path / 'kept.json'}", "Tell me everything."]
    done = sampan("chat", "--temperature", "0", "--context", "72", stdin="\n".join(lines))
    assert done.returncode == 0
    assert "the context holds 72: the message is left out; /clear" in done.stderr
    assert [text for role, text in _saved(tmp_path / "kept.json") if role == "user"] == ["Hi"]
    assert "the context of 72 tokens is full" in done.stderr


def test_pasted_lines_are_one_message_on_a_terminal(
    sampan: Any, terminal: Callable[[], Any], tmp_path: Path
) -> None:
    screen = terminal()
    process = sampan.start(*SHORT, stdin=screen.inside, stdout=screen.inside, stderr=screen.inside)
    screen.read_until("Ctrl-D to leave")
    screen.read_until(READY)
    screen.type("half a thought\x03")
    screen.read_until("Ctrl-D leaves")
    screen.read_until(READY)
    screen.type("\x1b[200~def f():\n    return 1\n\x1b[201~\r")
    screen.read_until("tokens/s")
    screen.read_until(READY)
    screen.type(f"/save {tmp_path / 'pasted.json'}\r")
    screen.read_until("messages are in")
    screen.read_until(READY)
    screen.type("\x04")
    assert process.wait(30) == 0
    assert "Traceback" not in screen.rest()
    (role, question), (_, answer) = _saved(tmp_path / "pasted.json")
    assert (role, question) == ("user", "def f():\n    return 1\n")
    assert answer
