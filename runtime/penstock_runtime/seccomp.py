"""A process that denies itself sockets for good: a seccomp filter, which needs no privilege and is inherited.

Network policies are not enforced by every CNI, and the containers of a pod share one network; this holds everywhere.
Denied calls fail with EPERM. Also denied: io_uring, which can open sockets past any filter, and reaching into other
processes.
"""

import ctypes
import errno
import platform
import struct
from dataclasses import dataclass

__all__ = ["deny_execution", "deny_sockets"]

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _TSYNC = 1, 1
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _ABOVE, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER_OFFSET, _ARCH_OFFSET = 0, 4
_X32_BIT = 0x40000000


@dataclass(frozen=True)
class _Machine:
    audit_arch: int
    seccomp: int
    network: tuple[int, ...]
    other: tuple[int, ...]
    execute: tuple[int, ...]


_MACHINES = {
    "x86_64": _Machine(
        audit_arch=0xC000003E,
        seccomp=317,
        # socket connect accept sendto recvfrom sendmsg recvmsg shutdown bind listen getsockname getpeername
        # socketpair setsockopt getsockopt, accept4 recvmmsg sendmmsg
        network=(*range(41, 56), 288, 299, 307),
        # ptrace process_vm_readv process_vm_writev, io_uring_setup/enter/register, pidfd_getfd
        other=(101, 310, 311, 425, 426, 427, 438),
        execute=(59, 322),
    ),
    "aarch64": _Machine(
        audit_arch=0xC00000B7,
        seccomp=277,
        # socket socketpair bind listen accept connect getsockname getpeername sendto recvfrom setsockopt getsockopt
        # shutdown sendmsg recvmsg, accept4 recvmmsg sendmmsg
        network=(*range(198, 213), 242, 243, 269),
        other=(117, 270, 271, 425, 426, 427, 438),
        execute=(221, 281),
    ),
}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def deny_sockets() -> None:
    """Deny this process, all its threads and its children every socket call; raises OSError where that cannot be."""
    machine = _this_machine()
    _install(machine, (*machine.network, *machine.other))


def deny_execution() -> None:
    """Deny starting other programs; raises OSError."""
    machine = _this_machine()
    _install(machine, machine.execute)


def _this_machine() -> _Machine:
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        raise OSError(errno.ENOSYS, f"no socket filter for the architecture {platform.machine()}")
    return machine


def _install(machine: _Machine, denied: tuple[int, ...]) -> None:
    code = _filter_code(machine, denied)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS) failed")
    libc.syscall.restype = ctypes.c_long
    flags = ctypes.c_ulong(_TSYNC)
    if libc.syscall(ctypes.c_long(machine.seccomp), ctypes.c_ulong(_SET_MODE_FILTER), flags, ctypes.byref(program)):
        raise OSError(ctypes.get_errno(), "the kernel refuses the seccomp filter that denies sockets")


def _filter_code(machine: _Machine, denied: tuple[int, ...]) -> bytes:
    """BPF: another calling convention is denied whole, then the listed numbers, and the rest is allowed."""
    refuse = _ERRNO | errno.EPERM
    count = len(denied)
    lines = [
        (_LOAD, 0, 0, _ARCH_OFFSET),
        (_EQUAL, 0, count + 3, machine.audit_arch),
        (_LOAD, 0, 0, _NUMBER_OFFSET),
        (_ABOVE, count + 1, 0, _X32_BIT),
        *((_EQUAL, count - index, 0, number) for index, number in enumerate(denied)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, refuse),
    ]
    return b"".join(struct.pack("HBBI", *line) for line in lines)
