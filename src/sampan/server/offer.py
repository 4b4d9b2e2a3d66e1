"""The tools of a request, checked, whichever API it came by."""

from collections.abc import Mapping, Sequence
from typing import Any

from sampan.core.errors import quoted
from sampan.server.ask import Tools
from sampan.server.errors import bad_request


def offer(
    functions: Sequence[Mapping[str, Any]], choice: str, *, named: bool = False, parallel: bool = True
) -> Tools | None:
    """`functions`: each with name, description, parameters; None where there are none to call.

    `choice`: "auto", "none", "required", or a function's name if `named`.
    """
    if not functions:
        if named or choice == "required":
            raise bad_request("tool_choice asks for a call, and there are no tools", param="tool_choice")
        return None
    names = [function["name"] for function in functions]
    if named and choice not in names:
        raise bad_request(
            f"tool_choice names {quoted(choice)}, which is no tool of this request", param="tool_choice"
        )
    if len(set(names)) < len(names):
        raise bad_request("two tools have the same name", param="tools")
    return Tools([{"type": "function", "function": function} for function in functions], choice, parallel)
