"""Who may do what on NATS.

Each datapath has an account of its own, so have the readers, and the control services share one, CONTROL,
which alone has JetStream. The reason is that NATS checks the subject of a request but not the subject to
which its reply goes: in a common account a datapath could have JetStream "answer" onto a key of the
policy bucket and so overwrite it. Between accounts the server translates replies, so that an answer stays
in the account that asked, and that account sees of CONTROL only the requests listed here.

nats-server 2.9 knows no grants on buckets, so a bucket is a set of subjects: ``$KV.<bucket>.>`` to write,
some ``$JS.API`` requests to read. Nobody outside CONTROL may send ``DIRECT.GET``, whose reply is the
stored message, nor ``STREAM.CREATE``, whose body could republish one bucket into another.
``allow_responses`` is not used: the server would note the reply subject of each message that it delivers,
which makes snapshots crawl.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shared.bus.connection import answers_subject
from shared.bus.session import IMPORTED_API
from shared.contract.names import Bucket, health_subject, token

API = "$JS.API."

CONTROL = "CONTROL"
"""The account of JetStream and the control services."""

VIEW = "VIEW"
"""The account of those who only look."""

READER = "reader"
"""The command line and any other tool that only looks."""

OWNED: dict[str, tuple[Bucket, ...]] = {
    "identity": (
        Bucket.IDENTITIES,
        Bucket.ALLOCATIONS,
        Bucket.IPCACHE,
        Bucket.ENDPOINTS,
        Bucket.NODES,
        Bucket.SETTINGS,
    ),
    "policy": (Bucket.POLICY, Bucket.POLICY_STATUS),
    "lb": (Bucket.SERVICES,),
}
"""The buckets that each control service creates and alone writes."""

KEPT: dict[str, tuple[Bucket, ...]] = {"identity": (Bucket.CLAIMS,), "policy": (Bucket.REALISED,)}
"""The buckets that a control service creates, but datapaths write, each below its own node's token."""

CLEARED: dict[str, tuple[Bucket, ...]] = {"identity": (Bucket.CLAIMS, Bucket.REALISED)}
"""The buckets in which a control service deletes what nodes have left that are no more."""

DATAPATH_READS = (
    Bucket.IDENTITIES,
    Bucket.IPCACHE,
    Bucket.ENDPOINTS,
    Bucket.NODES,
    Bucket.POLICY,
    Bucket.SERVICES,
)
"""None that any datapath writes: by a consumer a user can have what it may read sent to a subject in CONTROL.
It can choose none that matters: the server delivers only where somebody subscribes to that very subject,
without wildcards, which buckets do not; and the inboxes of control services cannot be guessed.
"""

READER_READS = tuple(bucket for bucket in Bucket if bucket is not Bucket.ALLOCATIONS)


@dataclass(frozen=True, kw_only=True)
class User:
    """A NATS user: the subjects it may publish to and subscribe to."""

    name: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    """Its inbox, where it may publish too, is not in the lists."""

    @property
    def inbox(self) -> str:
        """Where replies and deliveries to this user go."""
        return f"_INBOX.{self.name}.>"


@dataclass(frozen=True, kw_only=True)
class Account:
    """A NATS account: its users, and the subjects that it lets others see and sees of others."""

    name: str
    users: tuple[User, ...]
    jetstream: bool = False
    answers: tuple[str, ...] = ()
    """Requests of other accounts that are answered here (service exports)."""
    asks: tuple[str, ...] = ()
    """Requests that CONTROL answers (service imports)."""
    tells: tuple[str, ...] = ()
    """Messages that other accounts may see (stream exports)."""
    hears: tuple[tuple[str, str], ...] = ()
    """Account and subject of messages of others (stream imports)."""


def datapath_user(node: str) -> str:
    """The NATS user of a node's datapath."""
    return f"datapath-{token(node)}"


def user_names(nodes: Iterable[str]) -> tuple[str, ...]:
    """All users of a cluster with these nodes."""
    return (*OWNED, READER, *(datapath_user(node) for node in nodes))


def accounts(*, cluster: str, nodes: Sequence[str]) -> tuple[Account, ...]:
    """All accounts of a cluster."""
    health, answers = health_subject(cluster=cluster), answers_subject(cluster=cluster, question="*")
    datapaths = tuple(_datapath_account(node, cluster=cluster) for node in nodes)
    reader = _reader(cluster=cluster)
    control_tells = (*(f"stentor.{cluster}.event.{service}.>" for service in OWNED), answers)
    view = Account(
        name=VIEW,
        users=(reader,),
        asks=_viewing(cluster=cluster),
        tells=(health,),
        hears=(
            *((CONTROL, subject) for subject in (*control_tells, reader.inbox)),
            *((account.name, subject) for account in datapaths for subject in account.tells),
        ),
    )
    control = Account(
        name=CONTROL,
        jetstream=True,
        users=tuple(_control_user(name, cluster=cluster) for name in OWNED),
        answers=tuple(dict.fromkeys(subject for account in (view, *datapaths) for subject in account.asks)),
        tells=(*control_tells, *(user.inbox for account in (view, *datapaths) for user in account.users)),
        hears=((VIEW, health),),
    )
    return (control, view, *datapaths)


def _stream(bucket: Bucket, *, cluster: str) -> str:
    return f"KV_{bucket.of(cluster)}"


def _keys(bucket: Bucket, *, cluster: str) -> str:
    return f"$KV.{bucket.of(cluster)}."


def _reading(buckets: Iterable[Bucket], *, cluster: str) -> tuple[str, ...]:
    return tuple(
        subject
        for stream in (_stream(bucket, cluster=cluster) for bucket in buckets)
        for subject in (
            f"{API}STREAM.INFO.{stream}",
            f"{API}CONSUMER.CREATE.{stream}",
            f"{API}STREAM.MSG.GET.{stream}",
            f"$JS.FC.{stream}.>",
        )
    )


def _viewing(*, cluster: str) -> tuple[str, ...]:
    """Reading by any client: most name their consumers, look at them, and ask first what JetStream there is.

    A consumer that bears a name may be a lasting one, which costs the server a little and others nothing.
    """
    return (
        *_reading(READER_READS, cluster=cluster),
        *(
            f"{API}{call}"
            for stream in (_stream(bucket, cluster=cluster) for bucket in READER_READS)
            for call in (f"CONSUMER.CREATE.{stream}.>", f"CONSUMER.INFO.{stream}.*")
        ),
        f"{API}INFO",
    )


def _imported(subjects: Iterable[str]) -> tuple[str, ...]:
    """As where CONTROL's API is imported under another name; the usual name answers that there is none."""
    return (
        *subjects,
        *(IMPORTED_API + subject.removeprefix(API) for subject in subjects if subject.startswith(API)),
    )


def _keeping(buckets: Iterable[Bucket], *, cluster: str) -> tuple[str, ...]:
    return tuple(
        f"{API}{call}.{_stream(bucket, cluster=cluster)}"
        for bucket in buckets
        for call in ("STREAM.CREATE", "STREAM.UPDATE", "STREAM.MSG.DELETE")
    )


def _control_user(name: str, *, cluster: str) -> User:
    owned = OWNED[name]
    return User(
        name=name,
        publish=(
            *(f"{_keys(bucket, cluster=cluster)}>" for bucket in (*owned, *CLEARED.get(name, ()))),
            *_keeping((*owned, *KEPT.get(name, ())), cluster=cluster),
            *_reading(Bucket, cluster=cluster),
            f"stentor.{cluster}.event.{name}.>",
            answers_subject(cluster=cluster, question="*"),
        ),
        subscribe=(health_subject(cluster=cluster),),
    )


def _datapath_account(node: str, *, cluster: str) -> Account:
    own = token(node)
    writes = (
        f"{_keys(Bucket.CLAIMS, cluster=cluster)}{own}.>",
        f"{_keys(Bucket.REALISED, cluster=cluster)}{own}",
    )
    tells = (
        f"stentor.{cluster}.flow.{own}.>",
        f"stentor.{cluster}.event.datapath.>",
        answers_subject(cluster=cluster, question="*"),
    )
    health = health_subject(cluster=cluster)
    user = User(
        name=datapath_user(node),
        publish=(*writes, *_imported(_reading(DATAPATH_READS, cluster=cluster)), *tells),
        subscribe=(health,),
    )
    return Account(
        name=f"NODE-{own}",
        users=(user,),
        asks=(*_reading(DATAPATH_READS, cluster=cluster), *writes),
        tells=tells,
        hears=((CONTROL, user.inbox), (VIEW, health)),
    )


def _reader(*, cluster: str) -> User:
    return User(
        name=READER,
        publish=(*_imported(_viewing(cluster=cluster)), health_subject(cluster=cluster)),
        subscribe=(
            f"stentor.{cluster}.flow.>",
            f"stentor.{cluster}.event.>",
            answers_subject(cluster=cluster, question="*"),
        ),
    )
