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
_WITHOUT_LENGTH = range(0x30, 0x40)  # (A.1)
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
    return _byte(segments.get(_CODING_STYLE, b""), 5)


def is_sound(frame: bytes) -> bool:
    """Check what crashes OpenJPH."""
    try:
        said = size(frame)
        return _tiles_are_sound(said) and _quantization_is_sound(frame, len(said.components))
    except ValueError:
        return False


def _tiles_are_sound(said: Size) -> bool:
    """Tell whether the first tile has a size, and part of the picture (B.3)."""
    sides = [*said.tile, *(side for each in said.components for side in each.subsampling)]
    corners = zip(said.first_tile, said.start, said.end, said.tile, strict=True)
    return 0 not in sides and all(
        first <= start < min(end, first + side) for first, start, end, side in corners
    )


def _quantization_is_sound(frame: bytes, components: int) -> bool:
    """Tell whether there is a step for each subband, of bits that there may be (A.6.4, E.1).

    Args:
        frame: The codestream.
        components: How many it has; of more than 256, an index takes two bytes.
    """
    wide = 1 if components <= 256 else 2
    halvings: dict[bytes, int] = {}  # by the index of a component; b"" is all others
    quantizations: list[tuple[bytes, bytes]] = []
    for marker, content in _segments(frame):
        if marker == _CODING_STYLE:
            halvings[b""] = _byte(content, 5)
        elif marker == _CODING_STYLE_OF_A_COMPONENT:
            halvings[content[:wide]] = _byte(content, wide + 1)
        elif marker == _QUANTIZATION:
            quantizations.append((b"", content))
        elif marker == _QUANTIZATION_OF_A_COMPONENT:
            quantizations.append((content[:wide], content[wide:]))
    steps_of = dict(quantizations)
    if b"" not in halvings or b"" not in steps_of:
        return False
    quantizations += [(name, steps_of[b""]) for name in halvings.keys() - steps_of.keys()]
    return all(
        _steps_fit(steps, halvings.get(name, halvings[b""])) for name, steps in quantizations
    )


def _steps_fit(quantization: bytes, halvings: int) -> bool:
    style, *steps = quantization
    subbands = 1 if style & 31 == 1 else 3 * halvings + 1
    size_of_step = 1 if style & 31 == 0 else 2
    if len(steps) != size_of_step * subbands:
        return False
    return (style >> 5) + (max(steps[::size_of_step]) >> 3) - 1 <= _MOST_BIT_PLANES


def _byte(content: bytes, at: int) -> int:
    if len(content) <= at:
        raise ValueError("a segment of the codestream's header is cut off")
    return content[at]


def _segments(frame: bytes) -> Iterator[tuple[int, bytes]]:
    """Give the marker and the content of each segment before the first tile (A.2).

    Raises:
        ValueError: One is no segment, or they are cut off.
    """
    at = frame.find(START) + 2
    while (marker := frame[at : at + 2]) != _START_OF_TILE:
        if len(marker) < 2 or marker[0] != 0xFF:
            raise ValueError("the codestream's header makes no sense, or is cut off")
        if marker[1] in _WITHOUT_LENGTH:
            at += 2
            continue
        length = int.from_bytes(frame[at + 2 : at + 4], "big")
        if length < 2 or at + 2 + length > len(frame):
            raise ValueError("the codestream's header makes no sense, or is cut off")
        yield marker[1], frame[at + 4 : at + 2 + length]
        at += 2 + length
