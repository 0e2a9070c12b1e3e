import pytest
from classifier_parts import write_episode

from serl_core.config import ConfigError
from serl_core.data.episodes import EpisodeStore
from serl_core.data.labels import Label
from serl_core.judging.labelled import BINARY, VOID, Source, class_names, parse_source, recorded

X = VOID
TAIL = [False] * 4 + [True] * 2  # what the steps of an episode show


def episode(tmp_path, *labels: Label, name: str = "", **changes):
    """The only episode of a store, as its verdicts have it."""
    with EpisodeStore(tmp_path) as store:
        write_episode(store, 0, TAIL, **changes)
        for label in labels:
            store.labels.add(label)
    return list(recorded(Source(tmp_path, name), BINARY))


def label(verdict, step=-1, source="person", **changes) -> Label:
    return Label("demo", 0, verdict, source, "somebody", 0.0, step, **changes)


def test_what_was_recorded_is_what_frames_are_without_a_verdict(tmp_path):
    """Guards against a class that is shifted by one frame: step i leads to frame i + 1."""
    (found,) = episode(tmp_path)
    assert found.labels.tolist() == [0, 0, 0, 0, 0, 1, 1] and len(found.frames) == 7
    assert found.frames[5]["front"].max() == 250 and found.frames[4]["front"].max() < 100
    assert not found.trusted.any()


def test_a_run_that_was_confirmed_late_is_all_success(tmp_path):
    """Guards against the frames of a confirmed run becoming examples of failure; what came after it is void."""
    (found,) = episode(tmp_path, claimed=[False] * 5 + [True], ago=1)
    assert found.labels.tolist() == [0, 0, 0, 0, 0, 1, X]  # the store made a verdict of it


def test_a_persons_success_leaves_out_what_their_reaction_time_hides(tmp_path):
    """Guards against successes that nobody had named yet, learnt as failures."""
    (found,) = episode(tmp_path, label("success", 4), claimed=[False] * 6)
    assert found.labels.tolist() == [0, 0, X, X, X, 1, X] and found.trusted.tolist() == [False] * 5 + [True, False]


def test_a_false_success_becomes_hard_examples(tmp_path):
    """Guards the way back from "this success was false": its frames count as others, and are believed."""
    (found,) = episode(tmp_path, label("failure", wrong="false_success", wrong_step=5))
    assert found.labels.tolist() == [0] * 7 and found.trusted.tolist() == [False] * 5 + [True] * 2


@pytest.mark.parametrize("verdict", ["pending", "discarded"])
def test_an_episode_that_nobody_vouches_for_is_not_used(tmp_path, verdict):
    """Guards against frames of which nobody knows what they show."""
    assert episode(tmp_path, label(verdict)) == []


@pytest.mark.parametrize(
    ("kind", "verdict", "classes"), [("success", "", 1), ("failure", "", 0), ("success", "failure", 0)]
)
def test_recordings_of_one_class_are_of_one_class(tmp_path, kind, verdict, classes):
    """Guards frames recorded to show success, and a later failure, which has no step and is on all of them."""
    labels = [label(verdict)] if verdict else []
    (found,) = episode(tmp_path, *labels, meta={"kind": kind}, claimed=[False] * 6)
    assert set(found.labels.tolist()) == {classes}


RECORDER = {"failure": [("discarded", -1), ("failure", -1)], "success": [("discarded", -1), ("success", 0)]}


@pytest.mark.parametrize(
    ("kind", "said", "classes", "corrected"),
    [
        ("failure", [("success", 4)], [0, 0, 0, 0, 0, 1, 0], [5]),
        ("failure", [("success", 4), ("success", 1)], [0, 0, 1, 0, 0, 1, 0], [2, 5]),
        ("failure", [("success", 4), ("failure", -1)], [0] * 7, []),
        ("failure", [("success", 4), ("discarded", -1), ("success", 1)], [0, 0, 1, 0, 0, 0, 0], [2]),
        ("success", [("success", 0)], [1] * 7, []),
        ("success", [("failure", -1), ("success", 2)], [0, 0, 0, 1, 0, 0, 0], [3]),
        ("success", [("failure", -1), ("discarded", -1), ("success", 2)], [1] * 7, []),
    ],
)
def test_a_word_on_one_frame_of_a_recording_of_one_class_is_on_no_other(tmp_path, kind, said, classes, corrected):
    """Guards every other frame of such a recording: one correction made all of them examples of the wrong class."""
    before = [label(verdict, step, "recorder") for verdict, step in RECORDER[kind]]
    said = [label(verdict, step) for verdict, step in said]
    (found,) = episode(tmp_path, *before, *said, meta={"kind": kind}, claimed=[False] * 6)
    assert found.labels.tolist() == classes and found.by == "kind"
    assert [n for n, sure in enumerate(found.trusted) if sure] == corrected


def test_a_folder_may_name_the_class_of_all_its_frames(tmp_path):
    """Guards n-way classifiers: their classes come from folders."""
    (found,) = episode(tmp_path, name="success")
    assert found.labels.tolist() == [1] * 7


def test_class_names_are_two_or_all_named(tmp_path):
    """Guards against a folder without a class among named ones, whose frames would be of any."""
    folders = [Source(tmp_path, name) for name in ("grasped", "lost", "inserted")]
    assert class_names(folders) == ("grasped", "inserted", "lost")
    assert class_names([Source(tmp_path)]) == BINARY == class_names([Source(tmp_path, "success"), Source(tmp_path)])
    with pytest.raises(ConfigError, match="name all of them"):
        class_names([*folders, Source(tmp_path)])


def test_a_folder_without_episodes_is_refused(tmp_path):
    """Guards a mistyped path: training on nothing."""
    with pytest.raises(ConfigError, match="holds no episodes"):
        parse_source(f"success={tmp_path}")


def test_recorded_data_stays_untouched(tmp_path):
    """Guards the recordings: reading them as examples writes nothing."""
    episode(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(path.name for path in before) == ["000001.mcap", "writer.lock"]
    list(recorded(Source(tmp_path), BINARY))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
