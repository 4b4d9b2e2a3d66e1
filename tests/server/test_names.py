"""The names that the service answers to."""

from typing import TYPE_CHECKING

import httpx
import pytest

from sampan.core.errors import UsageError
from sampan.server.names import check_given

if TYPE_CHECKING:
    from conftest import Running, Serve


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "evil.example:8000"}, 421),
        ({"host": "127.0.0.1.evil.example"}, 421),
        ({"host": "a:b:c"}, 400),
        ({"host": "localhost"}, 200),
        ({"host": "LOCALHOST.:8000"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "192.0.2.1"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:3000"}, 200),
    ],
)
def test_only_its_own_names_are_answered(service: "Running", headers: dict[str, str], status: int) -> None:
    assert httpx.get(f"{service.url}/v1/models", headers=headers).status_code == status


def test_names_can_be_allowed(serve: "Serve") -> None:
    with serve("--allowed-host", "models.example", "--allowed-host", ".inner.example") as running:
        for host, status in (("models.example", 200), ("a.b.inner.example", 200), ("x.models.example", 421)):
            assert httpx.get(f"{running.url}/health", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    "name", ["models.example:8000", "http://models.example", "models.example/", "a b", ""]
)
def test_a_name_that_matches_nothing_is_refused(name: str) -> None:
    check_given(["models.example", ".Example", "*", "192.0.2.1"])
    with pytest.raises(UsageError, match="without scheme and port"):
        check_given([name])


@pytest.mark.parametrize("hosts", [b"", b"host: localhost\r\nhost: localhost\r\n"])
def test_a_missing_or_double_host_is_a_400(service: "Running", hosts: bytes) -> None:
    with service.connection() as client:
        client.settimeout(10)
        client.sendall(b"GET /health HTTP/1.1\r\n" + hosts + b"\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 400 ")
