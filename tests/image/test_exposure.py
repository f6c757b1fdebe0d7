"""What a border hides from statistics, and which grey scales show too little."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pictures import radiograph

from fracjax.image import exposure
from fracjax.image.exposure import Sample, exposed_sample, percentile_range, stretch


def window(values, background=None):
    return percentile_range(exposed_sample(values, background))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 9),
    st.tuples(*[st.integers(0, 60)] * 4),
    st.sampled_from([0, 1000, 2222, 4095, 65535]),
)
def test_a_border_of_one_value_does_not_touch_what_is_inside(seed, widths, level):
    inside = radiograph(seed)
    top, bottom, left, right = widths
    framed = np.pad(inside, ((top, bottom), (left, right)), constant_values=level)
    assert window(framed) == window(inside)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9), st.integers(1, 60), st.sampled_from([100, 5000]))
def test_a_border_of_nearly_one_value_hardly_touches_it(seed, width, level):
    inside = radiograph(seed)
    framed = np.pad(inside, width, constant_values=level)
    noise = np.random.default_rng(seed).normal(0, 10, framed.shape)
    noise[width:-width, width:-width] = 0
    low, high = window(inside)
    np.testing.assert_allclose(window(framed + noise), (low, high), atol=0.02 * (high - low))


@pytest.mark.parametrize("level", [0, 6000])
def test_a_collimator_that_stands_askew_does_not_set_the_contrast(level):
    inside = radiograph(0, (400, 300))
    rows, columns = np.mgrid[:400, :300]
    outside = (columns - 150) * 0.95 + (rows - 200) * 0.3 > 100
    outside |= (rows - 200) * 0.95 - (columns - 150) * 0.3 < -140
    low, high = window(inside)
    framed = np.where(outside, np.float32(level), inside)
    np.testing.assert_allclose(window(framed), (low, high), atol=0.05 * (high - low))


def test_known_background_is_left_out_whatever_is_in_it():
    values = radiograph(1)
    background = np.zeros(values.shape, bool)
    background[20:40, 30:50] = True
    rubbish = np.where(background, np.float32(1e6), values)
    assert window(rubbish, background) == window(values, background)
    assert exposed_sample(values, np.ones(values.shape, bool)).counts.size == 0
    assert percentile_range(Sample.of(np.empty(0, np.float32))) == (0, 0)


@pytest.mark.parametrize(
    "values",
    [
        np.tile(np.arange(40.0), (30, 1)),  # each column has one value
        np.tile(np.arange(40.0), (30, 1)).T,
        np.eye(20),
        np.pad(np.ones((1, 1)), 9),
    ],
)
def test_a_picture_that_is_all_border_is_sampled_whole(values):
    low, high = window(values.astype(np.float32))
    assert values.min() <= low < high <= values.max()


def test_half_a_percent_is_clipped_at_either_end():
    values = np.random.default_rng(0).permutation(10_000).astype(np.float32)
    low, high = percentile_range(Sample.of(values))
    assert (low, high) == pytest.approx((50, 9949), abs=1)
    shown = stretch(values, low, high)
    assert (shown.min(), shown.max()) == (0, 1)
    np.testing.assert_allclose(shown[values == 5000], 0.5, atol=1e-3)


@settings(max_examples=200, deadline=None)
@given(
    arrays(
        st.sampled_from([np.uint8, np.uint16, np.int16, np.int32, np.float32]),
        st.integers(1, 60),
        elements=st.integers(0, 120),
    ),
    st.integers(-100, 10_000),
    st.lists(st.floats(0, 100), min_size=1, max_size=3),
)
def test_a_sample_has_the_percentiles_of_its_values(values, offset, percents):
    if np.can_cast(np.int16, values.dtype):
        values = values + values.dtype.type(offset)
    sample = Sample.of(values)
    assert sample.percentiles(*percents) == list(np.percentile(values.astype(np.float32), percents))
    assert sample.counts.sum() == values.size
    assert (np.diff(sample.levels) >= 0).all()

    def turned(levels):
        return 1 - levels * np.abs(levels) / np.float32(1e6)

    shown = turned(values.astype(np.float32))
    assert sample.through(turned).percentiles(*percents) == list(np.percentile(shown, percents))


def test_usable_grey_scales():
    def is_usable(shown):
        return exposure.is_usable(Sample.of(shown))

    values = np.linspace(0, 1, 1000, dtype=np.float32)
    assert is_usable(values)
    assert is_usable(values * 0.15 + 0.5)
    assert not is_usable(values * 0.05 + 0.5)  # nearly flat
    assert is_usable(np.clip(values * 3, 0, 1))  # two thirds are white, as much as some films
    assert not is_usable(np.clip(values * 10, 0, 1))
    assert not is_usable(np.clip(1 - values * 10, 0, 1))
    assert not is_usable(np.maximum(np.clip(1 - values * 10, 0, 1), 0.4))  # all one grey
    assert is_usable(np.maximum(1 - values * 2, 0.4))
    assert not is_usable(np.empty(0, np.float32))
