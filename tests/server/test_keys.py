"""Keys: who is let in, what is kept of a key, and that none is ever shown."""

import hmac
import json
import logging
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.core.errors import SampanError, StorageError, UsageError
from sampan.server.ask import Caller
from sampan.server.storage.database import connect, default_url
from sampan.server.storage.key_file import FileKeys
from sampan.server.storage.key_table import DatabaseKeys
from sampan.server.storage.keys import Key, KeyBook, Keyring, digest, generate, key_id

OWN = "a-key-of-my-own-0123456789"


@dataclass
class WallClock:
    """The real one, set forward by `ahead` seconds."""

    ahead: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock() -> WallClock:
    return WallClock()


@pytest.fixture(params=["file", "database"])
def book(request: pytest.FixtureRequest, tmp_path: Path, clock: WallClock) -> Iterator[KeyBook]:
    if request.param == "file":
        yield FileKeys(tmp_path / "keys", create=True, now=clock)
        return
    keys = DatabaseKeys(connect(default_url(tmp_path)), every=0.05, now=clock)
    yield keys
    keys.close()


def soon(happens: Callable[[], bool]) -> bool:
    """Whether it happens within five seconds."""
    end = time.monotonic() + 5
    while not happens():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_a_key_opens_for_the_one_it_was_made_for(book: KeyBook) -> None:
    draft = Key("new", "new", priority=2, requests_per_minute=3, tokens_per_day=5, models=("a", "b"))
    alice, secret = generate("alice", draft)
    bob, other = generate("bob")
    book.add(alice, digest(secret))
    book.add(bob, digest(other))
    assert (book.find(secret), book.find(other)) == (alice, bob)
    assert book.all() == sorted([alice, bob], key=lambda key: (key.created, book.all().index(key)))
    assert secret.startswith(f"sk-sampan-{alice.id}-")
    assert alice.caller() == Caller(key=alice.id, name="alice", priority=2)
    assert alice.allows("b")
    assert not alice.allows("c")
    assert bob.allows("c")


def test_what_is_nearly_a_key_does_not_open(book: KeyBook) -> None:
    key, secret = generate("alice")
    _, other = generate("bob")
    book.add(key, digest(secret))
    foreign = f"sk-sampan-{key.id}-{other.rpartition('-')[2]}"
    nearly = ["", " ", secret[:-1], secret + "x", secret.upper(), f" {secret}", other, foreign, key.id]
    nearly += [
        f"sk-sampan-{key.id}-",
        "sk-sampan-",
        "sk-sampan--",
        digest(secret).hex(),
        "\ud800é\0",
        "x" * 10**6,
    ]
    assert [book.find(each) for each in nearly] == [None] * len(nearly)
    assert book.find(secret) == key


def test_a_revoked_key_opens_no_more_while_the_service_runs(book: KeyBook) -> None:
    key, secret = generate("alice")
    book.add(key, digest(secret))
    assert book.find(secret) == key
    gone = book.revoke(key.id)
    assert gone.revoked is not None
    assert soon(lambda: book.find(secret) is None)
    assert book.all() == [gone]
    assert book.revoke(key.id) == gone
    with pytest.raises(UsageError, match=r"no key with the id 'nobody'.*sampan keys list"):
        book.revoke("nobody")


def test_an_expired_key_opens_no_more(book: KeyBook, clock: WallClock) -> None:
    key, secret = generate("alice", Key("new", "new", expires=int(time.time()) + 3600))
    book.add(key, digest(secret))
    clock.ahead = 3590
    assert book.find(secret) == key
    clock.ahead = 3601
    assert book.find(secret) is None


def test_an_id_is_given_once(book: KeyBook) -> None:
    key, secret = generate("alice")
    book.add(key, digest(secret))
    with pytest.raises(UsageError, match=f"a key with the id {key.id} already"):
        book.add(replace(key, name="mallory"), digest("other"))
    assert book.find(secret) == key


def test_many_processes_may_add_keys_at_once(tmp_path: Path) -> None:
    def add(number: int) -> str:
        key, secret = generate(f"caller {number}")
        FileKeys(tmp_path / "keys", create=True).add(key, digest(secret))
        return secret

    with ThreadPoolExecutor(8) as pool:
        secrets = list(pool.map(add, range(24)))
    keys = FileKeys(tmp_path / "keys")
    assert {key.name for key in map(keys.find, secrets) if key} == {f"caller {n}" for n in range(24)}


@pytest.mark.parametrize("known", [True, False])
def test_every_comparison_takes_a_fixed_time(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    key, secret = generate("alice")
    ring = Keyring.of([(key, digest(secret))])
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def spy(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return real(a, b)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    assert ring.find(secret + "x" if known else generate("bob")[1], 0) is None
    assert compared == [(32, 32)]


@given(st.text())
def test_any_text_has_an_id_and_opens_nothing(text: str) -> None:
    assert Keyring.of([]).find(text, 0) is None
    assert key_id(text)
    assert OWN not in key_id(OWN)


# The file.


def test_a_file_of_plain_keys_will_do(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    lines = f"\ufeff# our keys\r\n\r\n{OWN}   # Bob, of sales\r\n  another-key-#-0123456789\r\n"
    path.write_bytes(lines.encode())
    keys = FileKeys(path)
    bob = keys.find(OWN)
    assert bob is not None
    assert bob.name == "Bob, of sales"
    assert keys.find("another-key-#-0123456789") is not None
    assert keys.find("another-key-") is None
    assert keys.find("# our keys") is None
    keys.revoke(bob.id)
    assert keys.find(OWN) is None
    assert OWN not in path.read_text()
    assert path.read_text().startswith("# our keys\n\n")
    assert keys.find("another-key-#-0123456789") is not None


def test_editing_the_file_works_while_the_service_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    path.write_text(f"{OWN}\n")
    path.chmod(0o600)
    keys = FileKeys(path)
    path.write_text(f"{OWN}\nsecond-key-0123456789\n")
    assert keys.find("second-key-0123456789") is not None
    path.write_text(f"sécret-0123456789abc\n{OWN}\n{{\n")  # somebody slips
    assert keys.find(OWN) is not None
    assert keys.find("second-key-0123456789") is None
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "line 1 is left out" in caplog.text
    assert "cret" not in caplog.text
    path.unlink()
    assert keys.find(OWN) is None
    assert "no key is valid" in caplog.text
    path.write_text(f"{OWN}\n")
    assert keys.find(OWN) is not None


def test_a_new_file_is_its_owners_and_an_old_one_keeps_its_mode(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    new, old = tmp_path / "deep" / "new", tmp_path / "old"
    old.write_text(f"{OWN}\n")
    old.chmod(0o644)
    for path in (new, old):
        FileKeys(path, create=True).add(generate("x")[0], digest("x"))
    assert stat.S_IMODE(new.stat().st_mode) == 0o600
    assert stat.S_IMODE(old.stat().st_mode) == 0o644
    assert "can be read by everybody" in caplog.text
    assert str(new) not in caplog.text


SECRET = "s3cr3t-do-not-show-me"
BROKEN = [
    (f"# fine\n{SECRET[:8]}", "line 2: a key is 16 or more printable"),
    (f"two {SECRET}", "line 1: a key is 16 or more"),
    (f"{SECRET}\n{SECRET}", "line 2: another line has the id"),
    (f'{{"id": "x", "key": "{SECRET}"', 'not a JSON object with a "sha256"'),
    (f'{{"id": "x", "sha256": "{SECRET}"}}', "64 hexadecimal digits"),
    ('{"id": "x", "sha256": "00"}', "64 hexadecimal digits"),
    (json.dumps({"id": "x", "sha256": "0" * 64, "limit": SECRET}), "there is no field 'limit'"),
    (json.dumps({"id": "x", "sha256": "0" * 64, "expires": SECRET}), "'expires' must be of type int"),
    (json.dumps({"id": "x", "sha256": "0" * 64, "priority": True}), "'priority' must be of type int"),
    (json.dumps({"id": "x", "sha256": "0" * 64, "tokens_per_day": 0}), "tokens_per_day is 0; give 1 or more"),
]


@pytest.mark.parametrize(("text", "said"), BROKEN)
def test_a_broken_file_is_refused_by_its_line_and_shows_no_key(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(SampanError, match=said) as caught:
        FileKeys(path)
    assert SECRET[:8] not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such key file; `sampan keys create"):
        FileKeys(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\0\0")
    with pytest.raises(StorageError, match="not UTF-8 text"):
        FileKeys(tmp_path / "binary")


def test_no_key_and_no_digest_is_kept_or_shown(book: KeyBook, tmp_path: Path) -> None:
    key, secret = generate("alice")
    book.add(key, digest(secret))
    book.find(secret)
    book.find(secret + "x")
    ring = book._ring  # type: ignore[attr-defined]
    shown = f"{book!r} {key!r} {ring!r} {book.all()!r}"
    random = secret.rpartition("-")[2]
    assert random not in shown
    assert digest(secret).hex() not in shown
    assert repr(digest(secret)) not in shown
    assert not any(random.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


# The database.


def test_one_service_sees_what_another_has_added_and_revoked(tmp_path: Path) -> None:
    engine = connect(default_url(tmp_path))
    here, there = DatabaseKeys(engine, every=0.02), DatabaseKeys(engine)
    assert here.find(OWN) is None
    key, secret = generate("alice")
    there.add(key, digest(secret))
    assert soon(lambda: here.find(secret) == key)
    there.revoke(key.id)
    assert soon(lambda: here.find(secret) is None)
    here.close()
    there.close()


def test_keys_stay_valid_while_the_database_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = connect(default_url(tmp_path))
    keys = DatabaseKeys(engine, every=0.02)
    key, secret = generate("alice")
    keys.add(key, digest(secret))
    assert keys.find(secret) == key
    (tmp_path / "sampan.db").rename(tmp_path / "away.db")
    assert soon(lambda: not keys.healthy)
    assert keys.find(secret) == key
    assert "cannot be read again" in caplog.text
    (tmp_path / "away.db").rename(tmp_path / "sampan.db")
    assert soon(lambda: keys.healthy)
    keys.close()
