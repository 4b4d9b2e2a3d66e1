"""What the requests of all APIs have in common, and the errors of our own."""

from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from sampan.server.fields import Strict, passed_over
from sampan.server.watch import logs

T = TypeVar("T")
Many = Annotated[list[T], Field(fail_fast=True)]
"""A list refused at its first wrong element: an error takes much more memory than what it is about."""

_MOST_ERRORS = 1000


HINTS = frozenset(
    {
        "client_metadata", "metadata", "priority", "prompt_cache_key", "prompt_cache_options",
        "prompt_cache_retention", "request_id", "rid", "safety_identifier", "service_tier", "session_id",
        "store", "user",
    }
)  # fmt: skip
"""Hints on every endpoint: who asks and why, how fast it should be, what is to be kept of it elsewhere."""


class Body(Strict):
    """What a request brings. More than a thousand errors in it are only counted; fields that are passed over
    are noted with the request."""

    hints = HINTS

    @model_validator(mode="wrap")
    @classmethod
    def _counted(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            body = handler(value)
        except ValidationError as error:
            if error.error_count() <= _MOST_ERRORS:
                raise
            message = "The request is wrong in {count} places"
            raise PydanticCustomError("many_errors", message, {"count": error.error_count()}) from None
        if isinstance(value, dict):
            logs.ignore(passed_over(body, value))
        return body


Count = Annotated[int, Field(ge=1, le=2**31)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]


class ErrorDetail(BaseModel):
    """What was wrong. `param`: in which field."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every error of this API."""

    error: ErrorDetail
