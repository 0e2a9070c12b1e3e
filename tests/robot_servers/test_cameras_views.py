"""Cropping and resizing: what the policy sees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_servers.cameras.device import Shot
from robot_servers.cameras.views import Crop, View, area_weights, resize
from robot_servers.interface import RobotError

RANDOM = np.random.default_rng(0)
PICTURE = RANDOM.integers(0, 256, (96, 128, 3), dtype=np.uint8)


@given(st.integers(1, 200), st.integers(1, 200))
@settings(max_examples=200, deadline=None)
def test_every_new_pixel_is_a_mean(old, new):
    """Guards against pictures that get darker or brighter with their size, and indices beyond the last pixel."""
    index, weight = area_weights(old, new)
    np.testing.assert_allclose(weight.sum(axis=0), 1.0, atol=1e-5)
    assert weight.min() >= 0.0 and index.min() >= 0 and index.max() == old - 1


@pytest.mark.parametrize("size", [(48, 64), (32, 32), (50, 77), (96, 40), (130, 200)])
def test_resizing_equals_the_mean_over_areas(size):
    """Guards against aliasing and swapped axes, by the definition: expand to a common grid, then take block means."""
    rows = np.repeat(PICTURE.astype(float), size[0], axis=0).reshape(size[0], 96, 128, 3).mean(axis=1)
    wanted = np.repeat(rows, size[1], axis=1).reshape(size[0], size[1], 128, 3).mean(axis=2)
    assert np.abs(resize(PICTURE, size) - wanted).max() <= 0.501


def test_a_crop_is_left_top_width_height():
    """Guards against rows and columns exchanged: the policy would look beside the task."""
    view = View("wrist", (20, 30), Crop(10, 40, 30, 20))
    np.testing.assert_array_equal(view.image(Shot(PICTURE, 1)), PICTURE[40:60, 10:40])


def test_an_image_of_the_same_size_is_a_copy():
    """Guards against frames that change when a device uses its memory again."""
    assert not np.shares_memory(View("a", (96, 128)).image(Shot(PICTURE, 1)), PICTURE)
    assert not np.shares_memory(View("a", (20, 30), Crop(10, 40, 30, 20)).image(Shot(PICTURE, 1)), PICTURE)


def test_depth_is_never_mixed():
    """Guards against distances at an object's edge that lie between it and the table."""
    depth = np.where(np.arange(128) < 60, 300, 900).astype(np.uint16)[None].repeat(96, axis=0)
    small = View("a", (17, 23), Crop(20, 0, 100, 96)).depth(Shot(PICTURE, 1, depth=depth))
    assert small is not None and small.shape == (17, 23) and set(np.unique(small)) == {300, 900}
    assert small[0, 0] == 300 and small[0, -1] == 900


def test_a_crop_beyond_the_edge_is_refused_with_both_sizes():
    """Guards against a numpy slice that is silently smaller."""
    with pytest.raises(RobotError, match=r"camera a: the crop 100:0:29:96 .* 128x96"):
        View("a", (8, 8), Crop(100, 0, 29, 96)).image(Shot(PICTURE, 1))
