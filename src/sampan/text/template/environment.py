"""The Jinja environment that chat templates run in: the one that templates are published for, bounded.

Extensions, filters and functions are those of transformers' `apply_chat_template`. Templates come with
models, so they are not trusted: the sandbox keeps them from Python's internals, and everything they run is
sent through a budget of work, time and memory. What is not known to be bounded is not offered.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any

from jinja2 import Template, nodes, pass_context
from jinja2 import TemplateError as JinjaError
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Namespace

from sampan.text.template.budget import STEP, Budget, active, budget, check_length, extent, listed, text_of
from sampan.text.template.filters import FILTERS
from sampan.text.template.methods import TEXT_METHODS, call_method, check_key, format_fields
from sampan.text.template.nodes import Charged
from sampan.text.template.operators import OPERATORS, TESTS, Passes, binary, concat

MAX_SOURCE = 100_000  # characters of a template; those published have up to 20,000
MAX_NODES = 20_000  # of a parsed template; those published have up to 1,500
_MAX_ARGUMENTS = 64  # of one call
_MAX_NAME = 1000  # characters of a name, a date's format or a refusal
_ROOM = 10_000  # parts of the output that wait to be joined

_DICT_NAMES = frozenset(dir(dict))


class RefusalError(JinjaError):
    """The template itself called `raise_exception`."""


class Environment(ImmutableSandboxedEnvironment):
    """The bounded environment: `from_bounded` compiles a template, `render` runs it."""

    intercepted_binops = frozenset({"+", "-", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            optimized=False,  # it would run filters and operators while compiling, outside any budget
            finalize=_output,
        )
        self.filters: dict[str, Any] = {**FILTERS, **OPERATORS}
        self.tests: dict[str, Any] = TESTS
        self.globals: dict[str, Any] = {
            "dict": _dict,
            "namespace": _Namespace,
            "raise_exception": _refuse,
            "range": safe_range,
            "strftime_now": _now,
        }
        self._offered = tuple(self.globals.values())

    def from_bounded(self, source: str) -> Template:
        """Compile `source`; raises jinja2's `TemplateSyntaxError`, `SecurityError` for what is refused."""
        if len(source) > MAX_SOURCE:
            raise SecurityError(f"it has more than {MAX_SOURCE} characters")
        tree = self.parse(source)
        if sum(1 for _ in tree.find_all(nodes.Node)) > MAX_NODES:
            raise SecurityError(f"it has more than {MAX_NODES} parts")
        tree = Charged().visit(tree)
        tree.set_environment(self)
        return self.from_string(tree)

    def render(self, template: Template, variables: dict[str, Any]) -> str:
        """The text of `template`; raises whatever the template does wrong."""
        active.budget = Budget()
        try:
            return "".join(_joined_parts(template.generate(variables)))
        finally:
            active.budget = None

    def concat(self, parts: Any) -> str:
        return concat(parts)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ARG002
        return binary(operator, left, right)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if type(obj) is dict and attribute not in _DICT_NAMES:  # what the sandbox finds, by the short way
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        if type(obj) is str and attribute in TEXT_METHODS:
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        check_key(argument)
        try:
            return obj[argument]
        except (TypeError, LookupError):
            if isinstance(argument, str) and len(argument) <= _MAX_NAME:
                return super().getitem(obj, argument)
            name: Any = argument if isinstance(argument, int) else type(argument).__name__
            return self.undefined(obj=obj, name=name)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        kwargs.pop("_loop_vars", None)
        kwargs.pop("_block_vars", None)
        count = len(args) + len(kwargs)
        if count > _MAX_ARGUMENTS:
            raise SecurityError(f"a call has more than {_MAX_ARGUMENTS} arguments")
        budget().spend(STEP * (1 + count // 8))  # a macro can keep all of them
        kind = type(__obj)
        if kind is Macro or __obj in __self._offered:
            return __obj(*args, **kwargs)
        if kind is BuiltinMethodType or kind is MethodType:
            if isinstance(__obj.__self__, _Generation):
                return __obj(*args, **kwargs)
            return call_method(__obj, args, kwargs)
        if kind is LoopContext and args:  # one more round of a recursive loop
            return __obj(Passes(args[0]), *args[1:], **kwargs)
        if kind is FunctionType and isinstance(_formatted(__obj), str):
            return format_fields(__obj, _formatted(__obj), args, kwargs)
        if callable(__obj) and kind not in (BlockReference, Undefined):
            raise SecurityError(f"a template cannot call a {kind.__name__}")
        return __obj(*args, **kwargs)


def _formatted(function: Any) -> Any:
    """The text whose `format` the sandbox has wrapped in `function`, None if that is something else."""
    return getattr(getattr(function, "__wrapped__", None), "__self__", None)


@pass_context  # Jinja calls it for constants too, when rendering and not when compiling
def _output(_context: Context, value: Any) -> str:
    """The text that `{{ value }}` puts out."""
    budget().spend(STEP // 2)
    return value if type(value) is str else text_of(value)


def _joined_parts(parts: Iterator[str]) -> Iterator[str]:
    """The output in larger pieces, so that many small ones are not all kept."""
    waiting: list[str] = []
    length = 0
    for part in parts:
        waiting.append(part)
        length += len(part)
        check_length(length)
        if len(waiting) > _ROOM:
            yield "".join(waiting)
            waiting.clear()
    yield "".join(waiting)


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
        attributes = _dict(*rest, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace cannot have an attribute {name!r}")


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    pairs = args[:1]
    if args and not isinstance(args[0], dict):
        pairs = (listed(args[0]),)
        budget().spend(extent(pairs).work)
    return budget().made(dict(*pairs, *args[1:], **kwargs))


def _refuse(message: object) -> None:
    raise RefusalError(text_of(message)[:_MAX_NAME])


def _now(form: str) -> str:
    if isinstance(form, str) and len(form) > _MAX_NAME:
        raise SecurityError(f"the form of a date has more than {_MAX_NAME} characters")
    return budget().made(datetime.now().strftime(form))
