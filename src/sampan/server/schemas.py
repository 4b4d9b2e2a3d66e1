"""What the requests of all APIs have in common, and the errors of our own."""

from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import PydanticCustomError

T = TypeVar("T")
Many = Annotated[list[T], Field(fail_fast=True)]
"""A list refused at its first wrong element: an error takes much more memory than what it is about."""

_MOST_ERRORS = 1000


class Strict(BaseModel):
    """Refuses what it does not know, and what only looks like the right type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Body(Strict):
    """What a request brings. More than a thousand errors in it are only counted."""

    @model_validator(mode="wrap")
    @classmethod
    def _counted(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as error:
            if error.error_count() <= _MOST_ERRORS:
                raise
            message = "The request is wrong in {count} places"
            raise PydanticCustomError("many_errors", message, {"count": error.error_count()}) from None


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
