"""Failure: why a program of this package stops, as one reason of the closed set and one sentence for the user."""

import errno
import re
from collections.abc import Iterator

from penstock.api.reasons import Reason

__all__ = ["Failure", "full_disk", "is_out_of_memory", "shorten"]

_LONGEST = 1400
_ALLOCATION_WORDS = ("bad allocation", "bad_alloc", "failed to allocate memory", "cannot allocate memory")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_WORDS = {"no space left on device": errno.ENOSPC, "file too large": errno.EFBIG}
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
"""What torch's own sentences carry for terminals."""


class Failure(Exception):
    """Raised wherever the work cannot go on; the message says what was seen, what was expected and what to do."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = shorten(message)


def shorten(message: str, longest: int = _LONGEST) -> str:
    """One line of printable text, at most `longest` characters; its middle gives way, both ends inform."""
    plain = _COLOUR.sub("", message)
    line = " ".join("".join(c if c.isprintable() else " " for c in plain).split())
    if len(line) <= longest:
        return line
    half = (longest - 5) // 2
    return f"{line[:half]} ... {line[-half:]}"


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception, of whatever library, says that memory could not be had."""
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in _ALLOCATION_WORDS)


def full_disk(error: BaseException) -> int | None:
    """ENOSPC, EDQUOT or EFBIG where an exception, or what it came from, says that a file could not grow."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return cause.errno
        for words, number in _FULL_WORDS.items():
            if words in str(cause).lower():
                return number
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in seen:
        seen.append(found)
        yield found
        found = found.__cause__ or found.__context__
