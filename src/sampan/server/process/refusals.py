"""The errors of an engine that is away, or has refused or lost a request."""

from sampan.server.errors import ApiError, bad_request
from sampan.server.process import wire


def away(why: str) -> ApiError:
    """There is no engine now."""
    return ApiError(
        503,
        f"the engine is not there: {why}; ask again",
        kind="server_error",
        code="engine_unavailable",
        retry_after=1,
    )


def restarted() -> ApiError:
    """The engine that had the request has ended."""
    return ApiError(
        503,
        "the engine was restarted while it answered; ask again",
        kind="server_error",
        code="engine_restarted",
        retry_after=1,
    )


def refusal(message: wire.Refused) -> ApiError:
    """What the engine said of a request that it did not take."""
    if message.kind == "failure":
        return ApiError(500, message.message, kind="server_error")
    return bad_request(
        message.message, code="context_length_exceeded" if message.kind == "overflow" else None
    )


def unusable(compiled: wire.Compiled) -> ApiError:
    """What the engine said of a grammar that is not ready."""
    if compiled.kind == "busy":
        return ApiError(
            503, compiled.error, kind="server_error", code="overloaded", param="grammar", retry_after=5
        )
    return bad_request(compiled.error, param="grammar")
