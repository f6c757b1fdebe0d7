"""Our display step against that of DCMTK, an independent reader, within one grey level of 8 bits.

Where a file's own window is not used, both are given the same one.
"""

import csv
import io
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from dicom_files import dicom_bytes
from pictures import lut, palette, picture
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import get_frame
from pydicom.pixels import apply_modality_lut
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from fracjax.image import ReadPolicy, Reason, Rejected, codecs, dicom, read_dicom

DCMTK = {  # it renders by one program for each family of syntaxes
    "1.2.840.10008.1.2.4.80": "dcml2pnm",
    "1.2.840.10008.1.2.4.81": "dcml2pnm",
}
SHARED = os.environ.get("FRACJAX_SHARED")
UNKNOWN_TO_DCMTK = {  # only the display is compared, not the decoder
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91",
}
REFUSED = {
    "ai/ai_sc.dcm": Reason.OWN_RESULT,
    "pydicom/JPEG2000-embedded-sequence-delimiter.dcm": Reason.CORRUPT,
    "pydicom/MR_truncated.dcm": Reason.TRUNCATED,
    "pydicom/badVR.dcm": Reason.CORRUPT,
    # In colour:
    "pydicom/SC_rgb_dcmtk_+eb+cr.dcm": Reason.UNSUPPORTED,
    "pydicom/SC_rgb_dcmtk_+eb+cy+np.dcm": Reason.UNSUPPORTED,
    "pydicom/SC_rgb_jpeg_gdcm.dcm": Reason.UNSUPPORTED,
    "pydicom/SC_rgb_rle_32bit.dcm": Reason.UNSUPPORTED,
    "pydicom/SC_rgb_small_odd_big_endian.dcm": Reason.UNSUPPORTED,
    "pydicom/SC_ybr_full_422_uncompressed.dcm": Reason.UNSUPPORTED,
    "pydicom/examples_palette.dcm": Reason.UNSUPPORTED,
    "ts/HTJ2KLossless_08_RGB.dcm": Reason.NOT_A_RADIOGRAPH,
    "ts/HTJ2K_08_RGB.dcm": Reason.NOT_A_RADIOGRAPH,
}
"""Files with pixels that we do not show, in whatever way DCMTK shows them."""

needs_dcmtk = pytest.mark.skipif(
    not shutil.which("dcmj2pnm"),
    reason="DCMTK is not installed (Debian's package dcmtk): pixel values are not compared",
)


def rendered(path, program, *options):
    """What DCMTK shows, (h, w) of 8 bits and green where in colour; ``None`` where it cannot."""
    done = subprocess.run([program, *options, str(path)], capture_output=True, check=False)
    if done.returncode or not done.stdout:
        return None
    with Image.open(io.BytesIO(done.stdout)) as image:
        return np.asarray(image.convert("RGB").getchannel("G")).astype(int)


def assert_same(ours, theirs, name=""):
    assert ours.shape == theirs.shape, name
    assert np.abs(np.rint(ours * 255) - theirs).max() <= 1, name


def overshooting(dataset):
    """Where 12-bit JPEG has overshot the stored bits: DCMTK wraps these few pixels around."""
    if dataset.file_meta.get("TransferSyntaxUID") != JPEGExtended12Bit:
        return None
    mask = codecs.decode(
        get_frame(dataset.PixelData, 0, number_of_frames=1), JPEGExtended12Bit
    ) >= (1 << dataset.BitsStored)
    assert mask.mean() < 1e-5
    return mask


def manifest():
    if not SHARED:
        return []
    with (Path(SHARED) / "dicom/manifest.csv").open(newline="") as table:
        return [row["file"] for row in csv.DictReader(table) if row["Rows"]]


@needs_dcmtk
@pytest.mark.skipif(not SHARED, reason="FRACJAX_SHARED names no folder of real files")
def test_real_files_of_all_modalities(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom, "SMALLEST_SIDE", 1)  # the display is compared, of any size
    compared, refused = set(), {}
    for name in manifest():
        path = Path(SHARED) / "dicom" / name
        if name.startswith(("bombs/", "broken/")):
            continue
        dataset = dcmread(path, force=True)
        if not dataset.get("PixelData"):
            continue
        policy = ReadPolicy(
            modalities=(dataset.get("Modality") or "",),
            sop_classes=(dataset.SOPClassUID,),
            max_frames=1,
        )
        program = DCMTK.get(dataset.file_meta.TransferSyntaxUID, "dcmj2pnm")
        try:
            ours = read_dicom(path.read_bytes(), policy)
        except Rejected as rejected:
            refused[name] = rejected.reason
            continue
        options = {"window": ["+Wi", "1"], "lut": ["+Wl", "1"], "none": ["-W"]}
        if dataset.file_meta.TransferSyntaxUID in UNKNOWN_TO_DCMTK:
            dataset.decompress(decoding_plugin=codecs.PLUGIN)
            path = tmp_path / "decompressed.dcm"
            dataset.save_as(path)
        if ours.voi_source == "percentile":
            # Not the file's own grey scale: one is given to both.
            values = apply_modality_lut(dataset.pixel_array, dataset)
            low, high = float(values.min()), float(values.max())
            dataset.WindowCenter, dataset.WindowWidth = (low + high) / 2, high - low + 1
            path = tmp_path / "windowed.dcm"
            dataset.save_as(path)
            ours = read_dicom(path.read_bytes(), policy)
            assert ours.voi_source == "window", name
        theirs = rendered(path, program, *options[ours.voi_source])
        if theirs is None:
            continue
        if (overshoot := overshooting(dataset)) is not None:
            theirs = np.where(overshoot, np.rint(ours.display * 255), theirs)
        assert_same(ours.display, theirs, name)
        compared.add(name)
    kinds = {"ts/RG2_UNC", "ts/RG3_JPLL", "ts/RG3_JPLY", "ts/RG2_JLSL", "ts/mlut_18.dcm"}
    kinds |= {"radiograph/hand_KODAK_J2KR.dcm", "radiograph/DX_16bit_bad_window.dcm"}
    assert kinds <= compared
    assert refused == REFUSED
    assert len(compared) >= 60


@needs_dcmtk
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
)
@pytest.mark.parametrize("first", [0, -2048])
@pytest.mark.parametrize(
    ("options", "elements"),
    [
        (["+Wi", "1"], {"WindowCenter": 1500, "WindowWidth": 1100}),
        (["+Wi", "1"], {"WindowCenter": 1500.5, "WindowWidth": 1100, "RescaleSlope": 0.7}),
        (["+Wi", "1", "+Wfs"], {"WindowCenter": 1500, "WindowWidth": 1100, "SIGMOID": True}),
        (["+Wl", "1"], {"VOILUTSequence": True}),
        (["+Wl", "1"], {"VOILUTSequence": True, "ModalityLUTSequence": True}),
    ],
)
def test_windows_and_tables(tmp_path, options, elements, first, syntax, photometric):
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    header = dict(elements)
    rising = np.sqrt(np.linspace(0, 1, 4096))
    if header.pop("SIGMOID", None):
        header["VOILUTFunction"] = "SIGMOID"
    if "VOILUTSequence" in header:
        start = 0 if "ModalityLUTSequence" in header else first
        header["VOILUTSequence"] = lut(np.round(rising * 4095), start, 12, order)
    if "ModalityLUTSequence" in header:
        header["ModalityLUTSequence"] = lut(np.round(rising**4 * 4095), first, 12, order)
    elif "RescaleSlope" in header:
        header["RescaleIntercept"] = 300 - 0.7 * first
    elif "WindowCenter" in header:
        header["WindowCenter"] += first
    stored = picture(12) + first
    data = dicom_bytes(
        stored.astype(np.int32 if first else np.uint32),
        bits=12,
        syntax=syntax,
        photometric=photometric,
        **header,
    )
    path = tmp_path / "made.dcm"
    path.write_bytes(data)
    theirs = rendered(path, "dcmj2pnm", *options)
    ours = read_dicom(data)
    assert ours.notes == ()
    assert_same(ours.display, theirs)


@needs_dcmtk
@pytest.mark.parametrize(
    ("photometric", "syntax"),
    [
        ("RGB", ExplicitVRLittleEndian),
        ("RGB", ExplicitVRBigEndian),
        ("RGB", RLELossless),
        ("RGB", JPEGLosslessSV1),
        ("YBR_FULL", ImplicitVRLittleEndian),
        ("YBR_FULL", RLELossless),
        ("YBR_FULL", JPEGBaseline8Bit),
        ("PALETTE COLOR", ExplicitVRLittleEndian),
        ("PALETTE COLOR", RLELossless),
        ("PALETTE COLOR", JPEGLosslessSV1),
    ],
)
def test_grey_captures_stored_as_colour(tmp_path, photometric, syntax):
    seen = picture(8)
    mid = np.full_like(seen, 128)
    stored = {
        "RGB": np.stack([seen] * 3, axis=-1),
        "YBR_FULL": np.stack([seen, mid, mid], axis=-1),
        "PALETTE COLOR": seen,
    }[photometric]
    data = dicom_bytes(
        stored.astype(np.uint32),
        bits=8,
        syntax=syntax,
        photometric=photometric,
        SOPClassUID=SecondaryCaptureImageStorage,
        Modality="OT",
        **(palette(np.arange(256)[::-1] * 257) if photometric == "PALETTE COLOR" else {}),
    )
    path = tmp_path / "made.dcm"
    path.write_bytes(data)
    assert_same(read_dicom(data).display, rendered(path, "dcmj2pnm"))
