"""Names that reach file systems, command lines and metrics.

Triton 2.51 starts Python backends through a shell: a model name or file name with `$(…)` in it runs as a command inside
the server, one with a quote hangs it. Upstream checks names since August 2025; we check them always.
"""

import re

__all__ = ["unsafe_name", "unsafe_path"]

_SAFE = re.compile(r"[A-Za-z0-9._-]+")


def unsafe_name(name: str) -> str | None:
    """What is wrong with a name as the end of a sentence, or None: letters, digits, `.`, `_`, `-`, and no `..`."""
    if not name:
        return "is empty"
    if not _SAFE.fullmatch(name):
        return f"is {name[:80]!r}; only letters, digits, '.', '_' and '-' are safe there"
    return "contains '..'" if ".." in name else None


def unsafe_path(path: str) -> str | None:
    """The same for a relative path: every part is a safe name."""
    for part in path.split("/"):
        wrong = unsafe_name(part)
        if wrong:
            return wrong if part == path else f"has a part that {wrong}"
    return None
