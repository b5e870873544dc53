"""A system without Landlock: a filter of the kernel that knows none of its calls.

    python -m support.no_landlock PROGRAM ARGUMENT…

The filter (seccomp) holds for the program and everything it starts.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_LOAD, _JUMP_AT_LEAST, _RETURN = 0x20, 0x35, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
# landlock_create_ruleset to landlock_restrict_self, on x86-64 and arm64.
_FIRST, _AFTER = 444, 447


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def forbid_landlock() -> None:
    """Make its calls fail as if the kernel had never heard of them."""
    steps = (
        (_LOAD, 0, 0, 0),  # the number of the call
        (_JUMP_AT_LEAST, 0, 2, _FIRST),
        (_JUMP_AT_LEAST, 1, 0, _AFTER),
        (_RETURN, 0, 0, _FAIL | errno.ENOSYS),
        (_RETURN, 0, 0, _ALLOW),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = _Program(len(steps), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "no seccomp filter")


if __name__ == "__main__":
    forbid_landlock()
    os.execv(sys.argv[1], sys.argv[1:])
