"""What a compressed image says of its size, read before a decoder makes room for it.

A few hundred bytes can ask a decoder for gigabytes: by a size that is not the image's, by many channels, or, in JPEG
2000, by tiles and precincts of a pixel each, for which it keeps books.
"""

import itertools
import struct
from collections.abc import Iterator
from typing import NamedTuple

from descargan_tf.errors import UserError

_SOI = b"\xff\xd8"
SOF = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # tables lie between them; the last is JPEG-LS
_SOC, _SIZ = b"\xff\x4f", b"\xff\x51"
_COD, _COC, _SOT, _SOD, _EOC = 0x52, 0x53, 0x90, 0x93, 0xD9
# What may stand in the headers of JPEG 2000 (ITU-T T.800 table A.2, T.801, T.814); a length stands behind each.
_IN_HEADERS = {0x50, 0x51, _COD, _COC, 0x55, 0x57, 0x58, 0x59, 0x5C, 0x5D, 0x5E, 0x5F, 0x60, 0x61, 0x63, 0x64, 0x74}
_IN_HEADERS |= {0x75, 0x77, 0x78, _SOT}
_JP2 = b"\x00\x00\x00\x0cjP  "
# Far above what encoders make; OpenJPEG keeps 9 KiB for a tile and half a KiB for a precinct.
_PIXELS_A_TILE, _PIXELS_A_PRECINCT, _ALWAYS_ALLOWED = 1024, 64, 256


class Size(NamedTuple):
    """Of an image that is not yet decoded."""

    height: int
    width: int
    channels: int
    bits: int  # of a value


def jpeg_size(stream: bytes) -> Size | None:
    """Of JPEG and JPEG-LS (ITU-T T.81 B.2.2, T.87 C.2.2); None where a stream is neither.

    Args:
        stream: from its first byte on.
    """
    if not stream.startswith(_SOI):
        return None
    for marker, position in jpeg_segments(stream):
        if marker in SOF and position + 8 <= len(stream):
            bits, height, width, channels = struct.unpack_from(">BHHB", stream, position + 2)
            return Size(height, width, channels, bits)
    return None


def jpeg_segments(stream: bytes) -> Iterator[tuple[int, int]]:
    """Markers behind a stream's first, and where the length behind each of them lies; up to what is none."""
    position = len(_SOI)
    while position + 4 <= len(stream) and stream[position] == 0xFF:
        if stream[position + 1] == 0xFF:  # filling
            position += 1
            continue
        yield stream[position + 1], position + 2
        position += 2 + int.from_bytes(stream[position + 2 : position + 4], "big")


def jpeg_2000_size(stream: bytes) -> Size | None:
    """Of a JPEG 2000 codestream (ITU-T T.800 A.5.1); None where a stream is none.

    Args:
        stream: from its first byte on, as `without_boxes` gives it.

    Raises:
        UserError: it is cut into more pieces than an image of its size can have, or its headers cannot be followed.
    """
    if not stream.startswith(_SOC + _SIZ) or len(stream) < 45:
        return None
    right, bottom, left, top, tile_width, tile_height, tiles_left, tiles_top, channels = struct.unpack_from(
        ">8LH", stream, 8
    )
    bits, every_column, every_row = stream[42:45]
    height, width = bottom - top, right - left
    if min(height, width, tile_height, tile_width) < 1 or (every_column, every_row) != (1, 1):
        return None
    tiles = _parts(right - tiles_left, tile_width) * _parts(bottom - tiles_top, tile_height)
    _refuse_pieces("tiles", tiles, height * width, _PIXELS_A_TILE)
    area, precincts = (height, width), 0
    for marker, position in _jpeg_2000_segments(stream, len(_SOC)):
        if marker == _SOT:  # from here on of tiles, each of which may have precincts of its own
            area = min(height, tile_height), min(width, tile_width)
        elif marker in (_COD, _COC):
            # In front of the same fields, COC says which channel, and COD four bytes of what is not asked here.
            style = position + 2 + (0 if marker == _COD else 1 if channels < 257 else 2)
            precincts += _precincts(stream, style, style + (5 if marker == _COD else 1), *area)
            _refuse_pieces("precincts", precincts, height * width, _PIXELS_A_PRECINCT)
    return Size(height, width, channels, (bits & 127) + 1)


def unpacks_within(frame: bytes, num_bytes: int) -> bool:
    """Whether no segment of an RLE frame (PS3.5 annex G) is longer than `num_bytes`, on which its decoder panics."""
    if len(frame) < 64:
        return False
    count, *starts = struct.unpack_from("<16L", frame)
    starts = [*starts[:count], len(frame)]
    for position, end in itertools.pairwise(starts):
        made = 0
        if not 64 <= position <= end <= len(frame):
            return False
        while position < end - 1:  # one byte may fill it up to an even length
            head = frame[position]
            if head < 128:
                made += head + 1
                position += head + 2
            elif head > 128:
                made += 257 - head
                position += 2
            else:
                position += 1
        if made > num_bytes:
            return False
    return True


def without_boxes(stream: bytes) -> bytes:
    """The JPEG 2000 codestream alone of a JP2 file, which DICOM forbids and some devices write; else the same."""
    if not stream.startswith(_JP2):
        return stream
    position = 0
    while position + 16 <= len(stream):
        length, kind = struct.unpack_from(">L4s", stream, position)
        head = 8
        if length == 1:
            length, head = struct.unpack_from(">Q", stream, position + 8)[0], 16
        elif length == 0:
            length = len(stream) - position
        if kind == b"jp2c":
            return stream[position + head : position + length]
        position += max(length, head)
    return b""


def _jpeg_2000_segments(stream, position):
    """As `jpeg_segments`, of the main header and those of all tile-parts.

    Behind what it does not know, a decoder goes on with whatever looks like a marker, and nobody could tell with which.
    """
    part, length = 0, 0
    while position + 4 <= len(stream) and stream[position : position + 2] != bytes([0xFF, _EOC]):
        marker, content = stream[position + 1], position + 2
        if stream[position] != 0xFF or marker not in (_IN_HEADERS if not part else {*_IN_HEADERS, _SOD}):
            raise UserError("the headers of its compressed pixels are damaged")
        if marker == _SOD:
            if not length:  # the last one, which goes on to the end
                return
            position = part + length
            if position < content:
                raise UserError("the headers of its compressed pixels are damaged")
            continue
        yield marker, content
        if marker == _SOT and position + 10 <= len(stream):
            part, length = position, int.from_bytes(stream[position + 6 : position + 10], "big")
        position = content + max(2, int.from_bytes(stream[content : content + 2], "big"))


def _precincts(stream, style, levels, height, width):
    """How many there are by a COD or COC segment (A.6.1, A.6.2) over all resolutions; 0 where it leaves them whole."""
    if levels >= len(stream) or not stream[style] & 1:
        return 0
    count = stream[levels]
    sizes = stream[levels + 5 : levels + 6 + count]
    return sum(
        _parts(_parts(width, 1 << count - level), 1 << (size & 15))
        * _parts(_parts(height, 1 << count - level), 1 << (size >> 4))
        for level, size in enumerate(sizes)
    )


def _parts(length, size):
    return -(-length // size)


def _refuse_pieces(what, count, pixels, pixels_a_piece):
    allowed = max(_ALWAYS_ALLOWED, pixels // pixels_a_piece)
    if count > allowed:
        raise UserError(f"its compressed pixels are cut into {count} {what}, more than the {allowed} allowed")
