"""The walkthrough works as written: every command in its order, on free ports and with small budgets."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import pytest
from observed import labels, steps, wait_for
from phone import Phone
from pictures import MUST_RENDER, pictures_or_skip
from written import ROOT, check, inline, known_options, lines

from robot_servers.cameras.simulated import RenderingUnavailable
from serl_core.checkpoint import Checkpoints
from serl_core.judging.file import load_classifier
from serl_core.processes import Child
from serl_core.summary import read_json

TEXT = (ROOT / "examples" / "walkthrough.md").read_text()
SECTIONS = {int(part.split(".")[0]): part for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]}
COMMANDS = [words[1:] for words in lines(TEXT)]
PATIENCE = 240.0  # s for what takes seconds on an idle machine

FEW_UPDATES = ("--training.network.updates", 40)

# What is added to each command: of an option that is given twice, the last one counts.
SMALL = {
    "server": ("--port", 0, "--truth-port", 0),
    "record": ("--episodes", 2, "--max-steps", 30),
    "classifier": (
        "--views",
        1,
        "--training.folds",
        2,
        "--training.suspects",
        "keep",
        "--training.network.updates",
        40,
    ),
    "learner": ("--capacity", 3000, "--start-after", 30, "--utd", 1, "--address", "tcp://127.0.0.1:*"),
    "actor": ("--console", "keys+page:0"),
    "eval": ("--episodes", 2),
}
ENDLESS = ("server", "learner", "actor")
FURTHER = 40  # steps after the resume


class Lab:
    """Types commands one after the other, each into a terminal of its own; where they meet is filled in."""

    def __init__(self, start: Callable[..., Child], folder: Path) -> None:
        self.run_dir = folder / "runs" / "peg"
        self.terminals: dict[str, Child] = {}
        self._start = start
        self._folder = folder
        self._places: dict[str, tuple[str | int, ...]] = {}

    def follow(self, section: int) -> None:
        """Everything that a section says."""
        for _, name, *options in lines(SECTIONS[section]):
            self.type(name, *(option.replace("runs/", f"{self._folder}/runs/") for option in options))

    def type(self, name: str, *options: str) -> None:
        child = self._start(name, *options, *SMALL.get(name, ()), *self._places.get(name, ()))
        if name in ENDLESS:
            self.terminals[name] = child
        else:
            child.wait(PATIENCE)
        if name == "server":
            robot, _, truth = child.ready(PATIENCE)
            self._places = dict.fromkeys(("record", "actor", "eval"), ("--robot", robot, "--truth", truth))
        elif name == "learner":
            self._places["actor"] = (*self._places["actor"], "--learner", *child.ready(PATIENCE))

    def press_ctrl_c(self, name: str) -> None:
        """In the terminal of a command, which then ends without a complaint."""
        child = self.terminals[name]
        child._process.send_signal(signal.SIGINT)
        child.wait(PATIENCE)

    def end_after(self, env_steps: int) -> None:
        """Learner and actor, whatever is written."""
        for name in ("learner", "actor"):
            self._places[name] = (*self._places.get(name, ()), "--env-steps", env_steps)


def correct_the_judge(phone: Phone, run_dir: Path) -> None:
    """As the text has it: say that the peg is in, then that it was not; again if no episode was running just then."""
    events = cycle(("missed_success", "false_success"))

    def corrected() -> bool:
        phone.ask("say", next(events))
        phone.actor.check()
        return {"success", "failure"} <= {label.verdict for label in labels(run_dir) if label.source == "person"}

    wait_for(lambda: len(steps(run_dir)) > 3, PATIENCE)
    wait_for(corrected, PATIENCE, every=1.0)


def uses_the_new_classifier(phone: Phone) -> bool:
    """It is taken when an episode begins: end the running one."""
    phone.ask("say", "missed_success")
    return "from this episode on the judge is classifier.npz@" in phone.actor.output()


def test_the_walkthrough_is_understood():
    """Guards this file against a walkthrough whose form it no longer understands, and its options against renaming."""
    assert sorted(SECTIONS) == list(range(1, 10))
    assert {words[0] for words in lines(TEXT)} == {"serl"}
    assert {"record", "classifier", "learner", "actor", "label", "eval"} <= {words[0] for words in COMMANDS}
    for name, *options in COMMANDS:
        check(name, *options)


@pytest.mark.parametrize("words", inline(TEXT), ids=" ".join)
def test_commands_in_its_sentences_name_options_that_exist(words):
    """Guards what is said of real arms and of devices, which no test can run."""
    assert {word for word in words if word.startswith("--")} <= known_options(words[0])


def test_ci_cannot_pass_without_it() -> None:
    """Guards CI on a machine without EGL and OSMesa: skipped, the walkthrough would be green without having run."""

    def unavailable(wanted: str) -> str:
        raise RenderingUnavailable("apt-get install libegl1")

    with pytest.raises(pytest.skip.Exception, match="libegl1"):
        pictures_or_skip({}, unavailable)
    with pytest.raises(pytest.fail.Exception, match="libegl1"):
        pictures_or_skip({MUST_RENDER: "1"}, unavailable)
    assert f"export {MUST_RENDER}=1\n" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.timeout(1500)  # seven processes compile; beside other work that takes minutes
@pytest.mark.usefixtures("rendering")
def test_every_command_works_in_its_order(start, tmp_path):
    """Guards the path of a newcomer: each command must work on what the ones before it have left behind."""
    lab = Lab(start, tmp_path)
    run_dir, file = lab.run_dir, lab.run_dir / "classifier.npz"
    for section in (1, 2, 3, 4, 5):
        lab.follow(section)
    before = load_classifier(file).version
    assert "<h1>" in file.with_name("classifier.npz.html").read_text()

    lab.follow(6)
    phone = Phone(lab.terminals["actor"])
    correct_the_judge(phone, run_dir)
    lab.follow(7)
    assert [label.verdict for label in labels(run_dir) if label.episode == 0][-1] == "failure"
    assert "<h1>" in (run_dir / "gallery.html").read_text()
    assert load_classifier(file).version != before
    wait_for(lambda: uses_the_new_classifier(phone), PATIENCE, every=1.0)

    lab.press_ctrl_c("actor")
    lab.press_ctrl_c("learner")
    wanted = read_json(run_dir / "learner.json")["env_steps"] + FURTHER
    lab.end_after(wanted)
    lab.follow(8)
    lab.terminals["actor"].wait(PATIENCE)
    lab.terminals["learner"].wait(PATIENCE)
    assert read_json(run_dir / "learner.json")["env_steps"] >= wanted
    assert Checkpoints(run_dir / "checkpoints").latest() is not None

    lab.follow(9)
    assert read_json(run_dir / "eval.json")["episodes"] == 2
