"""What a pickle would import, read from its operations; nothing is executed.

Pickles run whatever functions they name. Which ones is told by the operations alone, but a list of them is never a
permission: it makes sentences, and tells weights from whole modules.
"""

import bz2
import io
import lzma
import pickletools
import re
import zlib
from collections.abc import Callable, Iterator

__all__ = ["imports_of", "only_tensors", "unpacked_head"]

_MOST_OPERATIONS = 500_000
_HEAD = 1 << 16
_TEXTS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "SHORT_BINSTRING", "BINSTRING", "STRING"}
_PUTS, _GETS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}
_NAME = re.compile(r"^[A-Za-z_][\w.]*$")
_TENSOR_PARTS = re.compile(
    r"^(collections\.OrderedDict|torch\._utils\._rebuild_\w+|torch(\.\w+)?\.\w*Storage|torch\.storage\.\w+"
    r"|torch\.(Size|device|dtype|serialization\._get_layout|[a-z]+[0-9]+\w*|bool)|_codecs\.encode"
    r"|torch\._tensor\._rebuild_from_type_v2|numpy(\._core|\.core)?\.multiarray\.(scalar|_reconstruct)"
    r"|numpy\.(dtype|ndarray)|torch\.nn\.parameter\.(Parameter|Buffer)|(builtins|__builtin__)\.(set|dict|list))$"
)


def imports_of(head: bytes, after: int = 0) -> list[str] | None:
    """Dotted names that the pickle in these bytes names, in its order, as far as it can be read; None: no pickle.

    `after` is the number of whole pickles that come before it.
    """
    if not head or (head[0] != 0x80 and head[0] not in b"c(]}"):
        return None
    found: list[str] = []
    count = 0
    try:
        stream = io.BytesIO(head)
        for _ in range(after):
            for _ in pickletools.genops(stream):
                pass
        for count, name in enumerate(_names(stream)):
            if name:
                found.append(name)
            if count > _MOST_OPERATIONS:
                break
    except Exception:  # noqa: BLE001 - damaged, cut off, or arrays between the operations as joblib writes them
        if count < 1:
            return None
    if head[0] != 0x80 and (count < 4 or not found):
        return None
    return list(dict.fromkeys(found))


def _names(stream: io.BytesIO) -> Iterator[str]:
    """For each operation the name it imports, empty for others."""
    memo: dict[int, object] = {}
    texts: list[object] = []
    for operation, argument, _ in pickletools.genops(stream):
        name = ""
        if operation.name == "GLOBAL":
            name = ".".join(str(argument).split(" ", 1))
        elif operation.name == "STACK_GLOBAL":
            name = ".".join(str(part) for part in texts[-2:])
        elif operation.name in _TEXTS:
            texts.append(argument)
        elif operation.name == "MEMOIZE":
            memo[len(memo)] = texts[-1] if texts else ""
        elif operation.name in _PUTS:
            memo[int(str(argument))] = texts[-1] if texts else ""
        elif operation.name in _GETS:
            texts.append(memo.get(int(str(argument)), ""))
        if name and not _NAME.match(name):
            raise ValueError(name)
        yield name


def only_tensors(names: list[str]) -> bool:
    """Whether a torch pickle names nothing but what tensors and plain containers are made of."""
    return all(_TENSOR_PARTS.match(name) for name in names)


def unpacked_head(head: bytes) -> bytes:
    """The first bytes behind joblib's compressions; the same bytes where there is none, or a damaged one."""
    unpack = _decompressor(head)
    if unpack is None:
        return head
    try:
        return unpack(head)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
        return head


def _decompressor(head: bytes) -> Callable[[bytes], bytes] | None:
    if head[:2] in (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"):
        return lambda data: zlib.decompressobj().decompress(data, _HEAD)
    if head[:2] == b"\x1f\x8b":
        return lambda data: zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, _HEAD)
    if head[:3] == b"BZh":
        return lambda data: bz2.BZ2Decompressor().decompress(data, _HEAD)
    if head[:6] == b"\xfd7zXZ\x00" or head[:3] == b"\x5d\x00\x00":
        return lambda data: lzma.LZMADecompressor().decompress(data, _HEAD)
    return None
