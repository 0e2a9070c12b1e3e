"""The robot computer's preflight: what is wrong is found, and what to do is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from robot_servers.interface import Check
from robot_servers.preflight import PINGS, checksum, host_of, machine_checks, network_check, table


def named(checks: tuple[Check, ...], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def machine(root: Path, realtime: str, governors: tuple[str, ...]) -> Path:
    (root / "sys/kernel").mkdir(parents=True)
    (root / "sys/kernel/realtime").write_text(realtime)
    for index, governor in enumerate(governors):
        folder = root / f"sys/devices/system/cpu/cpu{index}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{governor}\n")
    return root


def test_a_fit_machine_passes(tmp_path: Path) -> None:
    """Guards against a check that nobody can pass, and that people learn to ignore."""
    checks = machine_checks(False, root=machine(tmp_path, "1", ("performance", "performance")))
    assert named(checks, "kernel").ok and named(checks, "CPU governor").ok


def test_an_ordinary_kernel_needs_a_waiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an arm led from a kernel that interrupts it, without anybody having said so."""
    monkeypatch.setattr("platform.version", lambda: "#1 SMP")
    root = machine(tmp_path, "0", ("powersave", "performance"))
    refused, waived = machine_checks(False, root=root), machine_checks(True, root=root)
    assert not named(refused, "kernel").ok and "--waive-realtime" in named(refused, "kernel").text
    assert named(waived, "kernel").ok and "waived" in named(waived, "kernel").text
    assert not named(refused, "CPU governor").ok and "cpupower" in named(refused, "CPU governor").text


def raises(error: OSError) -> Callable[[], list[float]]:
    def measure() -> list[float]:
        raise error

    return measure


@pytest.mark.parametrize(
    ("measure", "ok", "text"),
    [
        (lambda: [0.0002] * PINGS, True, "0.20 ms there and back, at most 0.20 ms, 0 of"),
        (lambda: [0.0002] * (PINGS - 1) + [0.004], False, "at most 4.00 ms"),
        (lambda: [0.0002] * (PINGS - 1), False, "1 of"),
        (lambda: [], False, "switched on"),
        (raises(PermissionError(1, "")), False, "no right to ping"),
        (raises(OSError(101, "Network is unreachable")), False, "unreachable"),
    ],
)
def test_the_way_to_the_arm(measure: Callable[[], list[float]], ok: bool, text: str) -> None:
    """Guards against a slow, lossy or absent way to the arm that passes, or an error that does not say what to do."""
    check = network_check("172.16.0.2", measure)
    assert check.ok is ok and text in check.text


@pytest.mark.parametrize(
    ("address", "host"),
    [("", ""), ("172.16.0.2", "172.16.0.2"), ("robot:1337", "robot"), ("http://robot:5000/x", "robot")],
)
def test_hosts_of_addresses(address: str, host: str) -> None:
    """Guards against a ping to a port number or a route."""
    assert host_of(address) == host


def test_the_checksum_is_the_internets() -> None:
    """Guards against pings that every host drops: the example of RFC 1071, section 3."""
    assert checksum(bytes([0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7])) == ~0xDDF2 & 0xFFFF


def test_the_table_shows_what_failed() -> None:
    """Guards against a failure that drowns in the table."""
    lines = table((Check("a", True, "fine"), Check("longer", False, "broken"))).splitlines()
    assert lines[0].startswith("ok") and lines[1].startswith("FAIL") and lines[0].index("fine") == lines[1].index("bro")
