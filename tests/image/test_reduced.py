"""The smaller picture that a codestream holds shows the network what the whole one does."""

import os
from pathlib import Path

import numpy as np
import pytest
from dicom_files import LOSSLESS, LOSSY, codestream, dicom_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import palette
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000, JPEG2000Lossless

from fracjax import engine
from fracjax.configs import Preprocess
from fracjax.image import (
    ReadPolicy,
    Rejected,
    network_input,
    read_picture,
    read_pictures,
    reduced,
    render,
)

SHARED = os.environ.get("FRACJAX_SHARED")
SIZE = 64
WANTED = 2 * SIZE
PREPROCESS = Preprocess(image_size=SIZE)

# Mean and largest difference of the network's input: twice what was found in these pictures.
MEAN, LARGEST = 0.008, 0.06
LIKELIHOOD = 0.03  # docs/performance.md


def exposure(shape, seed=0):
    """A bone with a sharp edge and a thin bright line, in soft tissue: (h, w) in 0..1."""
    rng = np.random.default_rng(seed)
    rows, columns = (np.linspace(-1, 1, side) for side in shape)
    tissue = np.exp(-3 * np.add.outer(0.3 * rows**2, (columns - rng.uniform(-0.2, 0.2)) ** 2))
    bone = np.abs(np.add.outer(0.3 * rows, columns)) < 0.2
    noise = rng.normal(0, 0.01, shape)
    return np.clip(0.1 + 0.5 * tissue + 0.25 * bone + noise, 0, 1)


def file_of(seen, *, bits=12, syntax=JPEG2000Lossless, signed=False, **elements):
    stored = np.round(seen * (2**bits - 1)).astype(np.int64)
    if signed:
        stored = (stored - 2 ** (bits - 1)).astype(np.int32)
        elements |= {"RescaleSlope": 1, "RescaleIntercept": 2 ** (bits - 1)}
    else:
        stored = stored.astype(np.uint32)
    window = {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits}
    return dicom_bytes(stored, bits=bits, syntax=syntax, **(window | elements))


def square_of(picture, preprocess=PREPROCESS):
    return network_input(picture.display, preprocess, picture.shape)


def whole_and_smaller(data, wanted=WANTED):
    return read_picture(data), read_picture(data, least_side=wanted)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(257, 700), st.integers(257, 700)),
    seed=st.integers(0, 5),
    bits=st.sampled_from([8, 10, 12, 16]),
    syntax=st.sampled_from([JPEG2000Lossless, JPEG2000]),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
    signed=st.booleans(),
)
def test_the_smaller_picture_gives_the_same_input(shape, seed, **ways):
    whole, smaller = whole_and_smaller(file_of(exposure(shape, seed), **ways))
    levels = 0
    while -(-max(shape) // 2 ** (levels + 1)) >= WANTED:
        levels += 1
    assert smaller.shape == whole.shape == shape
    assert smaller.display.shape == tuple(-(-side // 2**levels) for side in shape)
    assert (whole.decoder, smaller.decoder) == ("imagecodecs", "pillow")
    assert (smaller.voi_source, smaller.notes) == (whole.voi_source, whole.notes)
    difference = np.abs(square_of(whole) - square_of(smaller))
    assert difference.mean() < MEAN
    assert difference.max() < LARGEST


def test_it_lies_where_the_whole_one_does():
    rows, columns = np.mgrid[:512, :512]
    blob = np.exp(-((rows - 200) ** 2 + (columns - 301) ** 2) / (2 * 20**2))
    whole, smaller = whole_and_smaller(file_of(blob))
    assert smaller.display.shape == (128, 128)
    middles = []
    for picture in (whole, smaller):
        square = square_of(picture)
        places = np.arange(SIZE)
        middles.append([square.sum(axis=axis) @ places / square.sum() for axis in (0, 1)])
    np.testing.assert_allclose(*middles, atol=0.01)


PERMUTED = np.random.default_rng(0).permutation(256) * 257
"""Greys of a palette whose indices say nothing of what lies between them."""


@pytest.mark.parametrize(
    "elements",
    [
        pytest.param({"PixelPaddingValue": 0}, id="padding would be mixed with anatomy"),
        pytest.param({"bits": 8, "allocated": 16, "BitsStored": 9, "HighBit": 8}, id="bits differ"),
        pytest.param({"PixelRepresentation": 1}, id="signs differ"),
        pytest.param({"WindowCenter": None, "WindowWidth": None}, id="percentiles would differ"),
        pytest.param(
            {"bits": 8, "photometric": "PALETTE COLOR", **palette(PERMUTED)},
            id="a palette's indices",
        ),
        *(
            pytest.param({"syntax": syntax, "bits": 8 if syntax == LOSSY[0] else 12}, id=syntax)
            for syntax in (*LOSSLESS, *LOSSY)
            if syntax not in (JPEG2000, JPEG2000Lossless)
        ),
    ],
)
def test_all_is_decoded_where_nothing_smaller_will_do(elements):
    whole, same = whole_and_smaller(file_of(exposure((300, 280)), **elements))
    assert same.decoder == whole.decoder
    np.testing.assert_array_equal(same.display, whole.display)


def test_all_is_decoded_where_all_is_wanted():
    data = file_of(exposure((300, 280)))
    assert read_picture(data).display.shape == (300, 280)
    policy = ReadPolicy(full_resolution=True)
    assert read_picture(data, policy, WANTED).display.shape == (300, 280)
    assert read_picture(data, least_side=WANTED + 23).display.shape == (300, 280)
    assert render.least_side(PREPROCESS) == WANTED
    assert render.least_side(Preprocess(image_size=SIZE, fit="crop")) is None
    assert render.least_side(Preprocess(image_size=SIZE, border="crop")) is None
    assert render.least_side(Preprocess(image_size=SIZE, window="percentile")) is None


def test_a_codestream_that_begins_elsewhere_is_decoded_whole():
    frame = codestream(
        np.round(exposure((300, 280)) * 4095).astype(np.uint16), 12, JPEG2000Lossless
    )
    assert reduced.halvings(frame, JPEG2000Lossless, (300, 280), WANTED) == 1
    for place in (19, 23, 35, 39):  # of the picture and of the tiles
        moved = bytearray(frame)
        moved[place] = 1
        assert reduced.halvings(bytes(moved), JPEG2000Lossless, (300, 280), WANTED) == 0
    assert reduced.halvings(b"box" + frame, JPEG2000Lossless, (300, 280), WANTED) == 0


def test_a_shutter_covers_the_same():
    edges = {
        "ShutterShape": "RECTANGULAR",
        "ShutterUpperHorizontalEdge": 100,
        "ShutterLowerHorizontalEdge": 400,
        "ShutterLeftVerticalEdge": 60,
        "ShutterRightVerticalEdge": 300,
    }
    whole, smaller = whole_and_smaller(file_of(exposure((512, 400)), **edges))
    assert smaller.display.shape == (128, 100)
    assert smaller.notes == whole.notes == ()
    black = whole.display == 0
    np.testing.assert_array_equal(black[2::4, 2::4], smaller.display == 0)
    square, same = (square_of(p) for p in (whole, smaller))
    assert np.abs(square - same).mean() < 2 * MEAN


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(place=st.floats(0, 1), value=st.integers(0, 255), length=st.integers(1, 40))
def test_damage_is_a_picture_or_a_reason(place, value, length):
    frame = bytearray(codestream(DAMAGED, 12, JPEG2000Lossless))
    at = int(place * (len(frame) - length))
    frame[at : at + length] = bytes([value]) * length
    data = file_of(exposure((300, 280)), PixelData=encapsulate([bytes(frame)]))
    try:
        assert np.isfinite(read_picture(data, least_side=WANTED).display).all()
    except Rejected as rejected:
        assert "SMITHERS" not in rejected.detail
        with pytest.raises(Rejected) as caught:  # what is said is said of the whole
            read_picture(data)
        assert caught.value.reason == rejected.reason


DAMAGED = np.round(exposure((300, 280)) * 4095).astype(np.uint16)


@pytest.mark.parametrize("count", [20, 40, 44, 60])
@pytest.mark.parametrize("wanted", [70, WANTED, None])
def test_a_line_that_is_repeated_is_found(count, wanted):
    torn = exposure((300, 280))
    torn[100 : 100 + count] = torn[100]
    with pytest.raises(Rejected, match="one line of the picture is repeated"):
        read_picture(file_of(torn), least_side=wanted)


@pytest.mark.parametrize("overlay", [False, True])
def test_bits_above_the_stored_ones(overlay):
    """A codestream of 16 bits for 12: empty ones do no harm, and what lies in them is left out."""
    stored = np.round(exposure((300, 280)) * 4095).astype(np.uint16)
    written = stored.copy()
    if overlay:
        written[140:160, 130:150] |= 1 << 12  # on bone
    frame = codestream(written, 16, JPEG2000Lossless)
    whole, smaller = whole_and_smaller(
        file_of(exposure((300, 280)), PixelData=encapsulate([frame]))
    )
    assert smaller.decoder == ("imagecodecs" if overlay else "pillow")
    difference = np.abs(square_of(whole) - square_of(smaller))
    assert difference.mean() < MEAN
    assert difference.max() < LARGEST
    named = file_of(exposure((300, 280)), PixelData=encapsulate([frame]), extra=overlays())
    assert read_picture(named, least_side=WANTED).decoder == "imagecodecs"


def overlays():
    dataset = Dataset()
    dataset.add_new(0x60000100, "US", 16)
    return dataset


def test_frames_are_made_smaller_one_by_one():
    frames = [
        codestream(np.round(exposure((300, 280), seed) * 4095).astype(np.uint16), 12, JPEG2000)
        for seed in (0, 1)
    ]
    data = file_of(
        exposure((300, 280)), syntax=JPEG2000, NumberOfFrames=2, PixelData=encapsulate(frames)
    )
    shapes = [picture.display.shape for picture in read_pictures(data, least_side=WANTED)]
    assert shapes == [(150, 140)] * 2


@pytest.mark.skipif(not SHARED, reason="FRACJAX_SHARED names no folder of real files")
@pytest.mark.parametrize(
    "name",
    ["ts/RG2_J2KR", "ts/RG2_J2KI", "ts/RG3_J2KR", "ts/RG3_J2KI", "radiograph/hand_KODAK_J2KR.dcm"],
)
def test_real_radiographs_keep_their_likelihood(name):
    data = (Path(SHARED) / "dicom" / name).read_bytes()
    scorer = engine.load(batch_size=2)
    preprocess = scorer.manifest.preprocess
    whole, smaller = whole_and_smaller(data, render.least_side(preprocess))
    assert max(smaller.display.shape) < max(whole.display.shape)
    squares = [square_of(picture, preprocess) for picture in (whole, smaller)]
    assert np.ptp(scorer.score(np.stack(squares)).likelihoods) < LIKELIHOOD
