"""`sampan chat [MODEL]`: a conversation in the terminal.

A line is a message; pasted text keeps its lines (prompt_toolkit, bracketed paste). Where stdin or stdout is
no terminal, lines are read as they are and stdout holds the answers alone. Ctrl-C ends an answer and keeps
what there is of it; Ctrl-D leaves. Nothing is ever dropped from the history without saying so.
"""

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampan.catalog.catalog import DEFAULT
from sampan.cli import options as o
from sampan.cli.session import Screen, given_over, open_model, read_answer, statistics
from sampan.cli.terminal import is_terminal, note, say
from sampan.core.errors import RequestError, SampanError
from sampan.core.types import SamplingParams

if TYPE_CHECKING:
    from sampan.llm import LLM

Message = dict[str, str]

HELP = """\
/clear        forget the conversation; the system message stays
/system TEXT  set the system message; without TEXT there is none
/save FILE    write the conversation to FILE as JSON
/help         show this
/exit         leave, as Ctrl-D does
Ctrl-C ends an answer and keeps what there is of it."""


def command(
    model: o.ModelName = DEFAULT,
    system: o.System = None,
    max_tokens: o.MaxTokens = None,
    max_reasoning_tokens: o.MaxReasoningTokens = None,
    temperature: o.Temperature = None,
    seed: o.Seed = None,
    threads: o.Threads = None,
    context: o.Context = None,
    memory: o.Memory = None,
    expert_memory: o.ExpertMemory = None,
    cache: o.CacheType = None,
    backend: o.Backend = "cpu",
    device: o.Device = None,
) -> None:
    """Converse with a model. /help tells what else can be typed."""
    chosen: dict[str, Any] = {
        "max_tokens": max_tokens, "max_reasoning_tokens": max_reasoning_tokens,
        "temperature": temperature, "seed": seed,
    }  # fmt: skip
    with open_model(
        model,
        threads=threads,
        context=context,
        memory=memory,
        expert_memory=expert_memory,
        cache=cache,
        backend=backend,
        device=device,
    ) as llm:
        if llm.template is None:
            raise RequestError(f"{model} has no chat template: use `sampan run --raw`")
        sampling = given_over(llm.defaults, chosen)
        note(f"{model}, {llm.context} tokens of context. /help for help, Ctrl-D to leave.")
        Chat(llm, sampling, system).run(_reader())


class Chat:
    """A conversation: `messages` as they are saved, without the system message."""

    def __init__(self, llm: "LLM", sampling: SamplingParams, system: str | None) -> None:
        self.llm = llm
        self.sampling = sampling
        self.system = system
        self.messages: list[Message] = []
        self._commands: dict[str, Callable[[str], None]] = {
            "/clear": self._clear,
            "/system": self._set_system,
            "/save": self._save,
            "/help": lambda _rest: say(HELP),
        }

    def run(self, read: Callable[[], str]) -> None:
        """Converse until `read` raises EOFError or says /exit."""
        while True:
            try:
                line = read()
            except EOFError:
                return
            word, _, rest = line.strip().partition(" ")
            if word == "/exit":
                return
            if word in self._commands:
                self._commands[word](rest.strip())
            elif word.startswith("/") and word[1:].isalpha() and not rest:
                say(f"{word} is no command: /help shows what there is")
            elif word:
                self._answer(line)

    @property
    def conversation(self) -> list[Message]:
        """All messages, the system message first."""
        first = [] if self.system is None else [{"role": "system", "content": self.system}]
        return first + self.messages

    def _answer(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})
        screen = Screen()
        try:
            prompt = self.llm.prompt(self.conversation)
            self._check_room(prompt)
            answer = read_answer(self.llm.stream(prompt, self.sampling, templated=True), screen.show)
        except (SampanError, KeyboardInterrupt) as error:
            screen.end()
            self.messages.pop()
            say(str(error))
            return
        screen.end()
        if not answer.tokens:
            self.messages.pop()
            return
        reply = {"role": "assistant", "content": answer.text}
        if answer.reasoning:
            reply["reasoning_content"] = answer.reasoning
        self.messages.append(reply)
        note(statistics(answer))
        if answer.prompt_tokens + len(answer.tokens) >= self.llm.context:
            say(f"the answer was cut: the context of {self.llm.context} tokens is full; /clear begins anew")

    def _check_room(self, prompt: str) -> None:
        used = len(self.llm.encode(prompt, templated=True))
        limit = self.llm.context
        if used >= limit:
            raise RequestError(
                f"with this message the conversation has {used} tokens and the context holds {limit}: "
                "the message is left out; /clear begins anew, /save FILE keeps what was said"
            )

    def _clear(self, _rest: str) -> None:
        self.messages.clear()
        say("the conversation is forgotten")

    def _set_system(self, text: str) -> None:
        self.system = text or None
        say("the system message is set" if text else "there is no system message now")

    def _save(self, name: str) -> None:
        if not name:
            say("/save needs a FILE")
            return
        path = Path(name).expanduser()
        try:
            _write_whole(path, json.dumps(self.conversation, ensure_ascii=False, indent=2) + "\n")
        except (OSError, ValueError) as error:
            say(f"{path} cannot be written: {getattr(error, 'strerror', error)}")
        else:
            say(f"{len(self.conversation)} messages are in {path}")


def _write_whole(path: Path, text: str) -> None:
    """Write a file or leave the old one: never half of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8", errors="replace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _reader() -> Callable[[], str]:
    if not (is_terminal(sys.stdin) and is_terminal(sys.stdout)):
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")
        return _read_line
    from prompt_toolkit import PromptSession

    session: PromptSession[str] = PromptSession("> ")

    def read() -> str:
        while True:
            try:
                return session.prompt()
            except KeyboardInterrupt:
                say("Ctrl-D leaves")

    return read


def _read_line() -> str:
    line = sys.stdin.readline() if sys.stdin else ""
    if not line:
        raise EOFError
    return line.removesuffix("\n")
