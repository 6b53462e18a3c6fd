"""Lossless JPEG of one channel (ITU-T T.81 annex H, process 14), decoded in Rust by jpeg-decoder.

That decoder panics on codes that it cannot read, fills up with zeros what ends too early, and does neither point
transforms nor restart intervals as the standard has them. So it never sees a file's own stream: each restart interval
is handed to it as an image of its own, in which every code can be read. It does so twice, what stands for nothing in
the file standing for two different things: images that differ come of damaged codes.
"""

import struct

import numpy as np

from descargan_tf.data.jpeg_scans import DHT, EOI, SOI, SOS, Table, scan_of, segment

_SOF3 = 0xC3
_LAST_CATEGORY = 16  # of differences (table H.2)
_NOTHING = 255
_ONES = b"\xff\x00" * 8  # a code of ones alone stands for nothing (C.2), so data that end too early run into it


def decode(stream: bytes) -> np.ndarray | None:
    """The values, [H, W] uint8 up to 8 bits and uint16 above.

    None where a stream is no lossless JPEG of one channel by the standard, where its codes are damaged, and where it
    ends too early.

    Args:
        stream: from its first byte on, with a size that may be taken for true.
    """
    scan = scan_of(stream, _SOF3, 1)
    table = scan and scan.dc and _completed(scan.dc)
    if not table or not scan.transform + 2 <= scan.bits <= 16 or not 1 <= scan.first <= 7 or scan.interval % scan.width:
        return None
    found = []
    rows_left = scan.height
    for data in scan.intervals:
        rows = min(scan.interval // scan.width, rows_left)
        rows_left -= rows
        # Categories that leave different values behind, even in the lowest bit.
        image, other = (_decoded(scan, table, rows, data, category) for category in (0, 1))
        if not np.array_equal(image, other):
            return None
        found.append(image)
    return np.concatenate(found).astype(np.uint8 if scan.bits <= 8 else np.uint16) << scan.transform


def _completed(table):
    """With all codes that are left out, as _NOTHING."""
    counts = list(table.counts)
    longest = max(length for length, count in enumerate(counts, 1) if count)
    left_out = (1 << longest) - sum(count << longest - length for length, count in enumerate(counts[:longest], 1))
    counts[longest - 1] += left_out
    # A segment holds no more: 240 codes left out, to which no way of making them leads, are taken for damage.
    if counts[longest - 1] > 255 or sum(counts) > 256:
        return None
    return Table(bytes(counts), table.values + bytes([_NOTHING]) * left_out)


def _decoded(scan, table, rows, data, category):
    """An interval, [rows, W]; codes that stand for nothing stand for `category`."""
    from pydicom_jpeg_decoder import decode_jpeg

    bits = scan.bits - scan.transform
    values = bytes(category if value > _LAST_CATEGORY else value for value in table.values)
    image = (
        SOI,
        segment(DHT, bytes(1) + table.counts + values),
        segment(_SOF3, struct.pack(">BHHB", bits, rows, scan.width, 1) + bytes([1, 0x11, 0])),
        segment(SOS, bytes([1, 1, 0, scan.first, 0, 0])),
        data,
        _ONES,
        EOI,
    )
    kind = np.uint8 if bits == 8 else np.uint16
    return np.frombuffer(decode_jpeg(b"".join(image)).pixel_data, kind).reshape(rows, scan.width)
