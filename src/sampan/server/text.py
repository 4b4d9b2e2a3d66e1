"""What the service itself needs of a model: tokenizer, chat template and numbers, not the weights."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from sampan.core.errors import RequestError, TemplateError, TokenizerError, UnsupportedModel
from sampan.core.memory import give_back_freed_memory
from sampan.core.types import ModelFiles, SamplingParams
from sampan.llm.generation import defaults_of
from sampan.llm.load import text_of
from sampan.server.errors import ApiError, bad_request
from sampan.text.chat import ChatTemplate
from sampan.text.reasoning import starts_inside_reasoning
from sampan.text.rerank import Judging
from sampan.text.tokenizer import Tokenizer
from sampan.text.tools import ToolFormat, for_template, tool_format
from sampan.text.turns import folded
from sampan.text.veil import Veil
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
            config = checkpoint.config
            defaults = defaults_of(  # the engine, which reads them too, says what is not obeyed
                checkpoint.generation,
                files,
                vocabulary=config.vocab,
                ends=tokenizer.eos_ids,
                metadata=checkpoint.metadata,
            )
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
        literal: bool = True,
    ) -> tuple[list[int], bool]:
        """The prompt of a conversation, and whether it has opened a block of reasoning. `literal`: control
        tokens that are written in it are plain text.

        Raises a 400 for what the template or the tokenizer refuses, and for one that has notably more than
        `most` tokens, as soon as that is known.
        """
        if self.template is None:
            raise bad_request(f"{self.name} has no chat template: use /v1/completions", param="messages")
        try:
            veil = Veil(self.tokenizer)
            if literal:
                messages, tools, variables = map(veil.over, (messages, tools, variables))
            ready, listed = for_template(self.tool_format, messages, tools)
            prompt = self._prompt(self.template, ready, tools=listed, **variables)
            if len(prompt) > SLICE:
                self._refuse_long(veil.lifted(prompt), most)
            ids = veil.encode(prompt)
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


def too_long(most: int) -> ApiError:
    """The 400 of a prompt of more than `most` tokens."""
    return bad_request(
        f"the prompt has more than {most} tokens: shorten it, or choose a model with a longer context",
        code="context_length_exceeded",
    )
