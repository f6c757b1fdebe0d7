"""What is done where the header says too little, too much, or what is not so."""

import numpy as np
import pytest
from dicom_files import dicom_bytes
from pictures import TOLERANCE, lut, picture, reason_of, voi
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from fracjax.image import ReadPolicy, Reason, Rejected, presentation, read_dicom

FULL = voi("LINEAR", 12, 0, 1)
BAD_WINDOW = {"WindowCenter": 10, "WindowWidth": 5}
SHAPE = (72, 64)


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


RISING = np.round(np.linspace(0, 1, 4096) ** 1.5 * 4095).astype(int)


def table(entries, first, bits, representation):
    """A table whose first input stands there as US or SS, whatever its sign is."""
    (item,) = lut(entries, 0, bits)
    item["LUTDescriptor"].VR = representation
    wraps = 2**16 if representation == "US" else 0
    item.LUTDescriptor = [len(entries), first + (wraps if first < 0 else 0), bits]
    if representation == "SS" and first >= 2**15:
        item.LUTDescriptor[1] -= 2**16
    return [item]


@pytest.mark.parametrize("representation", ["US", "SS"])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
@pytest.mark.parametrize("sequence", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize("first", [-2048, 100, 40000])
def test_a_table_begins_where_it_is_meant_to(first, sequence, syntax, representation):
    """In implicit VR, too, where PixelRepresentation decides on the sign."""
    seen = picture(12)
    stored = (seen + first).astype(np.int32 if first < 0 else np.uint32)
    elements = {sequence: table(RISING, first, 12, representation)}
    if sequence == "ModalityLUTSequence":
        elements |= FULL
    shown = read_dicom(dicom_bytes(stored, bits=16, syntax=syntax, **elements))
    np.testing.assert_allclose(shown.display, RISING[seen] / 4095, atol=TOLERANCE)
    assert shown.notes == ()


def test_a_table_of_rescaled_values_of_the_other_sign():
    stored = picture(12)
    rescaled = {"RescaleSlope": 1, "RescaleIntercept": -3000}
    shown = shown_by(stored, VOILUTSequence=table(RISING, -3000, 12, "US"), **rescaled)
    np.testing.assert_allclose(shown.display, RISING[stored] / 4095, atol=TOLERANCE)


def table_of_bytes(data, count, bits):
    (item,) = lut([0], 0, bits)
    item.LUTDescriptor = [count, 0, bits]
    item.LUTData = data
    return [item]


@pytest.mark.parametrize(
    ("data", "bits", "is_read"),
    [
        (np.arange(256, dtype="u1"), 8, True),  # two entries a word
        (np.arange(255, dtype="u1").tobytes() + b"\xff", 8, True),
        (np.arange(256, dtype="<u2"), 8, True),
        (np.arange(256, dtype="<u2") * 16, 12, True),
        (np.arange(255, dtype="<u2") * 16, 12, True),  # one entry short
        (np.arange(254, dtype="<u2") * 16, 12, False),
        (np.arange(128, dtype="<u2") * 16, 12, False),  # no bytes, whatever their number
        (np.arange(128, dtype="<u2") * 512, 16, False),
        (b"", 8, False),
    ],
)
def test_what_of_a_table_is_read(data, bits, is_read):
    data = data if isinstance(data, bytes) else data.tobytes()
    stored = picture(8)
    shown = shown_by(stored, bits=8, VOILUTSequence=table_of_bytes(data, 256, bits))
    assert shown.voi_source == ("lut" if is_read else "percentile")
    assert shown.notes == (() if is_read else ("window_ignored",))
    if is_read:
        expected = stored / 255 if bits == 8 else np.minimum(stored, len(data) // 2 - 1) * 16 / 4095
        np.testing.assert_allclose(shown.display, expected, atol=TOLERANCE)


@pytest.mark.parametrize(
    "elements",
    [
        {"ModalityLUTSequence": [Dataset()]},
        {"ModalityLUTSequence": lut(range(4096), 0, 0)},
        {"ModalityLUTSequence": lut([], 0, 12)},
        {"ModalityLUTSequence": lut([7] * 4096, 0, 12)},
        {"ModalityLUTSequence": lut(range(20), 9000, 12)},  # far from all values
        {"RescaleSlope": 0, "RescaleIntercept": 5},
        {"RescaleSlope": 1e38},
        {"RescaleSlope": 1e-9, "RescaleIntercept": 1000},
    ],
)
def test_an_unusable_modality_transform_is_done_without(elements):
    stored = picture(12)
    shown = shown_by(stored, **elements, **FULL)
    np.testing.assert_array_equal(shown.display, shown_by(stored, **FULL).display)
    assert (shown.voi_source, shown.notes) == ("window", ("modality_ignored",))
    flat = dicom_bytes(np.full(SHAPE, 9, np.uint32), bits=12, **elements, **FULL)
    assert reason_of(flat) == Reason.FLAT
    # Of display values nothing else is known then, so that they are shown as they are.
    eight = shown_by(picture(8), bits=8, **elements)
    np.testing.assert_allclose(eight.display, picture(8) / 255, atol=TOLERANCE)


def test_a_modality_transform_that_is_no_number():
    data = dicom_bytes(picture(12).astype(np.uint32), bits=12, RescaleSlope="1.5", **FULL)
    shown = read_dicom(data.replace(b"1.5 ", b"SMIT"))
    assert shown.notes == ("modality_ignored",)


GOOD = {"WindowCenter": 2048, "WindowWidth": 4096}


@pytest.mark.parametrize(
    ("elements", "is_ignored"),
    [
        ({"VOILUTSequence": [], **GOOD}, False),
        ({"VOILUTSequence": [Dataset()], **GOOD}, True),
        ({"VOILUTSequence": lut([0] * 4096, 0, 12), **GOOD}, True),
        ({"VOILUTSequence": lut(range(20), 9000, 12), **GOOD}, True),
        ({"WindowCenter": [10, 2048], "WindowWidth": [5, 4096]}, True),
        ({"WindowCenter": [10, 2048, 1], "WindowWidth": [0, 4096, 1]}, True),
        ({"WindowCenter": [2048, 10], "WindowWidth": [4096, 5]}, False),
        ({"WindowCenter": ["", 2048], "WindowWidth": [700, 4096]}, False),
        ({"WindowCenter": ["", 2048], "WindowWidth": ["", 4096]}, False),
        ({"WindowCenter": [2048, 9], "WindowWidth": 4096}, False),
    ],
)
def test_the_first_grey_scale_that_is_usable_is_taken(elements, is_ignored):
    stored = picture(12)
    shown = shown_by(stored, policy=ReadPolicy(without_window="set_aside"), **elements)
    np.testing.assert_allclose(shown.display, stored / 4095, atol=TOLERANCE)
    assert shown.voi_source == "window"
    assert shown.notes == (("window_ignored",) if is_ignored else ())


def test_a_usable_table_comes_before_all_windows():
    stored = picture(12)
    shown = shown_by(stored, VOILUTSequence=lut(RISING, 0, 12), **GOOD)
    np.testing.assert_allclose(shown.display, RISING[stored] / 4095, atol=TOLERANCE)
    assert (shown.voi_source, shown.notes) == ("lut", ())


def test_a_table_that_shows_most_as_one_grey_is_not_usable():
    stored = picture(12)
    mostly_grey = np.where(np.arange(4096) < 600, np.arange(4096) * 3, 2000)
    shown = shown_by(stored, VOILUTSequence=lut(mostly_grey, 0, 12))
    assert (shown.voi_source, shown.notes) == ("percentile", ("window_ignored",))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("linear_exact", "LINEAR_EXACT"),
        ("LINEAR EXACT", "LINEAR_EXACT"),
        ("Linear", "LINEAR"),
        ("sigmoid", "SIGMOID"),
    ],
)
def test_voi_functions_however_they_are_written(written, meant):
    window = {"WindowCenter": 2000, "WindowWidth": 64}
    stored = picture(8) + 1872
    shown, expected = (
        shown_by(stored, VOILUTFunction=function, **window) for function in (written, meant)
    )
    assert (shown.voi_source, shown.notes) == ("window", ())
    np.testing.assert_array_equal(shown.display, expected.display)


def test_a_usable_window_behind_a_bad_one_is_trusted_with_the_polarity():
    windows = {"WindowCenter": [-9000, 2048], "WindowWidth": [5, 4096]}
    shown = shown_by(picture(12), PixelIntensityRelationshipSign=1, **windows)
    assert shown.polarity_source == "photometric"
    assert shown.notes == ("window_ignored", "polarity_conflict")


@pytest.mark.parametrize("sign", [None, 1, -1])
@pytest.mark.parametrize(
    ("photometric", "shape"), [("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE")]
)
def test_the_intensity_sign_decides_where_the_header_contradicts_itself(photometric, shape, sign):
    stored = picture(12)
    shown = shown_by(
        stored,
        photometric=photometric,
        PresentationLUTShape=shape,
        PixelIntensityRelationshipSign=sign,
        **FULL,
    )
    inverted = sign != -1  # without a sign, one of the two says so
    expected = 1 - stored / 4095 if inverted else stored / 4095
    np.testing.assert_allclose(shown.display, expected, atol=TOLERANCE)
    assert shown.polarity_source == ("intensity_sign" if sign else "photometric")
    assert shown.notes == ("polarity_conflict",)


@pytest.mark.parametrize("keyword", ["PixelPaddingValue", "PixelPaddingRangeLimit"])
@pytest.mark.parametrize("value", [b"\0\0", b"none"])
def test_padding_that_makes_no_sense_is_ignored(keyword, value):
    malformed = Dataset()
    malformed.add_new("PixelPaddingValue", "US", 0)
    malformed.add_new(keyword, "OB", value)
    stored = picture(12)
    shown = shown_by(stored, extra=malformed, **FULL)
    np.testing.assert_allclose(shown.display, stored / 4095, atol=TOLERANCE)
    assert shown.notes == ("padding_ignored",)


def test_padding_and_shutter_that_together_leave_nothing():
    stored = picture(12)
    stored[:40] = 0
    shutter = {**RECTANGLE, "ShutterShape": "rectangular", "PixelPaddingValue": 0}
    assert reason_of(dicom_bytes(stored.astype(np.uint32), bits=12, **shutter)) == Reason.FLAT


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
    visible, notes = visible_of(ShutterShape="polygonal", VerticesOfThePolygonalShutter=TRIANGLE)
    assert notes == ()
    inside = np.array([[in_triangle(r + 1, c + 1) for c in range(64)] for r in range(72)])
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


@pytest.mark.parametrize(
    "step",
    ["shutter.occluded", "header.integer", "grayscale.rescale", "grayscale.window"],
)
def test_too_little_memory_is_no_fault_of_the_header(monkeypatch, step):
    """Shown without a part of its header, the picture would have another score."""
    data = dicom_bytes(
        picture(12).astype(np.uint32),
        bits=12,
        RescaleSlope=2,
        RescaleIntercept=0,
        WindowCenter=4000,
        WindowWidth=8000,
        PixelPaddingValue=0,
    )
    assert not read_dicom(data).notes

    def too_little(*_, **__):
        raise MemoryError

    module, name = step.split(".")
    monkeypatch.setattr(getattr(presentation, module), name, too_little)
    assert reason_of(data) == "too_large"
