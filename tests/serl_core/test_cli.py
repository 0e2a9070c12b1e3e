import os
import subprocess
import sys

import pytest

from serl_core import cli
from serl_core.config import ConfigError


@pytest.mark.parametrize("command", [*cli.COMMANDS])
def test_every_command_explains_all_its_options(command, capsys):
    """Guards against an option without a word about what it does."""
    with pytest.raises(SystemExit) as stop:
        cli.run([command, "--help"])
    assert stop.value.code == 0
    assert "--" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["demmo"], 'unknown command "demmo"; did you mean "demo"?'),
        (["demo", "--tsk", "pick_cube"], 'unknown option --tsk; did you mean "--task"?'),
        (["demo", "--task", "pick_cub"], 'unknown task "pick_cub"; did you mean "pick_cube"?'),
        (["demo", "--seed", "x"], "Error parsing --seed"),
        (["learner"], "missing --run-dir PATH"),
        (["eval"], "missing PATH"),
    ],
)
def test_bad_input_is_answered_in_one_line(arguments, text):
    """Guards against pages of usage, or a traceback, where one word was misspelt."""
    with pytest.raises(ConfigError) as error:
        cli.run(arguments)
    assert text in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("given", "seen"), [(None, "false"), ("true", "true")])
def test_a_gpu_is_shared(given, seen, monkeypatch):
    """Guards against an actor that claims most of the GPU, and a learner that ends for want of memory."""
    name = "XLA_PYTHON_CLIENT_PREALLOCATE"
    monkeypatch.setenv(name, given or "")
    if given is None:
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "argv", ["serl", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    assert os.environ[name] == seen


def test_exit_status_and_stderr_of_bad_input():
    """Guards what scripts see: status 2, one line on stderr, nothing on stdout."""
    done = subprocess.run([sys.executable, "-m", "serl_core.cli", "demo", "--tsk", "x"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


def test_a_robot_that_others_could_reach_needs_consent(capsys):
    """Guards against an arm that anyone in the building can move, through either of its ports."""
    assert cli.run(["server", "fake", "--host", "0.0.0.0", "--truth-port", "0"]) == 2
    assert "refusing to use 0.0.0.0 without keys" in capsys.readouterr().err


def test_consent_reaches_the_server(monkeypatch):
    """Guards against a flag that is accepted and then lost on its way."""
    given = {}
    monkeypatch.setattr("robot_servers.__main__.serve", lambda robot, **options: given.update(options) or 0)
    for flags in ([], ["--insecure"]):
        cli.run(["server", "fake", "--host", "0.0.0.0", *flags])
        assert given["insecure"] is bool(flags)
