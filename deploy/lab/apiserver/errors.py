"""Everything the embedded API server can refuse.

::

    ApiServerError
    ├── ListenError              the server cannot listen where it was told to
    └── StatusError              a refusal with a Kubernetes ``Status`` body and an HTTP code
        ├── BadRequest           400  the request cannot be understood
        ├── Unauthorized         401  no token, or a wrong one
        ├── Forbidden            403  understood, and never allowed (say, in a namespace that is going away)
        ├── NotFound             404  no such object, or no such resource
        ├── MethodNotAllowed     405  the resource has no such verb
        ├── NotAcceptable        406  the client accepts only encodings this server does not speak
        ├── AlreadyExists        409  create of a name that is taken
        ├── Conflict             409  resourceVersion or uid precondition does not hold
        ├── Expired              410  the resourceVersion is older than the event log
        ├── TooLarge             413  the request body is larger than a Kubernetes API server takes
        ├── UnsupportedMediaType 415  body or patch type unknown
        ├── Invalid              422  a field has an unacceptable value; the causes name the fields
        └── VersionTooLarge      504  the resourceVersion is from the future (another server's, usually)

Codes and reasons: Kubernetes API conventions, "Response Status Kind".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .resources import ResourceType


class ApiServerError(Exception):
    """Root of this package's errors."""


class ListenError(ApiServerError):
    """The address cannot be listened on. Choose a loopback address and a free port, or pass a socket."""


class FieldCause(NamedTuple):
    """One unacceptable field: its path, the Kubernetes cause reason, and what is wrong with it."""

    field: str
    reason: str
    message: str


class StatusError(ApiServerError):
    """A refusal that the client sees as a ``Status`` object."""

    code = 500
    reason = "InternalError"

    def __init__(self, message: str, *, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def status(self) -> dict[str, Any]:
        """The ``Status`` body of the response."""
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if self.details:
            body["details"] = self.details
        return body


def _details(resource: ResourceType, name: str) -> dict[str, Any]:
    details: dict[str, Any] = {"name": name, "kind": resource.plural}
    if resource.group:
        details["group"] = resource.group
    return details


class BadRequest(StatusError):
    """400: the request cannot be understood; the message says which part."""

    code = 400
    reason = "BadRequest"


class Unauthorized(StatusError):
    """401: use the kubeconfig that the server wrote."""

    code = 401
    reason = "Unauthorized"


class Forbidden(StatusError):
    """403: never allowed, whoever asks."""

    code = 403
    reason = "Forbidden"


class NotFound(StatusError):
    """404: no such object or resource."""

    code = 404
    reason = "NotFound"

    @classmethod
    def of(cls, resource: ResourceType, name: str) -> NotFound:
        """The refusal for a missing object."""
        return cls(f'{resource.qualified} "{name}" not found', details=_details(resource, name))

    @classmethod
    def of_path(cls, path: str) -> NotFound:
        """The refusal for a path that no resource is served at."""
        return cls(f"the server could not find the requested resource: {path}")


class MethodNotAllowed(StatusError):
    """405: the resource is served, this verb is not."""

    code = 405
    reason = "MethodNotAllowed"


class NotAcceptable(StatusError):
    """406: this server answers in JSON only."""

    code = 406
    reason = "NotAcceptable"


class AlreadyExists(StatusError):
    """409: the name is taken."""

    code = 409
    reason = "AlreadyExists"

    @classmethod
    def of(cls, resource: ResourceType, name: str) -> AlreadyExists:
        """The refusal of a create whose name is taken."""
        return cls(f'{resource.qualified} "{name}" already exists', details=_details(resource, name))


class Conflict(StatusError):
    """409: read the object again and repeat the change on what it is now."""

    code = 409
    reason = "Conflict"

    @classmethod
    def of(cls, resource: ResourceType, name: str, why: str) -> Conflict:
        """The refusal of a write whose precondition does not hold."""
        message = f'Operation cannot be fulfilled on {resource.qualified} "{name}": {why}'
        return cls(message, details=_details(resource, name))


class Expired(StatusError):
    """410: list again, then watch from the list's resourceVersion."""

    code = 410
    reason = "Expired"


class TooLarge(StatusError):
    """413: the request body is too large."""

    code = 413
    reason = "RequestEntityTooLarge"


class UnsupportedMediaType(StatusError):
    """415: the body's content type is not one this verb takes."""

    code = 415
    reason = "UnsupportedMediaType"


class Invalid(StatusError):
    """422: at least one field has an unacceptable value."""

    code = 422
    reason = "Invalid"

    @classmethod
    def of(cls, resource: ResourceType, name: str, causes: Sequence[FieldCause]) -> Invalid:
        """The refusal of an object, naming each bad field."""
        listed = [f"{cause.field}: {cause.message}" for cause in causes]
        joined = listed[0] if len(listed) == 1 else "[" + ", ".join(listed) + "]"
        shown = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
        details = _details(resource, name) | {
            "kind": resource.kind,
            "causes": [{"reason": c.reason, "message": c.message, "field": c.field} for c in causes],
        }
        return cls(f'{shown} "{name}" is invalid: {joined}', details=details)


class VersionTooLarge(StatusError):
    """504: the resourceVersion did not come from this server; list again without one."""

    code = 504
    reason = "Timeout"

    @classmethod
    def of(cls, asked: int, current: int) -> VersionTooLarge:
        """The refusal of a resourceVersion that this server has not reached."""
        cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
        message = f"Too large resource version: {asked}, current: {current}"
        return cls(message, details={"causes": [cause], "retryAfterSeconds": 1})
