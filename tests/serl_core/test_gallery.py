"""What the page of mistakes proposes, typed in."""

import html
import re
import shlex

import numpy as np
import pytest
import tyro
from classifier_parts import picture, write_episode

from serl_core import label
from serl_core.data.episodes import EpisodeStore
from serl_core.judging.encoded import Place
from serl_core.judging.gallery import Mistake, page
from serl_core.judging.labelled import BINARY, VOID, Source, recorded

X = VOID


def classes_of(folder, name=""):
    return [episode.labels.tolist() for episode in recorded(Source(folder, name), BINARY)]


@pytest.mark.parametrize(
    ("kind", "name", "labelled", "step", "after", "told"),
    [
        ("", "", "other", 4, [[0, 0, X, X, X, 1, X]], "the success begins here"),
        ("", "", "success", 5, [[0] * 7], "no frame of the episode"),
        ("", "", "other", -1, [], "leave all of it out"),
        ("failure", "", "other", 4, [[0, 0, 0, 0, 0, 1, 0]], "every other frame keeps its label"),
        ("failure", "", "other", -1, [], "leave all of it out"),
        ("success", "", "success", 4, [], "leave all of it out"),
        ("", "other", "other", 4, [], "move it to the folder of its class"),
    ],
)
def test_the_command_on_the_page_does_what_the_page_says(tmp_path, capsys, kind, name, labelled, step, after, told):
    """Guards the other frames of an episode against a command that was meant to correct one."""
    folder = tmp_path / "it's here"
    with EpisodeStore(folder) as store:
        write_episode(store, 3, [False] * 5 + [True], meta={"kind": kind}, actor="a b")
    (episode,) = recorded(Source(folder, name), BINARY)
    believed = "other" if labelled == "success" else "success"
    place = Place(folder, episode.actor, episode.episode, step, episode.by)
    images = {"front": picture(False, np.random.default_rng(0), 8)}
    text = page("t", "u", [Mistake(place, labelled, believed, 0.99)], {place: images})
    assert told in text
    (command,) = re.findall("<code>(.*?)</code>", text)
    words = shlex.split(html.unescape(command))
    assert words[:2] == ["serl", "label"] and label.main(tyro.cli(label.Config, args=words[2:])) == 0
    assert classes_of(folder, name) == after
