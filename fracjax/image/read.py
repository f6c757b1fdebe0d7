"""One file of any kind to a picture: what it is, its content says, not its name."""

from fracjax.image.dicom import looks_like_dicom, read_dicom
from fracjax.image.picture import Picture, Reason, Rejected
from fracjax.image.raster import looks_like_raster, read_raster

SNIFF_BYTES = 256
"""How much of a file's beginning tells what it is."""


def looks_like_image(head: bytes) -> bool:
    """Tell from a file's first ``SNIFF_BYTES`` whether :func:`read_picture` may read it."""
    return looks_like_dicom(head) or looks_like_raster(head)


def read_picture(data: bytes) -> Picture:
    """Read a DICOM, JPEG, PNG or TIFF file.

    Raises:
        Rejected: The file yields no picture. Nothing else is raised for any ``data``.
    """
    if not data:
        raise Rejected(Reason.EMPTY, "no bytes")
    if looks_like_dicom(data):
        return read_dicom(data)
    if looks_like_raster(data):
        return read_raster(data)
    raise Rejected(Reason.NOT_AN_IMAGE, "neither DICOM nor JPEG, PNG or TIFF")
