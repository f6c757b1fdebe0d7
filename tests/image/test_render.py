"""The square that the network sees."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fracjax.configs import Preprocess
from fracjax.image import network_input

SMALL = Preprocess(image_size=64)


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [
        ((128, 128), slice(0, 64), slice(0, 64)),
        ((128, 64), slice(0, 64), slice(16, 48)),
        ((32, 128), slice(24, 40), slice(0, 64)),
        ((20, 10), slice(0, 64), slice(16, 48)),
        ((64, 63), slice(0, 64), slice(0, 63)),
    ],
)
def test_a_picture_fills_its_longer_side_and_lies_in_the_middle(shape, rows, columns):
    square = network_input(np.ones(shape, np.float32), SMALL)
    expected = np.zeros((64, 64), np.float32)
    expected[rows, columns] = 1
    np.testing.assert_allclose(square, expected, atol=1e-6)


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    size=st.sampled_from([32, 33, 64]),
    level=st.floats(0, 1, width=32),
)
@settings(deadline=None)
def test_a_constant_picture_stays_constant(height, width, size, level):
    square = network_input(np.full((height, width), level, np.float32), Preprocess(size))
    assert square.shape == (size, size)
    assert square.dtype == np.float32
    inside = np.isclose(square, level, atol=1e-5)
    assert (inside | (square == 0)).all()
    sides = sorted((inside.any(1).sum(), inside.any(0).sum()))
    assert sides[1] == size
    if level > 1e-3:
        exact = size * min(height, width) / max(height, width)
        assert abs(sides[0] - max(1, exact)) <= 0.5


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (3, 20_000)])
def test_extreme_shapes_leave_at_least_a_line(shape):
    square = network_input(np.ones(shape, np.float32), SMALL)
    assert square.max() == pytest.approx(1, abs=1e-5)
    assert square.sum() == pytest.approx(64 if shape != (1, 1) else 64 * 64, rel=1e-5)


@given(shape=st.tuples(st.integers(2, 200), st.integers(2, 200)), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_bytes_and_floats_agree(shape, seed):
    levels = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    from_bytes = network_input(levels, SMALL)
    from_floats = network_input(levels.astype(np.float32) / 255, SMALL)
    np.testing.assert_allclose(from_bytes, from_floats, atol=1e-6)
    assert 0 <= from_bytes.min() <= from_bytes.max() <= 1


def test_shrinking_does_not_alias():
    stripes = np.zeros((512, 512), np.float32)
    stripes[:, ::2] = 1
    np.testing.assert_allclose(network_input(stripes, SMALL), 0.5, atol=1e-5)


def test_the_given_picture_is_left_alone():
    picture = np.full((70, 50), 200, np.uint8)
    network_input(picture, SMALL)
    assert (picture == 200).all()
