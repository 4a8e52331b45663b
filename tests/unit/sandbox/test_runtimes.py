"""Runtimes with known vulnerabilities cause a warning."""

import pytest

from rlm.sandbox.docker.runtimes import is_gvisor, known_vulnerabilities


def components(version: str) -> list[dict[str, str]]:
    return [{"Name": "Engine", "Version": "1.0.0"}, {"Name": "runc", "Version": version}]


@pytest.mark.parametrize("version", ["1.1.5+ds1", "1.0.0-rc95", "1.2.7", "1.3.0", "1.3.2-rc.1", "0.1.1"])
def test_a_runc_with_known_holes_is_told_with_the_version_to_update_to(version: str) -> None:
    said = known_vulnerabilities(components(version))
    assert said is not None
    assert version in said
    assert "1.2.8 or 1.3.3" in said


@pytest.mark.parametrize("version", ["1.2.8", "1.2.9", "1.3.3", "1.4.0", "2.0.0", "1.3.10", "unknown", ""])
def test_a_runc_that_is_mended_or_of_no_known_version_is_not(version: str) -> None:
    assert known_vulnerabilities(components(version)) is None


def test_an_engine_without_runc_has_none_of_its_holes() -> None:
    assert known_vulnerabilities([{"Name": "crun", "Version": "1.0.0"}]) is None


def test_gvisor_is_known_by_its_name() -> None:
    assert is_gvisor("runsc")
    assert is_gvisor("runsc-kvm")
    assert not is_gvisor("runc")
    assert not is_gvisor(None)
