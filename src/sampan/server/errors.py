"""Errors as a client sees them: an HTTP status, a kind, and a message that says what to do."""

from sampan.core.errors import SampanError


class ApiError(SampanError):
    """An answer that is an error. `kind` and `code` are OpenAI's words; `param`: the field that is wrong.

    `retry_after`: seconds after which it makes sense to ask again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.code = code
        self.param = param
        self.retry_after = retry_after

    def at(self, param: str) -> "ApiError":
        """The same error, of another field."""
        return ApiError(
            self.status,
            self.message,
            kind=self.kind,
            code=self.code,
            param=param,
            retry_after=self.retry_after,
        )

    @property
    def message(self) -> str:
        """One line, as every error of the tree is."""
        return str(self)


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """A 400 that names the field."""
    return ApiError(400, message, param=param, code=code)
