"""Settings from the environment: what makes no sense is refused by name, before anything is done with it."""

import os
from pathlib import Path

import pytest

from sampan.core.errors import UsageError
from sampan.core.settings import Settings, available_cores, checked_threads, family_files


def test_what_is_read(tmp_path: Path) -> None:
    env = {
        "SAMPAN_HOME": str(tmp_path),
        "SAMPAN_THREADS": " 3 ",
        "SAMPAN_OFFLINE": "Yes",
        "SAMPAN_TUNE": "off",
    }
    found = Settings.from_env(env)
    assert (found.home, found.threads, found.offline, found.tune) == (tmp_path, 3, True, False)
    assert found.hf_cache == Path.home() / ".cache" / "huggingface" / "hub"
    found = Settings.from_env({"SAMPAN_HOME": str(tmp_path), "HF_HUB_OFFLINE": "on", "HF_HOME": "/h"})
    assert (found.offline, found.tune, found.threads, found.hf_cache) == (True, True, None, Path("/h/hub"))
    assert not Settings.from_env({"SAMPAN_HOME": str(tmp_path), "HF_HUB_OFFLINE": "perhaps"}).offline


def test_what_reading_experts_does_without() -> None:
    found = Settings.from_env({"SAMPAN_EXPERTS_WITHOUT": "direct, read-ahead,"})
    assert found.experts_without == {"direct", "read-ahead"}
    assert Settings.from_env({}).experts_without == frozenset()
    with pytest.raises(UsageError, match=r"^SAMPAN_EXPERTS_WITHOUT is 'threads': give some of direct, frequ"):
        Settings.from_env({"SAMPAN_EXPERTS_WITHOUT": "threads"})


@pytest.mark.parametrize(
    "value", ["0", "-1", "10000", "2.0", "two", "²", "٢x", "1e2", "9" * 30, "9" * 5000, "True", "1 2"]
)
def test_threads_that_make_no_sense(value: str) -> None:
    with pytest.raises(
        UsageError, match=r"^SAMPAN_THREADS is .*: give a whole number from 1 to \d+$"
    ) as caught:
        Settings.from_env({"SAMPAN_THREADS": value})
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", ["2", True, 0, -1, 2.0, 10_000, 10**400, None, [2], float("nan")])
def test_a_number_of_threads_that_makes_no_sense(value: object) -> None:
    with pytest.raises(UsageError, match=r"^threads is .*: give a whole number from 1 to \d+$"):
        checked_threads(value)


def test_many_threads_are_allowed_but_not_absurdly_many() -> None:
    most = max(256, 4 * available_cores())
    assert checked_threads(most) == most
    with pytest.raises(UsageError, match=f"from 1 to {most}"):
        checked_threads(most + 1)


@pytest.mark.parametrize("name", ["SAMPAN_OFFLINE", "SAMPAN_TUNE"])
@pytest.mark.parametrize("value", ["banana", "2", "tru", "x\n" * 500])
def test_a_flag_that_is_none(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=rf"^{name} is .*: give 1 or 0$") as caught:
        Settings.from_env({name: value})
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("name", ["SAMPAN_HOME", "HF_HUB_CACHE", "HF_HOME"])
def test_a_home_of_nobody(name: str) -> None:
    with pytest.raises(UsageError, match=rf"^{name} is '~nobody-of-this-name/x': there is no such home"):
        Settings.from_env({name: "~nobody-of-this-name/x"})


def test_files_of_families_are_absolute_and_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/h")
    given = os.pathsep.join(["a.py", "", f"{tmp_path}/./a.py", "~/b.py"])
    assert family_files({"SAMPAN_FAMILIES": given}) == (tmp_path / "a.py", Path("/h/b.py"))
    assert family_files({}) == ()
    with pytest.raises(UsageError, match=r"SAMPAN_FAMILIES is '~nobody-of-this-name/a\.py'"):
        family_files({"SAMPAN_FAMILIES": "~nobody-of-this-name/a.py"})
