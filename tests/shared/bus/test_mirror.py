"""What a writer believes its bucket to hold."""

from __future__ import annotations

from shared.bus import Batch, Entry, EntryError, Mirror
from shared.contract.identity import NodeRecord

OLD, NEW = NodeRecord(name="old"), NodeRecord(name="new")


def batch(
    *entries: Entry[NodeRecord], revision: int, snapshot: bool = False, errors: tuple[EntryError, ...] = ()
) -> Batch[NodeRecord]:
    return Batch(snapshot=snapshot, entries=entries, revision=revision, caught_up=True, errors=errors)


def test_a_mirror_believes_a_write_until_the_stream_has_shown_it() -> None:
    mirror: Mirror[NodeRecord] = Mirror()
    mirror.absorb(batch(Entry("k", OLD, 5), revision=5, snapshot=True))
    mirror.wrote([("k", NEW)], revision=8)
    assert mirror.revision == 8
    mirror.absorb(batch(Entry("k", OLD, 7), revision=7))
    assert (mirror.get("k"), mirror.revision) == (NEW, 8)
    mirror.absorb(batch(Entry("k", None, 9), revision=9))
    assert (mirror.get("k"), mirror.revision) == (None, 9)
    mirror.wrote([("k", NEW)], revision=8)
    assert mirror.get("k") is None


def test_nothing_outlives_the_stream_in_which_it_was() -> None:
    mirror: Mirror[NodeRecord] = Mirror()
    mirror.absorb(batch(Entry("k", OLD, 5), revision=5, snapshot=True))
    mirror.wrote([("lost", NEW)], revision=10)
    touched = mirror.absorb(batch(revision=2, snapshot=True))
    assert touched == {"k", "lost"}
    assert not mirror.live_keys()
    assert mirror.revision == 2


def test_what_cannot_be_read_is_to_be_put_again() -> None:
    mirror: Mirror[NodeRecord] = Mirror()
    mirror.absorb(batch(Entry("k", OLD, 5), revision=5, snapshot=True))
    error = EntryError("not a node", key="k", revision=6)
    unreadable: Batch[NodeRecord] = Batch(
        snapshot=False, entries=(), revision=6, caught_up=True, errors=(error,)
    )
    assert mirror.absorb(unreadable) == {"k"}
    assert mirror.entry("k") is None


def test_a_deletion_that_was_written_hides_what_was_read() -> None:
    mirror: Mirror[NodeRecord] = Mirror()
    mirror.absorb(batch(Entry("a", OLD, 4), Entry("b", OLD, 5), revision=5, snapshot=True))
    mirror.wrote([("a", None), ("c", NEW)], revision=7)
    assert dict(mirror.items()) == {"b": OLD, "c": NEW}
