"""Rewrites a parsed chat template so that what Jinja would run unseen goes through the budget.

Calls, attributes, `+` and the like reach the environment by themselves. Comparisons, slices, loops, `~`,
literals and arguments taken from a list become filters, named as no template can write them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.visitor import NodeTransformer


class Charged(NodeTransformer):
    """The rewriting; `SecurityError` for what no chat template has a use for."""

    def __init__(self) -> None:
        self._gathers = False  # inside what keeps its output in a list until it ends
        self._repeats = False  # in a loop there

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        with self._inside(self._gathers or node.recursive, self._gathers or node.recursive):
            self.generic_visit(node)
        node.iter = _filter(node.iter, "the passes")
        return node

    def visit_Macro(self, node: nodes.Node) -> nodes.Node:  # noqa: N802
        with self._inside(True, False):
            return self.generic_visit(node)

    visit_AssignBlock = visit_FilterBlock = visit_Macro  # noqa: N815

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802
        with self._inside(True, False):
            return self.generic_visit(node)

    def visit_Block(self, node: nodes.Block) -> nodes.Node:  # noqa: N802
        with self._inside(False, False):
            return self.generic_visit(node)

    def visit_Output(self, node: nodes.Output) -> nodes.Output:  # noqa: N802
        self.generic_visit(node)
        if self._repeats:  # a constant is counted with each output, text of the template is not
            node.nodes = [
                nodes.Const(child.data, lineno=child.lineno)
                if isinstance(child, nodes.TemplateData)
                else child
                for child in node.nodes
            ]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), "the joined")

    def visit_Compare(self, node: nodes.Compare) -> nodes.Expr:  # noqa: N802
        cheap = len(node.ops) == 1 and _is_cheap(node.expr, node.ops[0])
        self.generic_visit(node)
        if cheap:
            return node
        rest = [part for each in node.ops for part in (nodes.Const(each.op, lineno=node.lineno), each.expr)]
        return _filter(node.expr, "the comparison", rest)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        given = (node.arg.start, node.arg.stop, node.arg.step)
        return _filter(
            node.node, "the part", [part or nodes.Const(None, lineno=node.lineno) for part in given]
        )

    def visit_List(self, node: nodes.List) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return _filter(node, "the literal")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return node if node.ctx != "load" or _is_constant(node) else _filter(node, "the literal")

    def visit_Dict(self, node: nodes.Dict) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return _filter(node, "the literal")

    def visit_Pair(self, node: nodes.Pair) -> nodes.Pair:  # noqa: N802
        self.generic_visit(node)
        if not isinstance(node.key, nodes.Const):
            node.key = _filter(node.key, "the key")
        return node

    def visit_Call(self, node: Any) -> Any:  # noqa: N802
        self.generic_visit(node)
        if node.dyn_args is not None:
            node.dyn_args = _filter(node.dyn_args, "the items")
        if node.dyn_kwargs is not None:
            node.dyn_kwargs = _filter(node.dyn_kwargs, "the mapping")
        return node

    visit_Filter = visit_Test = visit_Call  # noqa: N815

    def visit_ScopedEvalContextModifier(self, node: nodes.Node) -> nodes.Node:  # noqa: N802
        raise SecurityError(f"line {node.lineno}: chat templates have no autoescape")

    @contextmanager
    def _inside(self, gathers: bool, repeats: bool) -> Iterator[None]:
        before = self._gathers, self._repeats
        self._gathers, self._repeats = gathers, repeats
        yield
        self._gathers, self._repeats = before


def _filter(node: Any, name: str, args: list[Any] | None = None) -> nodes.Filter:
    return nodes.Filter(node, name, args or [], [], None, None, lineno=node.lineno)


def _counted(node: nodes.Expr) -> nodes.Expr:
    return nodes.Const(node.data, lineno=node.lineno) if isinstance(node, nodes.TemplateData) else node


def _is_cheap(left: nodes.Expr, operand: nodes.Operand) -> bool:
    """Whether comparing takes no longer than what the template writes out."""
    if operand.op in ("in", "notin"):
        return isinstance(operand.expr, nodes.List | nodes.Tuple) and _is_constant(operand.expr)
    return isinstance(left, nodes.Const) or isinstance(operand.expr, nodes.Const)


def _is_constant(node: nodes.List | nodes.Tuple) -> bool:
    return all(isinstance(item, nodes.Const) for item in node.items)
