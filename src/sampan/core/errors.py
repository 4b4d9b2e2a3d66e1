"""The one error tree.

Every error a user can cause derives from `SampanError`. Its message names what was wrong, where
(file, tensor, offset, field) and what would help; the command line prints it on one line.
"""

import copyreg
import reprlib
from typing import Any

_LONGEST = 80
_LONGEST_PLACE = 200

_short = reprlib.Repr()
_short.maxlist = _short.maxtuple = _short.maxdict = _short.maxset = _short.maxfrozenset = 8
_short.maxlevel, _short.maxstring, _short.maxlong, _short.maxother = 3, 40, 40, _LONGEST


class SampanError(Exception):
    """Base of every error that Sampan raises on purpose; `exit_code` is the command line's.

    As text it is one line, whatever its message was made of: what cannot be printed is escaped.
    """

    exit_code = 1

    def __str__(self) -> str:
        return _printable(super().__str__())

    def __reduce__(self) -> tuple[Any, ...]:
        # Not through the constructor: a subclass may take other arguments than a message.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class UsageError(SampanError):
    """An option or argument that makes no sense."""

    exit_code = 2


class ModelNotFound(SampanError):
    """No model under this name: says which source was tried and what to do."""


class FetchError(SampanError):
    """A download that failed: network, disk space, hash."""


class OfflineError(FetchError):
    """The network was needed, and offline mode forbids it."""


class WeightsError(SampanError):
    """A weights file that is truncated, corrupted, contradictory or hostile."""


class UnsupportedModel(SampanError):
    """A well-formed model of an architecture, tensor type or tokenizer that is not implemented."""


class TokenizerError(SampanError):
    """A vocabulary that cannot be rebuilt, or ids outside it."""


class TemplateError(SampanError):
    """A chat template that does not compile, or refuses these messages."""


class RequestError(SampanError):
    """A request that can never be served as asked."""


class ContextOverflow(RequestError):
    """A prompt longer than the context, or one that fills it where an answer is to follow; carries both
    numbers."""

    def __init__(self, prompt_tokens: int, context: int) -> None:
        answer = "" if prompt_tokens > context else " with the answer"
        super().__init__(
            f"the prompt has {prompt_tokens} tokens, the context holds {context}{answer}: "
            "shorten the prompt or choose a model with a longer context"
        )
        self.prompt_tokens = prompt_tokens
        self.context = context


class StorageError(SampanError):
    """A database, or a file of keys, that cannot be opened, read or written."""


class OutOfMemory(SampanError):
    """What was asked does not fit in memory; carries the numbers."""


def quoted(value: object, longest: int = _LONGEST) -> str:
    """A name or value that somebody gave, fit for one line of a message, however large or deep it is."""
    if isinstance(value, str):
        shown = value[:longest]
        while len(repr(shown)) > longest + 2:
            shown = shown[:-1]
        return repr(shown) if len(shown) == len(value) else f"{shown!r}..."
    try:
        text = " ".join(_short.repr(value).split())
    except Exception:  # its own `__repr__` may do anything
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= longest else f"{text[:longest]}..."


def shortened(path: object) -> str:
    """A path for a message; the middle of one that is longer than any that is there is left out."""
    text = str(path)
    if len(text) <= _LONGEST_PLACE:
        return text
    return f"{text[:_LONGEST]}...{text[-_LONGEST:]}"


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


class EnvError(SampanError):
    """A task cannot tell what an answer is worth: a fault to report, never a reward."""
