"""Tools in the Python API: how a conversation tells the model of them, and how its calls are found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sampan.core.errors import RequestError
from sampan.core.types import Grammar
from sampan.text.chat import ChatTemplate
from sampan.text.tokenizer import Tokenizer
from sampan.text.tools import ToolFormat, ToolParser, for_template, grammar, looseness, tool_format


@dataclass(frozen=True)
class Offer:
    """Functions that a model may call, in OpenAI's form, and how it does."""

    format: ToolFormat
    tools: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, tools: object, template: ChatTemplate, tokenizer: Tokenizer) -> "Offer | None":
        """None where there are none, or some in a form that only the template may know."""
        if not isinstance(tools, list | tuple) or not tools or not all(map(_is_function, tools)):
            return None
        return cls(tool_format(template.tool_source, tokenizer), tools)

    def told(
        self, messages: Sequence[Mapping[str, Any]]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
        """The messages and the tools that the template is given."""
        try:
            return for_template(self.format, messages, self.tools)
        except (KeyError, TypeError, AttributeError) as error:
            raise RequestError(
                "a message has no role, or tool_calls that are not "
                '{"id": …, "type": "function", "function": {"name": …, "arguments": …}}'
            ) from error

    def grammar(self, form: Grammar | None) -> Grammar | None:
        """What an answer must look like: calls, or words of this form."""
        return grammar(self.format, self.tools, form=form)

    def parser(self, held: Grammar | None) -> ToolParser:
        """What finds the calls of one answer that is held to this grammar."""
        names = [tool["function"]["name"] for tool in self.tools]
        return ToolParser(self.format, names, loose=looseness(held))


def _is_function(tool: object) -> bool:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    return isinstance(function, Mapping) and isinstance(function.get("name"), str)
