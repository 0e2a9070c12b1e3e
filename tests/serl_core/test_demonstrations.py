"""What a learner makes of demonstrations that were recorded of something else, or are damaged."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from learner_parts import demonstrations, episode, learner, size_of
from link_records import step

from serl_core.config import ConfigError
from serl_core.data.episodes import EpisodeStore
from serl_core.learner import Config, blueprint_for
from serl_core.nets.encoders import save_trunk
from serl_core.nets.trunks import TRUNKS
from serl_core.types import EpisodeStart


def test_demonstrations_of_another_task_are_refused_by_file_key_and_step(tmp_path: Path) -> None:
    """Guards a run that logs an error per demonstration and then learns from scratch."""
    demonstrations(tmp_path / "demos", size_of() + 1)
    with (
        pytest.raises(ConfigError, match=r'000001\.mcap: start of episode 0 of demo: "state" is float32'),
        learner(tmp_path),
    ):
        pass


def test_a_gap_in_demonstrations_costs_what_is_behind_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Guards the rest of the demonstrations: one damaged record must not keep a learner from starting."""
    whole = episode(0, "ooooo", size_of(), "demo", "demo")
    with EpisodeStore(tmp_path / "demos") as store:
        for record in [*whole[:3], *whole[4:], *episode(1, "ooooo", size_of(), "demo", "demo")]:
            store.append(record)
    with caplog.at_level(logging.ERROR), learner(tmp_path) as (one, _):
        assert one.replay.size("demos") == 2 + 5
    assert "step 2 must come next" in caplog.text


def test_demonstrations_without_a_camera_are_refused_before_anything_is_fitted(tmp_path: Path) -> None:
    """Guards the projection's fit, which read frames by name and ended in a KeyError."""
    config = Config(run_dir=tmp_path, obs="pixels", task="peg_insertion", channels=64)
    seen = {"state": np.zeros(size_of(), np.float32), "front": np.zeros((128, 128, 3), np.uint8)}
    with EpisodeStore(tmp_path / "demos") as store:
        store.append(EpisodeStart("demo", 0, seen, "demo"))
    with pytest.raises(ConfigError, match=r"start of episode 0 of demo shows .* without the camera wrist"):
        blueprint_for(config)


def test_a_learner_stands_back_no_further_than_a_process_can(tmp_path: Path) -> None:
    """Guards --nice against a number that the system would silently cut."""
    with pytest.raises(ConfigError, match="--nice 20: 0 to 19"):
        blueprint_for(Config(run_dir=tmp_path, nice=20))


def test_a_frame_of_another_size_is_named_before_anything_is_fitted(tmp_path: Path) -> None:
    """Guards whoever mixed recordings of two camera settings: which file, which step, which camera."""
    file = tmp_path / "resnet.npz"
    save_trunk(file, TRUNKS["resnet10"].init(0))
    config = Config(run_dir=tmp_path, obs="pixels", channels=64, trunk="resnet10", trunk_weights=file)
    sizes = [128, 128, 96]
    whole = [{"state": np.zeros(3, np.float32), "front": frame(size), "wrist": frame(128)} for size in sizes]
    with EpisodeStore(tmp_path / "demos") as store:
        store.append(EpisodeStart("demo", 0, whole[0], "demo"))
        for number, seen in enumerate(whole[1:]):
            store.append(replace(step("demo", 0, number), next_obs=seen))
    with pytest.raises(ConfigError, match=r"000001\.mcap: step 1 of episode 0 of demo, camera front: .*96"):
        blueprint_for(config)


def test_what_became_nan_is_named(tmp_path: Path) -> None:
    """Guards whoever wakes up to a run that ended at night: which figure, at which step."""
    with (
        learner(tmp_path) as (one, _),
        pytest.raises(FloatingPointError, match="critic_loss became infinite"),
    ):
        one._check({"finite": jnp.array(False), "critic_loss": jnp.array(np.nan), "q_mean": jnp.array(0.5)})


def frame(side: int) -> np.ndarray:
    return np.zeros((side, side, 3), np.uint8)
