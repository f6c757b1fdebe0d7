"""Random changes of the training pictures."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fracjax.augment import augment, warp
from fracjax.configs import Augment

SIZE = 48
NOTHING = Augment(rotation=0, scale=0, shift=0, flip=0, contrast=0, gamma=0)
STRONG = Augment(rotation=45, scale=0.3, shift=0.2, flip=0.5, contrast=0.5, gamma=1)

augment_jit = jax.jit(augment, static_argnums=2)
warp_jit = jax.jit(warp)


def pictures(n, seed=0):
    """Smooth pictures (n, SIZE, SIZE) that use all of 0..1."""
    noise = np.random.default_rng(seed).random((n, SIZE, SIZE)).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(picture, (0, 0), 3) for picture in noise])
    low, high = smooth.min((1, 2), keepdims=True), smooth.max((1, 2), keepdims=True)
    return (smooth - low) / (high - low)


def test_no_change_is_the_identity():
    batch = pictures(3)
    np.testing.assert_allclose(
        augment_jit(batch, jax.random.key(1), NOTHING), batch, rtol=0, atol=1e-5
    )


@settings(max_examples=50, deadline=None)
@given(
    degrees=st.floats(-180, 180),
    scale=st.floats(0.6, 1.6),
    shift=st.tuples(st.floats(-10, 10), st.floats(-10, 10)),
    mirror=st.sampled_from([1.0, -1.0]),
)
def test_warp_agrees_with_opencv(degrees, scale, shift, mirror):
    picture = pictures(1)[0]
    ours = warp_jit(picture, np.deg2rad(degrees), scale, jnp.asarray(shift), mirror)
    # OpenCV turns counter-clockwise, and counts x before y.
    centre = (SIZE - 1) / 2
    matrix = cv2.getRotationMatrix2D((centre, centre), -degrees, scale)
    matrix[:, 2] += shift[::-1]
    source = picture if mirror > 0 else np.ascontiguousarray(picture[:, ::-1])
    theirs = cv2.warpAffine(source, matrix, (SIZE, SIZE))
    # At the border, the two shade from the picture into the black differently.
    inside = cv2.warpAffine(np.ones_like(picture), matrix, (SIZE, SIZE)) == 1
    inside = cv2.erode(inside.astype(np.uint8), np.ones((5, 5))) > 0
    assert inside.any()
    np.testing.assert_allclose(np.asarray(ours)[inside], theirs[inside], rtol=0, atol=1e-4)


def test_positive_means_clockwise_down_and_right():
    picture = np.zeros((SIZE, SIZE), np.float32)
    picture[10, 24] = 1  # above the centre
    still = jnp.zeros(2)
    turned = np.asarray(warp_jit(picture, np.deg2rad(90), 1.0, still, 1.0))
    assert np.unravel_index(turned.argmax(), turned.shape) == (24, 37)
    moved = np.asarray(warp_jit(picture, 0.0, 1.0, jnp.array([3.0, 5.0]), 1.0))
    assert np.unravel_index(moved.argmax(), moved.shape) == (13, 29)


def test_the_key_decides():
    batch = pictures(4)
    once, again, other = (
        np.asarray(augment_jit(batch, jax.random.key(seed), STRONG)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(once, again)
    assert (np.abs(once - other).max((1, 2)) > 0.1).all()


def test_pictures_of_a_batch_change_differently():
    batch = np.repeat(pictures(1), 4, axis=0)
    changed = np.asarray(augment_jit(batch, jax.random.key(0), STRONG))
    assert all((changed[0] != changed[i]).any() for i in range(1, 4))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_the_range_is_kept(seed):
    changed = np.asarray(augment_jit(pictures(4, seed), jax.random.key(seed), STRONG))
    assert changed.dtype == np.float32
    assert np.isfinite(changed).all()
    assert changed.min() >= 0
    assert changed.max() <= 1


def test_the_black_around_a_picture_stays_black():
    batch = pictures(8) * 0.8 + 0.2
    batch[:, : SIZE // 3] = 0
    tone = Augment(rotation=0, scale=0, shift=0, flip=0.5, contrast=0.5, gamma=1)
    changed = np.asarray(augment_jit(batch, jax.random.key(3), tone))
    assert (changed[:, : SIZE // 3] == 0).all()
    assert (changed[:, SIZE // 3 :] > 0).mean() > 0.9
    assert np.abs(changed - batch).max() > 0.1


@pytest.mark.parametrize(("flip", "flipped"), [(0.0, 0), (1.0, 64)])
def test_flips_are_certain_at_the_ends(flip, flipped):
    batch = np.repeat(pictures(1), 64, axis=0)
    only_flip = Augment(rotation=0, scale=0, shift=0, flip=flip, contrast=0, gamma=0)
    changed = np.asarray(augment_jit(batch, jax.random.key(0), only_flip))
    mirrored = np.isclose(changed, batch[:, :, ::-1], atol=1e-5).all((1, 2))
    assert mirrored.sum() == flipped
