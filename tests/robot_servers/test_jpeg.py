"""Frames as JPEG: smaller, nearly the same, and compressed once for all who ask."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from served import serving

from robot_servers import jpeg
from robot_servers.client import RobotClient
from robot_servers.drivers.fake import FakeDriver
from robot_servers.interface import Frame, RobotError
from robot_servers.jpeg import Compressor, JpegFrame, decompress

pytest.importorskip("PIL", reason="frames as JPEG need the package pillow")


def smooth() -> Frame:
    rows, columns = np.mgrid[0:96, 0:128].astype(np.uint8)
    return Frame(np.stack([rows, columns, rows + columns], -1), 1.5, 7, np.arange(7.0), np.ones((96, 128), np.uint16))


def test_a_frame_survives_but_for_a_few_grey_levels() -> None:
    """Guards against swapped colours or sides, and against a pose or depth that is lost on the way."""
    sent = smooth()
    back = decompress(Compressor()({"front": sent}))["front"]
    assert np.abs(back.image.astype(int) - sent.image.astype(int)).mean() < 3
    assert (back.time, back.number) == (sent.time, sent.number)
    assert back.pose is sent.pose and back.depth is sent.depth


def test_pictures_are_compressed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against twenty observers who make the server compress every picture twenty times."""
    calls = []
    monkeypatch.setattr(jpeg, "compress", lambda image: calls.append(1) or np.zeros(3, np.uint8))
    compressor, frame = Compressor(), smooth()
    for _ in range(20):
        compressor({"front": frame})
    assert len(calls) == 1
    compressor({"front": Frame(frame.image, frame.time, frame.number + 1)})
    assert len(calls) == 2


def test_over_the_wire() -> None:
    """Guards against an encoding that only one side knows."""
    with (
        serving(FakeDriver(cameras=("front",))) as server,
        RobotClient(server.address, encoding="jpeg") as small,
        RobotClient(server.address) as raw,
    ):
        assert small.frames()["front"].image.shape == raw.frames()["front"].image.shape == (128, 128, 3)
        assert small.frames()["front"].number == raw.frames()["front"].number


@pytest.mark.parametrize("data", [b"", b"no picture", b"\xff\xd8\xff\xe0"])
def test_what_is_no_picture_is_an_error(data: bytes) -> None:
    """Guards against an exception of the decoder reaching the control loop."""
    with pytest.raises(RobotError, match=r"front.* no JPEG"):
        decompress({"front": JpegFrame(np.frombuffer(data, np.uint8), 0.0, 0)})


def test_without_pillow_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an import error where a robot's computer has no pictures to handle."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(RobotError, match="pillow"):
        Compressor()({"front": smooth()})
