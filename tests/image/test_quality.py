"""Damaged streams that decode without an error, and sound pictures that are left alone."""

import os
import struct
from contextlib import suppress
from functools import cache
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from dicom_files import LOSSLESS, LOSSY, codestream, dicom_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import picture, radiograph, reason_of
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    HTJ2K,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    RLELossless,
)

from fracjax.image import (
    Reason,
    Rejected,
    codecs,
    jpeg_2000,
    lossless_jpeg,
    quality,
    read_dicom,
    read_raster,
)

SHARED = os.environ.get("FRACJAX_SHARED")
needs_shared = pytest.mark.skipif(not SHARED, reason="FRACJAX_SHARED names no folder")


def film(bits, shape=(192, 160), seed=0):
    """A picture with structure along every line, over most of the range."""
    values = radiograph(seed, shape)
    scaled = (values - values.min()) / np.ptp(values)
    return np.round(scaled * (2**bits - 1) * 0.9).astype(np.uint8 if bits == 8 else np.uint16)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 16),
    st.integers(1, 7),
    st.tuples(st.integers(1, 150), st.integers(2, 40)),
    st.integers(0, 99),
    st.booleans(),
)
def test_the_length_of_lossless_jpeg_follows_from_its_samples(bits, predictor, shape, seed, rough):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2**bits, shape) if rough else picture(bits, seed, shape)
    samples = values.astype(np.uint8 if bits <= 8 else np.uint16)
    frame = bytes(
        imagecodecs.jpeg8_encode(samples, lossless=True, predictor=predictor, bitspersample=bits)
    )
    scan = lossless_jpeg.read_scan(frame)
    assert (scan.precision, scan.predictor) == (bits, predictor)
    assert (lossless_jpeg.bits_needed(samples, scan) + 7) // 8 == scan.size
    assert lossless_jpeg.fault(frame, samples) is None
    if bits not in (8, 16):
        assert lossless_jpeg.fault(frame, samples | samples.dtype.type(1 << bits))
    longer = frame[:-2] + b"\x55\x55\x55" + frame[-2:]
    assert lossless_jpeg.fault(longer, samples)


@pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLosslessSV1])
def test_damaged_lossless_jpeg_is_found(syntax):
    stored = film(12)
    frame = codestream(stored, 12, syntax)
    rng = np.random.default_rng(0)
    missed = found = 0
    for _ in range(100):
        damaged = bytearray(frame)
        damaged[rng.integers(len(frame) // 8, len(frame) - 10)] ^= 1 << rng.integers(8)
        samples = decoded(bytes(damaged), syntax)
        if samples is None:
            continue
        substantial = np.abs(samples.astype(int) - stored).mean() > 0.02 * 4095
        if codecs.fault(bytes(damaged), syntax, samples) is None:
            missed += substantial
        else:
            found += substantial
            data = dicom_bytes(
                stored.astype(np.uint32),
                bits=12,
                syntax=syntax,
                PixelData=encapsulate([bytes(damaged)]),
            )
            assert reason_of(data) == Reason.DAMAGED
    # Of real radiographs, which are larger, all are found (benchmarks/reading.py).
    assert found > 5
    assert missed <= found / 4


def decoded(frame, syntax):
    """The samples, or ``None`` where the decoder itself finds the damage."""
    try:
        return codecs.decode(frame, syntax)
    except Exception:  # noqa: BLE001 - whatever the decoder raises
        return None


def torn(kind, film):
    damaged = film.copy()
    if kind == "shifted":
        damaged[96:] = np.roll(film[96:], 24, axis=1)
    if kind == "brighter from a block on":
        damaged[96:104, 80:] += 60
        damaged[104:] += 60
    if kind == "repeated":
        damaged[100:130] = film[100]
    return damaged


@pytest.mark.parametrize("kind", ["shifted", "brighter from a block on", "repeated"])
@pytest.mark.parametrize("seed", range(3))
def test_torn_pictures_are_found(kind, seed):
    sound = film(8, seed=seed) // 2
    damaged = torn(kind, sound)
    assert not codecs.fault(b"", RLELossless, sound)
    jpeg, jpeg_damaged = (
        imagecodecs.jpeg8_encode(x, level=98 if kind != "repeated" else 100)
        for x in (sound, damaged)
    )
    assert fault_of_blocks(sound, jpeg) is None
    found = quality.fault(damaged) or fault_of_blocks(damaged, jpeg_damaged)
    assert found
    if kind != "repeated":
        assert read_raster(bytes(jpeg)).notes == ()
        with pytest.raises(Rejected, match=f"damaged: {found}"):
            read_raster(bytes(jpeg_damaged))
    else:
        with pytest.raises(Rejected, match=f"damaged: {found}"):
            read_raster(bytes(imagecodecs.png_encode(damaged)))


def fault_of_blocks(samples, stream):
    return quality.fault_of_blocks(samples, 8, bytes(stream), imagecodecs.jpeg8_decode)


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("rows", [8, 16, 56])
@pytest.mark.parametrize("seed", range(3))
def test_a_footer_of_mid_grey_is_no_tail_without_data(bits, rows, seed):
    sound = film(bits, seed=seed)
    sound[-rows:] = 1 << (bits - 1)
    syntax = JPEGBaseline8Bit if bits == 8 else JPEGExtended12Bit
    frame = codestream(sound, bits, syntax)
    samples = codecs.decode(frame, syntax)
    assert quality.has_grey_tail(samples, bits)
    assert codecs.fault(frame, syntax, samples) is None
    if bits == 8:
        assert read_raster(frame).notes == ()
    # The same picture, where the data end before its last rows.
    for part in (0.5, 0.7):
        cut = frame[: int(len(frame) * part)].rstrip(b"\xff") + b"\xff\xd9"
        lost = codecs.decode(cut, syntax)
        assert quality.has_grey_tail(lost, bits)
        assert codecs.fault(cut, syntax, lost) == "the picture ends in grey"
        if bits == 8:
            with pytest.raises(Rejected, match="damaged: the picture ends in grey"):
                read_raster(cut)


@pytest.mark.parametrize("marker", [0xD9, 0xD3, 0xFE])
def test_a_picture_in_grey_from_a_false_marker_on_is_damaged(marker):
    frame = bytearray(codestream(film(8), 8, JPEGBaseline8Bit))
    stuffed = frame.find(b"\xff\0", len(frame) // 2)
    frame[stuffed + 1] = marker
    samples = codecs.decode(bytes(frame), JPEGBaseline8Bit)
    assert quality.has_grey_tail(samples, 8)
    assert codecs.fault(bytes(frame), JPEGBaseline8Bit, samples) == "the picture ends in grey"


def test_several_scans_that_end_in_grey_are_not_trusted():
    sound = film(8)
    sound[-16:] = 128
    stream = BytesIO()
    Image.fromarray(sound).save(stream, "JPEG", progressive=True)
    with pytest.raises(Rejected, match="damaged: the picture ends in grey"):
        read_raster(stream.getvalue())


@pytest.mark.parametrize("edge", [0, 255])
@pytest.mark.parametrize("row", [40, 96])
def test_collimators_and_two_exposures_on_one_plate_are_no_tears(edge, row):
    one, other = film(8), film(8, seed=1)
    half = one.copy()
    half[:row] = edge
    both = np.where(np.arange(192)[:, np.newaxis] < row, one, other[::-1])
    both[row - 4 : row + 4] = edge
    for sound in (half, both, one // 16, np.full_like(one, edge), one.T):
        assert quality.fault(sound) is None
        assert fault_of_blocks(sound, imagecodecs.jpeg8_encode(np.ascontiguousarray(sound))) is None


@needs_shared
def test_no_real_radiograph_is_called_damaged():
    for path in (Path(SHARED) / "dicom").glob("ts/RG*"):
        dataset = dcmread(path)
        samples = dataset.pixel_array if path.name.endswith(("UNC", "RLE")) else None
        syntax = dataset.file_meta.TransferSyntaxUID
        frame = None
        if samples is None:
            frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
            samples = codecs.decode(frame, syntax)
        assert codecs.fault(frame, syntax, samples) is None
        # As baseline JPEG would have it.
        assert not quality.is_torn(samples)
        assert not quality.has_grey_tail(samples, dataset.BitsStored)


@needs_shared
@pytest.mark.parametrize(
    ("syntax", "at_least"), [(JPEGBaseline8Bit, 0.4), (JPEGExtended12Bit, 0.4)]
)
def test_most_damaged_jpeg_is_found(syntax, at_least):
    stored = dcmread(Path(SHARED) / "dicom/ts/RG3_UNC").pixel_array
    stored = (stored >> 2).astype(np.uint8) if syntax == JPEGBaseline8Bit else stored << 2
    bits = 8 if syntax == JPEGBaseline8Bit else 12
    frame = codestream(stored, bits, syntax)
    rng = np.random.default_rng(1)
    outcomes = []
    for _ in range(60):
        damaged = bytearray(frame)
        damaged[rng.integers(800, len(frame) - 10)] = rng.integers(256)
        samples = decoded(bytes(damaged), syntax)
        if samples is None:
            continue
        if np.abs(samples.astype(int) - stored).mean() > 0.02 * 2**bits:
            outcomes.append(codecs.fault(bytes(damaged), syntax, samples) is not None)
    assert len(outcomes) > 5
    assert np.mean(outcomes) > at_least


@pytest.mark.parametrize("syntax", [*LOSSLESS, *LOSSY])
def test_sound_pictures_pass_in_every_syntax(syntax):
    bits = 8 if syntax == JPEGBaseline8Bit else 12
    for seed in range(3):
        stored = film(bits, seed=seed).astype(np.uint32)
        window = {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits}
        assert read_dicom(dicom_bytes(stored, bits=bits, syntax=syntax, **window)).notes == ()


@pytest.mark.parametrize("syntax", [HTJ2KLossless, HTJ2K])
@pytest.mark.parametrize(
    ("marker", "at", "value"),
    [
        (b"\xff\x5c", 3, 3),  # QCD: its length, and the first subbands
        (b"\xff\x5c", 5, 0xF9),
        (b"\xff\x5c", 7, 0xF8),
        (b"\xff\x51", 25, 0),  # SIZ: the width of a tile, here under 256, and its place
        (b"\xff\x51", 33, 9),
    ],
)
def test_what_crashes_the_decoder_never_reaches_it(monkeypatch, syntax, marker, at, value):
    stored = film(8)
    frame = bytearray(codestream(stored, 8, syntax))
    frame[frame.find(marker) + at] = value
    data = dicom_bytes(
        stored.astype(np.uint32), bits=8, syntax=syntax, PixelData=encapsulate([bytes(frame)])
    )
    monkeypatch.setattr(codecs.imagecodecs, "htj2k_decode", None)
    assert reason_of(data) == Reason.CORRUPT
    with pytest.raises(Rejected, match="tiles or quantization"):
        codecs.check_frame(bytes(frame), syntax, (*stored.shape, 1), 8)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, HTJ2KLossless])
@given(
    damage=st.dictionaries(st.integers(0, 99), st.integers(0, 255), max_size=4),
    end=st.integers(0, 2000),
)
def test_a_damaged_header_of_jpeg_2000_is_told_of_and_nothing_else(syntax, damage, end):
    frame = bytearray(small_codestream(syntax))
    for at, value in damage.items():
        frame[at] = value
    with suppress(ValueError):
        jpeg_2000.levels(bytes(frame[:end]))
    with suppress(ValueError, Rejected):
        codecs.check_frame(bytes(frame[:end]), syntax, (64, 64, 1), 8)


@cache
def small_codestream(syntax):
    """A picture of 64 x 64 pixels in 8 bits."""
    return codestream(film(8)[:64, :64], 8, syntax)


PLACES = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
COMPONENT = st.builds(
    jpeg_2000.Component,
    st.integers(1, 38),
    st.booleans(),
    st.tuples(st.integers(1, 255), st.integers(1, 255)),
)


@given(
    size=st.builds(jpeg_2000.Size, PLACES, PLACES, PLACES, PLACES, st.lists(COMPONENT).map(tuple)),
    before=st.sampled_from([b"", b"\0\0\0\x0cjP  in a file"]),
)
def test_the_sizes_of_jpeg_2000_are_read_as_they_are_written(size, before):
    written = struct.pack(">2H", 38 + 3 * len(size.components), 0x4000)
    written += struct.pack(">8I", *size.end, *size.start, *size.tile, *size.first_tile)
    written += struct.pack(">H", len(size.components))
    for precision, signed, subsampling in size.components:
        written += bytes([precision - 1 | signed << 7, *subsampling])
    frame = before + jpeg_2000.START + written
    assert jpeg_2000.size(frame) == size
    with pytest.raises(ValueError, match="cut off"):
        jpeg_2000.size(frame[:-1])


def header_of(*segments):
    """A codestream's header, of SIZ for one component of 64 x 64 pixels, and of more."""
    size = struct.pack(">2H8IH3B", 41, 0, 64, 64, 0, 0, 64, 64, 0, 0, 1, 7, 1, 1)
    more = (struct.pack(">2BH", 0xFF, code, 2 + len(data)) + data for code, data in segments)
    return jpeg_2000.START + size + b"".join(more) + b"\xff\x90"


def coding_style(levels):
    return bytes([levels, 4, 4, 0, 1])


def steps_of(levels):
    """Exponents of no quantization, of each subband."""
    return bytes([0x40, *[8 << 3] * (3 * levels + 1)])


@pytest.mark.parametrize(
    ("of_all", "of_the_component", "steps", "own_steps", "is_sound"),
    [
        (5, None, 5, None, True),
        (5, None, 4, None, False),
        (5, None, None, 5, False),  # QCD and COD must be there
        (None, 5, 5, None, False),
        (5, 3, 5, 3, True),
        (5, 3, 5, 5, False),
        (5, 3, 5, None, False),
        (5, None, 5, 4, False),
        (5, None, 4, 5, False),
    ],
)
def test_steps_fit_the_levels_of_their_component(
    of_all, of_the_component, steps, own_steps, is_sound
):
    segments = []
    if of_all is not None:
        segments.append((0x52, bytes(5) + coding_style(of_all)))
    if of_the_component is not None:
        segments.append((0x53, bytes(2) + coding_style(of_the_component)))
    if steps is not None:
        segments.append((0x5C, steps_of(steps)))
    if own_steps is not None:
        segments.append((0x5D, bytes(1) + steps_of(own_steps)))
    frame = header_of(*segments)
    assert jpeg_2000.is_sound(frame) == is_sound
    if of_the_component is not None:
        assert jpeg_2000.levels(frame) == 0
    elif of_all is not None:
        assert jpeg_2000.levels(frame) == of_all
