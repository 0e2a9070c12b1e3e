import jax.numpy as jnp
import numpy as np
import pytest

from serl_core.nets.projection import fit_projection, load_projection, save_projection


def features(frames: int = 40, rank: int = 6, channels: int = 32) -> np.ndarray:
    """Features (frames, 4, 4, channels) float16 that lie near a plane of few dimensions."""
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(rank, channels))
    return (rng.normal(size=(frames, 4, 4, rank)) @ plane + 3 + 0.01 * rng.normal(size=channels)).astype(np.float16)


def test_what_varies_is_kept() -> None:
    """Bug: the projection keeps the mean, or the directions in which nothing happens."""
    x = features()
    projection, share = fit_projection(x, 6)
    assert projection.matrix.shape == (32, 6) and share > 0.999
    y = np.asarray(projection(x), np.float32)
    assert y.shape == (40, 4, 4, 6) and projection(x).dtype == jnp.float16
    np.testing.assert_allclose(y @ projection.matrix.T + projection.mean, x.astype(np.float32), atol=0.1)
    np.testing.assert_allclose(projection.matrix.T @ projection.matrix, np.eye(6), atol=1e-5)
    assert np.abs(y.mean(axis=(0, 1, 2))).max() < 0.05


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug: only the first chunk counts, or the same demonstrations give another projection on another day."""
    whole, _ = fit_projection(features(), 4)
    monkeypatch.setattr("serl_core.nets.projection.CHUNK", 100)
    parts, _ = fit_projection(features(), 4)
    np.testing.assert_allclose(parts.matrix, whole.matrix, atol=1e-5)
    np.testing.assert_allclose(parts.mean, whole.mean, atol=1e-5)


def test_what_cannot_be_fitted_is_said() -> None:
    """Bug: NaN or too few frames give a projection that ruins everything after it."""
    x = features()
    with pytest.raises(ValueError, match="33 channels cannot be fitted on 640 positions with 32 channels"):
        fit_projection(x, 33)
    with pytest.raises(ValueError, match="record more frames"):
        fit_projection(x[:1], 16)
    x[2, 1, 0, 7] = np.nan
    with pytest.raises(ValueError, match="position 36 of 640 is not finite"):
        fit_projection(x, 4)
    projection, _ = fit_projection(features(), 4)
    with pytest.raises(ValueError, match="projection of 32 channels, the features have 31"):
        projection(features()[..., :31])


def test_a_projection_belongs_to_its_trunk_and_channels(tmp_path):
    """Bug: a start that failed leaves one behind, and the next run sees through another trunk's."""
    path = tmp_path / "projection.npz"
    projection, _ = fit_projection(features(), 4)
    save_projection(path, projection, "this trunk")
    back = load_projection(path, "this trunk", (32, 4))
    np.testing.assert_array_equal(back.matrix, projection.matrix)
    np.testing.assert_array_equal(back.mean, projection.mean)
    with pytest.raises(ValueError, match=r"projection\.npz was fitted on the features of another trunk"):
        load_projection(path, "that trunk", (32, 4))
    with pytest.raises(ValueError, match=r"projects \(32, 4\), not \(32, 5\): give its --channels"):
        load_projection(path, "this trunk", (32, 5))
    np.savez(path, mean=np.zeros(32))
    with pytest.raises(ValueError, match="not a projection"):
        load_projection(path, "this trunk", (32, 4))
