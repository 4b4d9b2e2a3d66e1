"""The one error tree.

Every error a user can cause derives from `SampanError`. Its message names what was wrong, where
(file, tensor, offset, field) and what would help; the command line prints it on one line.
"""


class SampanError(Exception):
    """Base of every error that Sampan raises on purpose; `exit_code` is the command line's."""

    exit_code = 1


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
    """A prompt longer than the context; carries both numbers."""

    def __init__(self, prompt_tokens: int, context: int) -> None:
        super().__init__(
            f"the prompt has {prompt_tokens} tokens, the context holds {context}: "
            "shorten the prompt or choose a model with a longer context"
        )
        self.prompt_tokens = prompt_tokens
        self.context = context


class StorageError(SampanError):
    """A database, or a file of keys, that cannot be opened, read or written."""


class OutOfMemory(SampanError):
    """What was asked does not fit in memory; carries the numbers."""
