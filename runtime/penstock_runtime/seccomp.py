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

__all__ = ["deny_processes", "deny_sockets"]

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _TSYNC = 1, 1
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _ABOVE, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_OFFSET, _ARCH_OFFSET, _FIRST_ARGUMENT_OFFSET = 0, 4, 16
"""Of the system call's number, the calling convention, and the lower half of its first argument."""
_X32_BIT = 0x40000000


@dataclass(frozen=True)
class _Machine:
    audit_arch: int
    seccomp: int
    network: tuple[int, ...]
    other: tuple[int, ...]
    processes: tuple[int, ...]
    clone: int
    clone3: int = 435


_MACHINES = {
    "x86_64": _Machine(
        audit_arch=0xC000003E,
        seccomp=317,
        # socket connect accept sendto recvfrom sendmsg recvmsg shutdown bind listen getsockname getpeername
        # socketpair setsockopt getsockopt, accept4 recvmmsg sendmmsg
        network=(*range(41, 56), 288, 299, 307),
        # ptrace process_vm_readv process_vm_writev, io_uring_setup/enter/register, pidfd_getfd
        other=(101, 310, 311, 425, 426, 427, 438),
        # fork vfork, execve execveat
        processes=(57, 58, 59, 322),
        clone=56,
    ),
    "aarch64": _Machine(
        audit_arch=0xC00000B7,
        seccomp=277,
        # socket socketpair bind listen accept connect getsockname getpeername sendto recvfrom setsockopt getsockopt
        # shutdown sendmsg recvmsg, accept4 recvmmsg sendmmsg
        network=(*range(198, 213), 242, 243, 269),
        other=(117, 270, 271, 425, 426, 427, 438),
        # execve execveat
        processes=(221, 281),
        clone=220,
    ),
}
_CLONE_THREAD = 0x00010000


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def deny_sockets() -> None:
    """Deny this process, all its threads and its children every socket call; raises OSError where that cannot be."""
    machine = _this_machine()
    _install(machine, _deny(machine, (*machine.network, *machine.other)))


def deny_processes() -> None:
    """Deny making processes and starting other programs; threads stay allowed. Raises OSError.

    What is loaded afterwards leaves nobody behind who could go on once its own process was ended. clone3, whose flags a
    filter cannot see, counts as missing, upon which libraries use clone.
    """
    machine = _this_machine()
    threads_only = (
        _Line(_EQUAL, machine.clone3, yes="missing"),
        _Line(_EQUAL, machine.clone, no="allow"),
        _Line(_LOAD, _FIRST_ARGUMENT_OFFSET),
        _Line(_ANY_BIT, _CLONE_THREAD, yes="allow", no="refuse"),
    )
    _install(machine, _deny(machine, machine.processes, threads_only))


def _this_machine() -> _Machine:
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        raise OSError(errno.ENOSYS, f"no socket filter for the architecture {platform.machine()}")
    return machine


def _install(machine: _Machine, code: bytes) -> None:
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS) failed")
    libc.syscall.restype = ctypes.c_long
    flags = ctypes.c_ulong(_TSYNC)
    if libc.syscall(ctypes.c_long(machine.seccomp), ctypes.c_ulong(_SET_MODE_FILTER), flags, ctypes.byref(program)):
        raise OSError(ctypes.get_errno(), "the kernel refuses the seccomp filter")


@dataclass(frozen=True)
class _Line:
    """One instruction; `yes` and `no` name where a comparison leads, the next line where they are empty."""

    operation: int
    value: int
    yes: str = ""
    no: str = ""


def _deny(machine: _Machine, denied: tuple[int, ...], more: tuple[_Line, ...] = ()) -> bytes:
    """BPF: another calling convention is denied whole, then the listed numbers, then `more`; the rest is allowed."""
    lines = (
        _Line(_LOAD, _ARCH_OFFSET),
        _Line(_EQUAL, machine.audit_arch, no="refuse"),
        _Line(_LOAD, _NUMBER_OFFSET),
        _Line(_ABOVE, _X32_BIT, yes="refuse"),
        *(_Line(_EQUAL, number, yes="refuse") for number in denied),
        *more,
        _Line(_RETURN, _ALLOW),
        _Line(_RETURN, _ERRNO | errno.EPERM),
        _Line(_RETURN, _ERRNO | errno.ENOSYS),
    )
    ends = {"allow": len(lines) - 3, "refuse": len(lines) - 2, "missing": len(lines) - 1}
    code = b""
    for at, line in enumerate(lines):
        yes, no = (ends[label] - at - 1 if label else 0 for label in (line.yes, line.no))
        code += struct.pack("HBBI", line.operation, yes, no, line.value)
    return code
