"""A process that gives up writing anywhere but below a few folders, and signals to others: Landlock, where there is it.

It needs no privilege and is inherited. Kernels without it (before 5.13, or with it switched off) leave the other
fences: a read-only root, the size limits, and the reader's own suspicion.
"""

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

__all__ = ["allow_writes_below"]

_CREATE, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _PATH_BENEATH = 1, 1
_PR_SET_NO_NEW_PRIVS = 38
_WRITE_FILE, _REMOVE_DIR, _REMOVE_FILE = 1 << 1, 1 << 4, 1 << 5
_MAKE = sum(1 << bit for bit in range(6, 13))
"""Device, folder, file, socket, pipe, block device, link."""
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_BY_VERSION = {1: _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE, 2: _REFER, 3: _TRUNCATE}
_TCP, _TCP_VERSION = 0b11, 4
_SCOPES, _SCOPES_VERSION = 0b11, 6
"""Abstract sockets and signals that reach out of this process and its children."""


def allow_writes_below(folders: Iterable[Path]) -> bool:
    """Deny this thread and what it starts every other write; False where the kernel cannot. Raises OSError.

    To be called before there are other threads. What is open already stays as it is.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    none = ctypes.c_void_p()
    version = libc.syscall(ctypes.c_long(_CREATE), none, ctypes.c_size_t(0), ctypes.c_uint(_VERSION_FLAG))
    if version < 1:
        return False
    rights = sum(bits for needed, bits in _BY_VERSION.items() if version >= needed)
    ruleset = _checked(_create(libc, version, rights), "landlock_create_ruleset")
    try:
        for folder in folders:
            _add(libc, ruleset, folder, rights)
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS) failed")
        _checked(
            libc.syscall(ctypes.c_long(_RESTRICT_SELF), ctypes.c_int(ruleset), ctypes.c_uint(0)),
            "landlock_restrict_self",
        )
    finally:
        os.close(ruleset)
    return True


def _create(libc: ctypes.CDLL, version: int, rights: int) -> int:
    fields = [rights]
    if version >= _TCP_VERSION:
        fields.append(_TCP)
    if version >= _SCOPES_VERSION:
        fields.append(_SCOPES)
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    size = ctypes.c_size_t(len(attributes))
    return int(libc.syscall(ctypes.c_long(_CREATE), ctypes.c_char_p(attributes), size, ctypes.c_uint(0)))


def _add(libc: ctypes.CDLL, ruleset: int, folder: Path, rights: int) -> None:
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights, descriptor)
        done = libc.syscall(
            ctypes.c_long(_ADD_RULE), ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), ctypes.c_char_p(rule),
            ctypes.c_uint(0),
        )  # fmt: skip
        _checked(done, "landlock_add_rule")
    finally:
        os.close(descriptor)


def _checked(result: int, call: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call} failed: {os.strerror(number)}")
    return int(result)
