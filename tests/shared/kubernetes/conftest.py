"""The connection to the embedded API server, by the name that the tests of this package call it."""

from __future__ import annotations

import pytest

from shared.kubernetes import Kubernetes


@pytest.fixture
def api(kubernetes: Kubernetes) -> Kubernetes:
    """A connection to the running API server."""
    return kubernetes
