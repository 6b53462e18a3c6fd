"""Lossless JPEG of one channel (ITU-T T.81 annex H, process 14), decoded in Rust by jpeg-decoder.

That decoder panics on codes that it cannot read, fills up with zeros what ends too early, and does neither point
transforms nor restart intervals as the standard has them. So it never sees a file's own stream: each restart interval
is handed to it as an image of its own, in which every code can be read. It does so twice, what stands for nothing in
the file standing for two different things: images that differ come of damaged codes.
"""

import itertools
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from descargan_tf.data.codestreams import SOF, jpeg_segments

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_SOF3, _DHT, _RST0, _SOS, _DRI = 0xC3, 0xC4, 0xD0, 0xDA, 0xDD
_MARKER = re.compile(rb"\xff[^\x00\xff]")  # behind entropy-coded data, in which 0 follows each 255
_LAST_CATEGORY = 16  # of differences (table H.2)
_NOTHING = 255
_ONES = b"\xff\x00" * 8  # a code of ones alone stands for nothing (C.2), so data that end too early run into it


class Scan(NamedTuple):
    """What a stream holds."""

    height: int
    width: int
    bits: int  # of a value, those of the point transform among them
    point_transform: int  # how many of them are 0 below what is coded
    predictor: int  # selection value, 1 to 7 (table H.1)
    code_counts: bytes  # how many Huffman codes are 1, 2, ... 16 bits long; all that can occur in the data are there
    categories: bytes  # what they stand for; above _LAST_CATEGORY nothing
    rows: int  # of an interval; the last may have fewer
    intervals: list[bytes]  # entropy-coded


def scan_of(stream: bytes) -> Scan | None:
    """Take a stream apart; None where it is no lossless JPEG of one channel by the standard, or ends too early.

    Args:
        stream: from its first byte on.
    """
    if not stream.startswith(_SOI):
        return None
    tables, pixels_an_interval, frame = {}, 0, None
    for marker, position in jpeg_segments(stream):
        end = position + int.from_bytes(stream[position : position + 2], "big")
        content = stream[position + 2 : end]
        if marker == _DHT:
            tables.update(_tables(content))
        elif marker == _DRI:
            pixels_an_interval = int.from_bytes(content, "big")
        elif marker in SOF:
            if marker != _SOF3 or frame or len(content) != 9:
                return None
            frame = struct.unpack(">BHHBB2x", content)
        elif marker == _SOS:
            if len(content) != 6 or not frame:
                return None
            return _scan(stream, end, content, frame, tables, pixels_an_interval)
    return None


def decode(scan: Scan) -> np.ndarray | None:
    """The values, [H, W] uint8 up to 8 bits and uint16 above; None where codes are damaged or end too early."""
    intervals = []
    for number, data in enumerate(scan.intervals):
        rows = min(scan.rows, scan.height - number * scan.rows)
        # Categories that leave different values behind, even in the lowest bit.
        image, other = (_decoded(scan, rows, data, category) for category in (0, 1))
        if not np.array_equal(image, other):
            return None
        intervals.append(image)
    return np.concatenate(intervals).astype(np.uint8 if scan.bits <= 8 else np.uint16) << scan.point_transform


def _scan(stream, position, content, frame, tables, pixels_an_interval):
    """What `scan_of` says, by the scan's header (B.2.3), what stands before it, and where its data begin."""
    bits, height, width, channels, channel = frame
    scan_channels, scan_channel, table, predictor, _, transform = content
    if (channels, scan_channels, scan_channel) != (1, 1, channel) or not height * width:
        return None
    rows, rest = divmod(pixels_an_interval, width) if pixels_an_interval else (height, 0)
    if not rows or rest or not transform + 2 <= bits <= 16 or not 1 <= predictor <= 7 or table >> 4 not in tables:
        return None
    intervals = _intervals(stream, position, -(-height // rows))
    return intervals and Scan(height, width, bits, transform, predictor, *tables[table >> 4], rows, intervals)


def _tables(content: bytes) -> Iterator[tuple[int, tuple[bytes, bytes]]]:
    """Destination, and `code_counts` and `categories` of each Huffman table that a segment defines (B.2.4.2)."""
    position = 0
    while position + 17 <= len(content):
        counts = list(content[position + 1 : position + 17])
        end = position + 17 + sum(counts)
        categories = content[position + 17 : end]
        longest = max((length for length, count in enumerate(counts, 1) if count), default=1)
        free = (1 << longest) - sum(count << longest - length for length, count in enumerate(counts[:longest], 1))
        counts[longest - 1] += max(0, free)
        # A segment holds no more: 240 codes left out, which no way of making codes leads to, are taken for damage.
        if end <= len(content) and free >= 0 and counts[longest - 1] < 256 and sum(counts) <= 256:
            yield content[position], (bytes(counts), categories + bytes([_NOTHING]) * free)
        position = end


def _intervals(stream, position, count):
    """The data of each restart interval up to the end of the image; None where there are more or fewer."""
    found = []
    for marker in itertools.islice(_MARKER.finditer(stream, position), count):
        data = stream[position : marker.start()].rstrip(b"\xff")  # filling
        found.append(data)
        expected = _EOI if len(found) == count else bytes([0xFF, _RST0 + (len(found) - 1) % 8])
        if marker.group() != expected or b"\xff\xff" in data:
            return None
        position = marker.end()
    return found if len(found) == count else None


def _decoded(scan, rows, data, category):
    """An interval, [rows, W]; codes that stand for nothing stand for `category`."""
    from pydicom_jpeg_decoder import decode_jpeg

    bits = scan.bits - scan.point_transform
    categories = bytes(category if value > _LAST_CATEGORY else value for value in scan.categories)
    image = (
        _SOI,
        _segment(_DHT, bytes(1) + scan.code_counts + categories),
        _segment(_SOF3, struct.pack(">BHHB", bits, rows, scan.width, 1) + bytes([1, 0x11, 0])),
        _segment(_SOS, bytes([1, 1, 0, scan.predictor, 0, 0])),
        data,
        _ONES,
        _EOI,
    )
    kind = np.uint8 if bits == 8 else np.uint16
    return np.frombuffer(decode_jpeg(b"".join(image)).pixel_data, kind).reshape(rows, scan.width)


def _segment(marker, content):
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
