"""What tests of sources do with one: fetch it, be refused by it, look at its files."""

from pathlib import Path

import pytest

from penstock_runtime.content import Budget, Content
from penstock_runtime.failure import Failure
from penstock_runtime.sources import Context, open_source
from penstock_runtime.web import Web


def quick_web(*plain: str, timeout: float = 5) -> Web:
    """One that gives up early and tries again at once."""
    return Web(plain, timeout=timeout, pauses=(0.01,))


def fetched(uri: str, context: Context, root: Path, most: int = 1 << 20) -> Content:
    return open_source(uri, context).fetch(root / "source", Budget(most))


def refused(uri: str, context: Context, root: Path, most: int = 1 << 20) -> Failure:
    with pytest.raises(Failure) as caught:
        fetched(uri, context, root, most)
    return caught.value


def files_of(content: Content) -> dict[str, bytes]:
    return {file.path: (content.root / file.path).read_bytes() for file in content.files}
