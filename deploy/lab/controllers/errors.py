"""What can go wrong between the controllers and an API server.

::

    ControllerError
    ├── ApiRefused       the server answered with an error Status; ``code`` and ``reason`` say which
    │   ├── Gone         404  the object is not there (any more)
    │   ├── Outdated     409  someone else wrote first, or the name is taken: look again, then decide again
    │   └── Compacted    410  the watch's resourceVersion is too old: list again
    └── ApiUnreachable   no answer: the server is down, or the connection broke; try again
"""

from __future__ import annotations


class ControllerError(Exception):
    """Root of this package's errors."""


class ApiRefused(ControllerError):
    """The server refused a request; the message names the request and the server's reason."""

    def __init__(self, message: str, *, code: int, reason: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class Gone(ApiRefused):
    """The object is not there."""


class Outdated(ApiRefused):
    """The decision was made on a state that no longer is."""


class Compacted(ApiRefused):
    """The server no longer knows the changes since the given resourceVersion."""


class ApiUnreachable(ControllerError):
    """No answer came."""


def refusal(message: str, *, code: int, reason: str) -> ApiRefused:
    """The error for a refusal with HTTP ``code``."""
    kinds: dict[int, type[ApiRefused]] = {404: Gone, 409: Outdated, 410: Compacted}
    return kinds.get(code, ApiRefused)(f"{message} ({code} {reason})", code=code, reason=reason)
