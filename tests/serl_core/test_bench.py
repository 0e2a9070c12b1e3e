"""``serl bench``, small: every mode runs through the learner's engine and writes what scripts read."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serl_core import bench, cli, workbench
from serl_core.config import ConfigError
from serl_core.data import memory, table
from serl_core.data.segments import StoreError
from serl_core.nets.encoders import random_trunk, save_trunk

PROMISED = {
    *("device", "mode", "critic_updates_per_s", "full_updates_per_s", "compilations", "trunk_flops_fraction"),
    *("act_p50_ms", "act_p99_ms", "update_ms_1k", "update_ms_200k", "host_gb_200k"),
    *("ceiling_gb_per_s", "memory_fraction", "sample_ms", "see_ms", "critic_ms", "actor_ms", "insert_ms"),
}
SMALL = bench.Config(batch=8, cameras=1, transitions=1_000, rounds=2, actor_seconds=0.3)
GB = 1_000_000_000


def shrink(patch: pytest.MonkeyPatch) -> None:
    """What is measured of the machine itself takes no time, and other tests of this process keep their priority."""
    patch.setattr(workbench, "SIZES", (256,))
    patch.setattr(workbench, "PASSED", 1 << 16)
    patch.setattr(bench.os, "nice", lambda step: step)


@pytest.mark.parametrize("mode", ["cached", "exact", "state"])
def test_every_mode_measures_what_was_promised(mode: bench.Mode, tmp_path: Path, monkeypatch, capsys) -> None:
    """Guards the command: a mode that does not run, a figure that is missing, an update compiled twice."""
    shrink(monkeypatch)
    assert bench.main(replace(SMALL, mode=mode, json=tmp_path / "bench.json")) == 0
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert set(figures) >= PROMISED and figures["mode"] == mode and figures["compilations"] == 0
    assert figures["critic_updates_per_s"] > 0 and 0 < figures["trunk_flops_fraction"] < 1
    assert figures["memory_fraction"] > 0 and figures["critic_ms"] > 0
    assert (figures["see_ms"] is not None) == (mode == "exact")
    assert (figures["update_ms_200k"], figures["fetch_ms"], figures["frames_on"]) == (None, None, "device")
    printed = capsys.readouterr().out
    assert f"{mode}: needs 0." in printed and "GB for replay of 1000 transitions" in printed
    assert "memory_fraction" in printed


# ── where frames lie ────────────────────────────────────────────────────────────────────────────


def turns(config: bench.Config = SMALL, replays: int = 1) -> bench.Turns:
    made = bench._bench(config)
    return bench.Turns(made, [workbench.Filled(made, 1_000) for _ in range(replays)])


def test_a_small_gpu_is_timed_with_frames_on_the_host(monkeypatch, capsys) -> None:
    """Guards against a bench that dies where the learner goes on: frames are placed, and prefetched, as it does.

    Each call fetches the frames of the next one only; were two replays to share the numbers of their calls, what was
    prefetched would belong to no call, and each would fetch twice.
    """
    monkeypatch.setattr(memory, "device_memory", lambda devices: 1_000_000)
    timed = turns(replays=2)
    replay, fetched = timed.filled[0].replay, []
    fetch = replay.fetch
    monkeypatch.setattr(replay, "fetch", lambda frames: fetched.append(1) or fetch(frames))
    assert replay.on_host and "frames stay in the machine's memory" in capsys.readouterr().out
    for critic in (True, False, True):
        timed.both(critic)
    assert len(fetched) == 3 * 2, "obs and next_obs of each call"
    made = bench._bench(SMALL)
    drawn = workbench.minibatch(made, timed.filled[0], timed.engines[0])
    assert drawn[1]["obs"]["camera0"].shape == (1, 8, 128, 16)
    assert workbench.stages(made, timed.filled[0], timed.engines[0], drawn, 1)["fetch_ms"] is not None
    assert timed.recompiled() > 0, "the stages are compiled after the turns"


def test_several_devices_are_all_used() -> None:
    """Guards against a bench of one device on a machine whose learner uses two."""
    two = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    flags = {**os.environ, **two, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, __file__], env=flags, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def _on_two_devices() -> None:
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        timed = turns(replace(SMALL, mode="exact"))
        timed.both(critic=False)
        assert timed.recompiled() == 0
        made = bench._bench(replace(SMALL, mode="exact"))
        drawn = workbench.minibatch(made, timed.filled[0], timed.engines[0])
        assert workbench.devices_of(made.sharding) == 2 and len(drawn[1]["obs"]["camera0"].sharding.device_set) == 2
        assert workbench.stages(made, timed.filled[0], timed.engines[0], drawn, 1)["see_ms"]
        assert min(*bench._ceilings(made).values(), *workbench.critic_cost(made, drawn[1])) > 0


def test_what_fits_a_large_device_is_not_cut_to_the_machine(monkeypatch) -> None:
    """Guards against a GPU that is timed with a replay cut to the memory of its host."""
    monkeypatch.setattr(memory, "available_memory", lambda: 3 * GB)
    monkeypatch.setattr(bench, "device_memory", lambda devices: 80 * GB)
    made = bench._bench(bench.Config())
    assert bench._fitting(made, 200_000) == 200_000
    monkeypatch.setattr(bench, "device_memory", lambda devices: 4 * GB)
    assert 80_000 < bench._fitting(made, 200_000) < 96_000, "0.8 of 4 GB, at 33 kB each"


# ── before it begins ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("mode", "free", "says"),
    [
        ("exact", 3.0, r"2 cameras, needs 5\.0 GB.*has 1\.0 GB for it: --transitions 9000 or free memory"),
        ("exact", 4.6, r"has 2\.6 GB for it: --transitions 24000 or --cameras 1 or free memory"),
        ("cached", 3.0, r"needs 1\.7 GB.*--transitions 28000 or --cameras 1 or --channels 64 or free memory"),
        ("cached", 2.0, r"has 0\.0 GB for it: free memory"),
    ],
)
def test_too_little_memory_is_said_before_anything_runs(mode: bench.Mode, free: float, says: str, monkeypatch) -> None:
    """Guards against a machine that swaps for an hour, and against a refusal that names another command's options."""
    monkeypatch.setattr(memory, "available_memory", lambda: int(free * GB))
    with pytest.raises(StoreError, match=rf"a replay of 50000 transitions, .*{says}") as refused:
        bench.main(bench.Config(mode=mode))
    assert "learner" not in str(refused.value)


def test_what_the_refusal_names_fits(monkeypatch) -> None:
    """Guards against advice that is refused in turn."""
    monkeypatch.setattr(memory, "available_memory", lambda: 3 * GB)
    for advice in ({"transitions": 28_000}, {"cameras": 1}, {"channels": 64}):
        config = replace(bench.Config(), **advice)
        assert bench._fitting(bench._bench(config), config.transitions) >= min(config.transitions, bench.LEAST)


def test_memory_that_went_elsewhere_meanwhile_is_said_in_the_same_words(monkeypatch) -> None:
    """Guards against replay's own refusal, which speaks of ``serl learner --capacity``."""
    monkeypatch.setattr(memory, "available_memory", lambda: 1_000_000)
    with pytest.raises(StoreError, match=r"a replay of 1000 transitions, 1 cameras, needs 0\.0 GB"):
        bench._filled(bench._bench(SMALL), 1_000)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--cameras", "0"], "--cameras 0: give 1 or more, or --mode state"),
        (["--cameras", "-1", "--mode", "exact"], "--cameras -1: give 1 or more"),
        (["--batch", "0"], "--batch 0: give 1 or more"),
        (["--utd", "0"], "--utd 0: give 1 or more"),
        (["--critics", "0"], "--critics 0: give 1 or more"),
        (["--rounds", "0"], "--rounds 0: give 1 or more"),
        (["--channels", "-1"], "--channels -1: give 0 or more"),
        (["--transitions", "999"], "--transitions 999: give 1000 or more"),
        (["--actor-seconds", "0"], "--actor-seconds 0.0: give more than 0"),
        (["--actor-seconds", "nan"], "--actor-seconds nan: give more than 0"),
        (["--trunk", "resnet11"], "--trunk: no trunk 'resnet11', only small, resnet10, resnet18: did you mean resnet1"),
        (["--trunk-weights", "none.npz"], "--trunk-weights: none.npz: no such file"),
        (["--json", "."], "--json . cannot be written"),
    ],
)
def test_bad_options_are_refused_in_one_line(options: list[str], says: str, monkeypatch) -> None:
    """Guards against a traceback minutes later: a division by zero, or an array without rows."""
    monkeypatch.setattr(bench, "measure", lambda *parts: pytest.fail("it was timed"))
    with pytest.raises(ConfigError) as refused:
        cli.run(["bench", *options])
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_weights_of_another_trunk_are_refused(tmp_path: Path) -> None:
    """Guards against a trunk that is timed untrained although its weights were given, or a traceback."""
    save_trunk(tmp_path / "small.npz", random_trunk(1))
    with pytest.raises(ConfigError, match=r"--trunk-weights: .*small.npz: for trunk resnet10") as refused:
        bench._bench(replace(SMALL, trunk="resnet10", trunk_weights=tmp_path / "small.npz"))
    assert "\n" not in str(refused.value)


# ── what is timed ───────────────────────────────────────────────────────────────────────────────


def test_the_agent_is_that_of_the_preset() -> None:
    """Guards against figures of an agent that nobody asked for, or that do not say which it was."""
    chosen: Any = {
        name: bench._bench(replace(SMALL, preset=name)).agent_config for name in ("plain", "default", "rlpd")
    }
    assert (chosen["plain"].imitation, chosen["plain"].n_step, chosen["plain"].critics) == (0, 1, 2)
    assert chosen["default"].imitation > 0 and chosen["default"].n_step == 3 and chosen["default"].value_bounds
    assert chosen["rlpd"].critics == 10
    assert bench._bench(replace(SMALL, preset="rlpd", critics=1)).agent_config.critic_subset == 1


def test_a_write_that_compiles_again_is_counted() -> None:
    """Guards against "nothing was compiled" said by counting the engine's call alone."""
    timed = turns(replace(SMALL, mode="state"))
    timed.both(critic=False)
    assert timed.recompiled() == 0
    table._write.clear_cache()  # type: ignore[attr-defined]
    timed.both(critic=False)
    assert timed.recompiled() == 1 and timed._traced() == timed._traces


def test_the_actor_acts_often_enough_for_a_percentile() -> None:
    """Guards against a p99 that is nearly the worst of a hundred actions."""
    assert np.ceil(bench.Config().actor_seconds * 10 / 100) >= 6


if __name__ == "__main__":
    _on_two_devices()
