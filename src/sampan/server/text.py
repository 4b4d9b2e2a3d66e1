"""What the service itself needs of a model: tokenizer, chat template and numbers, not the weights."""

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sampan.core.memory import give_back_freed_memory
from sampan.core.types import ModelFiles, SamplingParams
from sampan.llm.load import defaults_of, text_of
from sampan.server.errors import bad_request
from sampan.text.chat import ChatTemplate
from sampan.text.reasoning import starts_inside_reasoning
from sampan.text.tokenizer import Tokenizer
from sampan.text.tools import ToolFormat, for_template, tool_format
from sampan.weights.checkpoint import open_checkpoint


@dataclass(frozen=True)
class ModelText:
    """`vocabulary`: ids the model may produce. `template`: None where the model has no chat form."""

    name: str
    tokenizer: Tokenizer
    template: ChatTemplate | None
    defaults: SamplingParams
    vocabulary: int

    @classmethod
    def read(cls, files: ModelFiles, name: str) -> "ModelText":
        """Read it from the model's files; the same errors as loading the model."""
        checkpoint = open_checkpoint(files)
        try:
            tokenizer, template = text_of(files, checkpoint)
            text = cls(name, tokenizer, template, defaults_of(checkpoint.generation), checkpoint.config.vocab)
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
        tools: Sequence[Mapping[str, Any]] = (),
        **variables: Any,
    ) -> tuple[list[int], bool]:
        """The prompt of a conversation, and whether it has opened a block of reasoning."""
        if self.template is None:
            raise bad_request(f"{self.name} has no chat template: use /v1/completions", param="messages")
        veil = Veil(self.control_texts)
        ready, listed = for_template(self.tool_format, veil.over(messages), veil.over(tools))
        prompt = self.template.render(ready, add_generation_prompt=True, tools=listed, **veil.over(variables))
        return veil.encode(self.tokenizer, prompt), starts_inside_reasoning(prompt)

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

    def encode(self, tokenizer: Tokenizer, prompt: str) -> list[int]:
        """The ids of a rendered prompt, where what is behind the marks is ordinary text."""
        pieces = re.split(f"\ue000{self._nonce}:([0-9]+)\ue001", prompt) if self._hidden else [prompt]
        ids: list[int] = []
        for place, piece in enumerate(pieces):
            text = self._hidden[int(piece)] if place % 2 else piece
            ids += tokenizer.encode(text, add_bos=False, special=place % 2 == 0) if text else []
        return ids

    def _hide(self, match: re.Match[str]) -> str:
        self._hidden.append(match.group())
        return f"\ue000{self._nonce}:{len(self._hidden) - 1}\ue001"
