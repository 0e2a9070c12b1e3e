"""Cameras on the command line: what is meant is built, what is mistyped is explained in one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot_servers.cameras.build import build_rig
from robot_servers.cameras.spec import CameraSpec, merge, parse_camera, parse_cameras
from robot_servers.cameras.views import Crop, View
from robot_servers.interface import RobotError


def test_everything_said_is_kept():
    """Guards against width and height exchanged, and against options that are parsed and then forgotten."""
    text = (
        "wrist=realsense:1303,crop=160:80:320:240,size=128x96,resolution=640x480,fps=60,exposure=8000,"
        "white_balance=4600,depth=on,latency=0.02"
    )
    assert parse_camera(text) == CameraSpec(
        "wrist", "realsense", "1303", Crop(160, 80, 320, 240), (96, 128), (480, 640), 60.0, 8000.0, 4600.0, True, 0.02
    )
    assert parse_camera("front=opencv:/dev/video0,exposure=auto") == CameraSpec("front", "opencv", "/dev/video0")
    assert (
        parse_camera("net=opencv:rtsp://me:key@10.0.0.2:554/live?a=1").source == "rtsp://me:key@10.0.0.2:554/live?a=1"
    )


@pytest.mark.parametrize(
    "text, said",
    [
        ("wrist", "expected NAME=KIND:SOURCE"),
        ("wrist=realsense", "expected NAME=KIND:SOURCE"),
        ("wrist=realsense:", "expected NAME=KIND:SOURCE"),
        ("1=opencv:0", "a name is a letter"),
        ("wrist=realsens:1", 'unknown kind "realsens"; did you mean "realsense"?'),
        ("wrist=opencv:0,exposur=3", 'unknown option "exposur"; did you mean "exposure"?'),
        ("wrist=opencv:0,crop=1:2:3", 'crop="1:2:3" is not x:y:width:height'),
        ("wrist=opencv:0,crop=1:2:0:3", "is not x:y:width:height"),
        ("wrist=opencv:0,size=128", "is not WIDTHxHEIGHT"),
        ("wrist=opencv:0,size=0x128", "is not WIDTHxHEIGHT"),
        ("wrist=opencv:0,exposure=nan", "is not a number in the device's own unit"),
        ("wrist=opencv:0,fps=0", "is not a number of frames per second"),
        ("wrist=opencv:0,fps=-1", "is not a number of frames per second"),
        ("wrist=opencv:0,depth=yes", 'is not "on" or "off"'),
        ("wrist=opencv:0,size=8x8,size=9x9", "size is given twice"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text, said):
    """Guards against a traceback, or a camera that runs with a default instead of what was meant."""
    with pytest.raises(RobotError) as caught:
        parse_camera(text)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@given(st.text(st.sampled_from("ab=:,x10.-/\n"), max_size=30))
def test_any_text_is_a_camera_or_an_explained_error(text):
    """Guards against a ValueError from the depths of a parser."""
    try:
        parse_camera(f"a=opencv:0,{text}")
    except RobotError as error:
        assert str(error)


def test_a_name_is_given_once():
    """Guards against one camera silently replacing another."""
    with pytest.raises(RobotError, match="two cameras are called front"):
        parse_cameras(("front=opencv:0", "front=opencv:1"))


def test_cameras_of_one_device_share_its_settings_and_may_not_contradict():
    """Guards against a device opened twice, and against one crop's exposure silently ruling the other."""
    wide, close = parse_cameras(("wide=realsense:1,exposure=100", "close=realsense:1,crop=0:0:64:64,depth=on"))
    asked = merge((wide, close))
    assert (asked.exposure, asked.depth) == (100.0, True)
    with pytest.raises(RobotError, match=r"one exposure: wide says 100\.0, close says 90\.0"):
        build_rig(parse_cameras(("wide=realsense:1,exposure=100", "close=realsense:1,exposure=90")))
    rig = build_rig((wide, close))
    assert rig.sizes == {"wide": (128, 128), "close": (128, 128)} and len(rig.devices) == 1
    assert rig.devices[0].views == (View("wide", (128, 128)), View("close", (128, 128), Crop(0, 0, 64, 64)))


def test_different_devices_are_different_threads():
    """Guards against two cameras behind one read."""
    rig = build_rig(parse_cameras(("a=realsense:1", "b=realsense:2", "c=opencv:1", "d=opencv:clip.mp4")))
    assert [device.camera.label for device in rig.devices] == [
        "realsense 1",
        "realsense 2",
        "opencv 1",
        "opencv clip.mp4",
    ]


@pytest.mark.parametrize(
    "text, said",
    [
        ("a=opencv:0,depth=on", "depth needs a realsense"),
        ("a=realsense:1,fps=29.97", "whole numbers"),
        ("a=opencv:clip.mp4,exposure=3", "takes no resolution, fps, exposure or white_balance"),
        ("a=realsense:1,resolution=640x480,crop=600:0:41:480", "is not inside the device's picture of 640x480"),
    ],
)
def test_what_a_device_cannot_do_is_said_before_it_is_opened(text, said):
    """Guards against an option that is accepted and has no effect."""
    with pytest.raises(RobotError, match=said):
        build_rig(parse_cameras((text,)))
