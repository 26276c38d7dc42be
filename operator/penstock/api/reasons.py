"""Every reason a condition, an event or a preparation report can carry: a closed set, one line of meaning each.

The user guide's runbook has a section per reason; a test keeps both in step.
"""

from enum import StrEnum

__all__ = ["Reason", "RETRYABLE"]


class Reason(StrEnum):
    """CamelCase on the wire; the docstring of each is its meaning for users."""

    # progress
    READY = "Ready"
    PENDING = "Pending"
    PREPARING = "Preparing"
    ROLLOUT_IN_PROGRESS = "RolloutInProgress"
    SERVING = "Serving"
    NOT_SERVING = "NotServing"
    PREPARED = "Prepared"
    # the specification
    INVALID_SPEC = "InvalidSpec"
    NAME_TAKEN = "NameTaken"
    # the source of the model
    SECRET_MISSING = "SecretMissing"  # noqa: S105 - a reason, not a password
    SOURCE_NOT_FOUND = "SourceNotFound"
    SOURCE_DENIED = "SourceDenied"
    SOURCE_UNAVAILABLE = "SourceUnavailable"
    SOURCE_TRUNCATED = "SourceTruncated"
    DIGEST_MISMATCH = "DigestMismatch"
    SIGNATURE_MISSING = "SignatureMissing"
    SIGNATURE_INVALID = "SignatureInvalid"
    TOO_LARGE = "TooLarge"
    # the content of the model
    UNKNOWN_FORMAT = "UnknownFormat"
    INVALID_MODEL = "InvalidModel"
    UNSUPPORTED_MODEL = "UnsupportedModel"
    UNSUPPORTED_OPSET = "UnsupportedOpset"
    CODE_NOT_TRUSTED = "CodeNotTrusted"
    INVALID_CONFIG = "InvalidConfig"
    # the machinery of preparation
    STORE_UNAVAILABLE = "StoreUnavailable"
    PREPARATION_TIMEOUT = "PreparationTimeout"
    PREPARATION_OUT_OF_MEMORY = "PreparationOutOfMemory"
    PREPARATION_EVICTED = "PreparationEvicted"
    PREPARATION_FAILED = "PreparationFailed"
    # serving
    ARTIFACT_MISSING = "ArtifactMissing"
    LOAD_FAILED = "LoadFailed"
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_UNAVAILABLE = "ImageUnavailable"
    QUOTA_EXCEEDED = "QuotaExceeded"
    POD_REFUSED = "PodRefused"
    CRASHING = "Crashing"
    # revisions
    REVISION_PROMOTED = "RevisionPromoted"
    REVISION_REMOVED = "RevisionRemoved"
    RUNTIME_OUTDATED = "RuntimeOutdated"


RETRYABLE = frozenset(
    {
        Reason.SECRET_MISSING,
        Reason.SOURCE_NOT_FOUND,
        Reason.SOURCE_DENIED,
        Reason.SOURCE_UNAVAILABLE,
        Reason.SOURCE_TRUNCATED,
        Reason.SIGNATURE_MISSING,
        Reason.STORE_UNAVAILABLE,
        Reason.PREPARATION_EVICTED,
        Reason.PREPARATION_FAILED,
        Reason.PREPARATION_TIMEOUT,
    }
)
"""Failures that the world outside can mend without a change of the spec: tried again with growing pauses."""
