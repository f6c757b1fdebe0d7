"""The square that the network sees."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fracjax.configs import Preprocess
from fracjax.image import network_input
from fracjax.image.render import placement, shown

SMALL = Preprocess(image_size=64)
VARIANTS = st.builds(
    Preprocess,
    image_size=st.sampled_from([32, 33, 64]),
    border=st.sampled_from(["keep", "crop"]),
    window=st.sampled_from(["display", "percentile"]),
    clahe=st.sampled_from([0.0, 2.0, 40.0]),
    fit=st.sampled_from(["letterbox", "crop"]),
)


def textured(shape, seed=0):
    """A picture of noise with grey levels from 0.2 to 0.8, none of whose lines are alike."""
    return np.random.default_rng(seed).uniform(0.2, 0.8, shape).astype(np.float32)


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


@given(
    shape=st.tuples(st.integers(2, 200), st.integers(2, 200)),
    seed=st.integers(0, 99),
    preprocess=VARIANTS,
)
@settings(deadline=None, max_examples=60)
def test_bytes_and_floats_agree(shape, seed, preprocess):
    levels = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    from_bytes = network_input(levels, preprocess)
    from_floats = network_input(levels.astype(np.float32) / 255, preprocess)
    np.testing.assert_allclose(from_bytes, from_floats, atol=1e-6)
    assert 0 <= from_bytes.min() <= from_bytes.max() <= 1


def test_shrinking_does_not_alias():
    stripes = np.zeros((512, 512), np.float32)
    stripes[:, ::2] = 1
    np.testing.assert_allclose(network_input(stripes, SMALL), 0.5, atol=1e-5)


@given(preprocess=VARIANTS)
@settings(deadline=None)
def test_the_given_picture_is_left_alone(preprocess):
    for picture in ((textured((70, 50)) * 255).astype(np.uint8), textured((70, 50))):
        before = picture.copy()
        network_input(picture, preprocess)
        np.testing.assert_array_equal(picture, before)


@given(
    shape=st.tuples(st.integers(1, 300), st.integers(1, 300)), size=st.sampled_from([32, 100, 288])
)
@settings(deadline=None, max_examples=30)
def test_without_options_a_picture_is_resized_and_nothing_else(shape, size):
    picture = np.random.default_rng(0).random(shape, np.float32)
    height, width = (max(1, round(side * size / max(shape))) for side in shape)
    method = cv2.INTER_AREA if max(shape) > size else cv2.INTER_LINEAR
    top, left = (size - height) // 2, (size - width) // 2
    expected = np.zeros((size, size), np.float32)
    expected[top : top + height, left : left + width] = cv2.resize(
        picture, (width, height), interpolation=method
    )
    np.testing.assert_array_equal(network_input(picture, Preprocess(size)), expected)


@given(
    height=st.integers(1, 60),
    width=st.one_of(st.integers(1, 60), st.just(3000)),
    kind=st.sampled_from(["constant", "two levels", "one speck", "stripes", "noise", "faint"]),
    level=st.floats(0, 1, width=32),
    preprocess=VARIANTS,
)
@settings(deadline=None, max_examples=200)
def test_any_picture_becomes_a_square_in_range(height, width, kind, level, preprocess):
    picture = np.full((height, width), level, np.float32)
    if kind == "two levels":
        picture[: height // 2] = 1 - level
    elif kind == "one speck":
        picture[height // 2, width // 2] = 1
    elif kind == "stripes":
        picture[:, ::2] = 0
    elif kind == "noise":
        picture = textured((height, width))
    elif kind == "faint":
        picture = textured((height, width)) * np.float32(1e-44)
    square = network_input(picture, preprocess)
    assert square.shape == (preprocess.image_size, preprocess.image_size)
    assert square.dtype == np.float32
    assert square.min() >= 0
    assert square.max() <= 1 + 1e-6
    rows, columns = shown(picture, preprocess)
    assert 0 <= rows.start < rows.stop <= height
    assert 0 <= columns.start < columns.stop <= width


@given(
    borders=st.tuples(*[st.integers(0, 40)] * 4),
    level=st.sampled_from([0.0, 0.02, 1.0]),
    noise=st.sampled_from([0.0, 0.01]),
    preprocess=VARIANTS,
)
@settings(deadline=None)
def test_a_cropped_border_leaves_no_trace(borders, level, noise, preprocess):
    cropping = replace(preprocess, border="crop", clahe=0)
    top, bottom, left, right = borders
    picture = textured((90, 60))
    frame = ((top, bottom), (left, right))
    around = np.pad(np.zeros(picture.shape, bool), frame, constant_values=True)
    disturbance = noise * np.random.default_rng(1).random(around.shape, np.float32)
    border = np.clip(np.float32(level) + disturbance, 0, 1)
    framed = np.where(around, border, np.pad(picture, frame))
    assert shown(framed, Preprocess(border="crop")) == (
        slice(top, top + 90),
        slice(left, left + 60),
    )
    np.testing.assert_allclose(
        network_input(framed, cropping), network_input(picture, cropping), rtol=0, atol=0.03
    )


def test_a_border_that_is_kept_is_there():
    framed = np.pad(textured((60, 60)), 30)
    assert (network_input(framed, Preprocess(60))[:10] == 0).all()
    assert shown(framed, SMALL) == (slice(0, 120), slice(0, 120))


@given(gain=st.floats(0.1, 1), offset=st.floats(0, 1), preprocess=VARIANTS)
@settings(deadline=None)
def test_a_percentile_window_does_not_depend_on_brightness_and_contrast(gain, offset, preprocess):
    stretching = replace(preprocess, window="percentile", clahe=0)
    picture = cv2.GaussianBlur(textured((120, 90)), (0, 0), 2)
    changed = (picture * gain + offset * (1 - gain)).astype(np.float32)
    square = network_input(picture, stretching)
    np.testing.assert_allclose(network_input(changed, stretching), square, rtol=0, atol=1e-3)
    assert square.max() > 0.9


def test_a_percentile_window_takes_no_notice_of_a_border():
    picture = textured((100, 100)) / 2
    framed = np.pad(picture, 50, constant_values=1.0)
    inside = network_input(framed, Preprocess(200, window="percentile"))[50:150, 50:150]
    np.testing.assert_allclose(
        inside, network_input(picture, Preprocess(100, window="percentile")), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("shape", [(300, 200), (3, 200), (300, 1)])
def test_only_the_picture_is_equalised(shape):
    picture = cv2.GaussianBlur(textured(shape), (0, 0), 5)
    plain, equalised = (
        network_input(picture, SMALL),
        network_input(picture, Preprocess(64, clahe=3)),
    )
    rows, columns = placement(shape, SMALL)
    around = np.ones((64, 64), bool)
    around[rows, columns] = False
    assert (equalised[around] == 0).all()
    alone = np.rint(plain[rows, columns] * 255).astype(np.uint8)
    expected = cv2.createCLAHE(3, (8, 8)).apply(alone) / 255
    np.testing.assert_allclose(equalised[rows, columns], expected, rtol=0, atol=1e-6)


def test_equalising_raises_the_contrast():
    picture = 0.5 + 0.1 * (cv2.GaussianBlur(textured((300, 300)), (0, 0), 9) - 0.5)
    assert (
        network_input(picture, Preprocess(64, clahe=4)).std()
        > 2 * network_input(picture, SMALL).std()
    )


@pytest.mark.parametrize(("shape", "taken"), [((200, 80), (60, 0)), ((80, 201), (0, 60))])
def test_the_square_in_the_middle_fills_the_square(shape, taken):
    picture = textured(shape)
    middle = picture[taken[0] : taken[0] + 80, taken[1] : taken[1] + 80]
    np.testing.assert_array_equal(
        network_input(picture, Preprocess(64, fit="crop")), network_input(middle, SMALL)
    )


@given(place=st.tuples(st.integers(35, 124), st.integers(75, 104)), preprocess=VARIANTS)
@settings(deadline=None)
def test_a_place_in_the_square_is_found_in_the_picture(place, preprocess):
    picture = np.pad(0.3 * textured((160, 120)), ((0, 0), (30, 30)))
    picture[place[0] - 6 : place[0] + 7, place[1] - 6 : place[1] + 7] = 1
    square = network_input(picture, replace(preprocess, clahe=0))
    region = shown(picture, preprocess)
    target = placement(picture[region].shape, preprocess)
    bright = np.argwhere(square > 0.95 * square.max()).mean(0)
    for found, source, there, true in zip(bright, region, target, place, strict=True):
        part = (found + 0.5 - there.start) / (there.stop - there.start)
        assert abs(source.start + part * (source.stop - source.start) - 0.5 - true) < 3


@given(preprocess=VARIANTS)
@settings(deadline=None)
def test_a_number_that_is_not_finite_is_not_hidden(preprocess):
    picture = textured((80, 80))
    picture[40, 40] = np.nan
    assert not np.isfinite(network_input(picture, preprocess)).all()
