"""The README does what it says: its commands exist, and its four terminals end in a trained run."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import tyro
from observed import episodes
from written import ROOT, blocks, check, inline, known_options, lines

from examples.benchmarks.ports import free_address, free_ports
from robot_servers.conformance import __main__ as conformance
from robot_servers.hello import STATE_PORT, STOP_PORT
from serl_core import demo

README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
LINES = lines(README)
TERMINALS = {
    line.split()[1]: shlex.split(line)[1:]
    for block in blocks(README)
    if "serl actor" in block
    for line in block.splitlines()
}
SERL = [words[1:] for words in LINES if Path(words[0]).name == "serl"]
MAKE = [words[1:] for words in LINES if words[0] == "make"]
PYTHON = [words[1:] for words in LINES if words[0] == "python"]
INLINE = inline(README)
MODULES = re.findall(r"python3? -m ([\w.]+)", README)


def test_there_are_commands_to_check():
    """Guards this file against a README whose form it no longer understands."""
    assert {"demo", "server", "record", "learner", "actor", "eval", "teach"} <= {words[0] for words in SERL}
    assert MAKE and INLINE and MODULES and len(TERMINALS) == 4
    assert {words[0] for words in LINES} <= {"make", "serl", ".venv/bin/serl", "python"}


@pytest.mark.parametrize("words", SERL, ids=" ".join)
def test_serl_commands_are_understood(words):
    """Guards against options that were renamed while the README was not."""
    check(*words)


@pytest.mark.parametrize("words", INLINE, ids=" ".join)
def test_commands_in_the_text_name_options_that_exist(words):
    """Guards the half commands in the text, which leave out what every call needs."""
    assert {word for word in words if word.startswith("--")} <= known_options(words[0])


@pytest.mark.parametrize("words", PYTHON, ids=" ".join)
def test_benchmark_commands_are_understood(words):
    """Guards the commands that repeat the tables: the benchmark exists, and so do its options."""
    dash_m, name, *options = words
    assert dash_m == "-m"
    if name == "robot_servers.conformance":
        assert conformance.parser().parse_args(options).address.startswith("tcp://")
        return
    module = importlib.import_module(name)
    if options:
        tyro.cli(module.Config, args=options)


@pytest.mark.parametrize("words", MAKE, ids=" ".join)
def test_make_targets_and_their_variables_exist(words):
    """Guards the first commands a newcomer types; what they hand on to serl is parsed as well."""
    target, *settings = words
    assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)
    values = dict(setting.split("=", 1) for setting in settings)
    assert all(re.search(rf"^{name} *\?=", MAKEFILE, re.MULTILINE) for name in values)
    if target == "demo":
        defaults = demo.Config()
        options = ["--task", values.get("TASK", defaults.task), "--obs", values.get("OBS", defaults.obs)]
        check("demo", *options, *shlex.split(values.get("ARGS", "")))


@pytest.mark.parametrize("module", MODULES)
def test_modules_that_are_run_exist(module):
    """Guards ``python -m`` lines."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.submodule_search_locations is None or importlib.util.find_spec(f"{module}.__main__")


def test_the_four_terminals_work_as_written(start, tmp_path):
    """Guards the sequence by hand, on free ports, small, and with the actor first, which the README allows."""
    ports = dict(zip(("5555", "5556"), map(str, free_ports(2, (STOP_PORT, STATE_PORT))), strict=True))
    link = free_address()

    def written(name: str) -> list[str]:
        words = [re.sub(r"555[56]", lambda port: ports[port[0]], word) for word in TERMINALS[name]]
        return [word.replace("runs/", f"{tmp_path}/runs/") for word in words]

    start(*written("server")).ready(60.0)
    start(*written("record"), "--episodes", 2).wait(120.0)
    actor = start(*written("actor"), "--env-steps", 120, "--learner", link)
    learner = start(*written("learner"), "--env-steps", 120, "--address", link)
    actor.wait(240.0)
    learner.wait(240.0)
    run_dir = tmp_path / "runs" / "mine"
    assert sum(len(steps) for _, steps in episodes(run_dir)) == 120
    evaluation = start("eval", run_dir, "--episodes", 2)
    evaluation.wait(120.0)
    assert "/2 successes" in evaluation.output()
