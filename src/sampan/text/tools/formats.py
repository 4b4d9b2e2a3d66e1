"""Which way of writing calls a model knows, read from its chat template.

What is decided: the syntax, whether the template shows the model the tools, whether it writes earlier calls
itself, and in which form it takes their arguments. A model whose template has no syntax known here gets
Hermes' with everything written by us: it is the most widespread one, and plain text to any tokenizer.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sampan.text.tokenizer import Tokenizer
from sampan.text.tools.deepseek import CALL_BEGIN, DEEPSEEK, DEEPSEEK_V31, FENCE
from sampan.text.tools.json_call import HERMES, LLAMA, PYTHON_TAG
from sampan.text.tools.syntax import Syntax

# A statement of the template that asks about the tools, or goes through them.
_LISTS_TOOLS = re.compile(r"\{%-?\s*(?:if|elif|for|set)\b(?:(?!%\}).)*\btools\b", re.DOTALL)
# Arguments that the template writes as JSON, or goes through, are an object.
_ARGUMENT_OBJECT = re.compile(r"""arguments(?:['"]\])?\s*(?:\|\s*(?:tojson|items|dictsort)\b|\.items\()""")


@dataclass(frozen=True)
class ToolFormat:
    """How a model is told of tools, calls them and is told of earlier calls.

    `lists_tools`: its template shows the tools. `writes_calls`: it writes earlier calls and their results.
    `arguments`: what it takes their arguments as. `control`: the syntax's markers that are control tokens
    of the model, with their ids: such a token must be shown (`shown`) for the parser to see it.
    """

    syntax: Syntax
    lists_tools: bool
    writes_calls: bool
    arguments: Literal["object", "text"] = "object"
    control: Mapping[str, int] = field(default_factory=dict)

    @property
    def shown(self) -> frozenset[int]:
        """The control tokens that are to be part of an answer's text."""
        return frozenset(self.control.values())


def tool_format(template_source: str | None, tokenizer: Tokenizer | None = None) -> ToolFormat:
    """The format that a chat template (Jinja; the one for tools if there are two) tells of.

    `tokenizer`: the model's; without one no marker is taken for a control token.
    """
    source = template_source or ""
    syntax = _syntax_of(source)
    known = syntax or HERMES
    return ToolFormat(
        known,
        lists_tools=syntax is not None and _LISTS_TOOLS.search(source) is not None,
        writes_calls=syntax is not None and "tool_calls" in source,
        arguments="object" if _ARGUMENT_OBJECT.search(source) else "text",
        control=_control(known, tokenizer) if tokenizer is not None else {},
    )


def _syntax_of(source: str) -> Syntax | None:
    if CALL_BEGIN in source:
        return DEEPSEEK if FENCE in source else DEEPSEEK_V31
    if "<tool_call>" in source:
        return HERMES if "<function=" not in source else None  # Qwen3-Coder's XML between the same tags
    if "tool_calls" in source and (PYTHON_TAG in source or "<|start_header_id|>" in source):
        return LLAMA
    return None


def _control(syntax: Syntax, tokenizer: Tokenizer) -> dict[str, int]:
    ids = {marker: tokenizer.encode(marker, add_bos=False) for marker in syntax.markers}
    return {
        marker: each[0] for marker, each in ids.items() if len(each) == 1 and each[0] in tokenizer.special_ids
    }
