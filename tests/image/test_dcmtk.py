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
from pictures import lut, picture
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import get_frame
from pydicom.pixels import apply_modality_lut
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
)

from fracjax.image import ReadPolicy, Rejected, codecs, read_dicom

DCMTK = {  # it renders by one program for each family of syntaxes
    "1.2.840.10008.1.2.4.80": "dcml2pnm",
    "1.2.840.10008.1.2.4.81": "dcml2pnm",
}
SHARED = os.environ.get("FRACJAX_SHARED")
UNKNOWN_TO_DCMTK = {  # only the display is compared, not the decoder
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91",
}

needs_dcmtk = pytest.mark.skipif(
    not shutil.which("dcmj2pnm"),
    reason="DCMTK is not installed (Debian's package dcmtk): pixel values are not compared",
)


def rendered(path, program, *options):
    """What DCMTK shows, (h, w) of 8 bits, or ``None`` where it cannot."""
    done = subprocess.run([program, *options, str(path)], capture_output=True, check=False)
    if done.returncode or not done.stdout:
        return None
    with Image.open(io.BytesIO(done.stdout)) as image:
        return np.asarray(image.convert("L")).astype(int)


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


def monochrome(dataset):
    """Whether it is a file that both could show, of whatever modality."""
    return dataset.get("PixelData") and str(
        dataset.get("PhotometricInterpretation", "")
    ).startswith("MONOCHROME")


@needs_dcmtk
@pytest.mark.skipif(not SHARED, reason="FRACJAX_SHARED names no folder of real files")
def test_real_files_of_all_modalities(tmp_path):
    compared = set()
    for name in manifest():
        path = Path(SHARED) / "dicom" / name
        if name.startswith(("bombs/", "broken/")):
            continue
        dataset = dcmread(path, force=True)
        if not monochrome(dataset):
            continue
        policy = ReadPolicy(
            modalities=(str(dataset.Modality),), sop_classes=(dataset.SOPClassUID,), max_frames=1
        )
        program = DCMTK.get(dataset.file_meta.TransferSyntaxUID, "dcmj2pnm")
        try:
            ours = read_dicom(path.read_bytes(), policy)
        except Rejected:
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
