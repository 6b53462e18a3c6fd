"""JPEG of 12 bits and one channel, sequential by Huffman codes (ITU-T T.81 annex F, process 4), decoded here.

No library does that may be required here: those that read it are under the GPL, or end the process on damaged files.
"""

import array
import itertools

import numpy as np
import scipy  # whose parts load when they are asked for: most of what starts does not

from descargan_tf.data.jpeg_scans import Scan, Table, scan_of

_SOF1 = 0xC1
_BITS = 12
_SIDE, _SIZE = 8, 64  # of a block
_ZEROS = 0xF0  # 16 of them; else a code says how many come before a coefficient, and how many bits it has
_NO_CODE = 1 << 40, 0  # so long that the data end before it


def decode(stream: bytes) -> np.ndarray | None:
    """The values, [H, W] uint16.

    None where a stream is no such JPEG by the standard, where its codes are damaged, and where it ends too early.

    Args:
        stream: from its first byte on, with a size that may be taken for true.
    """
    scan = scan_of(stream, _SOF1, _SIDE)
    if not scan or not (scan.dc and scan.ac and scan.quantization):
        return None
    if (scan.bits, scan.first, scan.last, scan.transform) != (_BITS, 0, _SIZE - 1, 0):
        return None
    rows, columns = -(-scan.height // _SIDE), -(-scan.width // _SIDE)
    coefficients = _coefficients(scan, rows * columns)
    if coefficients is None:
        return None
    blocks = scipy.fft.idctn(coefficients.reshape(rows, columns, _SIDE, _SIDE), axes=(2, 3), norm="ortho")
    values = blocks.swapaxes(1, 2).reshape(rows * _SIDE, columns * _SIDE)[: scan.height, : scan.width]
    return np.clip(np.rint(values) + (1 << _BITS - 1), 0, (1 << _BITS) - 1).astype(np.uint16)


def _coefficients(scan: Scan, num_blocks: int) -> np.ndarray | None:
    """[num_blocks, 64] float32, times their quantisation, row by row."""
    places, values = array.array("i"), array.array("i")  # of those that are not 0, in zigzag order
    dc, ac = _by_next_bits(scan.dc, 15), _by_next_bits(scan.ac, 255)
    for number, data in enumerate(scan.intervals):
        blocks = range(number * scan.interval, min((number + 1) * scan.interval, num_blocks))
        try:
            _read(data.replace(b"\xff\x00", b"\xff"), blocks, dc, ac, places, values)
        except (IndexError, OverflowError):  # behind the data's end, or a block's; more than 32 bits
            return None
    coefficients = np.zeros((num_blocks, _SIZE), np.float32)
    coefficients.reshape(-1)[np.frombuffer(places, places.typecode)] = np.frombuffer(values, values.typecode)
    found = np.empty_like(coefficients)
    found[:, _zigzag()] = coefficients * np.asarray(scan.quantization, np.float32)
    return found


def _read(data, blocks, dc, ac, places, values):
    """Append what an interval holds; IndexError where it does not hold that much (F.2.2)."""
    data = np.frombuffer(data + b"\xff" * 3, np.uint8).astype(np.uint32)
    # 32 bits from each byte on: of a position in bits, whatever comes next up to 25 of them is in one.
    words = array.array("I", (data[:-3] << 24 | data[1:-2] << 16 | data[2:-1] << 8 | data[3:]).tobytes())
    position = predicted = 0
    for block in blocks:
        length, size = dc[words[position >> 3] >> 16 - (position & 7) & 0xFFFF]
        position += length
        if size:
            value = words[position >> 3] >> 32 - size - (position & 7) & (1 << size) - 1
            position += size
            predicted += value if value >> size - 1 else value - (1 << size) + 1
        if predicted:
            places.append(block * _SIZE)
            values.append(predicted)
        index = 0
        while index < _SIZE - 1:
            length, code = ac[words[position >> 3] >> 16 - (position & 7) & 0xFFFF]
            position += length
            size = code & 15
            if not size:
                if code != _ZEROS:
                    break
                index += 16
                continue
            index += (code >> 4) + 1
            if index >= _SIZE:
                raise IndexError
            value = words[position >> 3] >> 32 - size - (position & 7) & (1 << size) - 1
            position += size
            places.append(block * _SIZE + index)
            values.append(value if value >> size - 1 else value - (1 << size) + 1)
    if position > 8 * len(words):
        raise IndexError


def _by_next_bits(table: Table, largest: int) -> list[tuple[int, int]]:
    """Length and value, `largest` at most, of the code that the next 16 bits begin with (C.2)."""
    found, values = [], iter(table.values)
    for length, count in enumerate(table.counts, 1):
        for value in itertools.islice(values, count):
            found += [(length, value) if value <= largest else _NO_CODE] * (1 << 16 - length)
    return found + [_NO_CODE] * ((1 << 16) - len(found))


def _zigzag():
    """Places in a block in the order in which they are written: by diagonals, every other one upwards (figure A.6)."""
    return sorted(range(_SIZE), key=lambda place: _along_diagonals(*divmod(place, _SIDE)))


def _along_diagonals(row, column):
    diagonal = row + column
    return diagonal, row if diagonal % 2 else column
