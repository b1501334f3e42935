"""The registry knows every pod of the node after a restart, and one broken file costs no other."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from services.datapath.endpoints import EndpointRegistry, LocalEndpoint, host_ifname


def endpoint(number: int = 1, *, pod: str = "web", index: int = 10) -> LocalEndpoint:
    container = f"container{number}"
    return LocalEndpoint(
        container_id=container,
        ifname="eth0",
        netns=f"/run/netns/{container}",
        namespace="shop",
        pod=pod,
        uid="u-1",
        ips=("10.7.0.5",),
        host_ifname=host_ifname(container, "eth0"),
        host_ifindex=index,
        mac="0e:53:0a:07:00:05",
        mtu=1500,
        created="2026-01-01T00:00:00Z",
    )


def test_names_of_links_fit_the_kernel_and_differ() -> None:
    names = {host_ifname(f"c{n}", ifname) for n in range(200) for ifname in ("eth0", "net1")}
    assert len(names) == 400
    assert all(len(name) == 13 and name.startswith("stn") for name in names)


def test_endpoints_survive_a_restart(tmp_path: Path) -> None:
    registry = EndpointRegistry(tmp_path)
    registry.put(endpoint(1))
    registry.put(endpoint(2, pod="db"))
    again = EndpointRegistry(tmp_path)
    assert {e.pod for e in again.all()} == {"web", "db"}
    assert again.by_container("container1", "eth0") == endpoint(1)
    assert again.by_pod("shop", "db") == (endpoint(2, pod="db"),)


def test_a_removed_endpoint_stays_removed_and_removing_it_again_is_fine(tmp_path: Path) -> None:
    registry = EndpointRegistry(tmp_path)
    registry.put(endpoint())
    registry.remove("container1", "eth0")
    registry.remove("container1", "eth0")
    assert registry.all() == EndpointRegistry(tmp_path).all() == ()


def written(value: object) -> bytes:
    return msgspec.json.encode(value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "truncated"),
        (written({"container_id": "container2"}), "missing required field"),
        (written(msgspec.to_builtins(endpoint(2)) | {"v": 2}), "newer version"),
        (written(endpoint(3)), "not the link of its container"),
    ],
)
def test_a_broken_file_is_named_and_loses_no_other(tmp_path: Path, content: bytes, reason: str) -> None:
    EndpointRegistry(tmp_path).put(endpoint(1))
    name = host_ifname("container2", "eth0")
    (tmp_path / f"{name}.json").write_bytes(content)
    registry = EndpointRegistry(tmp_path)
    assert [e.container_id for e in registry.all()] == ["container1"]
    (broken,) = registry.broken
    assert broken.host_ifname == name
    assert reason in broken.reason
    registry.remove("container2", "eth0")
    assert registry.broken == EndpointRegistry(tmp_path).broken == ()


def test_half_written_files_are_not_endpoints(tmp_path: Path) -> None:
    (tmp_path / ".stn0123456789.json.new").write_text("{")
    registry = EndpointRegistry(tmp_path)
    assert (registry.all(), registry.broken) == ((), ())


def test_orphans_are_endpoints_without_link_and_links_without_endpoint(tmp_path: Path) -> None:
    registry = EndpointRegistry(tmp_path)
    whole, gone, replaced = endpoint(1, index=10), endpoint(2, index=11), endpoint(3, index=12)
    for each in (whole, gone, replaced):
        registry.put(each)
    damaged = host_ifname("container4", "eth0")
    (tmp_path / f"{damaged}.json").write_text("{")
    registry = EndpointRegistry(tmp_path)

    links = {whole.host_ifname: 10, replaced.host_ifname: 99, "stnffffffffff": 5, damaged: 6}
    orphans = registry.orphans(links)
    assert {e.container_id for e in orphans.endpoints} == {"container2", "container3"}
    assert orphans.links == ("stnffffffffff",), "a link whose file is damaged may carry a living pod"
