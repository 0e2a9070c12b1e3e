"""Is this computer fit to lead an arm? What it must have, checked and said in one table: ``--check``.

The figures are those of libfranka's documentation (real-time kernel, rtprio, memlock, performance governor, round
trips below 1 ms at 1 kHz); an arm that asks for less is content with them.
"""

from __future__ import annotations

import os
import platform
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from robot_servers.interface import Check
from robot_servers.realtime import PRIORITY, prefer_realtime

MEMLOCK = 100 << 20  # bytes that must be lockable, so that no page of the control loop is ever swapped out
PINGS = 50
PING_EVERY = 0.01  # s
PING_PATIENCE = 0.5  # s for one answer
PING_BYTES = 1200  # as large as a robot's state message
SLOWEST = 1e-3  # s that a round trip may take
ECHO = 8  # ICMP message type


def machine_checks(waive_realtime: bool, address: str = "", root: Path = Path("/")) -> tuple[Check, ...]:
    """Of this computer, and of its way to the arm at ``address`` if there is one."""
    checks = (_kernel(waive_realtime, root), _priority(), _memlock(), _governor(root))
    host = host_of(address)
    return (*checks, network_check(host, lambda: round_trips(host))) if host else checks


def table(checks: Sequence[Check]) -> str:
    """One line for each, what is wrong first in the line."""
    width = max(len(check.name) for check in checks)
    return "\n".join(f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<{width}}  {check.text}" for check in checks)


def host_of(address: str) -> str:
    """The host in ``HOST``, ``HOST:PORT`` or ``scheme://HOST:PORT/…``."""
    return urlsplit(address if "://" in address else f"//{address}").hostname or ""


def _kernel(waived: bool, root: Path) -> Check:
    flag = root / "sys/kernel/realtime"
    if "PREEMPT_RT" in platform.version() or (flag.exists() and flag.read_text().strip() == "1"):
        return Check("kernel", True, f"{platform.release()} is a real-time kernel")
    text = f"{platform.release()} is no real-time kernel"
    advice = "waived: expect communication faults" if waived else "install PREEMPT_RT, or --waive-realtime"
    return Check("kernel", waived, f"{text}; {advice}")


def _priority() -> Check:
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(prefer_realtime()))  # its priority ends with it
    thread.start()
    thread.join()
    ok = said[0].startswith("SCHED_FIFO")
    return Check("rtprio", ok, said[0] if ok else f"{said[0]}; in limits.conf: @realtime - rtprio {PRIORITY + 49}")


def _memlock() -> Check:
    soft = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    unlimited = soft == resource.RLIM_INFINITY or os.geteuid() == 0
    text = "unlimited" if unlimited else f"{soft >> 20} MiB"
    ok = unlimited or soft >= MEMLOCK
    return Check("memlock", ok, text if ok else f"{text}; in limits.conf: @realtime - memlock {MEMLOCK >> 10}")


def _governor(root: Path) -> Check:
    paths = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
    found = sorted({path.read_text().strip() for path in paths})
    if not found:
        return Check("CPU governor", True, "no frequency scaling on this machine")
    ok = found == ["performance"]
    return Check("CPU governor", ok, ", ".join(found) + ("" if ok else "; run: cpupower frequency-set -g performance"))


def network_check(host: str, measure: Callable[[], list[float]]) -> Check:
    """How long messages take to ``host`` and back; ``measure`` gives s of each that came back."""
    try:
        times = measure()
    except PermissionError:
        return Check(
            "network", False, "no right to ping: run as root, or sysctl -w net.ipv4.ping_group_range='0 65535'"
        )
    except OSError as error:
        return Check("network", False, f"{host} cannot be reached: {error}")
    lost = PINGS - len(times)
    if not times:
        return Check("network", False, f"{host} answers no ping: is it switched on, and on this network?")
    median, slowest = sorted(times)[len(times) // 2], max(times)
    ok = slowest <= SLOWEST and not lost
    text = f"{host}: {1000 * median:.2f} ms there and back, at most {1000 * slowest:.2f} ms, {lost} of {PINGS} lost"
    advice = "; connect it directly, by cable, and with power saving off"
    return Check("network", ok, text if ok else text + advice)


def round_trips(host: str) -> list[float]:
    """Seconds of each ICMP echo that came back in time. Raises `OSError`, `PermissionError` without the right."""
    kind = socket.SOCK_RAW if os.geteuid() == 0 else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP) as pings:
        pings.connect((host, 0))
        times = []
        for number in range(PINGS):
            took = _ping(pings, number)
            times += [] if took is None else [took]
            time.sleep(PING_EVERY)
        return times


def _ping(pings: socket.socket, number: int) -> float | None:
    payload = struct.pack("!HHd", os.getpid() & 0xFFFF, number, time.monotonic()) + bytes(PING_BYTES)
    body = struct.pack("!BBH", ECHO, 0, 0) + payload
    pings.send(struct.pack("!BBH", ECHO, 0, checksum(body)) + payload)
    begun = time.monotonic()
    while (left := begun + PING_PATIENCE - time.monotonic()) > 0:
        pings.settimeout(left)
        try:
            answer = pings.recv(4096)
        except TimeoutError:
            return None
        # other programs' answers arrive on a raw socket too, after an IP header, and with loopback our own question
        if payload[2:] in answer and answer[-len(payload) - 4] != ECHO:
            return time.monotonic() - begun
    return None


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
