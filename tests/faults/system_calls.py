"""System calls that fail from some time on in a process, as those of a process whose disk fails do.

A filter of the kernel (seccomp) answers them with an error number. It cannot be removed: the process ends with it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class SystemCallFailure(NamedTuple):
    """System calls, and the number of the error with which they fail."""

    calls: Sequence[str]
    error: int


class _Architecture(NamedTuple):
    """What <linux/audit.h> and <asm/unistd.h> say about a processor."""

    audit_value: int
    numbers: dict[str, int]


_ARCHITECTURES = {
    "x86_64": _Architecture(0xC000003E, {"pread64": 17, "pwrite64": 18, "fsync": 74, "fdatasync": 75, "seccomp": 317}),
    "aarch64": _Architecture(0xC00000B7, {"pread64": 67, "pwrite64": 68, "fsync": 82, "fdatasync": 83, "seccomp": 277}),
}

# From <linux/prctl.h>, <linux/seccomp.h> and <linux/bpf_common.h>.
_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER = 1
_FLAG_ALL_THREADS = 1
_RETURN_ALLOW = 0x7FFF0000
_RETURN_ERROR = 0x00050000
_LOAD_WORD = 0x20
_JUMP_IF_EQUAL = 0x15
_RETURN = 0x06
_OFFSET_OF_NUMBER, _OFFSET_OF_ARCHITECTURE = 0, 4


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def can_fail_system_calls() -> bool:
    """Return whether this kernel has the filter, and this module the numbers of this processor."""
    actions = Path("/proc/sys/kernel/seccomp/actions_avail")
    return platform.machine() in _ARCHITECTURES and actions.exists() and "errno" in actions.read_text().split()


def fail_system_calls(failure: SystemCallFailure) -> None:
    """Let system calls of all threads of this process fail until it ends. Raises OSError."""
    architecture = _ARCHITECTURES[platform.machine()]

    def instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("HBBI", code, if_true, if_false, operand)

    instructions = [
        instruction(_LOAD_WORD, _OFFSET_OF_ARCHITECTURE),
        instruction(_JUMP_IF_EQUAL, architecture.audit_value, if_true=1),
        instruction(_RETURN, _RETURN_ALLOW),
        instruction(_LOAD_WORD, _OFFSET_OF_NUMBER),
    ]
    for name in failure.calls:
        instructions.append(instruction(_JUMP_IF_EQUAL, architecture.numbers[name], if_false=1))
        instructions.append(instruction(_RETURN, _RETURN_ERROR | failure.error))
    instructions.append(instruction(_RETURN, _RETURN_ALLOW))
    program = _Program(len(instructions), b"".join(instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    # Without it, only root may filter.
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    number = architecture.numbers["seccomp"]
    if libc.syscall(number, _SET_MODE_FILTER, _FLAG_ALL_THREADS, ctypes.byref(program)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


FAILURES = {
    "writes fail": SystemCallFailure(("pwrite64",), errno.EIO),
    "no space": SystemCallFailure(("pwrite64",), errno.ENOSPC),
    "read-only": SystemCallFailure(("pwrite64",), errno.EROFS),
    "sync fails": SystemCallFailure(("fsync", "fdatasync"), errno.EIO),
    "reads fail": SystemCallFailure(("pread64",), errno.EIO),
}
"""The ways in which a disk fails: name -> what SQLite gets from the kernel."""
