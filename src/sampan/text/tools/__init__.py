"""Tools: how a model is told of functions, how it calls them, and how its calls are found and forced.

`tool_format` reads from the chat template which way of writing calls the model knows; with it `for_template`
makes a conversation with tools ready for the template, `grammar` says what an answer with calls must look
like, and `ToolParser` finds the calls in the answer.
"""

from sampan.core.types import Call
from sampan.text.tools.arguments import read_arguments
from sampan.text.tools.formats import ToolFormat, tool_format
from sampan.text.tools.grammar import grammar, looseness
from sampan.text.tools.parser import CallPiece, Loose, Piece, TextPiece, ToolParser
from sampan.text.tools.prompt import for_template, instructions
from sampan.text.tools.syntax import Syntax

__all__ = [
    "Call",
    "CallPiece",
    "Loose",
    "Piece",
    "Syntax",
    "TextPiece",
    "ToolFormat",
    "ToolParser",
    "for_template",
    "grammar",
    "instructions",
    "looseness",
    "read_arguments",
    "tool_format",
]
