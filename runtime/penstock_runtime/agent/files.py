"""Documents for Envoy: written whole, renamed into place, remembered part by part."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from .render.document import compact

__all__ = ["Document", "replace_file"]

Frame = Callable[[int, Iterable[str]], str]


def replace_file(path: Path, content: str) -> None:
    """Put the file in place with one rename, so that a reader sees the old one or the new one."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(content)
    os.replace(draft, path)  # noqa: PTH105 - Path.replace is the same call and reads like str.replace


class Document:
    """One file that Envoy watches: parts by name, each compact JSON, in a frame that carries a version.

    What stands in it is remembered in `memory`, from where a new process of the agent takes it up; the version grows
    with every write. Not `whole` is a document whose last write failed, or was cut short in an earlier process: what is
    wanted has to be written then, even if it is what `parts` say.
    """

    def __init__(self, target: Path, memory: Path, frame: Frame) -> None:
        self._target, self._memory, self._frame = target, memory, frame
        self.version = 0
        self.whole = True
        self._stands = False
        self.parts: dict[str, str] = {}

    def restore(self) -> bool:
        """Take up what an earlier process wrote; False, and an empty document, where there is nothing to take up."""
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._memory.parent.mkdir(parents=True, exist_ok=True)
        try:
            found = json.loads(self._memory.read_text())
            parts = {name: compact(part) for name, part in found["parts"].items()}
            self.version, self.parts = int(found["version"]), parts
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
            self.version = self._version_written()
            self.write({})
            return False
        if not self._target.exists():
            self.write(self.parts)
        written = self._version_written()
        self.whole = written == self.version
        self.version = max(self.version, written)
        return True

    def write(self, parts: Mapping[str, str]) -> int:
        """Replace all parts; returns the new version. Where their memory alone failed, it alone is tried again."""
        if self.whole or not self._stands or parts != self.parts:
            self.version += 1
            self.parts, self.whole, self._stands = dict(parts), False, False
            replace_file(self._target, self._frame(self.version, self.parts.values()))
            self._stands = True
        remembered = ",".join(f"{json.dumps(name)}:{text}" for name, text in self.parts.items())
        replace_file(self._memory, f'{{"version":{self.version},"parts":{{{remembered}}}}}')
        self.whole = True
        return self.version

    def _version_written(self) -> int:
        """Of the file that Envoy watches; 0 where it cannot be read."""
        try:
            return int(json.loads(self._target.read_text())["version_info"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return 0
