"""Programs that want to pass without knowing the answer, or to do harm. Each would pass where its attack succeeds:
the right value stands in a file, in the environment, in the memory of who judges and behind a port of this machine."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sampan.envs.sandbox.sandbox import Sandbox
from sampan.envs.sandbox.verdict import Case, check_calls
from sampan.envs.sandbox.walls import Limits, Mode

RIGHT = 918273
CASES = [Case((3,), RIGHT)]

# {secret}: a file with the right value; {folder}: its folder; {port}: of who tells it; {parent}: the judge's process.
FAILS = {
    "reads the file": "def f(x): return int(open({secret!r}).read())",
    "reads it by a descriptor": "import os\ndef f(x): return int(os.read(os.open({secret!r}, 0), 99))",
    "reads it through a link": "import os\ndef f(x):\n os.symlink({secret!r}, 'a')\n return int(open('a').read())",
    "links it": "import os\ndef f(x):\n os.link({secret!r}, 'a')\n return int(open('a').read())",
    "reads it through /proc": "def f(x): return int(open('/proc/self/root' + {secret!r}).read())",
    "reads it from above": "def f(x): return int(open('../' * 20 + {secret!r}).read())",
    "maps it": "import mmap\ndef f(x):\n file = open({secret!r})\n return int(mmap.mmap(file.fileno(), 6, prot=1)[:])",
    "moves it": "import os\ndef f(x):\n os.rename({secret!r}, 'a')\n return int(open('a').read())",
    "changes the root": "import os\ndef f(x):\n os.chroot('/')\n return int(open({secret!r}).read())",
    "reads the environment": "import os\ndef f(x): return int(os.environ['SAMPAN_TEST_ANSWER'])",
    "reads the judge's environment": (
        "def f(x):\n"
        " text = open('/proc/{parent}/environ').read()\n"
        " return int(text.split('SAMPAN_TEST_ANSWER=')[1][:6])"
    ),
    "reads everybody's environment": (
        "import glob\ndef f(x):\n"
        " text = ''.join(open(p).read() for p in glob.glob('/proc/*/environ'))\n"
        " return int(text.split('SAMPAN_TEST_ANSWER=')[1][:6])"
    ),
    "reads the judge's memory": "def f(x): return int(open('/proc/{parent}/mem', 'rb').read(6))",
    "reads the keeper's memory": (
        "import os\ndef f(x): return int(open(f'/proc/{{os.getppid()}}/mem', 'rb').read(6))"
    ),
    "imports the judge": (
        "from sampan.envs.sandbox.verdict import Case\nimport gc\n"
        "def f(x): return [o for o in gc.get_objects() if isinstance(o, Case)][0].value"
    ),
    "searches the memory": (
        "import gc\ndef f(x): return [o for o in gc.get_objects() if type(o).__name__ == 'Case'][0].value"
    ),
    "walks up the stack": (
        "import sys\ndef f(x):\n frame = sys._getframe()\n"
        " while frame:\n"
        "  for name in ('right', 'expected', 'answer', 'cases'):\n"
        "   if name in frame.f_locals: return frame.f_locals[name]\n"
        "  frame = frame.f_back"
    ),
    "asks a server": (
        "import socket\ndef f(x): return int(socket.create_connection(('127.0.0.1', {port})).recv(99)[-6:])"
    ),
    "asks a server of the web": (
        "import urllib.request\ndef f(x): return int(urllib.request.urlopen('http://127.0.0.1:{port}').read())"
    ),
    "asks with a raw call": (
        "import ctypes\ndef f(x):\n"
        " s = ctypes.CDLL(None, use_errno=True).socket(2, 1, 0)\n"
        " assert s >= 0, 'refused'\n return 918_273"
    ),
    "sends a datagram": "import socket\ndef f(x): return socket.socket(socket.AF_INET, socket.SOCK_DGRAM) and 918_273",
    "connects by a path": (
        "import socket\ndef f(x): return socket.socket(socket.AF_UNIX).connect('/run/x.sock') or 918_273"
    ),
    "leaves the network's namespace": (
        "import ctypes\ndef f(x): return 918_273 if ctypes.CDLL(None).unshare(0x10000000) == 0 else 0"
    ),
    "forks": "import os\ndef f(x): return 918_273 if os.fork() >= 0 else 0",
    "is a fork bomb": "import os\ndef f(x):\n while True: os.fork()",
    "forks with a raw call": "import ctypes\ndef f(x): return 918_273 if ctypes.CDLL(None).fork() >= 0 else 0",
    "starts threads": "import threading\ndef f(x): return threading.Thread(target=print).start() or 918_273",
    "starts a program": "import subprocess\ndef f(x): return subprocess.run(['/bin/sh', '-c', 'true']) and 918_273",
    "becomes a program": "import os, sys\ndef f(x): os.execv('/bin/cat', ['cat', {secret!r}])",
    "spawns": "import os\ndef f(x): return os.posix_spawn('/bin/sh', ['sh'], {{}}) and 918_273",
    "starts processes": (
        "import multiprocessing\ndef f(x):\n"
        " p = multiprocessing.get_context('fork').Process(target=print)\n p.start()\n return 918_273"
    ),
    "kills the judge": "import os\ndef f(x): return os.kill({parent}, 9) or 918_273",
    "kills the keeper": "import os\ndef f(x): return os.kill(os.getppid(), 9) or 918_273",
    "kills everybody": "import os\ndef f(x): return os.kill(-1, 9) or 918_273",
    "kills its group": "import os\ndef f(x): return os.killpg(0, 9) or 918_273",
    "traces the keeper": (
        "import ctypes, os\ndef f(x): return 918_273 if ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0 else 0"
    ),
    "limits the judge": "import resource\ndef f(x): return resource.prlimit({parent}, 7, (9, 9)) and 918_273",
    "raises its limits": (
        "import resource\ndef f(x):\n resource.setrlimit(resource.RLIMIT_CPU, (999, 999))\n return 918_273"
    ),
    "slows the judge": "import os\ndef f(x): return os.setpriority(0, {parent}, 19) or 918_273",
    "changes modes": "import os\ndef f(x): return os.chmod({secret!r}, 0) or 918_273",
    "changes times": "import os\ndef f(x): return os.utime({secret!r}, (0, 0)) or 918_273",
    "cuts a file": "import os\ndef f(x): return os.truncate({secret!r}, 0) or 918_273",
    "writes outside": "def f(x): return open({folder!r} + '/left', 'w').write('x') and 918_273",
    "makes a folder outside": "import os\ndef f(x): return os.mkdir({folder!r} + '/left') or 918_273",
    "removes a file": "import os\ndef f(x): return os.remove({secret!r}) or 918_273",
    "lists the folder": "import os\ndef f(x): return os.listdir({folder!r}) and 918_273",
    "keeps shared memory": (
        "import ctypes\ndef f(x): return 918_273 if ctypes.CDLL(None).shmget(0, 1 << 20, 0o1600) >= 0 else 0"
    ),
    "mounts": (
        "import ctypes\ndef f(x): return 918_273 if ctypes.CDLL(None).mount(b'x', b'/', b'tmpfs', 0, None) == 0 else 0"
    ),
    "is equal to everything": (
        "class A:\n def __eq__(self, other): return True\n __hash__ = object.__hash__\ndef f(x): return A()"
    ),
    "is a number equal to everything": (
        "class A(int):\n def __eq__(self, other): return True\n __hash__ = int.__hash__\ndef f(x): return A(1)"
    ),
    "is a text equal to everything": (
        "class A(str):\n def __eq__(self, other): return True\n __hash__ = str.__hash__\ndef f(x): return A()"
    ),
    "has a list equal to everything": (
        "class A(list):\n def __eq__(self, other): return True\ndef f(x): return A([1])"
    ),
    "gives a generator": "def f(x): yield 918_273",
    "gives a coroutine": "async def f(x): return 918_273",
    "gives what is no number": "def f(x): return float('nan')",
    "gives a class": "def f(x): return int",
    "gives a pickle": (
        "import pickle\nclass A:\n def __reduce__(self): return eval, ('918_273',)\n"
        "def f(x): return pickle.dumps(A())"
    ),
    "gives half a letter": "def f(x): return '\\ud800'",
    "contains itself": "def f(x):\n a = []\n a.append(a)\n return a",
    "is deep": "def f(x):\n a = 0\n for _ in range(5000): a = [a]\n return a",
    "raises what cannot be shown": (
        "class A(Exception):\n def __str__(self): raise SystemExit(0)\ndef f(x): raise A()"
    ),
    "leaves": "import sys\ndef f(x): sys.exit(0)",
    "leaves at once": "import sys\nsys.exit(0)",
    "says that it passed": 'def f(x):\n print(\'{{"status": "passed", "value": true}}\')\n return 1',
    "passes by a message": (
        "import os\ndef f(x):\n os.write(3, b'{{\"status\": \"passed\", \"right\": 9}}\\n')\n return 1"
    ),
    "loads by a message": "import os\nos.write(3, b'{{\"loaded\": true}}\\n{{\"value\": true}}\\n')\ndef f(x): return 1",
    "sends a deep message": "import os\ndef f(x):\n os.write(3, b'[' * 50000 + b'\\n')\n return 1",
    "sends no message": "import os\ndef f(x):\n os.write(3, bytes(range(256)) + b'\\n')\n return 1",
    "sends a descriptor": (
        "import os, socket\ndef f(x):\n s = socket.socket(fileno=os.dup(3))\n"
        " socket.send_fds(s, [b'{{\"value\": 1}}\\n'], [0])\n return 1"
    ),
    "replaces isinstance": "import builtins\nbuiltins.isinstance = lambda *_: True\ndef f(x): return object()",
    "replaces json": "import json\njson.dumps = lambda *_: '{{\"value\": true}}'\ndef f(x): return 1",
    "replaces modules": "import sys\nfor name in list(sys.modules): sys.modules[name] = None\ndef f(x): return 1",
    "replaces the encoder": (
        "import sys\nmodule = sys.modules['sampan.envs.sandbox.candidate']\n"
        "module.encode = lambda value: {{'value': True}}\ndef f(x): return 1"
    ),
    "replaces the error": "import builtins\nbuiltins.BaseException = int\ndef f(x): raise ValueError",
    "is recursive": "def f(x): return f(x) + 1",
    "is a bomb of memory": "def f(x): return len(bytearray(1 << 40))",
    "is a slow bomb of memory": "def f(x):\n a = [0]\n while True: a += a",
    "fills the disk": "def f(x):\n with open('a', 'wb') as file:\n  for _ in range(99): file.write(bytes(1 << 20))\n return 918_273",
    "fills the memory with files": (
        "import os\ndef f(x):\n for i in range(99):\n"
        "  file = os.memfd_create('a')\n  os.write(file, bytes(1 << 20))\n return 918_273"
    ),
    "opens everything": "import os\ndef f(x): return [os.pipe() for _ in range(99)] and 918_273",
}  # fmt: skip
# Those that end badly, and how.
ENDS = {
    "ends itself": ("crashed", "import os\ndef f(x): os._exit(0)"),
    "crashes": ("crashed", "import ctypes\ndef f(x): return ctypes.string_at(0)"),
    "aborts": ("crashed", "import os\ndef f(x): os.abort()"),
    "closes what is open": ("crashed", "import os\ndef f(x):\n os.closerange(0, 99)\n return 918_273"),
    "turns its output into the channel": ("failed", "import os\ndef f(x):\n os.dup2(3, 1)\n print('x')\n return 1"),
    "prints without end": ("output", "def f(x):\n while True: print('x' * 999)"),
    "complains without end": ("output", "import sys\ndef f(x):\n while True: sys.stderr.write('x' * 999)"),
    "prints while it loads": ("output", "while True: print('x' * 999)"),
    "gives too much": ("output", "def f(x): return 'x' * 999_999"),
    "sends without end": ("output", "import os\ndef f(x):\n while True: os.write(3, b'x' * 999)"),
    "needs too much memory": ("memory", "def f(x): return bytearray(1 << 40)"),
}
# Those that would go on for ever.
HANGS = {
    "loops": "def f(x):\n while True: pass",
    "loops while it loads": "while True: pass",
    "sleeps": "import time\ndef f(x): time.sleep(999)",
    "reads": "import os\ndef f(x): return os.read(3, 99) and f(x)",
    "raises a tower": "def f(x): return 2003 ** 2002 ** 2001",
    "writes a number out": "import sys\nsys.set_int_max_str_digits(0)\ndef f(x): return len(str(7 ** 9_999_999))",
    "backtracks": "import re\ndef f(x): return re.match('(a+)+$', 'a' * 99 + 'b')",
    "heeds no signal": (
        "import signal\nfor number in range(1, 32):\n try: signal.signal(number, signal.SIG_IGN)\n"
        " except OSError: pass\ndef f(x):\n while True: pass"
    ),
    "waits in the end": "import atexit, time\natexit.register(time.sleep, 999)\ndef f(x): time.sleep(999)",
    "catches everything": "def f(x):\n while True:\n  try:\n   while True: pass\n  except BaseException: pass",
}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a server that tells the right value."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n918273")

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def impatient(mode: Mode) -> Iterator[Sandbox]:
    with Sandbox(Limits(seconds=0.5, cpu=1), mode=mode) as made:
        yield made


def _family(sandbox: Sandbox) -> list[psutil.Process]:
    """The processes behind it."""
    keeper = sandbox._kept()._process
    assert keeper is not None
    process = psutil.Process(keeper.pid)
    return [process, *process.children(recursive=True)]


@pytest.mark.parametrize("name", FAILS)
def test_no_attack_succeeds(
    name: str, sandbox: Sandbox, tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "answer"
    secret.write_text(str(RIGHT))
    before = secret.stat()
    monkeypatch.setenv("SAMPAN_TEST_ANSWER", str(RIGHT))
    program = FAILS[name].format(secret=str(secret), folder=str(tmp_path), port=port, parent=os.getpid())
    alive = len(_family(sandbox))
    verdict = check_calls(sandbox, program, "f", CASES)
    assert not verdict.passed, verdict
    assert verdict.status in ("failed", "memory", "crashed"), verdict
    assert verdict.right == 0
    assert os.listdir(tmp_path) == ["answer"]
    assert secret.read_text() == str(RIGHT)
    assert (secret.stat().st_mode, secret.stat().st_mtime) == (before.st_mode, before.st_mtime)
    assert len(_family(sandbox)) == alive  # nobody is left, and the keeper is the same


@pytest.mark.parametrize("name", ENDS)
def test_who_ends_badly_is_told_how(name: str, sandbox: Sandbox) -> None:
    status, program = ENDS[name]
    verdict = check_calls(sandbox, program, "f", CASES)
    assert verdict.status == status, verdict
    assert verdict.reason
    assert check_calls(sandbox, "def f(x): return 918_273", "f", CASES).passed


@pytest.mark.parametrize("name", HANGS)
def test_nobody_goes_on_for_ever(name: str, impatient: Sandbox) -> None:
    impatient.mode  # noqa: B018: it starts here, on no program's time
    alive = len(_family(impatient))
    verdict = check_calls(impatient, HANGS[name], "f", CASES)
    assert verdict.status == "timeout", verdict
    assert len(_family(impatient)) == alive


def test_the_attacks_would_succeed_outside(tmp_path: Path, port: int) -> None:
    """Without walls these programs pass: so they fail for the walls, and not for their own mistakes."""
    secret = tmp_path / "answer"
    secret.write_text(str(RIGHT))
    names = (
        "reads the file", "reads it by a descriptor", "reads it through a link", "links it", "reads it from above",
        "reads it through /proc", "maps it", "reads the environment", "reads the judge's environment",
        "asks a server", "asks a server of the web", "asks with a raw call", "sends a datagram", "starts threads",
        "starts a program", "starts processes", "slows the judge", "changes modes",
        "changes times", "writes outside", "lists the folder", "fills the memory with files", "opens everything",
        "fills the disk", "limits the judge",
    )  # fmt: skip
    programs = {
        name: FAILS[name].format(secret=str(secret), folder=str(tmp_path), port=port, parent="PARENT")
        for name in names
    }
    code = (
        "import json, os, sys\n"
        "for name, program in json.load(sys.stdin).items():\n"
        "    space = {}\n"
        "    os.path.lexists('a') and os.remove('a')\n"
        "    exec(program.replace('PARENT', str(os.getpid())), space)\n"
        "    print(name, space['f'](3), file=sys.stderr, sep='=')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        input=json.dumps(programs),
        env={"SAMPAN_TEST_ANSWER": str(RIGHT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stderr.splitlines() == [f"{name}={RIGHT}" for name in names]


def test_who_computes_too_long_is_told_so(mode: Mode) -> None:
    with Sandbox(Limits(seconds=100, cpu=1), mode=mode) as sandbox:
        verdict = check_calls(sandbox, HANGS["loops"], "f", CASES)
    assert (verdict.status, verdict.reason) == ("timeout", "computed for longer than 1 seconds")
