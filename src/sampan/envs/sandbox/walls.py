"""What stands between the sandbox's processes and the machine: one of three modes, and how it is started."""

import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sampan.core.errors import UsageError, quoted

Mode = Literal["bubblewrap", "namespaces", "limits"]
MODES: tuple[Mode, ...] = get_args(Mode)
"""From the strongest to the weakest: a file system of its own with bubblewrap; the machine's, in namespaces
of its own; the machine's, in the namespaces of who started it."""

_HOME = Path(__file__).parents[3]
_START = (
    "import sys; sys.path.append({home!r}); from sampan.envs.sandbox.keeper import main; main(sys.argv[1])"
)
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/urandom")
_SCRATCH = "/scratch"


@dataclass(frozen=True)
class Limits:
    """Of one program. `seconds`: of wall time from its first line on; `cpu`: whole seconds of computing;
    `memory`: of address space; `output`: of what it prints, and of each value that it gives; `file`: of one
    file; `scratch`: of all. In bytes. Other processes and threads: none."""

    seconds: float = 6.0
    cpu: int = 2
    memory: int = 512 << 20
    output: int = 64 << 10
    file: int = 1 << 20
    scratch: int = 16 << 20

    def __post_init__(self) -> None:
        """`UsageError` by the field's name."""
        for name, value in vars(self).items():
            if value <= 0:
                raise UsageError(f"limits.{name} is {quoted(value)}: give a positive number")


@dataclass(frozen=True)
class Role:
    """What a sandbox's processes do. `prepare`: "module:function", which imports what they need and gives the
    function that takes their channel. `path`: where they find modules besides Python's own; they may read all
    in it."""

    prepare: str = "sampan.envs.sandbox.candidate:prepare"
    path: tuple[str, ...] = ()


def possible(mode: Mode) -> bool:
    """False where it need not be tried."""
    if mode == "bubblewrap":
        return sys.platform == "linux" and shutil.which("bwrap") is not None
    return mode == "limits" or sys.platform == "linux"


def command(mode: Mode, limits: Limits, role: Role, folder: str) -> list[str]:
    """What starts the keeper, on a socket as its standard input. `folder`: an empty one."""
    walled = mode == "bubblewrap"
    config: dict[str, Any] = {
        "namespaces": mode == "namespaces",
        "walled": walled,
        "apart": mode != "limits",
        "folder": _SCRATCH if walled else folder,
        "scratch": limits.scratch if mode != "limits" else 0,
        "role": role.prepare,
        "path": list(role.path),
        "home": str(_HOME),
        "memory": limits.memory,
        "cpu": limits.cpu,
        "file": limits.file,
    }
    # Not `-I`, which would forget the seed of hashes, so that sets of words had another order each time; the
    # environment has nothing else.
    python = [_python(), "-s", "-S", "-P", "-B", "-X", "utf8", "-c", _START.format(home=str(_HOME))]
    return [*(_bubblewrap(limits, role) if walled else ()), *python, json.dumps(config)]


ENVIRONMENT = {"PYTHONHASHSEED": "0"}


def _python() -> str:
    return os.path.realpath(sys.executable)


def _bubblewrap(limits: Limits, role: Role) -> list[str]:
    python = sysconfig.get_path("stdlib")
    packages = Path(__file__).parents[2]
    shown = [*_LIBRARIES, f"{sys.base_prefix}/lib", python, _python(), *role.path]
    shown += [str(packages / "__init__.py"), str(packages / "envs")]
    argv = ["bwrap", "--unshare-all", "--as-pid-1", "--cap-drop", "ALL", "--hostname", "sandbox"]
    for path in shown:
        kind = "--dev-bind-try" if path.startswith("/dev/") else "--ro-bind-try"
        argv += [kind, path, path]
    for hidden in _packages(python):
        if hidden not in role.path and Path(hidden).is_dir():
            argv += ["--tmpfs", hidden]
    return [*argv, "--size", str(limits.scratch), "--tmpfs", _SCRATCH, "--chdir", _SCRATCH, "--"]


def _packages(python: str) -> Sequence[str]:
    return f"{python}/site-packages", f"{python}/dist-packages", "/usr/lib/python3/dist-packages"
