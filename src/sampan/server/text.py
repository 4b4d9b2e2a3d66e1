"""What the service itself needs of a model: tokenizer, chat template and numbers, not the weights."""

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from sampan.core.errors import RequestError, TemplateError, TokenizerError, UnsupportedModel
from sampan.core.memory import give_back_freed_memory
from sampan.core.types import ModelFiles, SamplingParams
from sampan.llm.load import defaults_of, text_of
from sampan.server.errors import ApiError, bad_request
from sampan.text.chat import ChatTemplate
from sampan.text.reasoning import starts_inside_reasoning
from sampan.text.rerank import Judging
from sampan.text.tokenizer import Tokenizer
from sampan.text.tools import ToolFormat, for_template, tool_format
from sampan.text.turns import folded
from sampan.weights.checkpoint import open_checkpoint
from sampan.weights.purpose import Purpose

SLICE = 64 << 10
"""Characters of a text that are encoded at a time to see whether it is too long."""
_A_CUT = 64  # tokens that a cut adds at the most
_PROBE: Final[list[Mapping[str, Any]]] = [{"role": "user", "content": "?"}]


@dataclass(frozen=True)
class ModelText:
    """`vocabulary`: ids the model may produce. `template`: None where the model has no chat form. `width`: of
    its vectors."""

    name: str
    tokenizer: Tokenizer
    template: ChatTemplate | None
    defaults: SamplingParams
    vocabulary: int
    width: int
    purpose: Purpose = field(default_factory=Purpose)

    @classmethod
    def read(cls, files: ModelFiles, name: str) -> "ModelText":
        """Read it from the model's files; the same errors as loading the model."""
        checkpoint = open_checkpoint(files)
        try:
            tokenizer, template = text_of(files, checkpoint)
            defaults, config = defaults_of(checkpoint.generation, files), checkpoint.config
            purpose = checkpoint.purpose
            text = cls(name, tokenizer, template, defaults, config.vocab, config.hidden, purpose)
        finally:
            for file in checkpoint.files.values():
                file.close()
        del checkpoint
        give_back_freed_memory()
        return text

    @cached_property
    def tool_format(self) -> ToolFormat:
        """How the model is told of tools and calls them."""
        source = None if self.template is None else self.template.tool_source
        return tool_format(source, self.tokenizer)

    def conversation(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any],
        most: int,
    ) -> tuple[list[int], bool]:
        """The prompt of a conversation, and whether it has opened a block of reasoning.

        Raises a 400 for what the template or the tokenizer refuses, and for one that has notably more than
        `most` tokens, as soon as that is known.
        """
        if self.template is None:
            raise bad_request(f"{self.name} has no chat template: use /v1/completions", param="messages")
        try:
            veil = Veil(self.control_texts)
            ready, listed = for_template(self.tool_format, veil.over(messages), veil.over(tools))
            extra = veil.over(variables)
            prompt = self._prompt(self.template, ready, tools=listed, **extra)
            ids: list[int] = []
            for piece, special in veil.pieces(prompt):
                if len(ids) > most:
                    raise too_long(most)
                ids += self._ids(piece, most, add_bos=False, special=special)
        except TemplateError as error:
            advice = "change the messages, or send /v1/completions a prompt, which goes past the template"
            raise bad_request(f"{error}; {advice}", param="messages") from error
        except (RequestError, TokenizerError) as error:
            raise bad_request(str(error), param="messages") from error
        return ids, starts_inside_reasoning(prompt)

    def _prompt(self, template: ChatTemplate, messages: Sequence[Mapping[str, Any]], **given: Any) -> str:
        """Of the messages as they are or, if the template refuses them, with one system message at most."""
        try:
            return template.render(messages, add_generation_prompt=True, **given)
        except TemplateError:
            again = folded(messages)
            if again == list(messages):
                raise
            with suppress(TemplateError):
                return template.render(again, add_generation_prompt=True, **given)
            raise

    def encode(self, text: str, special: bool, closed: bool, most: int) -> list[int]:
        """The ids of a text; the same errors. `special`: begin as the model wants a text to begin; `closed`:
        end as it wants one to end that is to be embedded."""
        try:
            return self._ids(text, most, add_bos=special, special=True, closed=closed)
        except TokenizerError as error:
            raise bad_request(str(error), param="prompt") from error

    @cached_property
    def judging(self) -> Judging:
        """How the model is asked whether a document is relevant."""
        return Judging(self.tokenizer)

    def judgement(self, query: str, document: str, instruction: str | None, most: int) -> list[int]:
        """The prompt that asks it; the same errors."""
        try:
            body = self.judging.body(query, document, instruction)
            ids = self._ids(body, most, add_bos=False, special=False)
        except (TokenizerError, UnsupportedModel) as error:
            raise bad_request(str(error), param="documents") from error
        return [*self.judging.before, *ids, *self.judging.behind]

    def _ids(self, text: str, most: int, *, add_bos: bool, special: bool, closed: bool = False) -> list[int]:
        if len(text) > SLICE:
            self._refuse_long(text, most)
        return self.tokenizer.encode(text, add_bos=add_bos, special=special, closed=closed)

    def _refuse_long(self, text: str, most: int) -> None:
        """Refuse a text that is much too long without encoding all of it, slice by slice.

        A cut changes the tokens beside it alone, so that the sum is close: what is near the limit passes.
        """
        found = 0
        for start in range(0, len(text), SLICE):
            found += len(self.tokenizer.encode(text[start : start + SLICE], add_bos=False)) - _A_CUT
            if found > most:
                raise too_long(most)

    @cached_property
    def thinking_switch(self) -> tuple[bool, bool]:
        """Whether a request can say if the model thinks, and whether it thinks where nothing is said."""
        plain = self._probed()
        switched = self._probed(enable_thinking=False) != self._probed(enable_thinking=True)
        return switched, starts_inside_reasoning(plain)

    def _probed(self, **given: Any) -> str:
        if self.template is None:
            return ""
        try:
            return self.template.render(_PROBE, add_generation_prompt=True, **given)
        except TemplateError:
            return ""

    @cached_property
    def control_texts(self) -> re.Pattern[str] | None:
        """What control tokens are written as; None where there are none."""
        texts = {self.tokenizer.token_text(token) for token in self.tokenizer.special_ids} - {""}
        return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True)))) if texts else None


class Veil:
    """Keeps a client's text from speaking as the template: control tokens written in it stay text."""

    def __init__(self, control: re.Pattern[str] | None) -> None:
        self._control = control
        self._nonce = secrets.token_hex(8)
        self._hidden: list[str] = []

    def over(self, value: Any) -> Any:
        """A copy with every control token in a text behind a mark."""
        if isinstance(value, str):
            return value if self._control is None else self._control.sub(self._hide, value)
        if isinstance(value, Mapping):
            return {name: self.over(item) for name, item in value.items()}
        return [self.over(item) for item in value] if isinstance(value, list | tuple) else value

    def pieces(self, prompt: str) -> Iterator[tuple[str, bool]]:
        """A rendered prompt in pieces, and whether control tokens in them are control tokens: what is behind
        the marks is ordinary text."""
        cut = re.split(f"\ue000{self._nonce}:([0-9]+)\ue001", prompt) if self._hidden else [prompt]
        for place, piece in enumerate(cut):
            text = self._hidden[int(piece)] if place % 2 else piece
            if text:
                yield text, place % 2 == 0

    def _hide(self, match: re.Match[str]) -> str:
        self._hidden.append(match.group())
        return f"\ue000{self._nonce}:{len(self._hidden) - 1}\ue001"


def too_long(most: int) -> ApiError:
    """The 400 of a prompt of more than `most` tokens."""
    return bad_request(
        f"the prompt has more than {most} tokens: shorten it, or choose a model with a longer context",
        code="context_length_exceeded",
    )
