"""`sampan keys`: what scripts read, and what people read."""

import json
import re
import time
from pathlib import Path

import pytest

from sampan.cli.main import main
from sampan.server.storage.database import connect, default_url
from sampan.server.storage.key_file import FileKeys
from sampan.server.storage.key_table import DatabaseKeys
from sampan.server.storage.ledger import Entry, Ledger

KEY = re.compile(r"sk-sampan-([0-9a-f]{10})-[A-Za-z0-9]{43}")


@pytest.fixture(params=["file", "database", "home"])
def place(request: pytest.FixtureRequest, tmp_path: Path, sampan_home: Path) -> list[str]:
    """Where the keys are, as options; without any it is `SAMPAN_HOME`."""
    assert not sampan_home.exists()
    places = {
        "file": ["--file", str(tmp_path / "keys")],
        "database": ["--database", f"sqlite:///{tmp_path / 'other.db'}"],
        "home": [],
    }
    return places[request.param]


def test_a_key_is_made_shown_once_listed_and_revoked(
    place: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "create", "alice", *place]) == 0
    made = capsys.readouterr()
    found = KEY.fullmatch(made.out.strip())
    assert found is not None
    assert "only time that the key of alice is shown" in made.err
    assert main(["keys", "list", *place]) == 0
    listed = capsys.readouterr().out
    assert re.search(rf"{found[1]} +alice +valid +0 +- +- +- +all +never", listed)
    assert found[0] not in listed
    assert main(["keys", "revoke", found[1], *place]) == 0
    assert capsys.readouterr().out == f"{found[1]} (alice) is revoked\n"
    assert main(["keys", *place]) == 0
    assert re.search(r"alice +revoked", capsys.readouterr().out)


def test_json_has_everything(place: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    limits = ["--requests-per-minute", "60", "--tokens-per-minute", "1000", "--tokens-per-day", "5000"]
    rest = ["--priority", "-1", "--model", "a", "--model", "b", "--expires", "30d", "--json"]
    assert main(["keys", "create", "bøb", *limits, *rest, *place]) == 0
    made = json.loads(capsys.readouterr().out)
    assert KEY.fullmatch(made.pop("key"))
    assert abs(made["expires"] - time.time() - 30 * 86_400) < 60
    assert made | {"id": 0, "created": 0, "expires": 0} == {
        "id": 0,
        "name": "bøb",
        "priority": -1,
        "requests_per_minute": 60,
        "tokens_per_minute": 1000,
        "tokens_per_day": 5000,
        "models": ["a", "b"],
        "admin": False,
        "created": 0,
        "expires": 0,
        "revoked": None,
        "state": "valid",
    }
    assert main(["keys", "list", "--json", *place]) == 0
    assert json.loads(capsys.readouterr().out) == made
    assert main(["keys", "revoke", made["id"], "--json", *place]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "revoked"


def test_a_date_may_say_when_it_expires(sampan_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "create", "past", "--expires", "2020-01-31"]) == 0
    assert main(["keys", "create", "future", "--expires", "2100-01-31T12:00+00:00"]) == 0
    assert main(["keys", "create", "beyond", "--expires", "999999w"]) == 0
    capsys.readouterr()
    assert main(["keys", "list"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"past +expired .* 2020-01-31 00:00 UTC", out)
    assert re.search(r"future +valid .* 2100-01-31 12:00 UTC", out)
    assert re.search(r"beyond +valid .* 9999-12-31", out)
    assert sampan_home.exists()


def test_what_was_made_opens(tmp_path: Path, sampan_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "create", "alice", "--file", str(tmp_path / "keys")]) == 0
    alice = FileKeys(tmp_path / "keys").find(capsys.readouterr().out.strip())
    assert main(["keys", "create", "bob"]) == 0
    keys = DatabaseKeys(connect(default_url(sampan_home)))
    bob = keys.find(capsys.readouterr().out.strip())
    assert (alice and alice.name, bob and bob.name) == ("alice", "bob")
    keys.close()


def test_usage_is_per_key_and_model(sampan_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "create", "alice", "--json"]) == 0
    id = json.loads(capsys.readouterr().out)["id"]
    ledger = Ledger(connect(default_url(sampan_home)))
    ledger.record(Entry(time.time(), id, "m", 1000, 500, 100, 50, seconds=2.5))
    ledger.record(Entry(time.time() - 10 * 86_400, None, "m", 1, 1))
    assert ledger.close()
    assert main(["keys", "usage", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["id"], row["name"], row["requests"]) for row in rows] == [(None, None, 1), (id, "alice", 1)]
    assert rows[1] == {
        "id": id,
        "name": "alice",
        "model": "m",
        "requests": 1,
        "prompt_tokens": 1000,
        "cached_tokens": 100,
        "completion_tokens": 500,
        "reasoning_tokens": 50,
        "seconds": 2.5,
    }
    assert main(["keys", "usage", "--since", "7d"]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"{id} +alice +m +1 +1,000 +100 +500 +50 +2\.5", out)
    assert len(out.splitlines()) == 2
    assert main(["keys", "usage", "nobody", "--json"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("sampan_home")
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["delete"], 2, "'delete' is no action of `sampan keys`"),
        (["create"], 2, "`sampan keys create NAME` needs its NAME"),
        (["revoke"], 2, "`sampan keys revoke ID` needs its ID"),
        (["revoke", "nobody"], 2, "no key with the id 'nobody'; `sampan keys list` shows them"),
        (["create", "x", "--expires", "soon"], 2, "--expires 'soon': write 30d"),
        (["create", "x", "--requests-per-minute", "0"], 2, "--requests-per-minute': 0 is not in the range"),
        (["usage", "--since", "2026-13-01"], 2, "--since '2026-13-01': write 30d"),
        (["usage", "--file", "f"], 2, "--file goes with create, list and revoke"),
        (["list", "--file", "/nowhere/keys"], 1, "/nowhere/keys: no such key file"),
        (["list", "--database", "mysql://u:hunter2@h/d"], 2, "no database of the kind 'mysql'"),
        (["list", "--database", "sqlite:////proc/none/x.db"], 1, "/proc/none/x.db: "),
    ],
)
def test_what_makes_no_sense_is_an_error_on_one_line(
    words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", *words]) == code
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""
    assert "hunter2" not in shown.err
    assert code == 2 or len(shown.err.splitlines()) == 1
