"""JPEG, PNG and TIFF files, whole and broken."""

import io
import re
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, PngImagePlugin

from fracjax.configs import Preprocess
from fracjax.image import Reason, Rejected, network_input, read_raster
from fracjax.image.exposure import exposed_sample, percentile_range
from fracjax.image.raster import SIGNATURES, decode_gray, looks_like_raster

ORIENTATION = 0x0112
GREY, FULL, HALF, QUARTER = "grey", "4:4:4", "4:2:2", "4:2:0"
SUBSAMPLINGS = (GREY, FULL, HALF, QUARTER)


def picture(height=40, width=33, seed=0):
    """A noisy slope (height, width), uint8."""
    slope = np.add.outer(np.linspace(10, 120, height), np.linspace(10, 100, width))
    noise = np.random.default_rng(seed).normal(0, 10, slope.shape)
    return np.clip(slope + noise, 0, 255).astype(np.uint8)


def encode(image, file_format="PNG", **options):
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(
        file, file_format, **options
    )
    return file.getvalue()


def jpeg(pixels, subsampling=GREY, **options):
    if subsampling == GREY:
        return encode(pixels, "JPEG", **options)
    return encode(
        Image.fromarray(pixels).convert("RGB"), "JPEG", subsampling=subsampling, **options
    )


def reason_of(data):
    with pytest.raises(Rejected) as caught:
        read_raster(data)
    assert caught.value.detail
    assert len(str(caught.value).splitlines()) == 1
    return caught.value.reason


# Whole files


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_8_bits_are_shown_as_stored(file_format):
    read = read_raster(encode(picture(), file_format))
    np.testing.assert_array_equal(read.display, picture() / np.float32(255))
    assert (read.format, read.voi_source, read.notes) == (file_format.lower(), "none", ())
    assert read.header is None


def as_shown(levels):
    """By percentiles of the exposed region; tests/image/test_exposure.py says which that is."""
    low, high = percentile_range(exposed_sample(levels, None))
    return np.clip((levels - low) / (high - low), 0, 1)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bits_are_shown_by_percentiles(file_format):
    deep = picture().astype(np.uint16) * 16 + 1000  # 12 bits, and no black
    read = read_raster(encode(deep, file_format))
    np.testing.assert_allclose(read.display, as_shown(deep), atol=1e-5)
    assert (read.display.min(), read.display.max(), read.display.dtype) == (0, 1, np.float32)
    assert (read.voi_source, read.polarity_source) == ("percentile", "none")


def test_float_tiff():
    values = (picture() - np.float32(50)) * 3
    shown = read_raster(encode(values, "TIFF")).display
    np.testing.assert_allclose(shown, as_shown(values), atol=1e-5)
    values[3, 3] = np.nan
    assert reason_of(encode(values, "TIFF")) == Reason.CORRUPT


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF"])
def test_a_picture_that_this_software_wrote_is_its_own_result(file_format):
    def file(software):
        if file_format == "PNG":
            text = PngImagePlugin.PngInfo()
            text.add_text("Software", software)
            return encode(picture(), "PNG", pnginfo=text)
        exif = Image.Exif()
        exif[ExifTags.Base.Software] = software
        return encode(picture(), file_format, exif=exif)

    assert reason_of(file("fracjax 1.2")) == Reason.OWN_RESULT
    assert read_raster(file("GIMP 3, not fracjax")).notes == ()


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_tiff_whose_zero_is_white_is_inverted(depth):
    stored = picture().astype(depth) * depth(np.iinfo(depth).max // 255)
    file = encode(stored, "TIFF", tiffinfo={262: 0})
    if depth == np.uint8:  # of 8 bits, Pillow inverts what it writes
        stored = 255 - stored
    assert stored.tobytes() in file
    shown = read_raster(file).display
    order = np.argsort(stored, axis=None)
    assert (np.diff(shown.ravel()[order]) <= 0).all()
    assert np.ptp(shown) > 0.8


def test_jpeg():
    read = read_raster(jpeg(picture(), quality=95))
    assert read.format == "jpeg"
    np.testing.assert_allclose(read.display, picture() / 255, atol=0.05)


def test_1_bit():
    bits = picture() > 100
    for file_format in ("PNG", "TIFF"):
        shown = read_raster(encode(Image.fromarray(bits), file_format)).display
        np.testing.assert_array_equal(shown, bits)


def test_a_palette_is_looked_up():
    indices = (picture() % 4).astype(np.uint8)
    image = Image.fromarray(indices, mode="P")
    image.putpalette([level for grey in (200, 10, 90, 255) for level in (grey, grey, grey)])
    levels, _, _ = decode_gray(encode(image))
    np.testing.assert_array_equal(levels, np.uint8([200, 10, 90, 255])[indices])


def test_what_is_transparent_is_black():
    alpha = np.full((40, 33), 255, np.uint8)
    alpha[:10] = 0
    visible = np.where(alpha > 0, picture(), 0)
    for mode in ("LA", "RGBA"):
        image = Image.fromarray(picture()).convert(mode)
        image.putalpha(Image.fromarray(alpha))
        levels, _, _ = decode_gray(encode(image))
        np.testing.assert_array_equal(levels, visible)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_undone(orientation, file_format):
    stored = picture(40, 24)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[0x829A] = "not a number"  # another tag, odd as some cameras write them
    # EXIF 2.32, 4.6.4: where the stored row 0 and column 0 are in the picture as it is seen.
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: stored.T[:, ::-1],
        7: stored[::-1, ::-1].T,
        8: stored.T[::-1],
    }[orientation]
    read, _, _ = decode_gray(encode(stored, file_format, exif=exif))
    assert read.shape == upright.shape
    np.testing.assert_allclose(read.astype(int), upright, atol=40 if file_format == "JPEG" else 0)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_damaged_exif_turns_nothing(file_format):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    file = encode(picture(), file_format, exif=exif)
    assert decode_gray(file)[0].shape == (33, 40)
    damaged = bytearray(file)
    start = file.index(b"MM\0*")
    damaged[start : start + 4] = b"MM??"
    if file_format == "PNG":  # each chunk has a checksum
        chunk = file.index(b"eXIf")
        end = chunk + 4 + int.from_bytes(file[chunk - 4 : chunk], "big")
        damaged[end : end + 4] = zlib.crc32(damaged[chunk:end]).to_bytes(4, "big")
    assert decode_gray(bytes(damaged))[0].shape == (40, 33)


# What is no radiograph, or more than one


def test_a_grey_picture_stored_as_colour_is_grey_again():
    levels, _, _ = decode_gray(encode(Image.fromarray(picture()).convert("RGB")))
    np.testing.assert_array_equal(levels, picture())


def test_a_little_colour_is_a_marker_and_much_is_a_photograph():
    colour = np.stack([picture(100, 100)] * 3, axis=2)
    colour[:10, :10] = (255, 255, 0)
    assert read_raster(encode(colour)).display.shape == (100, 100)
    colour[:, :30] = (200, 120, 90)
    assert reason_of(encode(colour)) == Reason.NOT_A_RADIOGRAPH
    assert reason_of(encode(colour, "JPEG")) == Reason.NOT_A_RADIOGRAPH


def test_several_pages_are_refused():
    pages = [Image.fromarray(picture(seed=seed)) for seed in (1, 2)]
    data = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert reason_of(data) == Reason.UNSUPPORTED


def test_the_lab_colour_space_is_refused():
    assert reason_of(encode(Image.new("LAB", (8, 8)), "TIFF")) == Reason.UNSUPPORTED


def test_a_flat_picture_is_refused():
    for level in (0, 128, 255):
        assert reason_of(encode(np.full((9, 9), level, np.uint8))) == Reason.FLAT
    assert reason_of(encode(np.full((9, 9), 700, np.uint16))) == Reason.FLAT


@pytest.mark.parametrize("name", ["lie30k.png", "lie60k.png", "30k.png"])
def test_a_decompression_bomb_is_refused_by_its_header(name, shared):
    assert reason_of((shared / "dicom/bombs" / name).read_bytes()) == Reason.TOO_LARGE


def test_a_header_just_beyond_the_limit_is_refused():
    small = encode(picture())
    for width, height in ((8193, 8192), (2**16, 2**16), (2**31 - 1, 2**31 - 1)):
        header = width.to_bytes(4, "big") + height.to_bytes(4, "big")
        chunk = b"IHDR" + header + small[24:29]
        lie = small[:12] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + small[33:]
        assert reason_of(lie) == Reason.TOO_LARGE


# Truncated JPEG files


def scan_start(data):
    """Where the compressed pixels of a JPEG begin."""
    marker = data.index(b"\xff\xda")
    return marker + 2 + int.from_bytes(data[marker + 2 : marker + 4], "big")


def rows_kept(data, cut, full):
    """The number of rows that are kept of ``data[:cut]``, which must be as in ``full``."""
    try:
        rows, _, notes = decode_gray(data[:cut])
    except Rejected as rejected:
        assert rejected.reason == Reason.TRUNCATED
        return 0
    np.testing.assert_array_equal(rows, full[: len(rows)])
    # Pillow may find a file whole that lacks only its end marker.
    assert notes == ("truncated_rows",) or len(rows) == len(full)
    return len(rows)


@pytest.mark.parametrize("options", [{}, {"optimize": True}], ids=str)
@pytest.mark.parametrize("size", [(70, 50), (64, 64), (33, 7)], ids=str)
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_a_jpeg_cut_anywhere_keeps_exactly_its_intact_rows(subsampling, size, options):
    # A restart marker after each row of MCUs shows where the row ends.
    data = jpeg(picture(*size), subsampling, quality=85, restart_marker_rows=1, **options)
    full, _, notes = decode_gray(data)
    assert not notes
    mcu_rows = 16 if subsampling == QUARTER else 8
    start = scan_start(data)
    row_ends = [start + match.start() for match in re.finditer(rb"\xff[\xd0-\xd7]", data[start:])]
    assert len(row_ends) == (size[0] - 1) // mcu_rows
    for cut in {
        *range(start, len(data) - 2, 7),
        *(end + i for end in row_ends for i in (-1, 0, 1)),
    }:
        # Of the last row, nothing shows that it is whole.
        assert rows_kept(data, cut, full) == mcu_rows * sum(end <= cut for end in row_ends)


@given(
    size=st.tuples(st.integers(9, 90), st.integers(1, 90)),
    subsampling=st.sampled_from(SUBSAMPLINGS),
    seed=st.integers(0, 99),
    part=st.floats(0, 1),
)
@settings(max_examples=100, deadline=None)
def test_any_jpeg_cut_anywhere(size, subsampling, seed, part):
    data = jpeg(picture(*size, seed), subsampling)
    full, _, _ = decode_gray(data)
    start = scan_start(data)
    cut = start + round(part * (len(data) - 1 - start))
    kept = rows_kept(data, cut, full)
    lenient = np.asarray(Image.open(io.BytesIO(data[:cut] + b"\xff\xd9")).convert("L"))
    alike = np.append((lenient == full).all(1), False).argmin()
    mcu_rows = 16 if subsampling == QUARTER else 8
    assert kept >= alike - 2 * mcu_rows + 1  # at most a row of MCUs that seems whole is lost


def test_real_jpegs_cut_anywhere(shared):
    files = sorted((shared / "data/FracAtlas/images/Fractured").iterdir())[:3]
    assert files
    for file in files:
        data = file.read_bytes()
        full, _, notes = decode_gray(data)
        assert not notes
        cuts = np.linspace(scan_start(data), len(data) - 2, 12).astype(int)
        kept = [rows_kept(data, cut, full) for cut in cuts]
        assert kept == sorted(kept)
        assert kept[0] == 0
        assert kept[-1] >= len(full) - 16


def test_truncated_rows_are_noted_and_turned_upright():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = jpeg(picture(80, 40), exif=exif)
    whole, cut = read_raster(data), read_raster(data[: len(data) * 3 // 4])
    assert whole.notes == ()
    assert cut.notes == ("truncated_rows",)
    kept = cut.display.shape[1]
    assert cut.display.shape == (40, kept)
    np.testing.assert_array_equal(cut.display, whole.display[:, -kept:])


def test_a_jpeg_without_a_complete_row_is_refused():
    data = jpeg(picture())
    assert reason_of(data[: scan_start(data) + 5]) == Reason.TRUNCATED


def test_a_truncated_progressive_jpeg_is_refused():
    data = jpeg(picture(), progressive=True)
    assert read_raster(data).display.shape == (40, 33)
    assert reason_of(data[: len(data) * 3 // 4]) == Reason.TRUNCATED


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_a_truncated_png_or_tiff_is_refused(file_format):
    data = encode(picture(), file_format, compression="tiff_lzw")  # PNG knows no such option
    assert reason_of(data[: len(data) // 2]) == Reason.CORRUPT


# Bytes that mean harm


@given(signature=st.sampled_from(SIGNATURES), rest=st.binary(max_size=400))
def test_any_bytes_after_a_signature_are_rejected(signature, rest):
    assert looks_like_raster(signature + rest)
    assert reason_of(signature + rest) in (
        Reason.CORRUPT,
        Reason.TRUNCATED,
        Reason.TOO_LARGE,
        Reason.UNSUPPORTED,
    )


EXIF = Image.Exif()
EXIF[ORIENTATION] = 6
WHOLE_FILES = [
    jpeg(picture(), exif=EXIF),
    jpeg(picture(), QUARTER, progressive=True),
    encode(picture(), exif=EXIF),
    encode(picture().astype(np.uint16) * 100),
    encode(Image.fromarray(picture()).convert("P")),
    encode(picture(), "TIFF", exif=EXIF),
    encode(picture().astype(np.uint16) * 100, "TIFF", compression="tiff_lzw"),
    encode(Image.fromarray(picture() > 90), "TIFF", compression="group4"),
]


@given(
    data=st.sampled_from(WHOLE_FILES),
    changes=st.lists(st.tuples(st.integers(4, 300), st.integers(0, 255)), min_size=1, max_size=6),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of odd metadata
def test_a_file_with_changed_bytes_gives_a_picture_or_a_reason(data, changes):
    broken = bytearray(data)
    for place, value in changes:
        broken[place % len(broken)] = value
    try:
        shown = read_raster(bytes(broken)).display
    except Rejected as rejected:
        assert len(str(rejected).splitlines()) == 1
    else:
        assert shown.dtype == np.float32
        assert 0 <= shown.min() < shown.max() <= 1


def test_scoring_and_training_decode_alike():
    """What a file shows is what the data sets give as its grey levels."""
    data = jpeg(picture(90, 70))
    levels, _, _ = decode_gray(data)
    shown = read_raster(data).display
    small = Preprocess(image_size=32)
    np.testing.assert_allclose(network_input(shown, small), network_input(levels, small), atol=1e-6)
