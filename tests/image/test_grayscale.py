"""The grey-scale pipeline against formulas written out from the standard."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fracjax.image.grayscale import (
    LookupTable,
    gray_of_colour,
    is_gray,
    look_up,
    meeting,
    padding,
    rescale,
    stored_values,
    window,
)

numbers = st.floats(-5000, 5000, width=32)
values = arrays(np.float32, (3, 4), elements=numbers)


def linear(x, c, w):  # PS3.3 C.11.2.1.2.1, the formula as printed, with 0..1 for ymin..ymax
    if x <= c - 0.5 - (w - 1) / 2:
        return 0.0
    if x > c - 0.5 + (w - 1) / 2:
        return 1.0
    return (x - (c - 0.5)) / (w - 1) + 0.5


def linear_exact(x, c, w):  # C.11.2.1.3.2
    return 0.0 if x <= c - w / 2 else 1.0 if x > c + w / 2 else (x - c) / w + 0.5


def sigmoid(x, c, w):  # C.11.2.1.3.1
    exponent = -4 * (x - c) / w
    return 0.0 if exponent > 700 else 1 / (1 + math.exp(exponent))


FORMULAS = {"LINEAR": linear, "LINEAR_EXACT": linear_exact, "SIGMOID": sigmoid}


@given(values, st.integers(-4000, 4000), st.integers(2, 8000), st.sampled_from(sorted(FORMULAS)))
def test_windows_follow_the_formulas_of_the_standard(x, center, width, function):
    got = window(x, center, width, function)
    want = np.vectorize(lambda v: FORMULAS[function](float(v), center, width))(x)
    assert got.dtype == np.float32
    # Half a unit in the last place of a float32 input of 5,000, over the narrowest window.
    np.testing.assert_allclose(got, want, atol=2.5e-4 / (width - 1) + 1e-6, rtol=0)


def test_a_window_of_width_one_is_a_threshold():
    shown = window(np.array([[9, 10, 11]]), 10.5, 1, "LINEAR")
    assert shown.tolist() == [[0, 0, 1]]


@pytest.mark.parametrize(
    ("center", "width", "function"),
    [
        (0, 0.5, "LINEAR"),
        (0, 0, "LINEAR_EXACT"),
        (0, -3, "SIGMOID"),
        (math.nan, 5, "LINEAR"),
        (0, math.inf, "LINEAR"),
        (1e300, 1e300, "LINEAR_EXACT"),
        (0, 1e-300, "SIGMOID"),
        (0, 5, "CUBIC"),
    ],
)
def test_windows_that_the_standard_forbids_are_refused(center, width, function):
    with pytest.raises(ValueError):
        window(np.zeros((2, 2)), center, width, function)


@given(
    st.integers(1, 16).flatmap(
        lambda bits: st.tuples(st.just(bits), st.integers(bits - 1, 15), st.integers(0, 65535))
    )
)
def test_stored_values_ignore_what_lies_around_them(case):
    bits, high_bit, raw = case
    low_bits = (raw >> (high_bit - bits + 1)) & (2**bits - 1)
    unsigned = stored_values(np.array([[raw]], np.uint16), bits, high_bit, clip=False)
    assert unsigned.item() == low_bits
    signed = stored_values(np.array([[raw]], np.uint16).view(np.int16), bits, high_bit, clip=False)
    assert signed.item() == low_bits - (2**bits if low_bits >= 2 ** (bits - 1) else 0)


def test_overshoot_of_lossy_compression_is_clipped_and_does_not_wrap():
    assert stored_values(np.array([[1024]], np.uint16), 10, 9, clip=True).item() == 1023
    signed = stored_values(np.array([[-513, 512]], np.int16), 10, 9, clip=True)
    assert signed.tolist() == [[-512, 511]]


@pytest.mark.parametrize("limit", [None, 20])
@pytest.mark.parametrize("swap", [False, True])
def test_padding_covers_the_range_in_either_order(limit, swap):
    value, limit = (limit, 10) if swap and limit else (10, limit)
    mask = padding(np.array([[9, 10, 15, 20, 21]]), value, limit)
    assert mask.tolist() == [[False, True, limit is not None, limit is not None, False]]


@pytest.mark.parametrize("slope", [1e38, math.nan, math.inf])
def test_rescaling_out_of_reach_is_refused(slope):
    with pytest.raises(ValueError):
        rescale(np.array([[0, 65535]]), slope, 0)


def test_rescale():
    assert rescale(np.array([[2, 4]], np.uint16), 0.5, -1024).tolist() == [[-1023, -1022]]


@given(
    arrays(np.int32, (2, 3), elements=st.integers(-70000, 70000)),
    st.integers(-1000, 1000),
    st.integers(1, 600),
)
def test_look_up_clamps_to_the_first_and_last_entry(x, first, count):
    entries = np.arange(count, dtype=np.uint16)[::-1]
    got = look_up(x, LookupTable(first, entries, 16))
    want = [[int(entries[min(max(v - first, 0), count - 1)]) for v in row] for row in x.tolist()]
    assert got.tolist() == want


@given(
    st.integers(-40000, 70000),
    st.integers(1, 2**16),
    st.sampled_from([0, 2**16, -(2**16)]),
    st.integers(-1000, 1000),
    st.integers(0, 2000),
)
def test_a_table_meets_its_inputs_where_it_can(first, count, mistake, before, width):
    """Written with the wrong sign it is put right, and one that meets its inputs stays."""
    low = first + before
    high = low + width
    reaches = first <= high and low < first + count
    table = LookupTable(first + mistake, np.arange(count, dtype=np.uint16), 16)
    got = meeting(table, np.array([high, low]))
    if table.first <= high and low < table.first + count:
        assert got is table or got == table
    elif reaches:
        assert got.first == first
    assert abs(got.first - table.first) in (0, 2**16)
    np.testing.assert_array_equal(got.entries, table.entries)


def test_an_eight_bit_table_with_many_entries_does_not_wrap():
    table = LookupTable(0, (np.arange(1024) // 4).astype(np.uint8), 8)
    assert look_up(np.array([[0, 300, 1023]]), table).tolist() == [[0, 75, 255]]


def test_gray_of_colour():
    gray = np.repeat(np.array([[0, 128, 255]], np.uint8)[..., None], 3, axis=-1)
    shown = gray_of_colour(gray, 8)
    np.testing.assert_allclose(shown, [[0, 128 / 255, 1]], atol=1e-7)
    gray[0, 1, 2] += 16  # as much as lossy compression may do
    assert gray_of_colour(gray, 8) is not None
    gray[0, 1, 2] += 1
    assert gray_of_colour(gray, 8) is None


def test_marks_in_colour_leave_a_picture_grey():
    picture = np.full((10, 10, 3), 90, np.uint8)
    picture[0, :2] = 250, 200, 0
    assert is_gray(picture, 255)
    picture[0, 2] = 250, 200, 0
    assert not is_gray(picture, 255)
