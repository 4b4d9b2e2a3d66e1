"""Which files a process may reach, by the kernel (Landlock, since Linux 5.13). Runs inside of the sandbox:
the standard library alone.
"""

import ctypes
import os
import stat
import struct
import sys
from collections.abc import Sequence
from fcntl import F_DUPFD_CLOEXEC, fcntl

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_BENEATH = 1
_DESCRIPTOR = 20  # those below are wanted by whoever runs a program
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_OF_FILES = 1 << 0 | 1 << 1 | _READ_FILE | 1 << 14 | 1 << 15
_SPECIAL = 1 << 0 | 1 << 6 | 1 << 9 | 1 << 11 | 1 << 15  # execute, devices, sockets, ioctl on devices
_RIGHTS = (13, 14, 15, 15, 16)  # how many there are, by the kernel's version of Landlock, 1 to 5


class Landlock:
    """A set of rules; whoever takes it on can reach nothing else. `version`: the kernel's, 0 where it has
    none and rules do nothing. Raises OSError."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.version = self._call(_CREATE, None, 0, 1, probe=True) if sys.platform == "linux" else 0
        if not self.version:
            return
        self._all = (1 << _RIGHTS[min(self.version, 5) - 1]) - 1
        # From 4 on: TCP; from 6 on: abstract Unix sockets, and signals to processes outside.
        words = (self._all, 3, 3)[: 1 if self.version < 4 else 2 if self.version < 6 else 3]
        rules = self._call(_CREATE, struct.pack(f"{len(words)}Q", *words), len(words) * 8, 0)
        self._rules = fcntl(rules, F_DUPFD_CLOEXEC, _DESCRIPTOR)
        os.close(rules)

    def read(self, paths: Sequence[str], rights: int = _READ_FILE | _READ_DIR) -> None:
        """Allow reading these files, and folders with all in them. Those that are not there are left out."""
        for path in paths:
            self._allow(path, rights)

    def listed(self, path: str) -> None:
        """Allow the names of what is in this folder and below."""
        self._allow(path, _READ_DIR)

    def write(self, path: str) -> None:
        """Allow everything that is done to plain files and folders within this folder."""
        if self.version:
            self._allow(path, self._all & ~_SPECIAL)

    def restrict(self) -> None:
        """Take it on, for this process and for good; needs `no_new_privs`."""
        if self.version:
            self._call(_RESTRICT, self._rules, 0)
            os.close(self._rules)

    def _allow(self, path: str, rights: int) -> None:
        if not self.version:
            return
        try:
            folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return
        if not stat.S_ISDIR(os.fstat(folder).st_mode):
            rights &= _OF_FILES
        self._call(_ADD, self._rules, _BENEATH, struct.pack("=Qi", rights, folder), 0)
        os.close(folder)

    def _call(self, number: int, *arguments: object, probe: bool = False) -> int:
        result: int = self._libc.syscall(number, *arguments)
        if result < 0 and not probe:
            raise OSError(ctypes.get_errno(), "landlock")
        return max(result, 0)
