"""What a process of the sandbox gives up before it runs anybody's code. Runs inside of the sandbox: the
standard library alone.
"""

import ctypes
import os
import random
import resource
import struct
import sys
import sysconfig
from typing import Any

from sampan.envs.sandbox import seccomp
from sampan.envs.sandbox.landlock import Landlock

_DUMPABLE, _NO_NEW_PRIVS = 4, 38
_CAPSET = {"x86_64": 126, "aarch64": 91}
_NOT_PYTHON = {"site-packages", "dist-packages", "test", "idlelib", "ensurepip"}


class Confinement:
    """`holds`: what the kernel enforces: "files", "network", "processes". Made once, taken on by each
    process."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._filter = seccomp.program()
        self._landlock = _rules(config)
        self.holds = {
            "files": config["walled"] or self._landlock.version > 0,
            "network": config["apart"] or self._filter is not None,
            "processes": self._filter is not None or os.getuid() != 0,
        }

    def protect(self) -> None:
        """Of the process that starts the others: none of them may look into it."""
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_DUMPABLE, 0, 0, 0, 0)

    def take(self, folder: str) -> None:
        """For this process and for good; `folder` is where it may write. Raises OSError."""
        os.chdir(folder)
        self._limit()
        random.seed(0)
        if sys.platform != "linux":
            return
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "no_new_privs")
        number = _CAPSET.get(os.uname().machine)
        if number and libc.syscall(number, struct.pack("Ii", 0x20080522, 0), bytes(24)):
            raise OSError(ctypes.get_errno(), "capset")
        self._landlock.restrict()
        if self._filter is not None:
            seccomp.install(self._filter)

    def _limit(self) -> None:
        config = self._config
        limits = {
            resource.RLIMIT_AS: config["memory"],
            resource.RLIMIT_CPU: config["cpu"],
            resource.RLIMIT_FSIZE: config["file"],
            resource.RLIMIT_NOFILE: 64,
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_NPROC: 0,
        }
        for kind, limit in limits.items():
            resource.setrlimit(kind, (limit, limit))


def _rules(config: dict[str, Any]) -> Landlock:
    """Python's own modules may be read, and what the role reads; nothing else is there."""
    landlock = Landlock()
    python = sysconfig.get_path("stdlib")
    landlock.listed(python)
    landlock.read([entry.path for entry in os.scandir(python) if entry.name not in _NOT_PYTHON])
    landlock.read(config["path"])
    if config["scratch"]:
        landlock.write(config["folder"])
    return landlock
