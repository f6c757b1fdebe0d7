"""Reading of image files: bytes in, a picture to render or a reason out. Imports no JAX."""

from fracjax.image.dicom import looks_like_dicom, read_dicom
from fracjax.image.picture import Header, Picture, Reason, Rejected
from fracjax.image.raster import read_raster
from fracjax.image.read import read_picture
from fracjax.image.render import network_input

__all__ = [
    "Header",
    "Picture",
    "Reason",
    "Rejected",
    "looks_like_dicom",
    "network_input",
    "read_dicom",
    "read_picture",
    "read_raster",
]
