"""What can go wrong with the Kubernetes API.

::

    KubernetesError
    ├── NoCredentials   neither a kubeconfig nor a service account could be read
    ├── Unreachable     no answer: connection refused, cut, timed out
    ├── ObjectRefused   an object does not have the shape that its API promises
    └── ApiError        the API server refused; ``status`` is the HTTP code, ``reason`` its ``Status.reason``
        ├── NotFound    404: no such object, or the resource's definition is not installed
        ├── Conflict    409: exists already, or was changed meanwhile
        └── Gone        410: the resourceVersion is too old, list again
"""

from __future__ import annotations


class KubernetesError(Exception):
    """Base of all errors of this package."""


class NoCredentials(KubernetesError):
    """No usable kubeconfig and no service account: give ``--kubeconfig``."""


class Unreachable(KubernetesError):
    """The API server did not answer; try again later."""


class ObjectRefused(KubernetesError):
    """An object cannot be read; ``object`` names it, the text its JSON path and what to do."""

    def __init__(self, *, kind: str, namespace: str, name: str, reason: str) -> None:
        self.object = f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"
        super().__init__(
            f"{self.object}: {reason}; correct the object, its last good version (if any) stays in force"
        )


class ApiError(KubernetesError):
    """The API server refused a request."""

    def __init__(self, text: str, *, status: int, reason: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.reason = reason


class NotFound(ApiError):
    """There is no such object or resource."""


class Conflict(ApiError):
    """The object exists already or was changed by somebody else: read it again."""


class Gone(ApiError):
    """The server has forgotten that resourceVersion: list again."""


def api_error(text: str, *, status: int, reason: str = "") -> ApiError:
    """The error class for an HTTP status."""
    kind = {404: NotFound, 409: Conflict, 410: Gone}.get(status, ApiError)
    return kind(f"{text} ({status} {reason})".rstrip(" )") + ")", status=status, reason=reason)
