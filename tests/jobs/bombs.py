"""Small files that would take much memory or time, or a parser's stack, to read."""

import io
import struct
import zipfile
import zlib

import numpy as np
from exports import dicom, pixels
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from image.dicom_files import dicom_bytes

MIB = 2**20


def deflated_zeros(size, begin=b""):
    """A raw deflate stream of ``begin`` and ``size`` MiB of zeros, at 1:1000, in no time."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    start = deflate.compress(begin) + deflate.flush(zlib.Z_FULL_FLUSH)
    one = deflate.compress(bytes(MIB)) + deflate.flush(zlib.Z_FULL_FLUSH)
    return start + one * size + deflate.flush()


def deflated_dicom(size):
    """A deflated DICOM file whose data set ends in an element of ``size`` MiB."""
    whole = dicom_bytes(pixels(1), bits=12, syntax=DeflatedExplicitVRLittleEndian)
    meta_length = struct.unpack("<I", whole[140:144])[0]
    body = zlib.decompress(whole[144 + meta_length :], -zlib.MAX_WBITS)
    element = struct.pack("<HH2sHI", 0x7FE1, 0x1010, b"OB", 0, size * MIB)
    return whole[: 144 + meta_length] + deflated_zeros(size, body + element)


def huge_png(side=30_000):
    """A PNG of one bit a pixel, which in grey levels of float32 would take 4 bytes a pixel."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = zlib.compress(bytes((side // 8 + 1) * side), 1)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg_ls(rows, columns, *, header_agrees):
    """A JPEG-LS DICOM file whose codestream announces ``rows`` x ``columns`` pixels."""
    size = {"Rows": rows, "Columns": columns} if header_agrees else {}
    whole = bytearray(dicom_bytes(pixels(1), bits=12, syntax=JPEGLSLossless, **size))
    frame_header = whole.index(b"\xff\xf7")
    whole[frame_header + 5 : frame_header + 9] = struct.pack(">HH", rows, columns)
    return bytes(whole)


def nested_sequences(depth):
    """A DICOM file of sequences within sequences, of undefined length each."""
    sequence = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    return dicom(1, PixelData=None) + (sequence + item) * depth


def zip_of_zeros(size, begin, *, claims=None):
    """A ZIP archive with a member of ``begin`` and ``size`` MiB of zeros.

    Its headers give the true size, or what it ``claims``.
    """
    data = deflated_zeros(size, begin)
    crc = zlib.crc32(begin)
    for _ in range(size):
        crc = zlib.crc32(bytes(MIB), crc)
    length = len(begin) + size * MIB if claims is None else claims
    sizes = struct.pack(
        "<HHHHHIIIHH", 20, 0, zipfile.ZIP_DEFLATED, 0, 0x21, crc, len(data), length, 3, 0
    )
    local = b"PK\x03\x04" + sizes + b"IM1" + data
    table = b"PK\x01\x02" + struct.pack("<H", 20) + sizes + bytes(14) + b"IM1"
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(table), len(local), 0)
    return local + table + end


def lzma_of_much_memory():
    """A ZIP archive with a member that asks for a dictionary of 4 GiB."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_LZMA) as file:
        file.writestr("IM1", dicom(1))
    data = bytearray(stream.getvalue())
    properties = data.index(b"IM1") + 3 + 4  # version and size stand before them
    data[properties + 1 : properties + 5] = b"\xff" * 4
    return bytes(data)


RLE_OF_NOTHING = b"\xfe\xff\x00\xe0\x00\x00\x00\x00\xfe\xff\x00\xe0\x42\x00\x00\x00"
RLE_OF_NOTHING += struct.pack("<16I", 2, 64, 65, *[0] * 13) + b"\x81\x81"

BOMBS = {
    "deflated": (deflated_dicom(2048), "too_large"),
    "png": (huge_png(), "too_large"),
    "jpeg-ls": (jpeg_ls(30_000, 30_000, header_agrees=True), "too_large"),
    "jpeg-ls that lies": (jpeg_ls(30_000, 30_000, header_agrees=False), "corrupt"),
    "rows that lie": (dicom(1, Rows=30_000, Columns=30_000), "too_large"),
    "rows that lie a little": (dicom(1, Rows=8000, Columns=8000), "truncated"),
    "frames that lie": (dicom(1, NumberOfFrames=4), "truncated"),
    "many frames that lie": (dicom(1, NumberOfFrames=2**31 - 1), "truncated"),
    "rle that lies": (
        dicom_bytes(
            np.zeros((8000, 8000), np.uint16)[:8, :8],
            bits=12,
            syntax=RLELossless,
            Rows=8000,
            Columns=8000,
            PixelData=RLE_OF_NOTHING,
        ),
        "truncated",
    ),
    "nested": (nested_sequences(10_000), "corrupt"),
    "zip": (zip_of_zeros(1000, dicom(1)), "too_large"),
    "zip that lies": (zip_of_zeros(1024, dicom(1), claims=10_000), "corrupt"),
    "zip of lzma": (lzma_of_much_memory(), "too_large"),
}
"""Each bomb, and what becomes of it, or of the last of its frames."""
