"""Examples to learn from: conversations whose last turn is the answer."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from sampan.core.errors import UsageError, shortened
from sampan.envs.task import Problem, Task, told_of
from sampan.llm.model import LLM
from sampan.train.batch import Group

Message = Mapping[str, str]


@dataclass(frozen=True)
class Example:
    """`messages` up to the answer's turn, and the `answer`."""

    messages: tuple[Message, ...]
    answer: str


class Dataset(Protocol):
    """`name`: with everything that its examples depend on."""

    @property
    def name(self) -> str: ...

    def examples(self, seed: int) -> Sequence[Example]:
        """All of them."""


@dataclass(frozen=True)
class JsonLines:
    """A file with an object a line: `messages` (each with `role` and `content`; every turn of the assistant
    is an example), or `prompt` and `completion`."""

    path: Path

    @property
    def name(self) -> str:
        """By what the file holds."""
        return f"{self.path.name} {sha256(_text(self.path).encode()).hexdigest()[:16]}"

    def examples(self, seed: int) -> Sequence[Example]:  # noqa: ARG002 (a file has no seed)
        """See `Dataset`. Raises `UsageError` naming the line."""
        found: list[Example] = []
        for number, line in enumerate(_text(self.path).splitlines(), 1):
            if not line.strip():
                continue
            where = f"{shortened(self.path)}, line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UsageError(f"{where}: is no JSON: {error}") from error
            found += _examples(row, where)
        if not found:
            raise UsageError(f"{shortened(self.path)}: has no example")
        return found


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{shortened(path)}: cannot be read: {error}") from error


def _examples(row: object, where: str) -> list[Example]:
    match row:
        case {"messages": [*messages]}:
            return _turns(messages, where)
        case {"prompt": str(prompt), "completion": str(completion)}:
            return [Example(({"role": "user", "content": prompt},), completion)]
    raise UsageError(f'{where}: give "messages", or "prompt" and "completion" as texts')


def _turns(messages: Sequence[object], where: str) -> list[Example]:
    read: list[Message] = []
    found = []
    for place, message in enumerate(messages):
        match message:
            case {"role": str(role), "content": str(content)}:
                if role == "assistant":
                    found.append(Example(tuple(read), content))
                read.append({"role": role, "content": content})
            case _:
                raise UsageError(f'{where}: messages[{place}]: give a "role" and a "content" as texts')
    if not found:
        raise UsageError(f"{where}: no message is the assistant's: there is nothing to learn")
    return found


def write_examples(path: Path, examples: Sequence[Example], step: int) -> None:
    """Add lines that `JsonLines` reads, each with the step that made it."""
    with path.open("a") as file:
        for example in examples:
            messages = [*example.messages, {"role": "assistant", "content": example.answer}]
            file.write(json.dumps({"messages": messages, "step": step}, ensure_ascii=False) + "\n")


def cut(path: Path, number: int) -> None:
    """Leave the lines of steps before this one."""
    lines = path.read_text().splitlines() if path.exists() else []
    whole = (json.loads(line) for line in lines if line.endswith("}"))
    kept = [row for row in whole if row["step"] < number]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))


@dataclass(frozen=True)
class Worked:
    """So many problems of a task with their `solution`s, a function of a problem."""

    task: Task
    solution: Callable[[Problem], str]
    count: int

    @property
    def name(self) -> str:
        """See `Dataset`."""
        return f"{self.count} solutions of {told_of(self.task)}"

    def examples(self, seed: int) -> Sequence[Example]:
        """See `Dataset`."""
        problems = self.task.problems("train", seed, self.count)
        return [
            Example(({"role": "user", "content": problem.question},), self.solution(problem))
            for problem in problems
        ]


class Reader:
    """Examples as a model's tokens."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self._end = _end_of_turn(llm)

    def group(self, example: Example) -> Group:
        """What is trained on: the answer's tokens, as they would be sampled, and the one that ends its
        turn."""
        llm = self._llm
        prompt = llm.encode(llm.prompt([dict(message) for message in example.messages]), templated=True)
        return Group(tuple(prompt), ((*llm.encode(example.answer, templated=True), self._end),))


def _end_of_turn(llm: LLM) -> int:
    """What the model's template writes behind an answer, where that ends it, else the vocabulary's own."""
    ends = llm.tokenizer.eos_ids
    if llm.template is None or not ends:
        raise UsageError(f"{llm.files.name} has no chat template or no token that ends an answer")
    said = "answer"
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": said}]
    behind = llm.template.render(turns, add_generation_prompt=False).rpartition(said)[2]
    first = llm.encode(behind, templated=True)[:1]
    return first[0] if first and first[0] in ends else min(ends)
