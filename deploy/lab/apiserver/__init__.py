"""A Kubernetes API server in memory: as much of one as kubectl, kubernetes-asyncio and Stentor use.

One process, one event loop, one revision counter: a write is atomic, and is in every watch before it is
answered.
"""

from .errors import ApiServerError, ListenError, StatusError
from .server import INITIAL_NAMESPACES, ApiAddress, ApiServer

__all__ = ["INITIAL_NAMESPACES", "ApiAddress", "ApiServer", "ApiServerError", "ListenError", "StatusError"]
