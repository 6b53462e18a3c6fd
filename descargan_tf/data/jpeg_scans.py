"""JPEG of one channel and one scan (ITU-T T.81 annex B), taken apart for whoever reads its entropy-coded data."""

import itertools
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from descargan_tf.data.codestreams import SOF, jpeg_segments

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
DHT, SOS = 0xC4, 0xDA
_DQT, _RST0, _DRI = 0xDB, 0xD0, 0xDD
_MARKER = re.compile(rb"\xff[^\x00\xff]")  # behind entropy-coded data, in which 0 follows each 255


class Table(NamedTuple):
    """Huffman codes."""

    counts: bytes  # how many are 1, 2, ... 16 bits long
    values: bytes  # what they stand for


class Scan(NamedTuple):
    """What a stream holds."""

    height: int
    width: int
    bits: int  # of a value
    first: int  # coefficient, or lossless the predictor
    last: int  # coefficient
    transform: int  # successive approximation, or lossless the point transform
    dc: Table | None  # or lossless the only one; None where a stream has none of that name
    ac: Table | None
    quantization: tuple[int, ...] | None  # in zigzag order
    interval: int  # pixels, or blocks of 8x8, after which prediction begins anew
    intervals: list[bytes]  # the data of each


def scan_of(stream: bytes, frame_marker: int, side: int) -> Scan | None:
    """Take a stream apart; None where it is no such JPEG by the standard, or ends too early.

    Args:
        stream: from its first byte on.
        frame_marker: the second byte of the SOF that is read.
        side: of a block, in pixels; lossless 1.
    """
    if not stream.startswith(SOI):
        return None
    tables, quantizations, interval, frame = {}, {}, 0, None
    for marker, position in jpeg_segments(stream):
        end = position + int.from_bytes(stream[position : position + 2], "big")
        content = stream[position + 2 : end]
        if marker == DHT:
            tables.update(_tables(content))
        elif marker == _DQT:
            quantizations.update(_quantizations(content))
        elif marker == _DRI:
            interval = int.from_bytes(content, "big")
        elif marker in SOF:
            if marker != frame_marker or frame or len(content) != 9:
                return None
            frame = struct.unpack(">BHHBBxB", content)
        elif marker == SOS:
            break
    else:
        return None
    if not frame or len(content) != 6:
        return None
    bits, height, width, channels, channel, quantization = frame
    scan_channels, scan_channel, names, *how = content
    units = -(-height // side) * -(-width // side)
    if (channels, scan_channels, scan_channel) != (1, 1, channel) or not units:
        return None
    interval = interval or units
    intervals = _intervals(stream, end, -(-units // interval))
    if intervals is None:
        return None
    dc, ac = tables.get(names >> 4), tables.get(0x10 | names & 15)
    return Scan(height, width, bits, *how, dc, ac, quantizations.get(quantization), interval, intervals)


def segment(marker: int, content: bytes) -> bytes:
    """A marker, its length and what it holds."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _tables(content: bytes) -> Iterator[tuple[int, Table]]:
    """Class and destination, in one byte, of the Huffman tables that a segment defines (B.2.4.2)."""
    position = 0
    while position + 17 <= len(content):
        counts = content[position + 1 : position + 17]
        end = position + 17 + sum(counts)
        space = sum(count << 16 - length for length, count in enumerate(counts, 1))
        if any(counts) and space <= 1 << 16 and end <= len(content):  # no more codes than there can be
            yield content[position], Table(counts, content[position + 17 : end])
        position = end


def _quantizations(content: bytes) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Destination and values of the quantisation tables that a segment defines (B.2.4.1)."""
    position = 0
    while position < len(content):
        form = ">64H" if content[position] >> 4 else ">64B"
        end = position + 1 + struct.calcsize(form)
        if end <= len(content):
            yield content[position] & 15, struct.unpack_from(form, content, position + 1)
        position = end


def _intervals(stream, position, count):
    """The data of each restart interval up to the end of the image; None where there are more or fewer."""
    found = []
    for marker in itertools.islice(_MARKER.finditer(stream, position), count):
        data = stream[position : marker.start()].rstrip(b"\xff")  # filling
        found.append(data)
        expected = EOI if len(found) == count else bytes([0xFF, _RST0 + (len(found) - 1) % 8])
        if marker.group() != expected or b"\xff\xff" in data:
            return None
        position = marker.end()
    return found if len(found) == count else None
