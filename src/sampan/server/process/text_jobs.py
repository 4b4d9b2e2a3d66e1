"""What is done with clients' texts in a process of its own. Results are small and quickly unpickled."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sampan.core.errors import TokenizerError
from sampan.server.body import parsed
from sampan.server.errors import ApiError, bad_request
from sampan.server.markdown.render import render
from sampan.server.text import ModelText

MOST_VALUES = 50_000
MOST_NUMBERS = 1_000_000

Messages = Sequence[Mapping[str, Any]]


class TextJobs:
    """Each public method is a job: its arguments and its result go through a pipe."""

    def __init__(self, text: ModelText) -> None:
        self._text = text

    def body(self, content: bytes) -> Any:
        """The JSON value of a large body; an error where it has more parts than a request can need."""
        value = parsed(content)
        check_parts(value)
        return value

    def conversation(
        self, messages: Messages, tools: Messages, variables: Mapping[str, Any], most: int, literal: bool
    ) -> tuple["array[int]", bool]:
        """The ids of a conversation's prompt, and whether it has opened a block of reasoning."""
        ids, thinking = self._text.conversation(messages, tools, variables, most, literal)
        return array("i", ids), thinking

    def encoded(self, texts: Sequence[str], special: bool, closed: bool, most: int) -> list["array[int]"]:
        """The ids of texts, each at most `most`: see `ModelText.encode`."""
        return [array("i", self._text.encode(text, special, closed, most)) for text in texts]

    def judgements(
        self, query: str, documents: Sequence[str], instruction: str | None, most: int
    ) -> list["array[int]"]:
        """The prompts that ask whether documents are relevant, each at most `most`."""
        ask = self._text.judgement
        return [array("i", ask(query, document, instruction, most)) for document in documents]

    def decoded(self, ids: Sequence[int]) -> str:
        """The text of ids, control tokens included."""
        try:
            return self._text.tokenizer.decode(ids, skip_special=False)
        except TokenizerError as error:
            raise bad_request(str(error), param="tokens") from error

    def markdown(self, text: str) -> list[dict[str, Any]]:
        """The blocks of a text for the page; a 413 for one that is too long."""
        try:
            return [asdict(block) for block in render(text)]
        except ValueError as error:
            raise ApiError(413, str(error)) from error

    def thinking(self) -> tuple[bool, bool]:
        """Whether a request can switch thinking on and off, and whether the model thinks unasked."""
        return self._text.thinking_switch


def check_parts(value: Any) -> None:
    """A 400 for a body of too many values: numbers in lists, which are token ids, count by themselves."""
    values = numbers = 0
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, dict):
            rest.extend(item.values())
        elif isinstance(item, list):
            ids = sum(type(each) is int for each in item)
            numbers += ids
            rest.extend(item if not ids else [each for each in item if type(each) is not int])
        values += 1
        if values + len(rest) > MOST_VALUES or numbers > MOST_NUMBERS:
            raise bad_request(
                f"the body has more than {MOST_VALUES} values or {MOST_NUMBERS} token ids: "
                "send several requests"
            )
