"""A commit counts only when it is complete and nothing is pending behind it."""

from __future__ import annotations

from services.datapath.committed import Committed
from shared.bus import Batch, Entry
from shared.contract.base import ClassId, Identity, Message
from shared.contract.policy import Commit, IdentityPolicy

COMMIT = Commit(time="2026-01-01T00:00:00Z", policies=0, identities=0, sets=0, rows=0)


def identity(number: int, peer_class: str) -> IdentityPolicy:
    return IdentityPolicy(identity=Identity(number), peer_class=ClassId(peer_class * 16))


def batch(
    *entries: tuple[str, Message | None], first: int, snapshot: bool = False, caught_up: bool = True
) -> Batch[Message]:
    numbered = tuple(Entry(key, value, first + index) for index, (key, value) in enumerate(entries))
    return Batch(
        snapshot=snapshot, entries=numbered, revision=first + len(entries) - 1, caught_up=caught_up, errors=()
    )


def test_a_publication_counts_from_its_commit_on() -> None:
    bucket: Committed[Message] = Committed()
    assert bucket.take(batch(("identity.300", identity(300, "a")), first=1, snapshot=True)) is None
    assert not bucket.spoken
    assert bucket.values == {}

    change = bucket.take(batch(("commit", COMMIT), first=2))

    assert change is not None
    assert change.revision == 2
    assert change.put == {"identity.300": identity(300, "a")}
    assert bucket.values == {"identity.300": identity(300, "a")}


def test_a_commit_with_something_pending_waits() -> None:
    bucket: Committed[Message] = Committed()
    entries = (("identity.300", identity(300, "a")), ("commit", COMMIT))
    assert bucket.take(batch(*entries, first=1, snapshot=True, caught_up=False)) is None
    assert bucket.take(batch(("identity.300", identity(300, "b")), first=3)) is None

    change = bucket.take(batch(("commit", COMMIT), first=4))

    assert change is not None
    assert change.put == {"identity.300": identity(300, "b")}


def test_an_empty_snapshot_undoes_nothing() -> None:
    bucket: Committed[Message] = Committed()
    bucket.take(batch(("identity.300", identity(300, "a")), ("commit", COMMIT), first=1, snapshot=True))

    assert bucket.take(batch(first=1, snapshot=True)) is None
    assert bucket.values == {"identity.300": identity(300, "a")}


def test_a_snapshot_removes_what_is_not_in_it() -> None:
    bucket: Committed[Message] = Committed()
    first = (("identity.300", identity(300, "a")), ("identity.301", identity(301, "b")), ("commit", COMMIT))
    bucket.take(batch(*first, first=1, snapshot=True))

    change = bucket.take(
        batch(("identity.300", identity(300, "c")), ("commit", COMMIT), first=10, snapshot=True)
    )

    assert change is not None
    assert change.put == {"identity.300": identity(300, "c")}
    assert change.replaced == {"identity.300": identity(300, "a")}
    assert change.removed == {"identity.301": identity(301, "b")}


def test_deletions_are_told_with_their_last_value() -> None:
    bucket: Committed[Message] = Committed()
    bucket.take(batch(("identity.300", identity(300, "a")), ("commit", COMMIT), first=1, snapshot=True))

    change = bucket.take(batch(("identity.300", None), ("commit", COMMIT), first=3))

    assert change is not None
    assert change.removed == {"identity.300": identity(300, "a")}
    assert bucket.values == {}
    assert bucket.revision == 4
