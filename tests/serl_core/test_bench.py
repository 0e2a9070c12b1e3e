"""``serl bench``, small: every mode runs through the learner's engine and writes what scripts read."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from serl_core import bench
from serl_core.data.segments import StoreError

PROMISED = {
    *("device", "mode", "critic_updates_per_s", "full_updates_per_s", "compilations", "trunk_flops_fraction"),
    *("act_p50_ms", "act_p99_ms", "update_ms_1k", "update_ms_200k", "host_gb_200k"),
}
SMALL = bench.Config(batch=8, cameras=1, transitions=300, rounds=2, actor_seconds=0.3)


@pytest.mark.parametrize("mode", ["cached", "exact", "state"])
def test_every_mode_measures_what_was_promised(mode: bench.Mode, tmp_path: Path, monkeypatch, capsys) -> None:
    """Guards the command: a mode that does not run, a figure that is missing, an update compiled twice."""
    monkeypatch.setattr(bench.os, "nice", lambda step: step)  # other tests go on in this process
    assert bench.main(replace(SMALL, mode=mode, json=tmp_path / "bench.json")) == 0
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert set(figures) >= PROMISED and figures["mode"] == mode and figures["compilations"] == 0
    assert figures["critic_updates_per_s"] > 0 and 0 < figures["trunk_flops_fraction"] < 1
    assert figures["update_ms_200k"] is None
    assert "needs 0.0 GB for replay of 300 transitions" in capsys.readouterr().out


def test_too_little_memory_is_said_before_anything_runs(monkeypatch) -> None:
    """Guards against a machine that swaps for an hour: the refusal names what would fit."""
    monkeypatch.setattr(bench, "available_memory", lambda: 3_000_000_000)
    with pytest.raises(StoreError, match=r"a replay of 50000 transitions, 2 cameras, needs 5\.0 GB.*has 1\.0 GB"):
        bench.main(bench.Config(mode="exact"))
