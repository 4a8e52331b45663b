"""Runtimes with known vulnerabilities cause a warning."""

import pytest

from rlm.sandbox.docker.runtimes import is_gvisor, known_vulnerabilities


def components(version: str) -> list[dict[str, str]]:
    return [{"Name": "Engine", "Version": "1.0.0"}, {"Name": "runc", "Version": version}]


@pytest.mark.parametrize("version", ["1.1.5+ds1", "1.0.0-rc95", "1.2.7", "1.3.0", "1.3.2-rc.1", "0.1.1"])
def test_a_vulnerable_runc_is_reported_with_the_version_to_upgrade_to(version: str) -> None:
    warning = known_vulnerabilities(components(version))
    assert warning is not None
    assert version in warning
    assert "1.2.8 or 1.3.3" in warning


@pytest.mark.parametrize("version", ["1.2.8", "1.2.9", "1.3.3", "1.4.0", "2.0.0", "1.3.10", "unknown", ""])
def test_a_fixed_or_unknown_runc_causes_no_warning(version: str) -> None:
    assert known_vulnerabilities(components(version)) is None


def test_an_engine_without_runc_has_none_of_its_vulnerabilities() -> None:
    assert known_vulnerabilities([{"Name": "crun", "Version": "1.0.0"}]) is None


def test_gvisor_is_known_by_its_name() -> None:
    assert is_gvisor("runsc")
    assert is_gvisor("runsc-kvm")
    assert not is_gvisor("runc")
    assert not is_gvisor(None)
