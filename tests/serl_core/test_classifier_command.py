"""``serl classifier`` on small stores, and the file it leaves as a judge."""

import json
import os
import shlex
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import tyro
from classifier_parts import CAMERAS, config, observe, write_episode, write_store

from serl_core.classifier import Config, main
from serl_core.config import ConfigError
from serl_core.data.episodes import EpisodeStore
from serl_core.envs.rewards import NOTHING, RuleJudge
from serl_core.judging.encoded import FeatureFiles
from serl_core.judging.file import load_classifier
from serl_core.judging.labelled import BINARY, Source, recorded
from serl_core.judging.scorer import FileScorer, chosen_judge, named_trunk
from serl_core.nets.once import EncodedOnce
from serl_core.tasks import load_task

RNG = np.random.default_rng(0)
TASK = load_task("pick_cube")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store, a classifier trained on it, and the figures."""
    folder = tmp_path_factory.mktemp("classifier")
    write_store(folder / "demos")
    done = config("train", folder / "demos", folder / "c.npz", json=folder / "c.json")
    assert main(done) == 0
    return folder, json.loads((folder / "c.json").read_text())


def test_training_tells_success_from_the_rest_and_leaves_the_recordings_alone(trained):
    """Guards the whole way from episodes to a file: classes, split by episode, threshold, figures."""
    folder, report = trained
    assert (report["held_out"]["precision"], report["held_out"]["recall"]) == (1.0, 1.0)
    assert (report["held_out"]["failed_episodes"], report["held_out"]["false_successes"]) == (3, 0)
    assert report["frames"] == {"other": 21, "success": 3}
    assert sorted(path.name for path in (folder / "demos").iterdir()) == ["000001.mcap", "writer.lock"]
    made = load_classifier(folder / "c.npz")
    assert (made.task, made.cameras, made.success) == ("pick_cube", ("front", "wrist"), "success")
    assert 0.5 <= made.beliefs["success"].threshold < 1.0 and made.trunk[0] == "small"


def test_evaluation_and_gallery_read_the_file_and_other_episodes(trained, tmp_path):
    """Guards the figures on new data, and the page: a planted wrong label is on it with a way to correct it."""
    folder, _ = trained
    with EpisodeStore(tmp_path / "new") as store:
        write_episode(store, 7, [False, False, True], claimed=[False] * 3)
        write_episode(store, 8, [False, True])
    assert main(config("eval", tmp_path / "new", folder / "c.npz", json=tmp_path / "e.json")) == 0
    found = json.loads((tmp_path / "e.json").read_text())
    assert found["held_out"]["false_positives"] == 1
    curves = found["classes"]["success"]["curves"]["held_out"]
    assert curves["precision_recall"]["recall"][-1] == 1.0 and sum(curves["reliability"]["frames"]) == 7
    page = tmp_path / "page.html"
    assert main(config("gallery", tmp_path / "new", folder / "c.npz", page=page, json=tmp_path / "g.json")) == 0
    text = page.read_text()
    assert json.loads((tmp_path / "g.json").read_text()) == {"mistakes": 1}
    assert text.count("data:image/png;base64,") == len(CAMERAS) and "src=" in text and "http" not in text
    assert text.count("<svg ") == 2 and "without suspected" not in text
    assert f"serl label {tmp_path / 'new'} success --actor demo --episode 7 --step 2" in text


def test_suspected_frames_are_counted_shown_first_and_found_again(tmp_path, capsys):
    """Guards against frames that are left out in silence: how many, where they are, the command that shows them."""
    data, page = tmp_path / "demos", tmp_path / "c.npz.html"
    with EpisodeStore(data) as store:
        for episode in range(8):
            write_episode(store, episode, [False] * 3 + [episode % 2 == 0] * 12)
        write_episode(store, 8, [False, True, True], claimed=[False] * 3)
    done = config("train", data, tmp_path / "c.npz", json=tmp_path / "c.json")
    assert main(done) == 0
    said, report = capsys.readouterr().out, json.loads((tmp_path / "c.json").read_text())
    assert report["suspected_of"] == {"other": 2, "success": 0} and report["as_labelled"]["false_positives"] == 2
    assert "2 frames are suspected of a wrong label (2 other)" in said
    assert {*report["classes"]["success"]["curves"]} == {"held_out", "as_labelled"}
    text = page.read_text()
    assert text.count("<polyline ") == 4 and text.count("without suspected frames") == 2
    assert text.count("suspected, and left out of training") == 2
    assert "suspected" in text[text.index("<article>") : text.index("</article>")]
    (command,) = [line.split(": ")[1] for line in said.splitlines() if "serl classifier gallery" in line]
    assert tyro.cli(Config, args=shlex.split(command)[2:]).action == "gallery"
    assert main(tyro.cli(Config, args=shlex.split(command)[2:])) == 0
    assert "2 mistakes in" in capsys.readouterr().out and (tmp_path / "c.npz.gallery.html").exists()


def test_a_training_that_begins_again_finds_its_features(trained, tmp_path):
    """Guards retraining while a run goes on: only new episodes go through the trunk."""
    folder, _ = trained
    kept = {path: path.stat().st_mtime_ns for path in (folder / "c.npz.features").iterdir()}
    again = config("train", folder / "demos", tmp_path / "d.npz", features=folder / "c.npz.features")
    assert len(kept) >= 6 and main(again) == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "c.npz.features").iterdir()} == kept


def test_other_pictures_in_the_same_place_are_encoded_anew(tmp_path):
    """Guards against features of a recording that was thrown away and made again under the same name."""
    trunk = named_trunk("small", None)
    files = FeatureFiles(tmp_path / "kept", trunk, ("front",), 1, seed=0)
    found = []
    for shown in ([False], [True]):
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        with EpisodeStore(tmp_path / "data") as store:
            write_episode(store, 0, shown)
        (episode,) = recorded(Source(tmp_path / "data"), BINARY)
        found.append(files.features(episode))
    assert (files.encoded, files.found) == (4, 0) and not np.array_equal(*found)
    np.testing.assert_array_equal(files.features(episode), found[1])
    assert files.found == 2


def test_the_file_judges_pictures_and_a_newer_one_takes_over_at_the_next_episode(trained, tmp_path):
    """Guards reloading: never within an episode, and a damaged file leaves the old version in charge."""
    folder, _ = trained
    path = tmp_path / "c.npz"
    path.write_bytes((folder / "c.npz").read_bytes())
    judge = chosen_judge(str(path), TASK, "pixels", once := EncodedOnce())
    assert judge is not None
    judge.reset()
    assert judge.judge(observe(False, RNG), {}) == NOTHING
    assert judge.judge(observe(True, RNG), {}).success and once.passes == 3  # one of them to compile
    first = judge.name
    made = load_classifier(path)
    replace(made, temperature=made.temperature * 2).save(path)
    assert judge.name == first
    judge.reset()
    second = judge.name
    assert second != first and judge.judge(observe(True, RNG), {}).success
    path.write_bytes(b"torn")
    judge.reset()
    assert judge.name == second and judge.judge(observe(True, RNG), {}).success


def test_a_file_is_replaced_as_a_whole(trained, tmp_path, monkeypatch):
    """Guards actors against reading half a classifier: a crash while writing leaves the old one."""
    folder, _ = trained
    made = load_classifier(folder / "c.npz")
    made.save(tmp_path / "c.npz")
    before = (tmp_path / "c.npz").read_bytes()

    def crash(fd: int) -> None:
        raise OSError("no power")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="no power"):
        replace(made, temperature=3.0).save(tmp_path / "c.npz")
    assert (tmp_path / "c.npz").read_bytes() == before


def test_files_that_are_no_classifier_are_refused(trained, tmp_path):
    """Guards against executing or believing what a file claims."""
    folder, _ = trained
    for name, write in {
        "absent": lambda path: None,
        "torn": lambda path: path.write_bytes((folder / "c.npz").read_bytes()[:500]),
        "other": lambda path: np.savez(path.open("wb"), a=np.zeros(3)),
        "empty": lambda path: zipfile.ZipFile(path, "w").close(),
    }.items():
        write(tmp_path / name)
        with pytest.raises(ConfigError, match="no classifier"):
            load_classifier(tmp_path / name)


def refused(action, data, file, **changes) -> str:
    with pytest.raises(ConfigError) as error:
        main(config(action, data, file, **changes))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_bad_material_is_refused_in_one_line(tmp_path):
    """Guards the messages for one class only, other cameras, mixed sizes, no held-out episode, no pictures."""
    file = tmp_path / "c.npz"
    assert 'no frame of class "success"' in refused("train", write_store(tmp_path / "a", good=0, bad=2), file)
    assert "occurs in one episode only" in refused("train", write_store(tmp_path / "b", good=1, bad=1), file)
    side = write_store(tmp_path / "c", cameras=("side",))
    assert "recorded from side, the classifier needs front, wrist" in refused("train", side, file)
    assert "has no pictures" in refused("train", write_store(tmp_path / "d", cameras=()), file)
    assert "×96×3" in refused("train", write_store(tmp_path / "e", size=96), file)
    other = write_store(tmp_path / "f", meta={"task": "peg_insertion"})
    assert "recorded for the task peg_insertion" in refused("train", other, file)
    assert "sees with front, wrist, not with top" in refused("train", other, file, cameras=("top",))
    assert "no class won" in refused("train", write_store(tmp_path / "g"), file, success="won")
    assert not file.exists()


def older(path, new):
    """A classifier of format 1, which had one threshold."""
    arrays = dict(np.load(path))
    about = json.loads(arrays.pop("about").tobytes())
    about |= {"format": 1, "belief": about.pop("beliefs")["success"]}
    with new.open("wb") as file:
        np.savez(file, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)
    return new


def test_the_one_threshold_of_an_older_file_is_that_of_success_alone(trained, tmp_path):
    """Guards stages and ruin against a threshold that was chosen for another class; what was right goes on."""
    folder, _ = trained
    made, old = load_classifier(folder / "c.npz"), older(folder / "c.npz", tmp_path / "old.npz")
    assert {*made.beliefs} == {"other", "success"}
    assert load_classifier(old).beliefs == {"success": made.beliefs["success"]}
    assert chosen_judge(str(old), TASK, "pixels", EncodedOnce()) is not None
    assert chosen_judge(f"{folder / 'c.npz'}:other", TASK, "pixels", EncodedOnce()) is not None
    with pytest.raises(ConfigError, match=r"has no threshold for other, only for success: .* train it again"):
        chosen_judge(f"{old}:other", TASK, "pixels", EncodedOnce())
    replace(load_classifier(old), ruin=("other",)).save(tmp_path / "ruin.npz")
    with pytest.raises(ConfigError, match="has no threshold for other"):
        chosen_judge(str(tmp_path / "ruin.npz"), TASK, "pixels", EncodedOnce())
    assert main(config("eval", folder / "demos", old, json=tmp_path / "e.json")) == 0
    assert {*json.loads((tmp_path / "e.json").read_text())["classes"]} == {"success"}


def test_a_judge_that_does_not_fit_is_refused_before_the_arm_moves(trained):
    """Guards --judge: another task's classifier, no pictures, a class it has not, returns that do not fit."""
    folder, _ = trained
    file, once = str(folder / "c.npz"), EncodedOnce()
    with pytest.raises(ConfigError, match="judges the task pick_cube, not peg_insertion"):
        FileScorer(folder / "c.npz", load_task("peg_insertion"), once)
    for text, obs, reward, complaint in (
        (file, "state", 0.0, "--obs pixels"),
        (f"{file}:won", "pixels", 0.0, 'no class "won"'),
        (f"{file},{file}", "pixels", 0.5, "highest return"),
        ("rule", "state", 0.0, "has no rule"),
        ("absent.npz", "pixels", 0.0, "no classifier at absent.npz"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            chosen_judge(text, TASK, obs, once, reward=reward)
    assert chosen_judge("", TASK, "state", once) is None
    ruled = replace(TASK, rule=lambda state: True)
    assert isinstance(chosen_judge("rule", ruled, "state", once), RuleJudge)
