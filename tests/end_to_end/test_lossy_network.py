"""Actor and learner in network namespaces of their own, between which packets are lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from robot_servers.keys import make_keys
from serl_core.data.episodes import EpisodeStore

ROOT = Path(__file__).resolve().parents[2]
SPACES = {"actor": f"serl-a-{os.getpid()}", "learner": f"serl-l-{os.getpid()}"}
ADDRESSES = {"actor": "10.211.7.1", "learner": "10.211.7.2"}
LOSS = "-A INPUT -m statistic --mode random --probability 0.05 -j DROP"


def run(command: str) -> None:
    done = subprocess.run(command.split(), capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{command}: {done.stderr.strip()}")


@pytest.fixture
def network() -> Iterator[None]:
    """Two namespaces joined by a cable that loses 5 % of the packets in both directions."""
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("iptables"):
        pytest.skip("network namespaces with losses need root, ip (iproute2) and iptables")
    ends = list(SPACES.values())
    try:
        for space in ends:
            run(f"ip netns add {space}")
        run(f"ip -n {ends[0]} link add cable type veth peer name cable netns {ends[1]}")
        for role, space in SPACES.items():
            run(f"ip -n {space} addr add {ADDRESSES[role]}/24 dev cable")
            run(f"ip -n {space} link set cable up")
            run(f"ip netns exec {space} iptables {LOSS}")
    except OSError as error:
        remove()
        pytest.skip(f"no network namespaces here: {error}")
    yield
    remove()


def remove() -> None:
    for space in SPACES.values():
        subprocess.run(["ip", "netns", "del", space], capture_output=True)


def start(role: str, folder: Path, records: int) -> subprocess.Popen[str]:
    inside = ["ip", "netns", "exec", SPACES[role]]
    script = Path(__file__).with_name("lossy_ends.py")
    command = [sys.executable, str(script), role, f"tcp://{ADDRESSES['learner']}:5557", str(folder), str(records)]
    return subprocess.Popen([*inside, *command], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True)


def stored(folder: Path) -> list[int]:
    """The numbers of the records in the learner's store, in order; it may be writing."""
    return [item.seq for item in EpisodeStore(folder / "store").stored()] if (folder / "store").exists() else []


def test_lost_packets_lose_no_records(network: None, tmp_path: Path) -> None:
    """Guards against a link that works on loopback only: 5 % loss, encrypted, and a cable that is out for a while."""
    make_keys(tmp_path / "keys")
    learner, actor = start("learner", tmp_path, 0), start("actor", tmp_path, 200)
    try:
        while not stored(tmp_path):
            assert actor.poll() is None and learner.poll() is None
            time.sleep(0.05)
        run(f"ip -n {SPACES['actor']} link set cable down")
        assert actor.poll() is None
        run(f"ip -n {SPACES['actor']} link set cable up")
        assert actor.wait(120) == 0
    finally:
        for process in (actor, learner):
            process.kill()
            process.wait()
    assert stored(tmp_path) == list(range(1, 201))
