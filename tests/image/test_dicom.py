"""One picture, whatever way it is stored; and a reason for everything that is no picture."""

import csv
import logging
import multiprocessing
import os
import subprocess
import sys
import tarfile
import tracemalloc
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from dicom_files import LOSSLESS, LOSSY, NATIVE, PATIENT, codestream, dicom_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import TOLERANCE, lut, palette, picture, reason_of, voi
from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.datadict import DicomDictionary, dictionary_VR
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
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

from fracjax.image import (
    ReadPolicy,
    Reason,
    Rejected,
    dicom,
    header,
    looks_like_dicom,
    parse,
    read_dicom,
    read_picture,
)
from fracjax.image.picture import SMALLEST_SIDE
from fracjax.image.read import SNIFF_BYTES, WIDE_SNIFF_BYTES, check_kind

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
    if bits == 8 and not signed and (slope, intercept) == (1, 0):
        return seen / 255, data, "none"
    # Without a window there is no telling, but it has to be the same for all.
    plain = read_dicom(dicom_bytes(seen.astype(np.uint32), bits=bits, RescaleSlope=2.0))
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


@pytest.mark.parametrize("syntax", NATIVE)
def test_a_file_without_its_preamble_but_for_the_prefix_is_read(syntax):
    data = dicom_bytes(picture(8).astype(np.uint32), bits=8, syntax=syntax)
    lookalike = b"DICM" + data[4:]  # a preamble may hold anything
    np.testing.assert_array_equal(read_picture(lookalike).display, read_picture(data).display)
    stripped = data[128:]
    assert looks_like_dicom(stripped) and looks_like_dicom(stripped[:SNIFF_BYTES])
    shown = read_picture(stripped)
    np.testing.assert_array_equal(shown.display, read_dicom(data).display)
    assert shown.header.transfer_syntax == syntax


GROUP_8 = sorted(tag for tag in DicomDictionary if tag >> 16 == 8)


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("little", [True, False])
@pytest.mark.parametrize("with_length", [True, False])
def test_a_bare_data_set_may_begin_with_any_element_of_its_group(implicit, little, with_length):
    if implicit and not little:
        return
    for tag in GROUP_8:
        dataset = Dataset()
        vr = dictionary_VR(tag).split(" or ")[0]
        if implicit and vr == "SQ":
            continue  # of undefined length, mostly
        with disable_value_validation():
            dataset.add_new(tag, vr, None)
            if with_length:
                dataset.add_new(0x0008_0000, "UL", 12)
            dataset.PatientName = PATIENT
            stream = BytesIO()
            dcmwrite(stream, dataset, implicit_vr=implicit, little_endian=little)
        assert looks_like_dicom(stream.getvalue()), hex(tag)


CLUTTER = (
    b"Dear colleague, please find enclosed",
    b"DICM is the prefix of a DICOM file, and this is a text about it",
    b"\x08\x00\x18\x00 and so on",
    b"MZ\x90\x00\x03\x00\x00\x00\x04\x00\x00\x00\xff\xff\x00\x00\xb8\x00",
    b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
    b"\x7fELF\x02\x01\x01",
    b"PK\x03\x04\x14\x00\x08\x00\x08\x00",
    b"\x08\x00\x00\x00\x08\x00\x00\x00\x10\x00\x00\x00",  # small numbers
    b"\x02\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00",
    b"\x08\x00\x05\x00\x04\x00\x00\x00ISO_\x08\x00\x01\x00",  # an element that goes back
    b"\x08\x00\x05\x00\x04\x00\x00\x00ISO_\x11\x00\x01\x00",
    b"\x08\x00\x60\x00DA\x02\x00CR",  # another VR than Modality has
    bytes(600),
    b"\x08\x00" * 300,
    b"\x08\x00\x16\x00" * 150,
)


@pytest.mark.parametrize("head", CLUTTER)
def test_clutter_does_not_look_like_dicom(head):
    assert not looks_like_dicom(head.ljust(600, b"\0"))


@given(st.binary(max_size=600))
def test_random_bytes_do_not_look_like_dicom(data):
    expected = data[:4] == b"DICM" or data[:1] in (b"\x08", b"\x02", b"\0")
    assert expected or not looks_like_dicom(data)


def test_random_bytes_of_the_right_group_hardly_ever_look_like_dicom():
    rng = np.random.default_rng(0)
    taken = sum(looks_like_dicom(b"\x08\x00" + rng.bytes(600)) for _ in range(20000))
    assert taken == 0


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


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("high_bit", [11, 13, 15])
def test_stored_values_may_lie_anywhere_in_their_containers(high_bit, signed, syntax):
    seen = picture(12)
    low = high_bit - 11
    stored = seen - 2048 if signed else seen
    overlays = (seen % 2) | (seen % 3 << 12)  # outside of the 12 bits
    words = ((stored & 4095) << low) | (overlays & ~(4095 << low) & 65535)
    data = dicom_bytes(
        (words.astype(np.uint16).view(np.int16)).astype(np.int32) if signed else words.astype("u4"),
        bits=16,
        syntax=syntax,
        BitsStored=12,
        HighBit=high_bit,
        **voi("LINEAR", 12, -2048 if signed else 0, 1),
    )
    np.testing.assert_allclose(read_dicom(data).display, seen / 4095, atol=TOLERANCE)


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


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGLosslessSV1])
@pytest.mark.parametrize(
    ("photometric", "elements", "inverted"),
    [
        ("monochrome1", {}, True),
        ("Monochrome2", {"Modality": "dx"}, False),
        ("MONOCHROME2 ", {"PresentationIntentType": "For Presentation"}, False),
        ("monochrome1", {"PresentationLUTShape": "inverse"}, True),
    ],
)
def test_code_strings_in_lower_case_mean_the_same(photometric, elements, inverted, syntax):
    seen = picture(8)
    data = dicom_bytes(
        (255 - seen if inverted else seen).astype(np.uint32),
        bits=8,
        syntax=syntax,
        photometric=photometric,
        **elements,
    )
    shown = read_dicom(data)
    np.testing.assert_allclose(shown.display, seen / 255, atol=TOLERANCE)
    assert shown.notes == ()


def test_raw_values_in_lower_case_are_set_aside():
    raw = {"PresentationIntentType": "for processing"}
    assert reason_of(dicom_bytes(picture(8).astype(np.uint32), bits=8, **raw)) == (
        Reason.FOR_PROCESSING
    )


def test_colour_in_lower_case():
    rgb = np.repeat(picture(8)[..., None], 3, axis=-1).astype(np.uint32)
    assert read_dicom(dicom_bytes(rgb, bits=8, photometric="rgb")).display.shape == (72, 64)


def test_grey_as_ybr_and_as_palette():
    seen = picture(8)
    ybr = np.stack([seen, np.full_like(seen, 128), np.full_like(seen, 128)], axis=-1)
    for syntax in (ExplicitVRLittleEndian, JPEGBaseline8Bit):
        data = dicom_bytes(ybr.astype(np.uint32), bits=8, syntax=syntax, photometric="YBR_FULL")
        error = np.abs(read_dicom(data).display - seen / 255)
        assert error.max() < (0.1 if syntax == JPEGBaseline8Bit else 0.01)
    grey = palette(np.arange(256) * 257)
    data = dicom_bytes(seen.astype(np.uint32), bits=8, photometric="PALETTE COLOR", **grey)
    np.testing.assert_allclose(read_dicom(data).display, seen / 255, atol=TOLERANCE)


REJECTED = {
    "ct": (Reason.NOT_A_RADIOGRAPH, {"Modality": "CT", "SOPClassUID": CTImageStorage}),
    "ct by class only": (Reason.NOT_A_RADIOGRAPH, {"SOPClassUID": CTImageStorage}),
    "mr by modality only": (Reason.NOT_A_RADIOGRAPH, {"Modality": "MR"}),
    "own result": (Reason.OWN_RESULT, {"Manufacturer": "fracjax"}),
    "own report": (Reason.OWN_RESULT, {"Manufacturer": "fracjax", "Modality": "SR"}),
    "raw": (Reason.FOR_PROCESSING, {"PresentationIntentType": "FOR PROCESSING"}),
    "high bit": (Reason.UNSUPPORTED, {"HighBit": 11}),
    "high bit too low": (Reason.UNSUPPORTED, {"HighBit": 6}),
    "high bit of a compressed picture": (
        Reason.UNSUPPORTED, {"syntax": RLELossless, "allocated": 16, "HighBit": 15},
    ),
    "no pixels": (Reason.TRUNCATED, {"PixelData": None}),
    "half the pixels": (Reason.TRUNCATED, {"PixelData": b"\x01\x02" * 1200}),
    "flat": (Reason.FLAT, {"PixelData": b"\x07" * 72 * 64}),
    "all padding": (Reason.FLAT, {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 255}),
    "no rows": (Reason.CORRUPT, {"Rows": None}),
    "no photometry": (Reason.CORRUPT, {"PhotometricInterpretation": None}),
    "empty photometry": (Reason.CORRUPT, {"PhotometricInterpretation": ""}),
    **{
        f"{colour} of one sample": (Reason.CORRUPT, {"PhotometricInterpretation": colour})
        for colour in ("RGB", "HSV", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "ARGB", "SMITHERS")
    },
    "grey of three samples": (Reason.CORRUPT, {"SamplesPerPixel": 3}),
    "colour of four samples": (
        Reason.UNSUPPORTED, {"PhotometricInterpretation": "ARGB", "SamplesPerPixel": 4},
    ),
    "retired colour": (
        Reason.UNSUPPORTED, {"PhotometricInterpretation": "HSV", "SamplesPerPixel": 3},
    ),
    "RGB of two samples": (
        Reason.UNSUPPORTED, {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 2},
    ),
    "narrow": (Reason.TOO_SMALL, {"Columns": 63}),
    "low": (Reason.TOO_SMALL, {"Rows": 63, "NumberOfFrames": 1}),
    "too large": (Reason.TOO_LARGE, {"Rows": 60000, "Columns": 60000}),
}  # fmt: skip


@pytest.mark.parametrize("modality", ["cr", "XR", "RX", "X-RAY", "", None])
@pytest.mark.parametrize(
    "sop_class", [ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation]
)
def test_a_modality_that_nobody_has_defined_does_not_decide(modality, sop_class):
    kind = {"Modality": modality, "SOPClassUID": sop_class}
    data = dicom_bytes(picture(8).astype(np.uint32), bits=8, **kind)
    assert read_dicom(data).header.modality == ("CR" if modality == "cr" else None)
    if modality != "cr":
        with pytest.raises(Rejected, match="not_a_radiograph"):
            read_dicom(data, ReadPolicy(without_modality=False))


@pytest.mark.parametrize(
    "elements",
    [
        {"Modality": "CT"},
        {"SOPClassUID": CTImageStorage},
        {"Manufacturer": "fracjax"},
        {"Modality": "SR", "PixelData": None},
    ],
)
def test_what_is_set_aside_by_its_kind_has_its_facts(elements, monkeypatch):
    elements = {"StudyInstanceUID": "1.2.3", **elements}
    data = dicom_bytes(picture(8).astype(np.uint32), bits=8, **elements)
    with pytest.raises(Rejected) as caught:
        read_dicom(data)
    assert caught.value.header.study_instance_uid == "1.2.3"
    expected = caught.value.reason, caught.value.detail

    def fail(dataset, syntax):
        raise ValueError

    monkeypatch.setattr(header, "facts", fail)
    with pytest.raises(Rejected) as caught:
        read_dicom(data)
    assert (caught.value.reason, caught.value.detail) == expected
    assert caught.value.header is None


def test_a_dicomdir_has_no_facts():
    records = {"DirectoryRecordSequence": [Dataset()], "PixelData": None}
    with pytest.raises(Rejected) as caught:
        read_dicom(dicom_bytes(picture(8).astype(np.uint32), bits=8, **records))
    assert (caught.value.reason, caught.value.header) == (Reason.NOT_AN_IMAGE, None)


@pytest.mark.parametrize("name", REJECTED)
def test_what_is_not_scored_says_why(name):
    reason, elements = REJECTED[name]
    assert reason_of(dicom_bytes(picture(8).astype(np.uint32), bits=8, **elements)) == reason


@pytest.mark.parametrize(
    ("syntax", "detail"),
    [
        ("1.2.840.10008.1.2.4.52", "transfer syntax 1.2.840.10008.1.2.4.52"),
        ("1.2.840.10008.1.99.7", "an unknown transfer syntax"),
        ("1.2.840.19470213.007", "an unknown transfer syntax"),
    ],
)
def test_only_a_transfer_syntax_of_the_standard_is_named(syntax, detail):
    data = dicom_bytes(picture(8).astype(np.uint32), bits=8)
    length = len(syntax) + len(syntax) % 2
    old = b"\x02\0\x10\0UI\x14\x001.2.840.10008.1.2.1\0"
    new = b"\x02\0\x10\0UI" + bytes([length, 0]) + syntax.encode().ljust(length, b"\0")
    assert old in data
    with pytest.raises(Rejected) as caught:
        read_dicom(data.replace(old, new))
    assert (caught.value.reason, caught.value.detail) == (Reason.UNSUPPORTED, detail)
    assert caught.value.header.transfer_syntax == header.known_syntax(syntax)


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
        data = dicom_bytes(picture(8).astype(np.uint32), bits=8, syntax=syntax, Rows=71)
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


def tar(form, name="IM1"):
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        archive.addfile(tarfile.TarInfo(name))
    return stream.getvalue()


def old_tar():
    """As before POSIX.1-1988: the same header without magic and what follows it."""
    header = bytearray(tar(tarfile.USTAR_FORMAT)[:512])
    header[257:] = bytes(255)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


MAY_HOLD_IMAGES = {
    "zip": b"PK\x03\x04",
    "zstd": b"\x28\xb5\x2f\xfd\x04",
    "lz4": b"\x04\x22\x4d\x18\x64",
    "compress": b"\x1f\x9d\x90",
    "gnu tar": tar(tarfile.GNU_FORMAT),
    "old tar": old_tar(),
    "disc": bytes(32768) + b"\x01CD001\x01",
    "bootable disc": b"\xeb\x63\x90" + bytes(32765) + b"\x01CD001\x01",
}


@pytest.mark.parametrize("kind", MAY_HOLD_IMAGES)
def test_what_may_hold_images_is_told_from_clutter(kind):
    data = MAY_HOLD_IMAGES[kind].ljust(WIDE_SNIFF_BYTES + 9, b"\0")
    for read in (read_picture, lambda data: check_kind(data[:WIDE_SNIFF_BYTES])):
        with pytest.raises(Rejected, match=r"unsupported: an? .*, which may hold images"):
            read(data)
    with pytest.raises(Rejected) as caught:
        check_kind(data[:SNIFF_BYTES])
    expected = Reason.NOT_AN_IMAGE if kind.endswith("disc") else Reason.UNSUPPORTED
    assert caught.value.reason == expected


@pytest.mark.parametrize("at", [0, 148, 150, 300, 511])
def test_an_old_tar_header_has_to_add_up(at):
    damaged = bytearray(old_tar())
    damaged[at] ^= 1
    with pytest.raises(Rejected, match="not_an_image"):
        check_kind(bytes(damaged[:SNIFF_BYTES]))


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
    found = read_dicom(data).header
    assert found.study_datetime == "2026-11-03T09:12"
    assert (found.accession_number, found.body_part, found.view_position) == ("A1", None, "PA")
    assert (found.laterality, found.study_instance_uid, found.modality) == ("R", "1.2.3", "DX")
    assert found.series_instance_uid is None


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
    assert header.iso_datetime(date, time) == iso


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
        assert pool.apply(_shape_in_worker, (data,)) == (72, 64)


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
    "pydicom/SC_rgb_small_odd_big_endian.dcm": Reason.TOO_SMALL,
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
    grey = name.startswith("charset/") and row["Modality"] == "OT"
    if row["Modality"] not in ("CR", "DX") and not grey:
        return Reason.NOT_A_RADIOGRAPH
    side = min(int(row["Rows"]), int(row["Columns"]))
    return Reason.TOO_SMALL if side < SMALLEST_SIDE else None


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
