"""Every reason a condition, an event or a preparation report can carry: a closed set, one line of meaning each.

The user guide's runbook has a section per reason; a test keeps both in step.
"""

from enum import StrEnum

__all__ = ["RETRYABLE", "Reason"]


class Reason(StrEnum):
    """CamelCase on the wire; the docstring of each is its meaning for users."""

    # progress
    READY = "Ready"
    """The revision that the spec asks for serves."""
    PREPARING = "Preparing"
    """The model is fetched, inspected and published to the artifact store. Nothing to do but wait."""
    ROLLOUT_IN_PROGRESS = "RolloutInProgress"
    """The new revision's pods start; the stable revision, if there is one, keeps serving."""
    SERVING = "Serving"
    """At least one pod of the stable revision answers requests."""
    NOT_SERVING = "NotServing"
    """No pod answers requests. The message says what the pods wait for."""
    PREPARED = "Prepared"
    """The content is known by digest and stands in the artifact store."""
    # the specification
    INVALID_SPEC = "InvalidSpec"
    """The operator or the API server refuses what the spec leads to; the message names the field. Correct it."""
    NAME_TAKEN = "NameTaken"
    """An object with a name Penstock needs exists and belongs to somebody else.

    Rename the ModelDeployment, or remove that object.
    """
    # the source of the model
    SECRET_MISSING = "SecretMissing"  # noqa: S105 - a reason, not a password
    """A Secret named in spec.model does not exist in this namespace, or lacks the key.

    Create it; preparation tries again by itself.
    """
    SOURCE_NOT_FOUND = "SourceNotFound"
    """Nothing is at spec.model.uri. Correct the URI, or put the model there."""
    SOURCE_DENIED = "SourceDenied"
    """The source refuses these credentials. Correct the Secret in credentialsSecretRef, or the rights it gives."""
    SOURCE_UNAVAILABLE = "SourceUnavailable"
    """The source cannot be reached or answers with errors. Preparation tries again with growing pauses."""
    SOURCE_TRUNCATED = "SourceTruncated"
    """The source ended before all the bytes it announced. Preparation tries again."""
    DIGEST_MISMATCH = "DigestMismatch"
    """The content is not what spec.model.digest pins. Correct the pin, or find out who changed the content."""
    SIGNATURE_MISSING = "SignatureMissing"
    """spec.model.signature asks for a signature and there is none. Sign the content with cosign."""
    SIGNATURE_INVALID = "SignatureInvalid"
    """The signature was not made for this content by this key. Do not serve it before you know why."""
    REFRESH_FAILED = "RefreshFailed"
    """The source could not say what spec.model.uri means now. Nothing is changed; the next refresh asks again."""
    TOO_LARGE = "TooLarge"
    """The content is larger than the chart's maxModelSize. Raise that value, or make the model smaller."""
    # the content of the model
    UNKNOWN_FORMAT = "UnknownFormat"
    """The content is of no format that Penstock knows.

    Name the format in spec.model.format, or convert the model.
    """
    INVALID_MODEL = "InvalidModel"
    """The content is damaged or is not what its format asks for. Export the model again."""
    UNSUPPORTED_MODEL = "UnsupportedModel"
    """The model has names, types or shapes that cannot be served; the message names them."""
    UNSUPPORTED_OPSET = "UnsupportedOpset"
    """The model uses a newer ONNX opset than the runtime knows.

    Export it with the opset the message names, or use a newer runtime.
    """
    CODE_NOT_TRUSTED = "CodeNotTrusted"
    """The content runs code when it is loaded (a Python backend, a pickle), which needs spec.model.trust: Code."""
    INVALID_CONFIG = "InvalidConfig"
    """Triton would refuse or misread this configuration; the message names the field and the rule."""
    CONVERSION_FAILED = "ConversionFailed"
    """The model could not be converted to ONNX; the message is the converter's own. Export it yourself, or set
    spec.model.convert: Never where its own format can be served.
    """
    DATA_INVALID = "DataInvalid"
    """The dataset or the calibration data does not fit the model; the message names the array and what was expected."""
    # the gates
    PARITY_FAILED = "ParityFailed"
    """The served model does not answer as the source does; the message has the rows and differences."""
    ACCURACY_FAILED = "AccuracyFailed"
    """The metric is below what spec.gates.accuracy asks for, or it cannot be told from it with this many rows."""
    LATENCY_FAILED = "LatencyFailed"
    """In the server, as it will be configured, requests took longer than spec.gates.latency allows."""
    THROUGHPUT_FAILED = "ThroughputFailed"
    """The server answered fewer rows per second than spec.gates.throughput asks for."""
    SIZE_FAILED = "SizeFailed"
    """The files to serve are larger than spec.gates.size.max."""
    MEMORY_FAILED = "MemoryFailed"
    """The server needed more memory than spec.gates.memory.max."""
    CONSISTENCY_FAILED = "ConsistencyFailed"
    """Rows in a batch are not answered as the same rows alone. Set batching.maxBatchSize: 0, or mend the model."""
    # the machinery of preparation
    NOT_ENOUGH_DISK = "NotEnoughDisk"
    """The node's disk has less room than a preparation, or a serving pod's copy of the model, needs."""
    STORE_UNAVAILABLE = "StoreUnavailable"
    """The artifact store cannot be reached or refuses the token. Look at Deployment penstock-registry."""
    PREPARATION_TIMEOUT = "PreparationTimeout"
    """Preparation took longer than spec.prepare.timeout. Raise it, or look why the source is slow."""
    PREPARATION_OUT_OF_MEMORY = "PreparationOutOfMemory"
    """A container of the preparation needed more memory than its limit; the message says which, and what helps."""
    PREPARATION_EVICTED = "PreparationEvicted"
    """The preparation's pod was evicted, most often because the node ran out of disk. It is tried again."""
    PREPARATION_FAILED = "PreparationFailed"
    """The preparation's pod ended without a report. It is tried again; the message says how it ended."""
    # serving
    ARTIFACT_MISSING = "ArtifactMissing"
    """The artifact store no longer has the content of a revision.

    The preparation runs again and must give the same digest.
    """
    LOAD_FAILED = "LoadFailed"
    """Triton could not load the model; the message is Triton's own. The stable revision keeps serving."""
    UNSCHEDULABLE = "Unschedulable"
    """No node has room for a serving pod; the message is the scheduler's. Free or add capacity, or ask for less."""
    IMAGE_UNAVAILABLE = "ImageUnavailable"
    """A node cannot pull an image. Check its name, and global.imagePullSecrets of the chart."""
    QUOTA_EXCEEDED = "QuotaExceeded"
    """The namespace's ResourceQuota leaves no room. Raise it, or ask for less."""
    POD_REFUSED = "PodRefused"
    """Admission refuses a serving pod; the message says which policy and why."""
    CRASHING = "Crashing"
    """Triton ends again and again after loading; the message says how it ended."""
    # rollouts
    STEP_STARTED = "StepStarted"
    """The candidate gets its next share of the requests, or its first copies."""
    POD_REPLACED = "PodReplaced"
    """With capacity: Replace stable gives up a pod, and the candidate starts one in its place."""
    OUTAGE_DECLARED = "OutageDeclared"
    """capacity: Replace with one replica: nothing serves until the candidate is ready, or stable is back.

    Requests get 503 with Retry-After.
    """
    START_DEADLINE_EXCEEDED = "StartDeadlineExceeded"
    """With capacity: Replace the candidate was not ready within analysis.deadline; its room went back to stable."""
    PAUSED = "Paused"
    """The rollout waits for a person: spec.rollout.paused, autoPromote: false, or a deadline without a verdict."""
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    """No verdict within analysis.deadline. Nothing is taken back; the message says how long it would still take."""
    NO_EVIDENCE = "NoEvidence"
    """The rollout holds: no counters from every router pod, or no request has reached the candidate."""
    SUPERVISION_LOST = "SupervisionLost"
    """The routers went to the stable revision by themselves, as no operator renewed the candidate's share in time."""
    TRAFFIC_SYNCED = "TrafficSynced"
    """Every Ready router pod follows the present TrafficSplit."""
    TRAFFIC_NOT_SYNCED = "TrafficNotSynced"
    """A router pod does not follow the present TrafficSplit yet; the message names it."""
    ROUTER_NOT_FOUND = "RouterNotFound"
    """spec.traffic.router names a Router that this namespace does not have. Create it, or name another."""
    PUBLISHED = "Published"
    """Every Gateway of spec.traffic.parentRefs has accepted the model's routes and resolved them."""
    ROUTE_PENDING = "RoutePending"
    """A Gateway of spec.traffic.parentRefs has not answered yet; the message names it."""
    ROUTE_NOT_ACCEPTED = "RouteNotAccepted"
    """A Gateway does not take a route of the model; the message is its controller's own."""
    ROUTE_REFUSED = "RouteRefused"
    """The API server refuses a route of the model; the message is its own."""
    ROUTE_DRIFT = "RouteDrift"
    """Somebody has changed a route that Penstock owns; it was put back. Change spec.traffic instead."""
    GATEWAY_API_MISSING = "GatewayAPIMissing"
    """spec.traffic.parentRefs needs the Gateway API, and this cluster does not serve it to the operator.

    Install its CRDs; the model is published as soon as they are there.
    """
    ROLLED_BACK = "RolledBack"
    """The revision that the spec asks for was taken back; the stable one serves. The message has the evidence."""
    ERROR_RATE_WORSE = "ErrorRateWorse"
    """The candidate answered with more errors than `tolerance` times stable's rate."""
    CLIENT_ERROR_RATE_WORSE = "ClientErrorRateWorse"
    """The candidate refused requests (4xx, INVALID_ARGUMENT) that the stable revision accepts."""
    LATENCY_WORSE = "LatencyWorse"
    """More of the candidate's answers were slow than `latency` tolerates."""
    ERROR_RATE_ABOVE_MAXIMUM = "ErrorRateAboveMaximum"
    """The candidate's error rate is above errors.maxPercent while the stable revision's is below."""
    NO_TRAFFIC = "NoTraffic"
    """No request reached the candidate within the deadline, and analysis.onNoTraffic is Rollback."""
    INTERFACE_CHANGED = "InterfaceChanged"
    """Inputs or outputs differ from the stable revision's: clients would break. It got no traffic."""
    ABORTED = "Aborted"
    """spec.rollout.abort named the candidate. A new retryToken tries it again."""
    SUPERSEDED = "Superseded"
    """The spec asked for another revision while this one was on its way."""
    SKIPPED = "Skipped"
    """With no replicas there is nothing to compare: the revision was exchanged without analysis."""
    RETURNED = "Returned"
    """The previous revision was still warm and took the traffic back at once, without analysis."""
    # revisions
    REVISION_PROMOTED = "RevisionPromoted"
    """A revision went live and is the stable one now."""
    RUNTIME_OUTDATED = "RuntimeOutdated"
    """Stable runs older images than the chart's; `penstock upgrade-runtime` moves it, unless spec names its own."""

    @classmethod
    def read(cls, text: str | None) -> "Reason":
        """A reason from status; one that a newer release wrote counts as a failed preparation, which is tried again."""
        return cls(text) if text and text in cls._value2member_map_ else cls.PREPARATION_FAILED


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
