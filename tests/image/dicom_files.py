"""Builds DICOM files in memory, so that a test can say exactly what is in one."""

from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    generate_uid,
)

NATIVE = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
LOSSLESS = (
    *NATIVE,
    RLELossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
)
LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K)

PATIENT = "SMITHERS^WAYLON"
"""Stands in every file; must never be in a message."""


def dicom_bytes(
    stored: NDArray[Any],
    *,
    bits: int,
    syntax: str = ExplicitVRLittleEndian,
    photometric: str = "MONOCHROME2",
    preamble: bool = True,
    allocated: int | None = None,
    **elements: Any,
) -> bytes:
    """A digital radiograph whose stored values are ``stored``, (h, w) or (h, w, 3).

    Signed values make a signed image. ``elements`` are keywords of the header; ``None`` leaves
    one out. ``PixelData`` among them replaces the encoded picture, and ``extra`` is a data set of
    more elements. ``allocated`` are the bits of a container, if not those that are needed.
    """
    needed = 8 if bits <= 8 else 16
    bits_allocated = allocated or needed
    signed = stored.dtype.kind == "i"
    dataset = Dataset()
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid()
    values: dict[str, Any] = {
        "SOPClassUID": DigitalXRayImageStorageForPresentation,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "PatientName": PATIENT,
        "Modality": "DX",
        "SamplesPerPixel": 3 if stored.ndim == 3 else 1,
        "PhotometricInterpretation": photometric,
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "BitsAllocated": bits_allocated,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(signed),
    }
    if stored.ndim == 3:
        values["PlanarConfiguration"] = 0
    coded = bits_allocated if syntax in (*NATIVE, RLELossless) else needed
    container = stored.astype(f"{'i' if signed else 'u'}{coded // 8}")
    values["PixelData"] = pixel_data(container, bits, syntax)
    dataset.update(elements.pop("extra", {}))
    for keyword, value in (values | elements).items():
        if value is not None:
            setattr(dataset, keyword, value)
    if "PixelData" in dataset:
        dataset["PixelData"].VR = (
            "OB" if bits_allocated <= 8 or UID(syntax).is_encapsulated else "OW"
        )
        dataset["PixelData"].is_undefined_length = UID(syntax).is_encapsulated
    dataset.file_meta = meta
    dataset.preamble = b"\0" * 128
    stream = BytesIO()
    dcmwrite(stream, dataset, enforce_file_format=True)
    if preamble:
        return stream.getvalue()
    bare = BytesIO()
    dcmwrite(
        bare,
        _without_meta(dataset),
        implicit_vr=UID(syntax).is_implicit_VR,
        little_endian=UID(syntax).is_little_endian,
    )
    return bare.getvalue()


def _without_meta(dataset: Dataset) -> Dataset:
    bare = Dataset()
    bare.update(dataset)
    return bare


def pixel_data(container: NDArray[Any], bits: int, syntax: str) -> bytes:
    """``PixelData`` for samples in their containers."""
    if syntax == ExplicitVRBigEndian:
        return _even(container.astype(container.dtype.newbyteorder(">")).tobytes())
    if syntax in NATIVE:
        return _even(container.tobytes())
    return encapsulate([codestream(container, bits, syntax)])


def codestream(container: NDArray[Any], bits: int, syntax: str) -> bytes:
    """One compressed frame."""
    if syntax == RLELossless:
        return bytes(
            RLELosslessEncoder.encode(
                container,
                encoding_plugin="pydicom",
                rows=container.shape[0],
                columns=container.shape[1],
                samples_per_pixel=1 if container.ndim == 2 else 3,
                planar_configuration=0,
                bits_allocated=8 * container.dtype.itemsize,
                bits_stored=8 * container.dtype.itemsize,  # pydicom would narrow the samples
                pixel_representation=int(container.dtype.kind == "i"),
                photometric_interpretation="MONOCHROME2" if container.ndim == 2 else "RGB",
                number_of_frames=1,
            )
        )
    # Of signed values these codecs hold the low bits (PS3.5 8.2), as unsigned ones.
    unsigned = container.view(f"u{container.dtype.itemsize}") & (2**bits - 1)
    unsigned = np.ascontiguousarray(unsigned.astype(container.dtype.str.replace("i", "u")))
    match syntax:
        case "1.2.840.10008.1.2.4.57":
            frame = imagecodecs.jpeg8_encode(
                unsigned, lossless=True, predictor=4, bitspersample=bits
            )
        case "1.2.840.10008.1.2.4.70":
            frame = imagecodecs.jpeg8_encode(
                unsigned, lossless=True, predictor=1, bitspersample=bits
            )
        case "1.2.840.10008.1.2.4.50":
            space = "YCBCR" if container.ndim == 3 else None  # as given, without conversion
            frame = imagecodecs.jpeg8_encode(
                unsigned, level=95, colorspace=space, outcolorspace=space
            )
        case "1.2.840.10008.1.2.4.51":
            frame = imagecodecs.jpeg8_encode(unsigned, level=98, bitspersample=12)
        case "1.2.840.10008.1.2.4.80":
            frame = imagecodecs.jpegls_encode(unsigned)
        case "1.2.840.10008.1.2.4.81":
            frame = imagecodecs.jpegls_encode(unsigned, level=2)
        case "1.2.840.10008.1.2.4.90":
            frame = imagecodecs.jpeg2k_encode(
                container, codecformat="J2K", reversible=True, bitspersample=bits
            )
        case "1.2.840.10008.1.2.4.91":
            frame = imagecodecs.jpeg2k_encode(
                container, level=50, codecformat="J2K", bitspersample=bits
            )
        case "1.2.840.10008.1.2.4.201" | "1.2.840.10008.1.2.4.202":
            frame = imagecodecs.htj2k_encode(container, reversible=True)
        case "1.2.840.10008.1.2.4.203":
            frame = imagecodecs.htj2k_encode(container, level=0.001, reversible=False)
        case _:
            raise ValueError(syntax)
    return bytes(frame)


def _even(data: bytes) -> bytes:
    return data + b"\0" * (len(data) % 2)
