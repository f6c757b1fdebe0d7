"""Reading of image files: bytes in, a picture to render or a reason out. Imports no JAX."""

from fracjax.image.dicom import read_dicom
from fracjax.image.parse import looks_like_dicom
from fracjax.image.picture import SMALLEST_SIDE, Header, Picture, Reason, Rejected
from fracjax.image.policy import ReadPolicy
from fracjax.image.raster import read_raster
from fracjax.image.read import read_picture, read_pictures
from fracjax.image.render import network_input

__all__ = [
    "SMALLEST_SIDE",
    "Header",
    "Picture",
    "ReadPolicy",
    "Reason",
    "Rejected",
    "looks_like_dicom",
    "network_input",
    "read_dicom",
    "read_picture",
    "read_pictures",
    "read_raster",
]
