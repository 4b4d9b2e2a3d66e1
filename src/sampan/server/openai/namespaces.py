"""Functions that a request of responses offers in groups, as agents do with the tools of other servers (MCP).

A model knows no groups: it is offered each function by one name, and its calls come apart again.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from sampan.server.openai.responses_schemas import FunctionTool, NamespaceTool, ResponseRequest
from sampan.server.openai.schemas import dumped


def joined(namespace: str | None, name: str) -> str:
    """The name by which a model knows a function."""
    return name if namespace is None else f"{namespace}__{name}"


class Namespaces:
    """The functions of a request. Names that are offered twice are `offer`'s to refuse."""

    def __init__(self, body: ResponseRequest) -> None:
        self._found = list(_functions(body))
        self._apart = {
            joined(namespace, tool.name): (namespace, tool.name) for namespace, tool in self._found
        }

    @property
    def offered(self) -> list[dict[str, Any]]:
        """The functions as a model is told of them."""
        return [_told(namespace, tool) for namespace, tool in self._found]

    def apart(self, name: str) -> dict[str, str]:
        """The name of a call and, if its function has one, the namespace."""
        namespace, own = self._apart.get(name, (None, name))
        return {"name": own} if namespace is None else {"name": own, "namespace": namespace}


def _functions(body: ResponseRequest) -> Iterator[tuple[str | None, FunctionTool]]:
    for tool in body.tools or ():
        if isinstance(tool, FunctionTool):
            yield None, tool
        elif isinstance(tool, NamespaceTool):
            yield from ((tool.name, inner) for inner in tool.tools if isinstance(inner, FunctionTool))


def _told(namespace: str | None, tool: FunctionTool) -> dict[str, Any]:
    row: Mapping[str, Any] = dumped(tool)
    rest = {name: value for name, value in row.items() if name not in ("type", "name")}
    return {"name": joined(namespace, tool.name), **rest}
