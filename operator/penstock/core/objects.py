"""When an observed object is no longer what was asked for, and how a rendered one says what it is."""

from collections.abc import Mapping
from typing import Any

from .names import RENDERED_ANNOTATION
from .revision import canonical_hash

__all__ = ["differs", "seal"]

_MAPPINGS = (dict, Mapping)
"""Nearly all are of the first, and that is quickly said."""


def seal(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with the hash of itself as annotation.

    The hash shows a field that is no longer rendered; comparing values alone would never see it go.
    """
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), RENDERED_ANNOTATION: canonical_hash(manifest)[:16]}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def differs(desired: dict[str, Any], live: Mapping[str, Any]) -> bool:
    """Whether applying the sealed `desired` would change `live`; the server's own additions do not count."""
    return not _contains(live, desired)


def _contains(live: Any, desired: Any) -> bool:
    if live == desired:
        return True
    if live is None and desired in (None, "", [], (), {}):
        return True  # the API server leaves out what says nothing
    if isinstance(desired, _MAPPINGS):
        return isinstance(live, _MAPPINGS) and all(_contains(live.get(key), value) for key, value in desired.items())
    if isinstance(desired, (list, tuple)):
        return (
            isinstance(live, (list, tuple))
            and len(live) == len(desired)
            and all(_contains(found, wanted) for found, wanted in zip(live, desired, strict=True))
        )
    return bool(live == desired)
