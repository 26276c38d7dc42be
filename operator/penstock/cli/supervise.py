"""A loop around the operator: a process that dies is replaced in a fraction of a second, by a fork of what is loaded.

The kubelet's own restart of a container waits longer with each, and starts the interpreter from nothing. A leader that
was killed leads again before anybody misses it: its lease names the pod.
"""

import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable

__all__ = ["supervise"]

log = logging.getLogger("penstock.supervise")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_STEADY_SECONDS = 60.0
"""A process that lasted so long starts the pauses anew."""
_ENDS = (signal.SIGTERM, signal.SIGINT)
_HEARD = (*_ENDS, signal.SIGCHLD)


def supervise(work: Callable[[], int]) -> int:
    """Have `work` done by a child process, again whenever that dies, until it returns 0 or a signal asks to end.

    Returns the exit code of the last child, 128 and the signal's number for one that was killed. SIGTERM and SIGINT
    are passed on. Must be called from the only thread of its process.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    gc.freeze()
    pause = _FIRST_PAUSE
    while True:
        started = time.monotonic()
        code, asked = _wait(_fork(work))
        if asked or code == 0:
            return code
        pause = _FIRST_PAUSE if time.monotonic() - started > _STEADY_SECONDS else pause
        log.warning("the operator's process ended with %d; the next one starts in %.1f s", code, pause)
        if _rest(pause):
            return code
        pause = min(2 * pause, _LONGEST_PAUSE)


def _fork(work: Callable[[], int]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)
        code = work()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(child: int) -> tuple[int, bool]:
    """The exit code of the child, and whether it was asked to end; as pid 1 this inherits and buries others too."""
    asked = False
    while True:
        number = signal.sigwait(_HEARD)
        if number in _ENDS:
            asked = True
            os.kill(child, number)
            continue
        code = _bury(child)
        if code is not None:
            return code, asked


def _bury(child: int) -> int | None:
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            found = code if code >= 0 else 128 - code


def _rest(seconds: float) -> bool:
    """Wait; True when a signal asks to end meanwhile."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        heard = signal.sigtimedwait(_HEARD, left)
        if heard is not None and heard.si_signo in _ENDS:
            return True
    return False
