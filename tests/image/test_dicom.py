"""One picture, whatever way it is stored; and a reason for everything that is no picture."""

import csv
import logging
import multiprocessing
import os
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from dicom_files import LOSSLESS, LOSSY, NATIVE, PATIENT, codestream, dicom_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import TOLERANCE, lut, picture, reason_of, voi
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from fracjax.image import Reason, Rejected, dicom, looks_like_dicom, parse, read_dicom
from fracjax.image.header import iso_datetime

SHARED = os.environ.get("FRACJAX_SHARED")
needs_shared = pytest.mark.skipif(not SHARED, reason="FRACJAX_SHARED names no folder")


@st.composite
def stored_pictures(draw):
    """(what is to be seen, a file that says so)"""
    bits = draw(st.sampled_from([8, 10, 12, 16]))
    syntax = draw(st.sampled_from(LOSSLESS))
    photometric = draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2"]))
    kind = draw(st.sampled_from(["LINEAR", "LINEAR_EXACT", "LUT", "none"]))
    signed = draw(st.booleans())
    slope = 1.0 if kind == "LUT" else draw(st.sampled_from([1.0, 0.5, 2.0]))
    seen = picture(bits, draw(st.integers(0, 9)))
    stored = 2**bits - 1 - seen if photometric == "MONOCHROME1" else seen
    first = 0
    if signed:
        first = -(2 ** (bits - 1))
    intercept = draw(st.sampled_from([0.0, 1000.0])) if kind != "LUT" else float(-first)
    elements = {"RescaleSlope": slope, "RescaleIntercept": intercept}
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    elements |= voi(kind, bits, intercept + slope * first, slope, order)
    if photometric == "MONOCHROME1":
        elements["PresentationLUTShape"] = draw(st.sampled_from([None, "INVERSE"]))
    stored = (stored + first).astype(np.int32 if signed else np.uint32)
    data = dicom_bytes(stored, bits=bits, syntax=syntax, photometric=photometric, **elements)
    if kind != "none":
        return seen / (2**bits - 1), data, "lut" if kind == "LUT" else "window"
    # Without a window there is no telling, but it has to be the same for all.
    plain = read_dicom(dicom_bytes(seen.astype(np.uint32), bits=bits, RescaleSlope=1.0))
    return plain.display, data, "percentile"


@settings(max_examples=300, deadline=None)
@given(stored_pictures())
def test_one_picture_looks_the_same_however_it_is_stored(case):
    seen, data, source = case
    shown = read_dicom(data)
    assert shown.display.dtype == np.float32
    assert shown.voi_source == source
    assert (shown.polarity_source, shown.notes) == ("photometric", ())
    np.testing.assert_allclose(shown.display, seen, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("syntax", LOSSY)
def test_lossy_compression_stays_near(syntax):
    bits = {JPEGBaseline8Bit: 8, JPEGExtended12Bit: 12}.get(syntax, 10)
    seen = picture(bits)
    data = dicom_bytes(
        seen.astype(np.uint32), bits=bits, syntax=syntax, **voi("LINEAR", bits, 0, 1)
    )
    error = np.abs(read_dicom(data).display - seen / (2**bits - 1))
    assert error.mean() < 0.02
    assert error.max() < 0.1  # in particular, an overshoot does not wrap from white to black


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_a_file_without_preamble_is_read(syntax):
    seen = picture(12)
    full = voi("LINEAR", 12, 0, 1)
    data = dicom_bytes(seen.astype(np.uint32), bits=12, syntax=syntax, preamble=False, **full)
    assert looks_like_dicom(data)
    shown = read_dicom(data)
    np.testing.assert_allclose(shown.display, seen / 4095, atol=TOLERANCE)
    assert shown.header.transfer_syntax == syntax


def test_monochrome2_with_inverse_shape_inverts():
    seen = picture(8)
    data = dicom_bytes((255 - seen).astype(np.uint32), bits=8, PresentationLUTShape="INVERSE")
    np.testing.assert_allclose(read_dicom(data).display, seen / 255, atol=TOLERANCE)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
@pytest.mark.parametrize("signed", [False, True])
def test_padding_is_black_and_out_of_the_range(photometric, syntax, signed):
    stored = picture(8).astype(np.int32) + 500
    stored[:4] = pad = -2000 if signed else 4000
    stored[4, :] = pad + 5
    data = dicom_bytes(
        stored if signed else stored.astype(np.uint32),
        bits=12,
        syntax=syntax,
        photometric=photometric,
        PixelPaddingValue=pad,
        PixelPaddingRangeLimit=pad + 10,
    )
    shown = read_dicom(data).display
    assert not shown[:5].any()
    part = shown[5:]
    assert (part.min(), part.max()) == (0, 1)


def test_overlay_bits_above_the_stored_ones_are_no_part_of_the_picture():
    seen = picture(12)
    full = voi("LINEAR", 12, 0, 1)
    data = dicom_bytes((seen | (seen % 3 << 13)).astype(np.uint32), bits=16, **full)
    clean = data.replace(
        b"\x28\x00\x01\x01US\x02\x00\x10\x00", b"\x28\x00\x01\x01US\x02\x00\x0c\x00"
    )
    clean = clean.replace(
        b"\x28\x00\x02\x01US\x02\x00\x0f\x00", b"\x28\x00\x02\x01US\x02\x00\x0b\x00"
    )
    np.testing.assert_allclose(read_dicom(clean).display, seen / 4095, atol=TOLERANCE)


def test_a_modality_lut_comes_before_the_window():
    seen = picture(8)
    data = dicom_bytes(
        seen.astype(np.uint32),
        bits=8,
        ModalityLUTSequence=lut(np.arange(256) * 16 + 7, 0, 12),
        WindowCenter=7 + 4080 / 2,
        WindowWidth=4080,
        VOILUTFunction="LINEAR_EXACT",
    )
    np.testing.assert_allclose(read_dicom(data).display, seen / 255, atol=TOLERANCE)


@pytest.mark.parametrize(
    "syntax", [*NATIVE, RLELossless, JPEGLosslessSV1, JPEG2000Lossless, JPEGLSLossless]
)
@pytest.mark.parametrize("modality", ["DX", "OT", None])
def test_grey_stored_as_colour_is_taken_and_colour_is_not(syntax, modality):
    seen = picture(8)
    rgb = np.repeat(seen[..., None], 3, axis=-1).astype(np.uint32)
    kind = {"Modality": modality, "SOPClassUID": SecondaryCaptureImageStorage}
    shown = read_dicom(dicom_bytes(rgb, bits=8, syntax=syntax, photometric="RGB", **kind))
    np.testing.assert_allclose(shown.display, seen / 255, atol=TOLERANCE)
    assert shown.voi_source == "none"
    rgb[:2, :] = 200, 40, 40
    coloured = dicom_bytes(rgb, bits=8, syntax=syntax, photometric="RGB", **kind)
    expected = Reason.UNSUPPORTED if modality == "DX" else Reason.NOT_A_RADIOGRAPH
    assert reason_of(coloured) == expected


def test_grey_as_ybr_and_as_palette():
    seen = picture(8)
    ybr = np.stack([seen, np.full_like(seen, 128), np.full_like(seen, 128)], axis=-1)
    for syntax in (ExplicitVRLittleEndian, JPEGBaseline8Bit):
        data = dicom_bytes(ybr.astype(np.uint32), bits=8, syntax=syntax, photometric="YBR_FULL")
        error = np.abs(read_dicom(data).display - seen / 255)
        assert error.max() < (0.1 if syntax == JPEGBaseline8Bit else 0.01)
    table = (np.arange(256) * 257).astype("<u2").tobytes()
    palette = {
        f"{colour}PaletteColorLookupTable{part}": [256, 0, 16] if part == "Descriptor" else table
        for colour in ("Red", "Green", "Blue")
        for part in ("Descriptor", "Data")
    }
    data = dicom_bytes(seen.astype(np.uint32), bits=8, photometric="PALETTE COLOR", **palette)
    np.testing.assert_allclose(read_dicom(data).display, seen / 255, atol=TOLERANCE)


REJECTED = {
    "ct": (Reason.NOT_A_RADIOGRAPH, {"Modality": "CT", "SOPClassUID": CTImageStorage}),
    "ct by class only": (Reason.NOT_A_RADIOGRAPH, {"SOPClassUID": CTImageStorage}),
    "mr by modality only": (Reason.NOT_A_RADIOGRAPH, {"Modality": "MR"}),
    "own result": (Reason.OWN_RESULT, {"Manufacturer": "fracjax"}),
    "own report": (Reason.OWN_RESULT, {"Manufacturer": "fracjax", "Modality": "SR"}),
    "raw": (Reason.FOR_PROCESSING, {"PresentationIntentType": "FOR PROCESSING"}),
    "high bit": (Reason.UNSUPPORTED, {"HighBit": 11}),
    "no pixels": (Reason.TRUNCATED, {"PixelData": None}),
    "half the pixels": (Reason.TRUNCATED, {"PixelData": b"\x01\x02" * 120}),
    "flat": (Reason.FLAT, {"PixelData": b"\x07" * 480}),
    "all padding": (Reason.FLAT, {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 255}),
    "no rows": (Reason.CORRUPT, {"Rows": None}),
    "no photometry": (Reason.CORRUPT, {"PhotometricInterpretation": None}),
    "too large": (Reason.TOO_LARGE, {"Rows": 60000, "Columns": 60000}),
}


@pytest.mark.parametrize("name", REJECTED)
def test_what_is_not_scored_says_why(name):
    reason, elements = REJECTED[name]
    assert reason_of(dicom_bytes(picture(8).astype(np.uint32), bits=8, **elements)) == reason


def test_an_unknown_transfer_syntax_is_named():
    data = dicom_bytes(picture(8).astype(np.uint32), bits=8)
    data = data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.99.7")
    with pytest.raises(Rejected, match=r"unsupported: transfer syntax 1\.2\.840\.10008\.1\.99\.7"):
        read_dicom(data)


@pytest.mark.parametrize("syntax", [*LOSSLESS, *LOSSY])
def test_a_truncated_file_is_never_a_picture(syntax):
    bits = 12 if syntax == JPEGExtended12Bit else 8
    data = dicom_bytes(picture(bits).astype(np.uint32), bits=bits, syntax=syntax)
    for part in (0.2, 0.5, 0.8, 0.9):
        assert reason_of(data[: int(len(data) * part)]).is_failure


@pytest.mark.parametrize("syntax", [s for s in (*LOSSLESS, *LOSSY) if s not in NATIVE])
def test_a_truncated_codestream_is_never_a_picture(syntax):
    bits = 12 if syntax == JPEGExtended12Bit else 8
    values = picture(bits, shape=(64, 64)).astype(f"u{1 if bits == 8 else 2}")
    frame = codestream(values, bits, syntax)
    cut = encapsulate([frame[: len(frame) * 2 // 3]])
    data = dicom_bytes(values.astype(np.uint32), bits=bits, syntax=syntax, PixelData=cut)
    assert reason_of(data).is_failure


def test_codestream_and_header_must_agree_before_anything_is_decoded(monkeypatch):
    monkeypatch.setattr(dicom, "get_decoder", None)
    for syntax in (JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, JPEGBaseline8Bit):
        data = dicom_bytes(picture(8).astype(np.uint32), bits=8, syntax=syntax, Rows=23)
        assert reason_of(data) == Reason.CORRUPT


def test_a_deflate_bomb_is_refused_in_bounded_memory(monkeypatch):
    monkeypatch.setattr(parse, "MAX_BYTES", 2**20)
    data = dicom_bytes(picture(8).astype(np.uint32), bits=8, syntax=DeflatedExplicitVRLittleEndian)
    head = data[: data.index(DeflatedExplicitVRLittleEndian.encode()) + 22]
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = b"".join(deflater.compress(bytes(2**20)) for _ in range(64)) + deflater.flush()
    tracemalloc.start()
    assert reason_of(head + bomb) == Reason.TOO_LARGE
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20


def test_bytes_that_are_no_dicom():
    assert reason_of(b"") == Reason.EMPTY
    assert reason_of(b"Dear colleague, please find enclosed") == Reason.NOT_AN_IMAGE
    assert reason_of(bytes(128) + b"DICM") == Reason.CORRUPT
    for data in (b"\x89PNG\r\n\x1a\n" + bytes(200), b"\xff\xd8\xff\xe0" + bytes(200), bytes(500)):
        assert not looks_like_dicom(data)


def test_header_facts_are_text_without_padding():
    data = dicom_bytes(
        picture(8).astype(np.uint32),
        bits=8,
        StudyDate="20261103",
        StudyTime="0912",
        AccessionNumber="A1 ",
        BodyPartExamined="",
        ViewPosition="PA",
        ImageLaterality="R",
        StudyInstanceUID="1.2.3",
    )
    header = read_dicom(data).header
    assert header.study_datetime == "2026-11-03T09:12"
    assert (header.accession_number, header.body_part, header.view_position) == ("A1", None, "PA")
    assert (header.laterality, header.study_instance_uid, header.modality) == ("R", "1.2.3", "DX")
    assert header.series_instance_uid is None


@pytest.mark.parametrize(
    ("date", "time", "iso"),
    [
        ("20261103", None, "2026-11-03"),
        ("20261103", "09", "2026-11-03T09"),
        ("20261103", "091207.250", "2026-11-03T09:12:07.250"),
        ("20261103", "091207.123456", "2026-11-03T09:12:07.123456"),
        ("2026.11.03", "09:12:07", "2026-11-03T09:12:07"),
        ("20261103", "2561", "2026-11-03"),
        ("20261340", "0912", None),
        (None, "0912", None),
        ("yesterday", None, None),
    ],
)
def test_study_datetime(date, time, iso):
    assert iso_datetime(date, time) == iso


def test_nothing_of_the_header_reaches_the_terminal(capfd, caplog):
    logging.getLogger("pydicom").addHandler(handler := logging.StreamHandler())
    try:
        data = dicom_bytes(picture(8).astype(np.uint32), bits=8, syntax=JPEGLSLossless)
        for old in (b"DX", b"\x7f\xe0", b"US\x02\x00", PATIENT.encode()[:6]):
            for new in (b"SMITHERS"[: len(old)], b"\xff" * len(old)):
                try:
                    read_dicom(data.replace(old, new))
                except Rejected as rejected:
                    assert "SMITHERS" not in str(rejected)
    finally:
        logging.getLogger("pydicom").removeHandler(handler)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


MUTANTS = {
    syntax: dicom_bytes(
        picture(12 if syntax == JPEGExtended12Bit else 8).astype(np.uint32),
        bits=12 if syntax == JPEGExtended12Bit else 8,
        syntax=syntax,
        WindowCenter=128,
        WindowWidth=256,
        PixelPaddingValue=3,
    )
    for syntax in (*LOSSLESS, *LOSSY)
}


@settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(sorted(MUTANTS)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    st.floats(0, 1) | st.just(1.0),
    st.booleans(),
)
def test_a_damaged_file_is_a_picture_or_rejected(capfd, syntax, flips, length, in_pixels):
    damaged = bytearray(MUTANTS[syntax])
    start = damaged.rfind(b"\xe0\x7f\x10\x00") if in_pixels else 0
    for place, byte in flips:
        damaged[start + int(place * (len(damaged) - start))] = byte
    try:
        shown = read_dicom(bytes(damaged[: int(length * len(damaged))])).display
    except Rejected as rejected:
        assert "SMITHERS" not in str(rejected)
    else:
        assert shown.dtype == np.float32
        assert shown.ndim == 2
        assert 0 <= shown.min() < shown.max() <= 1
    assert capfd.readouterr().err == ""


BUNDLED = Path(pydicom.data.__file__).parent / "test_files"


def test_no_bundled_file_of_pydicom_raises_anything_but_rejected():
    shown = 0
    for path in sorted(p for p in BUNDLED.rglob("*") if p.is_file()):
        try:
            display = read_dicom(path.read_bytes()).display
        except Rejected:
            continue
        assert 0 <= display.min() < display.max() <= 1
        shown += 1
    assert shown > 0


def _shape_in_worker(data):
    return read_dicom(data).display.shape


def test_decoders_are_there_in_a_spawned_process():
    data = dicom_bytes(picture(12).astype(np.uint32), bits=12, syntax=JPEGLosslessSV1)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_shape_in_worker, (data,)) == (24, 20)


def test_reading_images_does_not_import_jax():
    code = "import sys, fracjax.image; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Real files.


def shared(name):
    return (Path(SHARED) / "dicom" / name).read_bytes()


@needs_shared
@pytest.mark.parametrize("name", ["RG2", "RG3"])
def test_real_bone_radiographs_look_the_same_in_every_syntax(name):
    reference = read_dicom(shared(f"ts/{name}_UNC"))
    assert reference.voi_source == "window"
    for variant in ("RLE", "JPLL", "JLSL", "J2KR"):
        np.testing.assert_array_equal(
            read_dicom(shared(f"ts/{name}_{variant}")).display, reference.display
        )
    # Bounds a little above what was measured; one grey level of 10 bits is 0.001.
    for variant, mean, largest in (
        ("JPLY", 0.004, 0.1),
        ("JLSN", 0.0025, 0.004),
        ("J2KI", 0.0015, 0.09),
    ):
        error = np.abs(read_dicom(shared(f"ts/{name}_{variant}")).display - reference.display)
        assert error.mean() < mean
        assert error.max() < largest


@needs_shared
def test_real_files_with_traps():
    hand = read_dicom(shared("radiograph/hand_KODAK_J2KR.dcm"))
    assert hand.display.shape == (2500, 2048)
    assert hand.header.body_part == "hand"
    assert hand.display[:200].mean() < 0.05  # the unexposed border is dark
    bad = read_dicom(shared("radiograph/DX_16bit_bad_window.dcm"))
    assert (bad.voi_source, bad.polarity_source) == ("percentile", "intensity_sign")
    assert bad.notes == ("window_ignored", "polarity_conflict")
    # Upside down: the mediastinum is in the middle, between the lungs.
    assert bad.display[500:1000, 650:750].mean() > bad.display[500:1000, 200:600].mean() + 0.2
    chest = read_dicom(shared("radiograph/DX_M1_INVERSE.dcm"))
    assert (chest.voi_source, chest.polarity_source) == ("window", "photometric")
    assert chest.notes == ("polarity_conflict",)  # here the sign is what lies
    chest = chest.display
    # Inverted once: the mediastinum, in the middle, is brighter than the lung on its right side.
    assert chest[900:1300, 980:1080].mean() > chest[600:900, 300:600].mean() + 0.2


EXPECTED = {
    "broken/zero.dcm": Reason.EMPTY,
    "broken/text.dcm": Reason.NOT_AN_IMAGE,
    "broken/only_preamble.dcm": Reason.CORRUPT,
    "broken/DX_J2K_truncated_stream.dcm": Reason.CORRUPT,
    "bombs/deflate_bomb.dcm": Reason.TOO_LARGE,
    "bombs/30k_jls.dcm": Reason.TOO_LARGE,
    "pydicom/meta_missing_tsyntax.dcm": Reason.CORRUPT,
    "ai/ai_sc.dcm": Reason.OWN_RESULT,
    "ai/ai_sr.dcm": Reason.OWN_RESULT,
    "pydicom/image_dfl.dcm": None,
    "ts/mlut_18.dcm": None,
    "ts/vlut_04.dcm": None,
    # Radiographs' headers whose pixels were removed.
    "charset/chrJapMulti.dcm": Reason.TRUNCATED,
    "charset/chrJapMultiExplicitIR6.dcm": Reason.TRUNCATED,
    "charset/chrKoreanMulti.dcm": Reason.TRUNCATED,
}


def expected(row):
    """The reason, or ``None`` for a picture, that the manifest's description asks for."""
    name = row["file"]
    if name in EXPECTED:
        return EXPECTED[name]
    if "DICOMDIR" in name or "README" in name or name.startswith("bombs/"):
        return Reason.NOT_AN_IMAGE
    if row["Modality"] in ("CR", "DX"):
        return None
    grey = name.startswith("charset/") and row["Modality"] == "OT"
    return None if grey else Reason.NOT_A_RADIOGRAPH


def manifest():
    if not SHARED:
        return []
    with (Path(SHARED) / "dicom/manifest.csv").open(newline="") as table:
        return list(csv.DictReader(table))


@needs_shared
@pytest.mark.parametrize("row", manifest(), ids=lambda row: row["file"])
def test_every_file_of_the_manifest_has_its_outcome(row, capfd):
    data = shared(row["file"])
    if (reason := expected(row)) is None:
        shown = read_dicom(data)
        assert shown.display.shape == (int(row["Rows"]), int(row["Columns"]))
        assert 0 <= shown.display.min() < shown.display.max() <= 1
        assert shown.header.transfer_syntax == row["TransferSyntaxUID"]
    else:
        assert reason_of(data) == reason
    assert capfd.readouterr() == ("", "")


@needs_shared
def test_real_bombs_are_refused_in_bounded_memory():
    for name, limit in (
        ("bombs/30k_jls.dcm", 2**20),
        ("bombs/deflate_bomb.dcm", 3 * parse.MAX_BYTES),
    ):
        data = shared(name)
        tracemalloc.start()
        assert reason_of(data) == Reason.TOO_LARGE
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < limit
