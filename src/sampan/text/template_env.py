"""The Jinja environment that chat templates run in: the one that templates are published for, bounded.

Extensions, filters and functions are those of transformers' `apply_chat_template`. Templates come with
models, so they are not trusted: the sandbox keeps them from Python's internals, and a budget ends loops,
calls and texts that run away. Filters and methods with an enormous width are bounded by memory alone.
"""

import json
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from jinja2 import Template, nodes, pass_context
from jinja2 import TemplateError as JinjaError
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MAX_STEPS = 500_000  # loop passes, calls and texts made, in one rendering
MAX_TEXT = 16_000_000  # characters of one text: four times the prompt of a million tokens
_CHARACTERS_A_STEP = 50_000  # what a longer text counts beyond its one step
_MAX_BITS = 4096  # of a whole number

_BUDGET = "rendering budget"  # no identifier, so that no template can name it


class RefusalError(JinjaError):
    """The template itself called `raise_exception`."""


class Budget:
    """What one rendering may still do; `SecurityError` when it is used up."""

    def __init__(self) -> None:
        self._steps = MAX_STEPS

    def spend(self, steps: int) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise SecurityError(f"it takes more than {MAX_STEPS} steps")

    def text(self, length: int) -> None:
        """Account for making a text of this many characters."""
        check_length(length)
        self.spend(1 + length // _CHARACTERS_A_STEP)


def check_length(length: int) -> None:
    """Raise `SecurityError` for a text that no prompt can need."""
    if length > MAX_TEXT:
        raise SecurityError(f"it makes a text of more than {MAX_TEXT} characters")


class Environment(ImmutableSandboxedEnvironment):
    """The bounded environment: `from_bounded` compiles a template, `render` runs it."""

    intercepted_binops = frozenset({"+", "*", "**"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self.filters |= {"tojson": _to_json, "bounded items": _bounded_items, "bounded text": _bounded_text}
        self.globals |= {"raise_exception": _refuse, "strftime_now": _now, "namespace": _Namespace}

    def from_bounded(self, source: str) -> Template:
        """Compile `source`; raises jinja2's `TemplateSyntaxError`."""
        tree = _Bound().visit(self.parse(source))
        tree.set_environment(self)
        return self.from_string(tree)

    def render(self, template: Template, variables: dict[str, Any]) -> str:
        """The text of `template`; raises whatever the template does wrong."""
        budget = Budget()
        parts: list[str] = []
        length = 0
        for part in template.generate({**variables, _BUDGET: budget}):
            parts.append(part)
            length += len(part)
            check_length(length)
        return "".join(parts)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        budget = _budget(__context)
        budget.spend(1)
        if isinstance(__obj, LoopContext) and args:  # one more round of a recursive loop
            args = (_bounded_items(__context, args[0]), *args[1:])
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            _check_bits(operator, left, right)
        elif operator == "+" and isinstance(left, str) and isinstance(right, str):
            _budget(context).text(len(left) + len(right))
        elif operator == "*":
            _budget(context).text(_length(left) * _length(right))
        return super().call_binop(context, operator, left, right)


class _Bound(NodeTransformer):
    """Sends every loop and every `~` through the budget."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        self.generic_visit(node)
        node.iter = _filter(node.iter, "bounded items")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), "bounded text")


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; rendering passes them through."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_pass"), [], [], body).set_lineno(line)

    def _pass(self, caller: Callable[[], str]) -> str:
        return caller()


class _Namespace(Namespace):
    """A namespace without underscore names, which could pose as Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace cannot have an attribute {name!r}")


def _budget(context: Context) -> Budget:
    budget = context.parent[_BUDGET]
    assert isinstance(budget, Budget)
    return budget


def _filter(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


@pass_context
def _bounded_items(context: Context, items: Iterable[Any]) -> list[Any]:
    found = list(items)
    _budget(context).spend(len(found))
    return found


@pass_context
def _bounded_text(context: Context, parts: list[Any]) -> str:
    texts = [str(part) for part in parts]
    _budget(context).text(sum(map(len, texts)))
    return "".join(texts)


def _check_bits(operator: str, left: int, right: int) -> None:
    bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
    if bits > _MAX_BITS:
        raise SecurityError(f"it makes a number of more than {_MAX_BITS} bits")


def _length(value: Any) -> int:
    """How often `*` repeats: a sequence counts its items, a whole number itself."""
    if isinstance(value, int):
        return max(value, 0)
    return len(value) if isinstance(value, str | list | tuple) else 1


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is, where Jinja's own filter escapes HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: object) -> None:
    raise RefusalError(str(message))


def _now(form: str) -> str:
    return datetime.now().strftime(form)
