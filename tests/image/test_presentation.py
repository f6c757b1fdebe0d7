"""What is done where the header says too little, too much, or what is not so."""

import numpy as np
import pytest
from dicom_files import dicom_bytes
from pictures import TOLERANCE, lut, picture, reason_of, voi
from pydicom import Dataset

from fracjax.image import ReadPolicy, Reason, Rejected, read_dicom

FULL = voi("LINEAR", 12, 0, 1)
BAD_WINDOW = {"WindowCenter": 10, "WindowWidth": 5}
SHAPE = (48, 40)


def shown_by(stored, bits=12, policy=None, **elements):
    data = dicom_bytes(stored.astype(np.uint32), bits=bits, **elements)
    return read_dicom(data, policy or ReadPolicy())


@pytest.mark.parametrize(
    "elements",
    [
        {"WindowCenter": 10, "WindowWidth": 5},  # below all values: everything white
        {"WindowCenter": 10, "WindowWidth": 0},
        {"WindowCenter": 600, "WindowWidth": 100, "VOILUTFunction": "CUBIC"},
        {"WindowCenter": 515, "WindowWidth": 20},  # 9 of 10 are white
        {"WindowCenter": 500, "WindowWidth": 60000},  # nothing but mid-grey
        {"WindowCenter": 500, "WindowWidth": 60000, "VOILUTFunction": "SIGMOID"},
        {"VOILUTSequence": lut([], 0, 8)},
        {"VOILUTSequence": lut([5] * 20, 0, 8)},
        {"VOILUTSequence": lut(range(20), 5000, 8)},
    ],
)
def test_an_unusable_grey_scale_gives_way_to_percentiles(elements):
    stored = picture(8) + 500
    shown = shown_by(stored, **elements)
    np.testing.assert_array_equal(shown.display, shown_by(stored).display)
    assert (shown.voi_source, shown.notes) == ("percentile", ("window_ignored",))
    assert shown_by(stored).notes == ()
    policy = ReadPolicy(without_window="set_aside")
    for case in (elements, {}):
        with pytest.raises(Rejected, match="no_window"):
            shown_by(stored, policy=policy, **case)
    assert shown_by(stored, policy=policy, WindowCenter=628, WindowWidth=256).notes == ()


def test_percentiles_do_without_the_darkest_and_brightest_and_are_linear_between():
    stored = picture(12, shape=SHAPE)
    shown = shown_by(stored).display
    between = (shown > 0) & (shown < 1)
    assert between.mean() > 0.9
    slope, offset = np.polyfit(stored[between], shown[between], 1)
    np.testing.assert_allclose(slope * stored[between] + offset, shown[between], atol=1e-5)


def test_eight_bits_without_a_window_are_shown_as_they_are():
    stored = picture(8) // 4 + 90
    shown = shown_by(stored, bits=8, policy=ReadPolicy(without_window="set_aside"))
    np.testing.assert_allclose(shown.display, stored / 255, atol=TOLERANCE)
    assert shown.voi_source == "none"


@pytest.mark.parametrize("slope", [1, -1])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("sign", [1, -1])
def test_photometry_and_intensity_sign_are_compared(photometric, sign, slope):
    stored = picture(12, shape=SHAPE)
    elements = {
        "photometric": photometric,
        "RescaleSlope": slope,
        "RescaleIntercept": 0 if slope == 1 else 4095,
        "PixelIntensityRelationshipSign": sign,
    }
    elements = {k: v for k, v in elements.items() if v is not None}
    inverts = photometric == "MONOCHROME1"
    agree = inverts == (sign * slope == 1)
    trusted = shown_by(stored, **elements, **FULL)
    assert trusted.polarity_source == "photometric"
    assert trusted.notes == (() if agree else ("polarity_conflict",))
    rises = np.corrcoef(trusted.display.ravel(), stored.ravel())[0, 1] > 0
    assert rises == ((slope == 1) != inverts)
    # Where the window is wrong, the header's word on the display is not taken for more.
    window = {"WindowCenter": -9000, "WindowWidth": 5}
    distrusted = shown_by(stored, **elements, **window)
    assert distrusted.polarity_source == ("photometric" if agree else "intensity_sign")
    assert distrusted.notes == ("window_ignored", *(() if agree else ("polarity_conflict",)))
    rises = np.corrcoef(distrusted.display.ravel(), stored.ravel())[0, 1] > 0
    assert rises == (sign == -1)  # more X-rays are darker


def test_a_table_that_turns_the_scale_over_is_no_conflict():
    stored = picture(12, shape=SHAPE)
    falling = {"VOILUTSequence": lut(np.arange(4096)[::-1], 0, 12)}
    shown = shown_by(stored, PixelIntensityRelationshipSign=1, **falling)
    assert shown.notes == ()
    np.testing.assert_allclose(shown.display, 1 - stored / 4095, atol=TOLERANCE)


def test_raw_values_are_set_aside_or_shown_by_their_logarithm():
    thickness = picture(12, shape=SHAPE) / 4095
    counts = np.round(40000 * np.exp(-3 * thickness))  # Beer and Lambert
    raw = {
        "PresentationIntentType": "FOR PROCESSING",
        "PixelIntensityRelationship": "LIN",
        "PixelIntensityRelationshipSign": 1,
    }
    data = dicom_bytes(counts.astype(np.uint32), bits=16, StudyInstanceUID="1.2.3", **raw)
    with pytest.raises(Rejected) as caught:
        read_dicom(data)
    assert caught.value.reason == Reason.FOR_PROCESSING
    assert caught.value.header.study_instance_uid == "1.2.3"
    policy = ReadPolicy(for_processing="score", without_window="set_aside")
    shown = read_dicom(data, policy)
    assert (shown.voi_source, shown.polarity_source) == ("percentile", "intensity_sign")
    assert shown.notes == ("for_processing", "polarity_conflict")
    logarithmic = shown_by(np.round(thickness * 4095))
    np.testing.assert_allclose(shown.display, logarithmic.display, atol=0.01)


def visible_of(**elements):
    stored = picture(12, shape=SHAPE) // 2 + 1000
    shown = shown_by(stored, **elements, **FULL)
    visible = shown.display > 0
    np.testing.assert_allclose(shown.display[visible], stored[visible] / 4095, atol=TOLERANCE)
    return visible, shown.notes


RECTANGLE = {
    "ShutterUpperHorizontalEdge": 5,
    "ShutterLowerHorizontalEdge": 30,
    "ShutterLeftVerticalEdge": 3,
    "ShutterRightVerticalEdge": 20,
}
TRIANGLE = [1, 1, 41, 1, 41, 31]  # row, column, row, column, ...


def in_rectangle(row, column):
    return 5 <= row <= 30 and 3 <= column <= 20


def in_circle(row, column):
    return (row - 20) ** 2 + (column - 15) ** 2 <= 12**2


def in_triangle(row, column):
    return column >= 1 and row <= 41 and (column - 1) * 40 <= (row - 1) * 30


@pytest.mark.parametrize("name", ["Shutter", "Collimator"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("kinds", [["RECTANGULAR"], ["CIRCULAR"], ["RECTANGULAR", "CIRCULAR"]])
def test_shutters_and_collimators_are_black(kinds, photometric, name):
    elements = {k.replace("Shutter", name): v for k, v in RECTANGLE.items()}
    elements |= {
        f"{name}Shape": kinds,
        f"CenterOfCircular{name}": [20, 15],
        f"RadiusOfCircular{name}": 12,
        "PresentationLUTShape": "INVERSE" if photometric == "MONOCHROME1" else None,
    }
    stored = picture(12, shape=SHAPE) // 2 + 1000
    seen = 4095 - stored if photometric == "MONOCHROME1" else stored
    shown = shown_by(seen, photometric=photometric, **elements, **FULL)
    for row, column in np.ndindex(SHAPE):
        visible = ("RECTANGULAR" not in kinds or in_rectangle(row + 1, column + 1)) and (
            "CIRCULAR" not in kinds or in_circle(row + 1, column + 1)
        )
        expected = stored[row, column] / 4095 if visible else 0
        assert shown.display[row, column] == pytest.approx(expected, abs=TOLERANCE)


def test_a_polygonal_shutter():
    visible, notes = visible_of(ShutterShape="POLYGONAL", VerticesOfThePolygonalShutter=TRIANGLE)
    assert notes == ()
    inside = np.array([[in_triangle(r + 1, c + 1) for c in range(40)] for r in range(48)])
    # The edge itself may be a pixel to either side.
    assert np.mean(visible != inside) < 0.02
    assert visible[40, 0] and visible[0, 0] and not visible[0, 5] and not visible[41].any()


def test_a_bitmap_shutter():
    covered = np.zeros(SHAPE, np.uint8)
    covered[:10] = 1
    overlay = Dataset()
    overlay.add_new(0x60000010, "US", SHAPE[0])
    overlay.add_new(0x60000011, "US", SHAPE[1])
    overlay.add_new(0x60000050, "SS", [1, 1])
    overlay.add_new(0x60000100, "US", 1)
    overlay.add_new(0x60000102, "US", 0)
    overlay.add_new(0x60003000, "OW", np.packbits(covered, bitorder="little").tobytes())
    visible, notes = visible_of(ShutterShape="BITMAP", ShutterOverlayGroup=0x6000, extra=overlay)
    assert notes == ()
    np.testing.assert_array_equal(visible, covered == 0)


@pytest.mark.parametrize(
    "elements",
    [
        {"ShutterShape": "RECTANGULAR"},  # without edges
        {"ShutterShape": "RECTANGULAR", **RECTANGLE, "ShutterUpperHorizontalEdge": 30},
        {"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [9000, 1],
         "RadiusOfCircularShutter": 5},
        {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [1, 2, 3]},
        {"ShutterShape": "BITMAP", "ShutterOverlayGroup": 0x6000},
    ],
)  # fmt: skip
def test_a_shutter_that_makes_no_sense_is_ignored(elements):
    visible, notes = visible_of(**elements)
    assert visible.all()
    assert notes == ("shutter_ignored",)


def test_what_a_shutter_covers_does_not_set_the_contrast():
    stored = picture(12, shape=SHAPE) // 4
    covered = stored.copy()
    covered[:4] = 4095
    covered[30:] = 4095
    shutter = {"ShutterShape": "RECTANGULAR", **RECTANGLE}
    np.testing.assert_array_equal(
        shown_by(covered, **shutter).display[4:30], shown_by(stored, **shutter).display[4:30]
    )
    inside = np.ones(SHAPE, bool)
    inside[4:30, 2:20] = False
    flat = dicom_bytes((covered * inside + 7).astype(np.uint32), bits=12, **shutter)
    assert reason_of(flat) == Reason.FLAT
