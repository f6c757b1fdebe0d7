"""What the main header of a JPEG 2000 or HTJ2K codestream says (ISO/IEC 15444-1 annex A)."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

START = b"\xff\x4f\xff\x51"
"""SOC, and SIZ right after it (A.5.1); not at 0 where the codestream lies in a JP2 file."""

_START_OF_TILE = b"\xff\x90"
_CODING_STYLE = 0x52
_CODING_STYLE_OF_A_COMPONENT = 0x53
_QUANTIZATION = 0x5C
_QUANTIZATION_OF_A_COMPONENT = 0x5D
_MOST_BIT_PLANES = 30  # of a subband in HTJ2K


class Component(NamedTuple):
    """What SIZ says of a component."""

    precision: int
    signed: bool
    subsampling: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Size:
    """The segment SIZ (A.5.1); pairs are x and y, in points of the reference grid (B.2).

    Attributes:
        end: Where the picture ends.
        start: Where it begins.
        tile: The sides of a tile.
        first_tile: Where the first one begins.
        components: Each of them.
    """

    end: tuple[int, int]
    start: tuple[int, int]
    tile: tuple[int, int]
    first_tile: tuple[int, int]
    components: tuple[Component, ...]


def size(frame: bytes) -> Size:
    """Read the sizes.

    Raises:
        ValueError: There is no such segment, or it is cut off.
    """
    at = frame.find(START)
    if at < 0:
        raise ValueError("not a JPEG 2000 codestream")
    try:
        *places, count = struct.unpack_from(">8IH", frame, at + 8)
        each = [struct.unpack_from("3B", frame, at + 42 + 3 * index) for index in range(count)]
    except struct.error:
        raise ValueError("the codestream's header is cut off") from None
    components = tuple(Component((bits & 0x7F) + 1, bits > 0x7F, (x, y)) for bits, x, y in each)
    end, start, tile, first_tile = zip(places[::2], places[1::2], strict=True)
    return Size(end, start, tile, first_tile, components)


def levels(frame: bytes) -> int:
    """Tell how often the wavelets halve the picture (A.6.1); 0 where components have their own.

    Raises:
        ValueError: The header makes no sense.
    """
    segments = dict(_segments(frame))
    if _CODING_STYLE_OF_A_COMPONENT in segments:
        return 0
    return _levels(segments.get(_CODING_STYLE, b""))


def is_sound(frame: bytes) -> bool:
    """Check what crashes OpenJPH."""
    try:
        return _tiles_are_sound(size(frame)) and _quantization_is_sound(frame)
    except ValueError:
        return False


def _tiles_are_sound(said: Size) -> bool:
    """Tell whether the first tile has a size, and part of the picture (B.3)."""
    sides = [*said.tile, *(side for each in said.components for side in each.subsampling)]
    corners = zip(said.first_tile, said.start, said.end, said.tile, strict=True)
    return 0 not in sides and all(
        first <= start < min(end, first + side) for first, start, end, side in corners
    )


def _quantization_is_sound(frame: bytes) -> bool:
    """Tell whether there is a step for each subband, of bits that there may be (A.6.4, E.1)."""
    halvings = 0
    quantizations = []
    for marker, content in _segments(frame):
        if marker == _CODING_STYLE:
            halvings = _levels(content)
        elif marker == _QUANTIZATION:
            quantizations.append(content)
        elif marker == _QUANTIZATION_OF_A_COMPONENT:
            quantizations.append(content[1:])  # it begins with the index of its component
    for style, *steps in quantizations:
        subbands = 1 if style & 31 == 1 else 3 * halvings + 1
        size_of_step = 1 if style & 31 == 0 else 2
        if len(steps) != size_of_step * subbands:
            return False
        if (style >> 5) + (max(steps[::size_of_step]) >> 3) - 1 > _MOST_BIT_PLANES:
            return False
    return True


def _levels(coding_style: bytes) -> int:
    """Read the number of levels from the content of COD."""
    if len(coding_style) < 6:
        raise ValueError("the codestream's coding style is cut off")
    return coding_style[5]


def _segments(frame: bytes) -> Iterator[tuple[int, bytes]]:
    """Give the marker and the content of each segment before the first tile (A.2).

    Raises:
        ValueError: One is no segment, or they are cut off.
    """
    at = frame.find(START) + 2
    while (marker := frame[at : at + 2]) != _START_OF_TILE:
        length = int.from_bytes(frame[at + 2 : at + 4], "big")
        if marker[:1] != b"\xff" or length < 2 or at + 2 + length > len(frame):
            raise ValueError("the codestream's header makes no sense, or is cut off")
        yield marker[1], frame[at + 4 : at + 2 + length]
        at += 2 + length
