"""The names that a service answers to: Host and Origin must be among them. Else a web page of somebody else's
could speak to it, under a name of its own that leads here (DNS rebinding).

A literal address as the Host is fine: nobody can make it lead elsewhere. An Origin must be the Host itself, a
name of this machine, or one that cross-origin requests are allowed from.
"""

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from sampan.core.errors import UsageError, quoted
from sampan.server.errors import ApiError, bad_request

ANY = "*"


class Names:
    """Refuses a request without a Host or with two (400), with one that is not ours (421), or from an Origin
    that is not (403). `given`: further names, ".example.com" for all below one, "*" for any. `origins`: a
    pattern of those that may ask besides."""

    def __init__(
        self,
        app: ASGIApp,
        refuse: Callable[[ApiError, str], Response],
        host: str,
        given: Iterable[str],
        origins: str,
    ) -> None:
        self._app = app
        self._refuse = refuse
        own = {"localhost", host, socket.gethostname(), f"{socket.gethostname()}.local"}
        self._names = {name.lower() for name in (*own, *given)}
        self._origins = re.compile(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI wants it."""
        if scope["type"] == "http" and (error := self._fault(scope)) is not None:
            await self._refuse(error, scope["path"])(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _fault(self, scope: Scope) -> ApiError | None:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) > 1:
            return bad_request("the request has more than one Host header")
        if not hosts:
            return None if scope["http_version"] == "1.0" else bad_request("the request has no Host header")
        host = hostname(hosts[0].decode("latin-1"))
        if host is None:
            return bad_request("the Host header names no host")
        if not self._answers(host) and not _is_address(host):
            return ApiError(
                421,
                f"this service does not answer to the name {quoted(host)}: use its own name or its address, "
                f"or have it started with `sampan serve --allowed-host {host[:80]}`",
                code="host_not_allowed",
            )
        for name, value in scope["headers"]:
            origin = value.decode("latin-1")
            if name == b"origin" and not self._is_ours(origin, host):
                return ApiError(
                    403,
                    f"web pages of {quoted(origin)} may not ask here: `sampan serve --cors-origin` lets them",
                    kind="permission_error",
                    code="origin_not_allowed",
                )
        return None

    def _is_ours(self, origin: str, host: str) -> bool:
        if self._origins.fullmatch(origin):
            return True
        try:
            name = urlsplit(origin).hostname
        except ValueError:
            return False
        return name is not None and (name == host or self._answers(name) or _is_loopback(name))

    def _answers(self, host: str) -> bool:
        above = host
        while above:
            if above in self._names:
                return True
            _, dot, above = above[1:].partition(".")
            above = dot + above
        return ANY in self._names


def check_given(names: Iterable[str]) -> None:
    """`UsageError` for what `--allowed-host` cannot be: it would match nothing, and say nothing."""
    for name in names:
        if name != ANY and hostname(name.removeprefix(".")) != name.removeprefix(".").lower():
            raise UsageError(
                f"--allowed-host {quoted(name)} is no name of a host: write models.example.com, "
                ".example.com for all below it, or * for any, without scheme and port"
            )


def hostname(authority: str) -> str | None:
    """The host of `host[:port]` in lower case, without brackets and a last dot; None where there is none."""
    if not authority or any(character in authority for character in "/@\\\\?# \t"):
        return None
    try:
        parts = urlsplit(f"//{authority}")
        _ = parts.port
    except ValueError:
        return None
    return (parts.hostname or "").removesuffix(".") or None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return _is_address(host) and ipaddress.ip_address(host).is_loopback
