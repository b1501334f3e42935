"""Whether a service is ready, and who is told when it is so for the first time."""

from __future__ import annotations

from shared.runtime.health import Health


def test_it_is_ready_when_no_part_has_a_reason_against_it() -> None:
    health = Health("policy")
    assert health.reasons == ("starting",)
    health.set_not_ready("bucket", "not read yet")
    assert health.reasons == ("bucket: not read yet",)
    health.set_ready("bucket")
    assert health.ready


def test_who_waits_for_it_is_called_once_and_only_when_all_parts_are_ready() -> None:
    health, calls = Health("policy"), list[str]()
    health.on_ready(lambda: calls.append("ready"))
    health.set_not_ready("a", "not read yet")
    health.set_not_ready("b", "not read yet")
    health.set_ready("a")
    assert calls == []
    health.set_ready("b")
    health.set_not_ready("b", "lost")
    health.set_ready("b")
    assert calls == ["ready"]


def test_a_check_that_fails_is_a_reason() -> None:
    health, calls = Health("policy"), list[str]()
    problem = "not connected"
    health.add_check("nats", lambda: problem)
    health.on_ready(lambda: calls.append("ready"))
    health.set_ready("a")
    assert (health.reasons, calls) == (("nats: not connected",), [])
    problem = ""
    health.set_ready("a")
    assert calls == ["ready"]
