"""System packages: presence is the presence of the thing, and installing leaves no service behind."""

from pathlib import Path

import pytest

from deploy.bootstrap.apt import POLICY, services_held_back
from deploy.bootstrap.layout import Layout
from deploy.bootstrap.packages import missing_packages


def test_a_nats_server_installed_by_hand_will_do(layout: Layout) -> None:
    assert "nats-server" in {package.name for package in missing_packages(layout)}
    program = layout.filesystem / "usr/sbin/nats-server"
    program.touch()
    assert "nats-server" in {package.name for package in missing_packages(layout)}, "not executable yet"
    program.chmod(0o755)
    assert "nats-server" not in {package.name for package in missing_packages(layout)}


@pytest.fixture
def policy(layout: Layout) -> Path:
    return layout.filesystem / "usr/sbin/policy-rc.d"


def test_services_are_held_back_only_meanwhile_also_on_failure(policy: Path) -> None:
    with pytest.raises(RuntimeError, match="apt failed"), services_held_back(policy):  # noqa: PT012
        assert policy.stat().st_mode & 0o111
        assert "exit 101" in policy.read_text()
        raise RuntimeError("apt failed")
    assert not policy.exists()


def test_the_administrator_s_own_policy_is_left_alone(policy: Path) -> None:
    policy.write_text("#!/bin/sh\nexit 0\n")
    with services_held_back(policy):
        assert policy.read_text() == "#!/bin/sh\nexit 0\n"
    assert policy.read_text() == "#!/bin/sh\nexit 0\n"


def test_what_a_killed_set_up_left_is_removed(policy: Path) -> None:
    policy.write_text(POLICY)
    with services_held_back(policy):
        pass
    assert not policy.exists()
