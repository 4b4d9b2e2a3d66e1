"""What a sandbox promises to programs that mean well, and to who uses it."""

import logging
import os
import pickle
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.core.errors import EnvError, UsageError
from sampan.envs.sandbox.plain import decode, encode
from sampan.envs.sandbox.sandbox import Sandbox
from sampan.envs.sandbox.verdict import Case, check_calls, check_tests
from sampan.envs.sandbox.walls import MODES, Limits, Mode, Role

SQUARE = "def f(x):\n    print('asked', x)\n    return x * x\n"


def test_right_values_pass_and_wrong_ones_are_named(sandbox: Sandbox) -> None:
    passed = check_calls(sandbox, SQUARE, "f", [Case((3,), 9), Case((4,), 16)])
    assert (passed.status, passed.reason, passed.right) == ("passed", "", 2)
    assert passed.output == "asked 3\nasked 4\n"
    assert 0 < passed.seconds < 60
    failed = check_calls(sandbox, SQUARE, "f", [Case((3,), 9), Case((4,), 17), Case((5,), 25)])
    assert (failed.status, failed.reason, failed.right) == ("failed", "f(4) gave 16, not 17", 1)
    assert check_calls(sandbox, SQUARE, "f", [Case((4,), 17), Case((5,), 25)], partial=True).right == 1


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("def f(x): return x +", "SyntaxError: invalid syntax"),
        ("def g(x): return x", "AttributeError: module 'solution' has no attribute 'f'"),
        ("def f(x): return 1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(x): return object()", "gave a value of type object, which is no plain value"),
        ("def f(x): return x > 0", "f(1) gave True, not 1"),  # a truth value is no number
        ("import numpy\ndef f(x): return 1", "ModuleNotFoundError: No module named 'numpy'"),
    ],
)
def test_a_program_that_fails_is_told_why(program: str, reason: str, sandbox: Sandbox) -> None:
    verdict = check_calls(sandbox, program, "f", [Case((1,), 1)])
    assert verdict.status == "failed"
    assert verdict.reason.startswith(reason)


def test_programs_have_pythons_own_modules(sandbox: Sandbox) -> None:
    program = (
        "import collections, csv, dataclasses, datetime, hashlib, heapq, itertools, json, math, random, re\n"
        "@dataclasses.dataclass\nclass P:\n    x: int\n"
        "def f(x): return collections.Counter([P(x).x, hashlib.md5(b'').digest_size, math.gcd(4, 6)])\n"
    )
    assert check_calls(sandbox, program, "f", [Case((1,), {1: 1, 16: 1, 2: 1})]).passed


def test_the_same_program_gives_the_same(sandbox: Sandbox, mode: Mode) -> None:
    """Sets of words and random numbers too: rewards are a run's own."""
    program = "import random\ndef f(x): return [list({'a', 'b', 'c', 'd', 'e'}), random.random()]"
    with sandbox.child() as one, Sandbox(mode=mode) as other, other.child() as two:
        for child in (one, two):
            child.ask({"code": program, "remote": None})
        request = {"call": "f", "args": [1], "kwargs": encode({})}
        assert one.ask(request) == two.ask(request)


def test_a_program_writes_in_its_own_folder_or_nowhere(sandbox: Sandbox, mode: Mode) -> None:
    program = "import os\ndef f(x):\n open('a', 'w').write('b')\n return os.listdir('.') + [open('a').read()]"
    for _ in range(2):  # the second one finds nothing of the first one's
        verdict = check_calls(sandbox, program, "f", [Case((1,), ["a", "b"])])
        assert verdict.passed == (mode != "limits"), verdict
    if mode == "limits":
        assert verdict.reason.startswith("PermissionError")


def test_all_that_is_written_is_bounded(mode: Mode) -> None:
    program = "def f(x):\n for i in range(9): open(str(i), 'wb').write(bytes(99_999))\n return 1"
    with Sandbox(Limits(seconds=60, scratch=1 << 19), mode=mode) as sandbox:
        verdict = check_calls(sandbox, program, "f", [Case((1,), 1)])
    assert verdict.reason.startswith("PermissionError" if mode == "limits" else "OSError: [Errno 28]")


def test_a_folder_that_cannot_be_removed_goes_with_its_keeper(mode: Mode) -> None:
    if mode == "limits":
        pytest.skip("nothing is written in this mode")
    program = "import os\ndef f(x):\n for _ in range(900): os.mkdir('a'); os.chdir('a')\n return 1"
    with Sandbox(Limits(seconds=60), mode=mode) as sandbox:
        for _ in range(2):
            assert check_calls(sandbox, program, "f", [Case((1,), 1)]).passed
        assert check_calls(sandbox, SQUARE, "f", [Case((2,), 4)]).passed


def test_tests_run_elsewhere(sandbox: Sandbox) -> None:
    program = "def f(x, y=1): return x + y"
    tests = (
        "def check(f):\n    assert f(1) == 2\n    assert f(x=1, y=2) == 3\n    assert f([1], [2]) == [1, 2]\n"
    )
    assert check_tests(sandbox, program, "f", tests + "check(f)").passed
    wrong = check_tests(sandbox, program, "f", "assert f(1) == 3, 'one and one'")
    assert (wrong.status, wrong.reason) == ("failed", "the tests: AssertionError: one and one")
    raises = "try:\n    f('')\nexcept TypeError:\n    pass\nelse:\n    raise AssertionError"
    assert check_tests(sandbox, program, "f", raises).passed


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("import gc, sys\ndef f(x): return [o for o in gc.get_objects() if o == 918_273][0]", "failed"),
        ("class A:\n def __eq__(self, other): return True\ndef f(x): return A()", "failed"),
        ("import builtins\nbuiltins.AssertionError = builtins.Exception = int\ndef f(x): return 1", "failed"),
        ("import os\ndef f(x): os._exit(0)", "crashed"),
        ("import os\ndef f(x):\n os.write(3, b'{\"loaded\": true}\\n')\n return 1", "failed"),
        ("def f(x): return 'x' * 999_999", "output"),
    ],
)
def test_tests_are_not_deceived(program: str, status: str, sandbox: Sandbox) -> None:
    verdict = check_tests(sandbox, program, "f", "assert f(1) == 918_273")
    assert verdict.status == status, verdict


@pytest.mark.parametrize(
    "tests", ["assert f(1) ==", "import no_such_module", "import os\nos._exit(0)", "x = bytearray(1 << 40)"]
)
def test_broken_tests_are_no_verdict(tests: str, sandbox: Sandbox) -> None:
    with pytest.raises(EnvError, match="the tests of 'f'"):
        check_tests(sandbox, "def f(x): return x", "f", tests)


def test_tests_that_never_end_are_no_verdict(mode: Mode) -> None:
    with (
        Sandbox(Limits(seconds=1), mode=mode) as sandbox,
        pytest.raises(EnvError, match=r"the tests of 'f': (took|computed for) longer than"),
    ):
        check_tests(sandbox, "def f(x): return x", "f", "f(1)\nwhile True: pass")


def test_a_keeper_that_dies_is_replaced(mode: Mode) -> None:
    with Sandbox(Limits(seconds=60), mode=mode) as sandbox:
        assert check_calls(sandbox, SQUARE, "f", [Case((2,), 4)]).passed
        _kill(sandbox)
        assert check_calls(sandbox, SQUARE, "f", [Case((2,), 4)]).passed
        child = sandbox.child()
        _kill(sandbox)
        with pytest.raises(EnvError, match="the sandbox ended while a program ran in it"):
            child.ask({"code": SQUARE, "remote": None})
        assert check_calls(sandbox, SQUARE, "f", [Case((2,), 4)]).passed


def test_nothing_is_left_when_it_closes(mode: Mode) -> None:
    with Sandbox(mode=mode) as sandbox:
        child = sandbox.child()
        family = _family(sandbox)
        assert len(family) >= 2
        folder = Path(sandbox._kept()._folder)
        assert folder.is_dir()
    assert not psutil.wait_procs(family, timeout=10)[1]
    assert not folder.exists()
    child.close()


def test_nothing_is_left_when_its_user_is_killed(mode: Mode) -> None:
    code = (
        "import sys\nfrom sampan.envs.sandbox.sandbox import Sandbox\n"
        "sandbox = Sandbox(mode=sys.argv[1])\nchild = sandbox.child()\n"
        "print(sandbox._kept()._process.pid, flush=True)\n"
        "child.ask({'code': 'import time\\ntime.sleep(999)', 'remote': None})"
    )
    with subprocess.Popen([sys.executable, "-c", code, mode], stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        keeper = psutil.Process(int(user.stdout.readline()))
        family = [keeper, *keeper.children(recursive=True)]
        user.kill()
        assert not psutil.wait_procs(family, timeout=20)[1]


def test_interrupts_are_for_its_user(mode: Mode) -> None:
    """Ctrl-C goes to all processes of a terminal's group."""
    with Sandbox(mode=mode) as sandbox:
        child = sandbox.child()
        for process in _family(sandbox):
            assert os.getpgid(process.pid) != os.getpgid(0)
        child.close()


def test_many_threads_may_ask(sandbox: Sandbox) -> None:
    right: list[bool] = []

    def ask(number: int) -> None:
        for i in range(4):
            cases = [Case((i,), i + number)]
            right.append(check_calls(sandbox, f"def f(x): return x + {number}", "f", cases).passed)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 16


def test_it_travels_as_its_options() -> None:
    sandbox = Sandbox(Limits(seconds=60), mode="limits")
    with pickle.loads(pickle.dumps(sandbox)) as other:
        assert other.limits == sandbox.limits
        assert other.mode == "limits"
        assert check_calls(other, SQUARE, "f", [Case((2,), 4)]).passed


def test_the_strongest_mode_is_taken_and_weakness_told(
    mode: Mode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place = MODES.index(mode)
    for stronger in MODES[:place]:
        monkeypatch.setattr(
            "sampan.envs.sandbox.sandbox.possible",
            lambda asked, _before=stronger: asked not in MODES[:place],
        )
    with Sandbox() as sandbox, caplog.at_level(logging.WARNING):
        assert sandbox.mode == mode
        lacks = sandbox.lacks
    assert bool(caplog.records) == bool(lacks)
    if lacks:
        assert all(name in caplog.text for name in (mode, *lacks))


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match=r"mode is 'none': one of bubblewrap, namespaces, limits"):
        Sandbox(mode="none")  # type: ignore[arg-type]
    for field in ("seconds", "cpu", "memory", "output", "file", "scratch"):
        with pytest.raises(UsageError, match=rf"limits.{field} is 0: give a positive number"):
            Limits(**{field: 0})


def test_a_sandbox_that_cannot_start_says_why() -> None:
    with (
        Sandbox(role=Role("sampan.envs.sandbox.candidate:no_such"), mode="limits") as sandbox,
        pytest.raises(EnvError, match=r"no sandbox.*limits: AttributeError.*no_such"),
    ):
        sandbox.child()


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple)
    | st.dictionaries(st.text() | st.integers(), inner, max_size=4) | st.frozensets(st.integers(), max_size=4)
    | st.sets(st.text(), max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(plain)
def test_plain_values_come_as_they_went(value: Any) -> None:
    came = decode(encode(value))
    assert came == value
    assert type(came) is type(value)


@pytest.mark.parametrize(
    "said", [{}, {"a": 1}, {"set": [[]]}, {"dict": [1]}, {"dict": 1}, {"bytes": "x"}, {"float": "1"},
             {"tuple": 1}, {"complex": [1]}, {"tuple": [], "set": []}]
)  # fmt: skip
def test_what_is_no_plain_value_is_refused(said: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        decode(said)


def _family(sandbox: Sandbox) -> list[psutil.Process]:
    """The processes behind it."""
    keeper = sandbox._kept()._process
    assert keeper is not None
    process = psutil.Process(keeper.pid)
    return [process, *process.children(recursive=True)]


def _kill(sandbox: Sandbox) -> None:
    family = _family(sandbox)
    for process in family:
        with suppress(psutil.NoSuchProcess):  # it has ended with the one before
            process.kill()
    psutil.wait_procs(family, timeout=10)
