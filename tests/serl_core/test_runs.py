"""Run directories: what is refused, what goes on, and what is done without."""

from pathlib import Path

import pytest

from robot_servers.cameras import simulated
from serl_core import demo, learner
from serl_core.cli import parse
from serl_core.config import ConfigError
from serl_core.summary import read_json, write_json


def test_a_run_is_not_begun_twice_in_one_directory(tmp_path):
    """Guards yesterday's episodes and checkpoints against a learner that starts from scratch among them."""
    claimed = learner.check_claim(learner.Config(run_dir=tmp_path))
    write_json(tmp_path / "config.json", claimed)
    with pytest.raises(ConfigError, match="go on with --resume"):
        learner.check_claim(learner.Config(run_dir=tmp_path))
    assert learner.check_claim(learner.Config(run_dir=tmp_path, resume=True)) == claimed


def test_a_run_is_resumed_only_as_what_it_is(tmp_path):
    """Guards against weights of one task going on with another."""
    write_json(tmp_path / "config.json", learner.check_claim(learner.Config(run_dir=tmp_path, task="pick_cube")))
    with pytest.raises(ConfigError, match="begun with task pick_cube, not peg_insertion"):
        learner.check_claim(learner.Config(run_dir=tmp_path, task="peg_insertion", resume=True))
    assert read_json(tmp_path / "config.json")["task"] == "pick_cube"


def test_a_run_that_is_refused_was_not_begun(tmp_path):
    """Guards the corrected command against "holds a run" of which there is nothing."""
    with pytest.raises(ConfigError, match="--imitation"):
        learner.main(learner.Config(run_dir=tmp_path, address="tcp://127.0.0.1:0", method="bc", imitation=1.0))
    assert not (tmp_path / "config.json").exists()


def test_a_run_goes_on_with_the_weight_of_imitation_that_it_began_with(tmp_path):
    """Guards a comparison of this switch, and runs that were begun before there was one."""
    begun = parse("learner", learner.Config, ["--run-dir", str(tmp_path), "--imitation", "0"])
    claimed = learner.check_claim(begun)
    write_json(tmp_path / "config.json", claimed)
    with pytest.raises(ConfigError, match=r"begun with imitation 0\.0, not None"):
        learner.check_claim(learner.Config(run_dir=tmp_path, resume=True))
    write_json(tmp_path / "config.json", {name: value for name, value in claimed.items() if name != "imitation"})
    assert learner.check_claim(learner.Config(run_dir=tmp_path, resume=True))["imitation"] is None


def test_a_finished_demo_is_left_alone(tmp_path):
    """Guards a summary against being overwritten by the next run."""
    write_json(tmp_path / "summary.json", {"eval": {}})
    with pytest.raises(ConfigError, match="holds a finished run"):
        demo.main(demo.Config(run_dir=tmp_path))


def test_without_a_renderer_the_demo_goes_on_from_state(monkeypatch, capsys):
    """Guards machines without EGL and OSMesa: they are told which package to install, and still get a demo."""

    def nothing_loads(wanted: str = "") -> str:
        raise simulated.RenderingUnavailable(simulated.HELP)

    monkeypatch.setattr(simulated, "choose_backend", nothing_loads)
    config = demo.with_pixels_if_possible(demo.Config(obs="pixels", run_dir=Path("x")))
    assert config.obs == "state"
    assert "libegl1" in capsys.readouterr().out
    assert demo.with_pixels_if_possible(demo.Config(obs="state")).obs == "state"
