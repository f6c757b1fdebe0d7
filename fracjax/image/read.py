"""One file of any kind to a picture: what it is, its content says, not its name."""

from fracjax.image.dicom import DEFAULT_POLICY, read_dicom, read_dicom_frames
from fracjax.image.parse import looks_like_dicom
from fracjax.image.picture import Picture, Pictures, Reason, Rejected
from fracjax.image.policy import ReadPolicy
from fracjax.image.raster import looks_like_raster, read_raster

SNIFF_BYTES = 512
"""How much of a file's beginning tells what it is."""

ARCHIVES = {
    b"PK\x03\x04": "a ZIP archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"\x1f\x8b\x08": "a gzip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\x00": "an xz file",
}
"""First bytes of what may hold images that are not reached."""

JPEG_2000 = (b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
"""First bytes of JPEG 2000 outside DICOM: a JP2 file, a bare codestream (ISO/IEC 15444-1)."""


def check_kind(head: bytes) -> None:
    """Check that a file's first ``SNIFF_BYTES`` are those of what :func:`read_picture` reads.

    Raises:
        Rejected: ``empty``; ``unsupported`` for what may be or hold an image all the same; or
            ``not_an_image``.
    """
    if not head:
        raise Rejected(Reason.EMPTY, "no bytes")
    if looks_like_dicom(head) or looks_like_raster(head):
        return
    for signature, kind in ARCHIVES.items():
        if head.startswith(signature):
            raise Rejected(Reason.UNSUPPORTED, f"{kind}, which may hold images")
    if head[257:262] == b"ustar":
        raise Rejected(Reason.UNSUPPORTED, "a tar archive, which may hold images")
    if head.startswith(JPEG_2000):
        raise Rejected(Reason.UNSUPPORTED, "a JPEG 2000 file outside DICOM")
    raise Rejected(Reason.NOT_AN_IMAGE, "neither DICOM nor JPEG, PNG or TIFF")


def read_picture(data: bytes, policy: ReadPolicy = DEFAULT_POLICY) -> Picture:
    """Read the one picture of a DICOM, JPEG, PNG or TIFF file.

    Raises:
        Rejected: The file yields no picture, or several. Nothing else is raised for any ``data``.
    """
    check_kind(data[:SNIFF_BYTES])
    return read_dicom(data, policy) if looks_like_dicom(data) else read_raster(data)


def read_pictures(data: bytes, policy: ReadPolicy = DEFAULT_POLICY) -> Pictures:
    """Read every picture of a DICOM, JPEG, PNG or TIFF file.

    Returns:
        What its header says, and one outcome for each frame.

    Raises:
        Rejected: The whole file yields no picture; its ``frames`` says for how many outcomes it
            stands. Nothing else is raised for any ``data``.
    """
    check_kind(data[:SNIFF_BYTES])
    if looks_like_dicom(data):
        return read_dicom_frames(data, policy)
    return Pictures(None, 1, iter((read_raster(data),)))
