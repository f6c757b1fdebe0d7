"""One file of any kind to a picture: what it is, its content says, not its name."""

from fracjax.image.dicom import DEFAULT_POLICY, read_dicom, read_dicom_frames
from fracjax.image.parse import looks_like_dicom
from fracjax.image.picture import Picture, Pictures, Reason, Rejected
from fracjax.image.policy import ReadPolicy
from fracjax.image.raster import looks_like_raster, read_raster

SNIFF_BYTES = 512
"""How much of a file's beginning tells what it is, but for a disc image."""

WIDE_SNIFF_BYTES = 32_774
"""How much tells a disc image too: for where the first ``SNIFF_BYTES`` tell nothing."""

ARCHIVES = {
    b"PK\x03\x04": "a ZIP archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"\x1f\x8b\x08": "a gzip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\x00": "an xz file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
    b"\x04\x22\x4d\x18": "an LZ4 file",
    b"\x1f\x9d": "a compress file",
}
"""First bytes of what may hold images that are not reached."""

JPEG_2000 = (b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
"""First bytes of JPEG 2000 outside DICOM: a JP2 file, a bare codestream (ISO/IEC 15444-1)."""


def check_kind(head: bytes) -> None:
    """Check that a file begins as what :func:`read_picture` reads.

    Args:
        head: Its first ``SNIFF_BYTES``, or ``WIDE_SNIFF_BYTES``.

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
    if _is_disc_image(head):
        raise Rejected(Reason.UNSUPPORTED, "a disc image, which may hold images")
    if _is_tar(head[:512]):
        raise Rejected(Reason.UNSUPPORTED, "a tar archive, which may hold images")
    if head.startswith(JPEG_2000):
        raise Rejected(Reason.UNSUPPORTED, "a JPEG 2000 file outside DICOM")
    raise Rejected(Reason.NOT_AN_IMAGE, "neither DICOM nor JPEG, PNG or TIFF")


def _is_disc_image(head: bytes) -> bool:
    """Whether a file's beginning holds a volume descriptor of ISO 9660 (ECMA-119 8.1.2)."""
    return head[WIDE_SNIFF_BYTES - 5 : WIDE_SNIFF_BYTES] == b"CD001"


def _is_tar(block: bytes) -> bool:
    """Whether 512 bytes are the header of a tar archive (POSIX.1-1988, 10.1.1).

    Archives from before that standard lack its magic, but their checksum holds too.
    """
    digits = block[148:156].strip(b" \0")
    if block[257:262] == b"ustar":
        return True
    if len(block) < 512 or not digits.isdigit() or any(digit > ord("7") for digit in digits):
        return False
    return sum(block[:148]) + 8 * ord(" ") + sum(block[156:]) == int(digits, 8)


def read_picture(
    data: bytes, policy: ReadPolicy = DEFAULT_POLICY, least_side: int | None = None
) -> Picture:
    """Read the one picture of a DICOM, JPEG, PNG or TIFF file.

    Args:
        data: The whole file.
        policy: Which objects count as radiographs.
        least_side: Pixels that are wanted of the longer side, as
            :func:`fracjax.image.render.least_side` tells them. Where the file holds a smaller
            picture of so many, that is decoded, unless the policy wants all. ``None``: all.

    Raises:
        Rejected: The file yields no picture, or several. Nothing else is raised for any ``data``.
    """
    check_kind(data[:WIDE_SNIFF_BYTES])
    if looks_like_dicom(data):
        return read_dicom(data, policy, least_side)
    return read_raster(data)


def read_pictures(
    data: bytes, policy: ReadPolicy = DEFAULT_POLICY, least_side: int | None = None
) -> Pictures:
    """Read every picture of a DICOM, JPEG, PNG or TIFF file.

    Args:
        data: The whole file.
        policy: Which objects count as radiographs.
        least_side: As :func:`read_picture` takes it.

    Returns:
        What its header says, and one outcome for each frame.

    Raises:
        Rejected: The whole file yields no picture; its ``frames`` says for how many outcomes it
            stands. Nothing else is raised for any ``data``.
    """
    check_kind(data[:WIDE_SNIFF_BYTES])
    if looks_like_dicom(data):
        return read_dicom_frames(data, policy, least_side)
    return Pictures(None, 1, iter((read_raster(data),)))
