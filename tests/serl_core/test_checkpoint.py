from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from serl_core.checkpoint import CheckpointError, Checkpoints

TREE = {"params": {"dense": np.arange(6, dtype=np.float32).reshape(2, 3)}, "step": 7, "key": np.ones(2, np.uint32)}

SAVER = """
import sys, pathlib, numpy as np
from serl_core.checkpoint import Checkpoints
checkpoints = Checkpoints(pathlib.Path(sys.argv[1]), keep=2)
latest = checkpoints.latest()
step = checkpoints.load(latest)["step"] if latest else 0
print("go", flush=True)
while True:
    step += 1
    checkpoints.save(step, {"step": step, "x": np.full(200_000, step, np.float32)})
    print(step, flush=True)
"""


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint."""
    return int(path.name.rsplit("_", 1)[1])


def test_a_tree_comes_back_as_it_was(tmp_path: Path) -> None:
    """Guards against arrays that change dtype or shape on the way to the disk."""
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() is None
    path = checkpoints.save(7, TREE)
    back = checkpoints.load(path)
    assert back["step"] == 7 and step_of(path) == 7
    np.testing.assert_array_equal(back["params"]["dense"], TREE["params"]["dense"])
    assert back["params"]["dense"].dtype == np.float32


def test_the_newest_few_are_kept(tmp_path: Path) -> None:
    """Guards against a disk that fills up, and against deleting the newest."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3, 2):  # the last one of a run that went back
        checkpoints.save(step, TREE)
    assert [step_of(path) for path in sorted(tmp_path.iterdir())] == [3, 2]
    latest = checkpoints.latest()
    assert latest is not None and step_of(latest) == 2


@pytest.mark.parametrize("fault", ["truncate", "flip", "no marker", "broken marker"])
def test_an_incomplete_one_is_skipped(tmp_path: Path, fault: str) -> None:
    """Guards against resuming from half a checkpoint when a whole one is there."""
    checkpoints = Checkpoints(tmp_path)
    whole = checkpoints.save(1, TREE)
    broken = checkpoints.save(2, TREE)
    data = bytearray((broken / "tree.bin").read_bytes())
    if fault == "truncate":
        (broken / "tree.bin").write_bytes(data[:-1])
    elif fault == "flip":
        data[-1] ^= 1
        (broken / "tree.bin").write_bytes(data)
    elif fault == "no marker":
        (broken / "complete.json").unlink()
    else:
        (broken / "complete.json").write_text("{")
    assert checkpoints.latest() == whole
    with pytest.raises(CheckpointError, match="take an older one"):
        checkpoints.load(broken)


def test_what_cannot_be_saved_leaves_the_old_one(tmp_path: Path) -> None:
    """Guards against a failed save that costs the last good checkpoint."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    good = checkpoints.save(1, TREE)
    with pytest.raises(CheckpointError, match="step 2 not written"):
        checkpoints.save(2, {"function": print})
    assert checkpoints.latest() == good


def test_a_kill_at_any_moment_leaves_the_newest_whole(tmp_path: Path) -> None:
    """Guards against bug 6: kill −9 during a save, again and again, and resume each time."""
    schedule = random.Random(0)
    checkpoints = Checkpoints(tmp_path)
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", SAVER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
        time.sleep(schedule.uniform(0.005, 0.1))
        process.kill()
        said = [int(line) for line in process.communicate()[0].split()]
        latest = checkpoints.latest()
        assert latest is not None or not said
        if latest is not None:
            tree = checkpoints.load(latest)
            assert (tree["x"] == tree["step"]).all()
            assert not said or said[-1] <= tree["step"] <= said[-1] + 1
