"""The pods of this node that have a network, remembered across restarts of the datapath.

It owns one JSON file for each endpoint, named after the host side of the pod's veth, so that a damaged
file still tells which link it was about. A file is written before the registry answers with the endpoint
and removed before it stops to; so a restarted datapath knows every pod without NATS and without the
container runtime.

A file that cannot be read is reported by name in ``broken`` and loses no other. Its link is left alone:
the pod goes on as last realised until the runtime deletes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from services.datapath import statefiles
from services.datapath.errors import StateError

HOST_IFNAME_PREFIX = "stn"

_SUFFIX = ".json"
_VERSION = 1


def host_ifname(container_id: str, ifname: str) -> str:
    """Name of the host side of a pod's veth: ``stn`` and 10 hexadecimal digits, fixed for one interface."""
    return HOST_IFNAME_PREFIX + hashlib.sha256(owner(container_id, ifname).encode()).hexdigest()[:10]


def owner(container_id: str, ifname: str) -> str:
    """Whom IPAM gives the addresses to."""
    return f"{container_id}/{ifname}"


class LocalEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A pod of this node, as the CNI ADD made it."""

    v: int = _VERSION
    container_id: str
    ifname: str
    """Name of the interface inside the pod."""
    netns: str
    """Path of the pod's network namespace, as the runtime gave it."""
    namespace: str
    pod: str
    uid: str = ""
    """``metadata.uid`` of the Pod; empty when the runtime did not tell."""
    ips: tuple[str, ...]
    host_ifname: str
    host_ifindex: int
    mac: str
    """Of the pod's side; that of the host side is the same for all pods (``podlink.HOST_MAC``)."""
    mtu: int
    delegated: bool = False
    """The addresses are from another IPAM plugin."""
    created: str = ""
    """RFC 3339, UTC."""

    @property
    def owner(self) -> str:
        """Whom IPAM gave the addresses to."""
        return owner(self.container_id, self.ifname)

    @property
    def name(self) -> str:
        """``namespace/pod``, for people."""
        return f"{self.namespace}/{self.pod}"


@dataclass(frozen=True, slots=True)
class BrokenFile:
    """A file of the registry that could not be read."""

    path: Path
    reason: str

    @property
    def host_ifname(self) -> str:
        """The link that the file was about."""
        return self.path.name.removesuffix(_SUFFIX)


@dataclass(frozen=True, slots=True)
class Orphans:
    """Where the registry and the links of the node differ."""

    endpoints: tuple[LocalEndpoint, ...]
    """Endpoints whose link is gone, or was replaced by another of the same name."""
    links: tuple[str, ...]
    """Own links that belong to no endpoint."""


class EndpointRegistry:
    """All endpoints of this node. ``directory`` exists and holds nothing but the registry's files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._endpoints: dict[str, LocalEndpoint] = {}
        self.broken: tuple[BrokenFile, ...] = ()
        self._load()

    def all(self) -> tuple[LocalEndpoint, ...]:
        """Every endpoint, in no particular order."""
        return tuple(self._endpoints.values())

    def by_container(self, container_id: str, ifname: str) -> LocalEndpoint | None:
        """The endpoint of one interface of a container."""
        return self._endpoints.get(host_ifname(container_id, ifname))

    def by_pod(self, namespace: str, pod: str) -> tuple[LocalEndpoint, ...]:
        """The endpoints that carry the pod's name: more than one only while its sandbox is being replaced."""
        return tuple(e for e in self._endpoints.values() if e.namespace == namespace and e.pod == pod)

    def put(self, endpoint: LocalEndpoint) -> None:
        """Remember the endpoint; replaces what was known of the same container and interface."""
        statefiles.write(self._path(endpoint.host_ifname), msgspec.json.encode(endpoint))
        self._endpoints[endpoint.host_ifname] = endpoint
        self._mended(endpoint.host_ifname)

    def remove(self, container_id: str, ifname: str) -> None:
        """Forget the endpoint, also one whose file is broken; nothing happens if there is none."""
        name = host_ifname(container_id, ifname)
        statefiles.remove(self._path(name))
        self._endpoints.pop(name, None)
        self._mended(name)

    def orphans(self, links: Mapping[str, int]) -> Orphans:
        """Compare with the own links of the node (name to ifindex), see :meth:`Netlink.pod_links`."""
        known = set(self._endpoints) | {broken.host_ifname for broken in self.broken}
        return Orphans(
            endpoints=tuple(e for e in self.all() if links.get(e.host_ifname) != e.host_ifindex),
            links=tuple(sorted(set(links) - known)),
        )

    def _path(self, name: str) -> Path:
        return self._directory / (name + _SUFFIX)

    def _mended(self, name: str) -> None:
        self.broken = tuple(broken for broken in self.broken if broken.host_ifname != name)

    def _load(self) -> None:
        broken: list[BrokenFile] = []
        for path in self._files():
            try:
                endpoint = _read(path)
            except (OSError, ValueError) as error:
                broken.append(BrokenFile(path, str(error)))
            else:
                self._endpoints[endpoint.host_ifname] = endpoint
        self.broken = tuple(broken)

    def _files(self) -> Iterable[Path]:
        try:
            return sorted(path for path in self._directory.iterdir() if path.suffix == _SUFFIX)
        except OSError as error:
            raise StateError(f"{self._directory}: cannot list: {error.strerror}") from error


def _read(path: Path) -> LocalEndpoint:
    endpoint = msgspec.json.decode(path.read_bytes(), type=LocalEndpoint)
    if endpoint.v > _VERSION:
        raise ValueError(f"written by a newer version ({endpoint.v})")
    expected = host_ifname(endpoint.container_id, endpoint.ifname)
    if (path.name, endpoint.host_ifname) != (expected + _SUFFIX, expected):
        raise ValueError(f"is about {endpoint.host_ifname}, which is not the link of its container")
    return endpoint
