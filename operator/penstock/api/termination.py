"""What fits into a container's termination message, and how a report is made to fit.

A kubelet keeps 4,096 bytes of one container and 12 KiB of a whole pod, in equal shares for all of its containers: of
eight not more than 1,536 each. What is longer is cut off without a word, so whoever writes has to know the share.
Standard library only: the container that opens models reports too.
"""

import base64
import zlib
from collections.abc import Mapping

__all__ = ["REPORT_LIMIT", "REPORT_VARIABLE", "pack", "report_bytes", "report_limit", "unpack"]

REPORT_LIMIT = 4096
REPORT_VARIABLE = "PENSTOCK_REPORT_BYTES"
"""Tells a container its share, where that is less."""
_OF_A_POD = 12 * 1024
_SPARE = 1
"""Containers that somebody else may add to a pod, as service meshes do."""
_COMPRESSED = "z:"


def report_limit(containers: int) -> int:
    """Bytes of one container's message in a pod of so many, init containers included."""
    return min(REPORT_LIMIT, _OF_A_POD // (containers + _SPARE))


def report_bytes(environment: Mapping[str, str]) -> int:
    """The share that the pod's variables speak of."""
    return int(environment.get(REPORT_VARIABLE, REPORT_LIMIT))


def pack(text: str, limit: int = REPORT_LIMIT) -> str:
    """The text, compressed where it has to be; raises ValueError when even so it is over the limit."""
    if len(text.encode()) > limit:
        text = _COMPRESSED + base64.b64encode(zlib.compress(text.encode(), 9)).decode()
    if len(text) > limit:
        raise ValueError(f"the report takes {len(text)} bytes compressed, {limit} fit")
    return text


def unpack(text: str) -> str:
    """What `pack` was given; raises ValueError for what it cannot have returned."""
    if not text.startswith(_COMPRESSED):
        return text
    try:
        packed = base64.b64decode(text.removeprefix(_COMPRESSED), validate=True)
        return zlib.decompressobj().decompress(packed, 1 << 20).decode()
    except zlib.error as error:
        raise ValueError(str(error)) from error
