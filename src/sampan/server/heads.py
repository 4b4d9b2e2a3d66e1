"""HEAD wherever there is GET: the same answer, whose body the HTTP protocol leaves out (RFC 9110, 9.3.2)."""

from starlette.types import ASGIApp, Receive, Scope, Send


class Heads:
    """Asks for what a HEAD is about as a GET would."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI wants it."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)
