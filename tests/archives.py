"""Archives as users and the artifact store have them, made in memory."""

import io
import tarfile
from collections.abc import Mapping
from typing import Literal

__all__ = ["packed"]


def packed(files: Mapping[str, bytes], mode: Literal["w", "w:gz"] = "w") -> bytes:
    """A tar archive of plain files, in this order."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode=mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return whole.getvalue()
