"""Renders messages into a prompt with the chat template that a model carries.

A rendered prompt holds its special tokens as text, the one that starts a sequence included: encode it
with `add_bos=False`. A model without a template has no chat form (`from_folder` and `from_gguf` return
None); its prompts are taken as they are, as with `sampan run --raw`.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sampan.core.errors import TemplateError, TokenizerError
from sampan.text.metadata import Metadata
from sampan.text.vocab.folder_config import special_text, tokenizer_config

if TYPE_CHECKING:
    from jinja2 import Template

    from sampan.text.template.environment import Environment

_MAX_DEPTH = 100  # of lists and objects in messages and tools
_MAX_LINE = 2000  # characters of an error, which can show a whole text
_REASONING_NAMES = ("reasoning_content", "thinking", "reasoning")


class ChatTemplate:
    """A chat template; it is compiled once, by the first rendering."""

    def __init__(self, source: str, *, bos: str, eos: str, tool_source: str | None = None) -> None:
        """`source`: Jinja. `bos`, `eos`: the model's special tokens as text, "" for none.

        `tool_source`: a template of its own for requests with tools.
        """
        self._sources = {"default": source}
        if tool_source is not None:
            self._sources["tool_use"] = tool_source
        self._special = {name: text for name, text in (("bos_token", bos), ("eos_token", eos)) if text}
        self._compiled: dict[str, Template] = {}

    @classmethod
    def from_folder(cls, folder: Path) -> Self | None:
        """The template of a model folder, None if it has none.

        Read from `chat_template.jinja` and `additional_chat_templates/tool_use.jinja`, otherwise from
        `tokenizer_config.json`: one string, or a list of named templates ("default", "tool_use").
        Raises `TokenizerError` for a file that cannot be read.
        """
        config = tokenizer_config(folder)
        sources = _named_sources(config.get("chat_template"))
        for name, path in (
            ("default", "chat_template.jinja"),
            ("tool_use", "additional_chat_templates/tool_use.jinja"),
        ):
            if (folder / path).is_file():
                sources[name] = _read_text(folder / path)
        if "default" not in sources:
            return None
        return cls(
            sources["default"],
            bos=special_text(config, "bos_token") or "",
            eos=special_text(config, "eos_token") or "",
            tool_source=sources.get("tool_use"),
        )

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, object]) -> Self | None:
        """The template in GGUF key/values, None if there is none; `TokenizerError` for contradictions."""
        values = Metadata(metadata)
        source = values.text("tokenizer.chat_template")
        if source is None:
            return None
        tokens = values.strings("tokenizer.ggml.tokens")
        bos, eos = (
            values.token_id(f"tokenizer.ggml.{name}_token_id", len(tokens)) for name in ("bos", "eos")
        )
        return cls(
            source,
            bos="" if bos is None else tokens[bos],
            eos="" if eos is None else tokens[eos],
            tool_source=values.text("tokenizer.chat_template.tool_use"),
        )

    @property
    def sources(self) -> Mapping[str, str]:
        """Jinja by name: "default", and "tool_use" where there is one."""
        return self._sources

    @property
    def tool_source(self) -> str:
        """The source that renders requests with tools."""
        return self._sources.get("tool_use", self._sources["default"])

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **extra: Any,
    ) -> str:
        """The prompt for `messages` (`{"role": ..., "content": ...}`), equal to transformers'.

        `add_generation_prompt`: end with the beginning of the assistant's turn. `tools`: JSON schemas.
        `extra`: further variables of the template, such as `enable_thinking=False`. Raises
        `TemplateError` if the template does not compile, refuses the messages, misbehaves or never ends.
        """
        for place, message in enumerate(messages):
            if not isinstance(message, Mapping):
                raise TemplateError(
                    f"message {place} is a {type(message).__name__}, not an object with a role"
                )
        variables = {
            **self._special,
            "messages": [_normalised(message) for message in _plain(list(messages))],
            "tools": _plain(tools),
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **_plain(extra),
        }
        return self._run(
            "tool_use" if tools is not None and "tool_use" in self._sources else "default", variables
        )

    def _run(self, name: str, variables: dict[str, Any]) -> str:
        from sampan.text.template.environment import RefusalError

        template = self._template(name)
        try:
            return self._environment.render(template, variables)
        except RefusalError as error:
            raise TemplateError(f"the chat template refuses these messages: {_line(error)}") from error
        except Exception as error:
            raise TemplateError(
                f"the chat template fails on these messages: {type(error).__name__}: {_line(error)}"
            ) from error.with_traceback(None)  # its frames hold all that the template has made

    def _template(self, name: str) -> "Template":
        from jinja2 import TemplateSyntaxError

        if name not in self._compiled:
            try:
                self._compiled[name] = self._environment.from_bounded(self._sources[name])
            except TemplateSyntaxError as error:
                raise TemplateError(f"the chat template, line {error.lineno}: {_line(error)}") from error
            except Exception as error:
                raise TemplateError(
                    f"the chat template does not compile: {type(error).__name__}: {_line(error)}"
                ) from error
        return self._compiled[name]

    @cached_property
    def _environment(self) -> "Environment":
        from sampan.text.template.environment import Environment

        return Environment()


def _named_sources(value: object) -> dict[str, str]:
    """The templates of `tokenizer_config.json` by name; whatever is no template is left out."""
    if isinstance(value, str):
        return {"default": value}
    entries = [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
    named = {entry.get("name"): entry.get("template") for entry in entries}
    return {name: text for name, text in named.items() if isinstance(name, str) and isinstance(text, str)}


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}; fetch it again") from error


def _normalised(message: dict[str, Any]) -> dict[str, Any]:
    """A message as templates expect it: reasoning under the names they read, and no null fields.

    Only `content` may be null: templates with tools ask for it (`content is none`), and many ask whether
    `tool_calls` is there at all.
    """
    message = {name: value for name, value in message.items() if value is not None or name == "content"}
    given = next((message[name] for name in _REASONING_NAMES if name in message), None)
    return message if given is None else {"thinking": given, **message, "reasoning_content": given}


def _plain(value: Any, depth: int = 0) -> Any:
    """A copy in plain JSON types: a template sees no object whose methods could do something."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if depth > _MAX_DEPTH:
        raise TemplateError(f"messages or tools are nested deeper than {_MAX_DEPTH} levels: flatten them")
    if isinstance(value, Mapping):
        return {str(name): _plain(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    kind = type(value).__name__
    raise TemplateError(
        f"messages or tools hold a {kind}: only text, numbers, lists and objects are rendered"
    )


def _line(error: Exception) -> str:
    return " ".join(str(error)[:_MAX_LINE].split())
