"""What the kernel refuses a confined process, as a filter of system calls (seccomp, classic BPF). Runs inside
of the sandbox: the standard library alone.

Refused are other processes (starting, signalling, tracing, ruling them), programs, sockets to anywhere, what
is not freed with the process (System V memory, message queues, key rings), what Landlock does not cover
(owners, modes, times and attributes of files), and large or new parts of the kernel (io_uring, BPF). The
numbers are those of Linux' unistd_64.h and asm-generic/unistd.h.
"""

import ctypes
import os
import struct
from typing import Literal

_EPERM, _ENOSYS = 1, 38
_KNOWN = 448  # calls from here on are younger than this list; C libraries do without them
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24  # offsets in struct seccomp_data, little-endian
_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2

# A name, its number on x86-64, its number on Arm.
_REFUSED = """
# other processes
fork 57 -  vfork 58 -  clone 56 220  clone3 435 435  execve 59 221  execveat 322 281  ptrace 101 117
process_vm_readv 310 270  process_vm_writev 311 271  process_madvise 440 440  kcmp 312 272
pidfd_open 434 434  pidfd_getfd 438 438
# signals, also its own
pidfd_send_signal 424 424  kill 62 129  tkill 200 130  tgkill 234 131  rt_sigqueueinfo 129 138
rt_tgsigqueueinfo 297 240
# how others are run
setpriority 141 140  ioprio_set 251 30  sched_setaffinity 203 122  sched_setscheduler 144 119
sched_setparam 142 118  sched_setattr 314 274  migrate_pages 256 238  move_pages 279 239
# sockets to anywhere
socket 41 198  socketpair 53 199  connect 42 203  bind 49 200  listen 50 201  accept 43 202  accept4 288 242
# what outlives a process
shmget 29 194  shmat 30 196  shmctl 31 195  semget 64 190  msgget 68 186  mq_open 240 180
memfd_create 319 279  memfd_secret 447 447  add_key 248 217  request_key 249 218  keyctl 250 219
# file systems and namespaces
unshare 272 97  setns 308 268  mount 165 40  umount2 166 39  pivot_root 155 41  chroot 161 51
mount_setattr 442 442  move_mount 429 429  open_tree 428 428  fsopen 430 430  fsmount 432 432
fsconfig 431 431  fspick 433 433  name_to_handle_at 303 264  open_by_handle_at 304 265
# what Landlock does not see
chmod 90 -  fchmod 91 52  fchmodat 268 53  chown 92 -  fchown 93 55  lchown 94 -  fchownat 260 54
utime 132 -  utimes 235 -  futimesat 261 -  utimensat 280 88  truncate 76 45  mknod 133 -  mknodat 259 33
setxattr 188 5  lsetxattr 189 6  fsetxattr 190 7  removexattr 197 14  lremovexattr 198 15
fremovexattr 199 16
# large parts of the kernel
io_uring_setup 425 425  io_uring_enter 426 426  io_uring_register 427 427  io_setup 206 0  bpf 321 280
perf_event_open 298 241  userfaultfd 323 282  fanotify_init 300 262  inotify_init 253 -
inotify_init1 294 26  prctl 157 167  personality 135 92  modify_ldt 154 -  iopl 172 -  ioperm 173 -
"""
# Calls whose second argument decides, by machine, and what it must not be: who gets a descriptor's signals
# (F_SETOWN, F_SETSIG, F_SETOWN_EX; FIOSETOWN, SIOCSPGRP).
_DECIDED = ((("fcntl", 72, 25), (8, 10, 15)), (("ioctl", 16, 29), (0x8901, 0x8902)))
_PRLIMIT = ("prlimit64", 302, 261)
# AUDIT_ARCH_*, the column above.
_MACHINES = {"x86_64": (0xC000003E, 1), "aarch64": (0xC00000B7, 2)}

_Jump = int | Literal["allow", "refuse", "unknown"]


def program() -> bytes | None:
    """The filter's instructions; None where this machine's calls are not known here."""
    found = _MACHINES.get(os.uname().machine)
    if found is None or os.uname().sysname != "Linux":
        return None
    architecture, column = found
    code: list[tuple[int, _Jump, _Jump, int]] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 0, "refuse", architecture),  # 32-bit calls have other numbers
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, "unknown", 0, _KNOWN),
        (_EQUAL, 0, 2, int(_PRLIMIT[column])),
        (_LOAD, 0, 0, _FIRST),
        (_EQUAL, "allow", "refuse", 0),  # one's own limits
    ]
    for call, values in _DECIDED:
        code += [(_EQUAL, 0, len(values) + 2, int(call[column])), (_LOAD, 0, 0, _SECOND)]
        code += [(_EQUAL, "refuse", 0, value) for value in values]
        code += [(_LOAD, 0, 0, _NUMBER)]
    code += [(_EQUAL, "refuse", 0, number) for number in _refused(column)]
    ends = {"allow": len(code), "refuse": len(code) + 1, "unknown": len(code) + 2}
    code += [(_RETURN, 0, 0, value) for value in (_ALLOW, _ERRNO | _EPERM, _ERRNO | _ENOSYS)]

    def jump(to: _Jump, place: int) -> int:
        return to if isinstance(to, int) else ends[to] - place - 1  # from the next instruction on

    return b"".join(
        struct.pack("HBBI", operation, jump(true, place), jump(false, place), value)
        for place, (operation, true, false, value) in enumerate(code)
    )


def _refused(column: int) -> list[int]:
    words = [word for line in _REFUSED.splitlines() if not line.startswith("#") for word in line.split()]
    return [int(number) for number in words[column::3] if number != "-"]


def install(instructions: bytes) -> None:
    """For this process and for good. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(instructions, len(instructions))
    head = struct.pack("HxxxxxxP", len(instructions) // 8, ctypes.addressof(buffer))
    if libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(_SET_SECCOMP, _FILTER, head, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")
