"""How a service starts: ``raise SystemExit(run_service("identity", main))``."""

from shared.runtime.health import Health
from shared.runtime.runtime import Runtime, run_service
from shared.runtime.settings import ServiceSettings, add_min_interval, add_verify_every, positive_seconds

__all__ = [
    "Health",
    "Runtime",
    "ServiceSettings",
    "add_min_interval",
    "add_verify_every",
    "positive_seconds",
    "run_service",
]
