"""Several shifted views of one frame: made once, drawn anew by every sample."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from serl_core.blueprint import Blueprint
from serl_core.config import ConfigError
from serl_core.data.replay import Replay
from serl_core.data.sampling import Sampling, assemble, sample
from serl_core.nets.frames import PAD, SHIFTS, crops, view_encoder
from serl_core.nets.trunks import SMALL, load_named
from serl_core.types import EpisodeStart, Step

VIEWS = 3


def numbered(obs):
    """In the place of features: frame number · 10 + view."""
    return {**obs, "front": np.array([[obs["front"][0, 0, 0] * 10 + view] for view in range(VIEWS)], np.float32)}


def frame(number: int):
    return {"state": np.array([number], np.float32), "front": np.full((2, 2, 3), number, np.uint8)}


@pytest.fixture
def replay() -> Replay:
    replay = Replay(20, frame(0), 1, encode=numbered, views=VIEWS)
    replay.insert(EpisodeStart("a", 0, frame(0)))
    for number in range(5):
        action, target = np.zeros(1, np.float32), np.zeros(7)
        replay.insert(
            Step("a", 0, number, action, action, target, False, frame(number + 1), 0.0, 0.0, False, number == 4,
                 False, "policy", -1, 0, 0.0)
        )  # fmt: skip
    return replay


def test_every_sample_draws_its_views_by_itself(replay: Replay) -> None:
    """Guards the augmentation: frames must stay the right ones, and obs and next_obs must not share their view."""
    spec = replay.sampling(Sampling(0.9))
    batch = jax.tree.map(np.array, assemble(*sample(replay.table(), jax.random.PRNGKey(0), spec, 2)))
    for part, ahead in (("obs", 0), ("next_obs", 1)):
        number, view = np.divmod(batch[part]["front"][..., 0], 10)
        np.testing.assert_array_equal(number, batch[part]["state"][..., 0])
        np.testing.assert_array_equal(number, batch["obs"]["state"][..., 0] + ahead)
        assert set(view.flat) == set(range(VIEWS))
    same = batch["obs"]["front"] % 10 == batch["next_obs"]["front"] % 10
    assert 0.2 < same.mean() < 0.5


def shift_of(crop: np.ndarray, picture: np.ndarray) -> tuple[int, int]:
    """By how many rows and columns a crop of this picture (16, 16, 3) is shifted; its middle tells."""
    (found,) = [
        (dy, dx) for dy in range(-PAD, PAD + 1) for dx in range(-PAD, PAD + 1)
        if np.array_equal(crop[PAD:-PAD, PAD:-PAD], picture[PAD + dy : 16 - PAD + dy, PAD + dx : 16 - PAD + dx])
    ]  # fmt: skip
    return found


def test_crops_are_shifts_of_the_frame() -> None:
    """Guards against crops that mix rows with columns, or shift by more than the padding."""
    picture = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    first, *others = crops(picture, 40, np.random.default_rng(1))
    np.testing.assert_array_equal(first, picture)
    assert len({shift_of(crop, picture) for crop in others}) > 20


class Through:
    """In the place of a trunk: features are the pixels themselves; counts the frames of each pass."""

    features = (16 * 16, 3)

    def __init__(self) -> None:
        self.passes: list[int] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.passes.append(len(images))
        return images.reshape(len(images), *self.features)


def encoded(views: int, frames: int) -> tuple[np.ndarray, np.ndarray, Through]:
    """Views (frames, cameras, views, 16, 16, 3) of pictures (frames, cameras, 16, 16, 3), and what they went through.

    The pictures of one camera are all the same, so that only the offsets can differ.
    """
    cameras, through = ("front", "wrist"), Through()
    pictures = np.random.default_rng(0).integers(0, 255, (2, 16, 16, 3), dtype=np.uint8)
    encode = view_encoder(through, cameras, views, np.random.default_rng(1))  # type: ignore[arg-type]
    found = [encode(dict(zip(cameras, pictures, strict=True))) for _ in range(frames)]
    seen = np.array([[one[name] for name in cameras] for one in found]).reshape(frames, 2, views, 16, 16, 3)
    return seen, np.broadcast_to(pictures, (frames, *pictures.shape)), through


def test_a_single_view_is_shifted_at_random_for_each_frame_and_camera() -> None:
    """Guards the ablation: one view that is never shifted compares no augmentation at all with some."""
    seen, pictures, _ = encoded(views=1, frames=40)
    shifts = [[shift_of(seen[t, c, 0], pictures[t, c]) for c in range(2)] for t in range(40)]
    assert len({front for front, _ in shifts}) > 20
    assert sum(front == wrist for front, wrist in shifts) < 5


@pytest.mark.parametrize("views", [4, 16])
def test_of_several_views_the_first_is_what_the_policy_sees(views: int) -> None:
    """Guards what the policy acts on: no frame may be known in shifted views only. The others are drawn anew."""
    seen, pictures, _ = encoded(views, frames=8)
    np.testing.assert_array_equal(seen[:, :, 0], pictures)
    others = [shift_of(seen[t, 0, v], pictures[t, 0]) for t in range(8) for v in range(1, views)]
    assert len(set(others)) > 12


def test_all_shifts_stay_in_order_from_pass_to_pass() -> None:
    """Guards against features filed under another camera or view where one pass does not take them all."""
    seen, pictures, _ = encoded(SHIFTS, frames=1)
    expected = [crops(picture, SHIFTS, np.random.default_rng(2)) for picture in pictures[0]]
    np.testing.assert_array_equal(seen[0], np.array(expected))


@pytest.mark.parametrize("views", [0, 82])
def test_a_number_of_views_that_cannot_be_is_refused(views: int) -> None:
    """Guards replay against features that are not there."""
    with pytest.raises(ValueError, match="there are 81 shifts"):
        encoded(views, frames=1)


def test_as_many_views_as_shifts_are_all_of_them_once() -> None:
    """Guards the claim that 81 views stand for fresh crops; and a number of views that cannot be."""
    picture = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    found = crops(picture, SHIFTS, np.random.default_rng(1))
    np.testing.assert_array_equal(found[0], picture)
    assert len({crop.tobytes() for crop in found}) == len(found) == 81
    for count in (0, 82):
        with pytest.raises(ValueError, match="there are 81 shifts"):
            crops(picture, count, np.random.default_rng(1))


def test_views_are_the_trunks_features_of_the_crops() -> None:
    """Guards against features filed under another camera or view."""
    rng = np.random.default_rng(0)
    obs = {name: rng.integers(0, 255, (128, 128, 3), dtype=np.uint8) for name in ("front", "wrist")}
    trunk = load_named("small", SMALL)
    got = view_encoder(trunk, ("front", "wrist"), 2, np.random.default_rng(5))({"state": np.zeros(1), **obs})
    expected = trunk(np.stack([obs["front"], obs["wrist"]]))
    for name, features in zip(("front", "wrist"), expected, strict=True):
        assert got[name].shape == (2, 128, 16)
        np.testing.assert_allclose(got[name][0].astype(float), features.astype(float), atol=0.05)


def test_weights_learnt_on_another_trunk_are_refused() -> None:
    """Guards an actor with another version of the package: features would mean something else."""
    tree = Blueprint.for_task("pick_cube", "pixels").to_tree()
    assert Blueprint.from_tree(tree).to_tree() == tree
    with pytest.raises(ConfigError, match=r"another image trunk small than .*trunk\.npz: use the same file"):
        Blueprint.from_tree({**tree, "trunk": {**tree["trunk"], "digest": "0123456789abcdef"}})


@pytest.mark.parametrize(("trunk", "why"), [("resnet10", "--trunk-weights FILE"), ("smal", "did you mean small")])
def test_a_trunk_that_is_not_there_is_a_line(trunk: str, why: str) -> None:
    """Guards against a run that begins with random features because a file was forgotten."""
    with pytest.raises(ConfigError, match=why):
        Blueprint.for_task("pick_cube", "pixels", trunk=trunk, weights=SMALL if trunk == "smal" else None).to_tree()
