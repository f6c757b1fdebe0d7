"""Radiographs as a detector leaves them, for benchmarks: large, deep and noisy, in any syntax."""

from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import RLELosslessEncoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

BITS = 12
NOISE = 0.004
"""Standard deviation of the noise that is added, as a part of the range: what a picture loses
when it is made smaller for publication."""

COMPRESSED: tuple[UID, ...] = (
    RLELossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    HTJ2KLossless,
    HTJ2K,
)


def enlarged(path: Path, shape: tuple[int, int], seed: int) -> NDArray[np.uint16]:
    """Make a detector's picture of a published one: ``BITS`` bits of a shape (height, width)."""
    shown = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if shown is None:
        raise ValueError(f"{path.name} is no picture")
    large = cv2.resize(shown.astype(np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC) / 255
    large += np.random.default_rng(seed).normal(0, NOISE, shape).astype(np.float32)
    return np.asarray(np.rint(np.clip(large, 0, 1) * (2**BITS - 1)), np.uint16)


def encode(stored: NDArray[np.uint16], bits: int, syntax: str) -> bytes:
    """Compress a picture of ``bits`` bits; JPEG baseline keeps the upper eight of them."""
    jpeg, jpeg_2000 = imagecodecs.jpeg8_encode, imagecodecs.jpeg2k_encode
    match UID(syntax):
        case uid if uid == RLELossless:
            settings: dict[str, Any] = {
                "rows": stored.shape[0],
                "columns": stored.shape[1],
                "samples_per_pixel": 1,
                "bits_allocated": 16,
                "bits_stored": bits,
                "pixel_representation": 0,
                "photometric_interpretation": "MONOCHROME2",
                "number_of_frames": 1,
            }
            return bytes(RLELosslessEncoder.encode(stored, encoding_plugin="pydicom", **settings))
        case uid if uid == JPEGBaseline8Bit:
            return bytes(jpeg((stored >> (bits - 8)).astype(np.uint8), level=90))
        case uid if uid == JPEGExtended12Bit:
            return bytes(jpeg(stored << (12 - bits), level=95, bitspersample=12))
        case uid if uid in (JPEGLossless, JPEGLosslessSV1):
            predictor = 4 if uid == JPEGLossless else 1
            return bytes(jpeg(stored, lossless=True, predictor=predictor, bitspersample=bits))
        case uid if uid in (JPEGLSLossless, JPEGLSNearLossless):
            return bytes(imagecodecs.jpegls_encode(stored, level=0 if uid == JPEGLSLossless else 2))
        case uid if uid in (HTJ2KLossless, HTJ2K):
            step = None if uid == HTJ2KLossless else 0.001
            return bytes(imagecodecs.htj2k_encode(stored, level=step, reversible=step is None))
        case uid if uid == JPEG2000:
            return bytes(jpeg_2000(stored, level=60, codecformat="J2K", bitspersample=bits))
        case _:
            return bytes(jpeg_2000(stored, codecformat="J2K", reversible=True, bitspersample=bits))


def dicom(stored: NDArray[np.uint16], syntax: str, study: int, instance: int) -> Dataset:
    """Make a digital radiograph, ready to be written, with a window over the whole range."""
    uid = UID(syntax)
    bits = 8 if uid == JPEGBaseline8Bit else BITS
    dataset = Dataset()
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = f"1.2.826.0.1.3680043.8.498.1.{study}.{instance}"
    dataset.StudyInstanceUID = f"1.2.826.0.1.3680043.8.498.2.{study}"
    dataset.SeriesInstanceUID = f"1.2.826.0.1.3680043.8.498.3.{study}"
    dataset.Modality = "DX"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelRepresentation = 0
    dataset.BitsAllocated = 8 if bits == 8 else 16
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.WindowCenter, dataset.WindowWidth = 2 ** (bits - 1), 2**bits
    if uid in (ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        dataset.add_new("PixelData", "OW", stored.tobytes())
    else:
        dataset.add_new("PixelData", "OB", encapsulate([encode(stored, BITS, syntax)]))
        dataset["PixelData"].is_undefined_length = True
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset
