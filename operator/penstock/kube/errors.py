"""What a request to the API server can end with, as types a reconcile can tell apart.

The exceptions are ordinary classes, not frozen dataclasses: contextlib assigns `__traceback__` while it unwinds.
"""

from dataclasses import dataclass

__all__ = [
    "AlreadyTaken",
    "ApiError",
    "Conflict",
    "Fenced",
    "FieldCause",
    "Forbidden",
    "Gone",
    "Invalid",
    "NotFound",
    "Unauthorized",
    "Unavailable",
]


@dataclass(frozen=True)
class FieldCause:
    """One field the API server refuses, and why."""

    field: str
    message: str


class ApiError(Exception):
    """Base of all: what was tried (`verb kind namespace/name`), the HTTP code, and the API server's sentence."""

    def __init__(
        self,
        message: str,
        *,
        verb: str = "",
        kind: str = "",
        namespace: str = "",
        name: str = "",
        code: int = 0,
        causes: tuple[FieldCause, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.verb = verb
        self.kind = kind
        self.namespace = namespace
        self.name = name
        self.code = code
        self.causes = causes

    def __str__(self) -> str:
        what = " ".join(part for part in (self.verb, self.kind, f"{self.namespace}/{self.name}".strip("/")) if part)
        return f"{what}: {self.message}" if what else self.message


class Conflict(ApiError):
    """409: the object is not the one the request was made for (its uid or version is another). Look again."""


class AlreadyTaken(Conflict):
    """An object of that name exists and is not ours; it is left alone."""


class NotFound(ApiError):
    """404."""


class Gone(ApiError):
    """410: the resource version asked for is no longer kept; list again."""


class Invalid(ApiError):
    """400 or 422: the API server refuses the content; `causes` names the fields. Trying again cannot help."""


class Forbidden(ApiError):
    """403: authorization, quota, or an admission policy refuses; the message is the API server's own."""

    @property
    def quota(self) -> bool:
        """Whether a ResourceQuota is used up."""
        return "exceeded quota" in self.message or "failed quota" in self.message

    @property
    def pod_security(self) -> bool:
        """Whether the namespace's Pod Security level refuses the pod."""
        return "violates PodSecurity" in self.message

    @property
    def terminating(self) -> bool:
        """Whether the namespace is being deleted, so that nothing can be created in it."""
        return "because it is being terminated" in self.message


class Unauthorized(ApiError):
    """401 even with freshly read credentials."""


class Unavailable(ApiError):
    """No usable answer after all retries: connection errors, 429, 5xx."""


class Fenced(ApiError):
    """Not sent: this process may no longer write, because its lease is not known to be held."""
