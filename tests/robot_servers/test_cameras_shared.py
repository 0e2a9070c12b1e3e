"""Frames in shared memory: whole or not at all, whoever is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from scripted_camera import until
from shared_frames_writer import SIZES, frame, whole

from robot_servers.cameras.shared import DEAD, SLOTS, FramePublisher, FrameReader, FrameWriter, attach, shareable
from robot_servers.interface import Frame, RobotError

pytestmark = pytest.mark.skipif(not shareable(), reason="memory without a file (memfd) is Linux's own")
SMALL = {"front": (4, 6)}
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@contextmanager
def writing(sizes: dict[str, tuple[int, int]] = SMALL) -> Iterator[FrameWriter]:
    writer = FrameWriter(sizes)
    writer.open()
    yield writer
    writer.close()


def reader_of(name: str, sizes: dict[str, tuple[int, int]] = SMALL) -> FrameReader:
    reader = attach(name, sizes)
    assert reader is not None
    return reader


@contextmanager
def another_process() -> Iterator[tuple[subprocess.Popen[str], str]]:
    script = Path(__file__).with_name("shared_frames_writer.py")
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        noise = process.stderr.read()
        process.stdout.close()
        process.stderr.close()
        assert noise == "", noise


def test_what_is_written_is_read():
    """Guards against fields lost on the way: depth and pose where there are some, None where there are none."""
    sizes = {"front": (4, 6), "wrist": (8, 2), "late": (3, 3)}
    with writing(sizes) as writer:
        plain = Frame(np.arange(48, dtype=np.uint8).reshape(8, 2, 3), 1.5, 7)
        writer.write({"front": frame(3, (4, 6)), "wrist": plain}, time.monotonic())
        reader = reader_of(writer.name, sizes)
        frames = reader.frames()
        assert frames is not None and set(frames) == {"front", "wrist"}
        assert whole(frames["front"]) and frames["front"].number == 3 and not frames["front"].image.flags.writeable
        wrist = frames["wrist"]
        assert (wrist.time, wrist.number, wrist.pose, wrist.depth) == (1.5, 7, None, None)
        np.testing.assert_array_equal(wrist.image, plain.image)
        reader.close()
        assert reader.frames() is None


def test_frames_that_were_read_do_not_change():
    """Guards against pictures in a replay buffer that are overwritten by later ones."""
    with writing() as writer:
        reader = reader_of(writer.name)
        writer.write({"front": frame(1, (4, 6))}, time.monotonic())
        first = reader.frames()
        for number in range(2, 3 * SLOTS):
            writer.write({"front": frame(number, (4, 6))}, time.monotonic())
        assert first is not None and whole(first["front"])
        reader.close()


def test_the_same_frame_is_written_once():
    """Guards against a writer that laps its readers although nothing is new."""
    with writing() as writer:
        reader = reader_of(writer.name)
        for _ in range(2 * SLOTS):
            writer.write({"front": frame(5, (4, 6))}, time.monotonic())
        assert int(reader._view["cameras"]["front"]["count"][0]) == 1
        reader.close()


@pytest.mark.parametrize("part", ["image", "depth", "number", "time", "pose"])
def test_a_picture_that_is_not_whole_is_never_returned(part):
    """Guards against half of one picture and half of the next, which a policy would take for real."""
    with writing() as writer:
        reader = reader_of(writer.name)
        writer.write({"front": frame(1, (4, 6))}, time.monotonic())
        slot = writer._view["cameras"]["front"]["slots"][0, 0]
        target = slot[part] if part in ("image", "depth") else slot["head"]
        if part in ("image", "depth"):
            target.reshape(-1)[-3] = 77
        else:
            target[part] = 77
        assert reader.frames() is None
        writer.write({"front": frame(2, (4, 6))}, time.monotonic())
        frames = reader.frames()
        assert frames is not None and whole(frames["front"])
        reader.close()


def test_a_fast_writer_in_another_process_never_shows_a_torn_frame():
    """Guards against everything that a test in one thread cannot see: it writes while this one reads."""
    with another_process() as (_, name):
        reader = reader_of(name, SIZES)
        until(lambda: bool(reader.frames()), "the first frames")
        numbers: set[int] = set()

        def many() -> bool:
            for _ in range(20):
                found = reader.frames() or {}
                assert all(map(whole, found.values()))
                numbers.update(frame.number for frame in found.values())
            return len(numbers) > 50

        until(many, "fifty different frames")
        reader.close()


def test_a_killed_writer_is_noticed_and_leaves_nothing_behind():
    """Guards against a policy that acts for ever on the last picture of a server that is dead, and against litter."""
    before = set(os.listdir("/dev/shm"))  # noqa: PTH208
    with another_process() as (process, name):
        reader = reader_of(name, SIZES)
        until(lambda: bool(reader.frames()), "the first frames")
        process.kill()
        process.wait()
        until(lambda: reader.frames() is None, f"the end of the frames {DEAD} s later")
        assert attach(name, SIZES) is None
        reader.close()
    assert set(os.listdir("/dev/shm")) <= before  # noqa: PTH208


def test_a_killed_reader_disturbs_nobody():
    """Guards against a lock that dies with its holder, and against a resource tracker that unlinks what is in use."""
    with writing() as writer:
        writer.write({"front": frame(1, (4, 6))}, time.monotonic())
        code = (
            "import os, signal, sys\n"
            "from robot_servers.cameras.shared import attach\n"
            f"reader = attach({writer.name!r}, {SMALL!r})\n"
            "print(reader is not None, flush=True)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
        assert done.stdout.strip() == "True" and done.stderr == ""
        reader = reader_of(writer.name)
        writer.write({"front": frame(2, (4, 6))}, time.monotonic())
        frames = reader.frames()
        assert frames is not None and frames["front"].number == 2
        reader.close()


def test_another_memory_or_machine_is_not_mistaken_for_the_one_meant(tmp_path):
    """Guards against the pictures of another server under the same number, and against blocking on what is there."""
    with writing() as writer:
        kind, process, descriptor, token = writer.name.split(":")
        assert attach(f"{kind}:{process}:{descriptor}:{'0' * 32}", SMALL) is None
        assert attach(f"{kind}:{process}:999:{token}", SMALL) is None
        assert attach(writer.name, {"front": (4, 7)}) is None
        assert attach("memfd:../../etc:1:0", SMALL) is None and attach("", SMALL) is None
        read, write = os.pipe()
        assert attach(f"{kind}:{process}:{read}:{token}", SMALL) is None
        os.close(read)
        os.close(write)


def test_an_image_of_another_size_is_refused():
    """Guards against a picture spread over its neighbour's memory."""
    with writing() as writer, pytest.raises(RobotError, match=r"camera front: an image of \(5, 6, 3\)"):
        writer.write({"front": frame(1, (5, 6))}, time.monotonic())


def test_the_publisher_follows_and_falls_silent_with_its_source(caplog):
    """Guards against old frames that look fresh while the server has an error to tell, and against a flood of logs."""
    state = {"number": 0, "error": ""}

    def newest() -> dict[str, Frame]:
        if state["error"]:
            raise RobotError(str(state["error"]))
        state["number"] = int(state["number"]) + 1
        return {"front": frame(int(state["number"]), (4, 6))}

    publisher = FramePublisher(newest, SMALL)
    publisher.open()
    reader = reader_of(publisher.name)
    until(lambda: bool(reader.frames()), "the first frame")
    first = (reader.frames() or {})["front"].number
    until(lambda: (reader.frames() or {"front": frame(0, (4, 6))})["front"].number > first + 3, "newer frames")
    state["error"] = "the driver failed"
    until(lambda: reader.frames() is None, "the end of the frames")
    state["error"] = ""
    until(lambda: bool(reader.frames()), "their return")
    publisher.close()
    assert reader.frames() is None
    reader.close()
    assert caplog.text.count("frames are not shared: the driver failed") == 1
