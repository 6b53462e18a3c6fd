"""Streams of lossless JPEG by all rules of ITU-T T.81 annex H, and damaged ones, of which no decoder is told."""

import struct
import time

import numpy as np
import pytest
from dicom_writing import damaged_jpegs, lossless_jpeg, radiograph, write
from pydicom import uid
from pydicom.encaps import encapsulate

from descargan_tf.data.dicom_files import read_dicom
from descargan_tf.data.lossless_jpeg import decode
from descargan_tf.errors import UserError

# Rows and columns that are no multiple of anything; the ends of the range are neighbours, as they are in noise.
NOISE = np.random.default_rng(0).integers(0, 1 << 16, (23, 17)).astype(np.uint16)
SOF3, DHT, SOS = b"\xff\xc3", b"\xff\xc4", b"\xff\xda"


def pixels(bits, point_transform=0):
    found = (NOISE >> (16 - bits)) >> point_transform << point_transform
    return found.astype(np.uint8) if bits <= 8 else found


@pytest.mark.parametrize("rows", [0, 1, 5, 23])  # of a restart interval
@pytest.mark.parametrize("point_transform", [0, 1, 5])
@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("bits", [7, 8, 12, 16])
def test_predictors_point_transforms_and_restart_intervals(bits, predictor, point_transform, rows):
    wanted = pixels(bits, point_transform)
    found = decode(lossless_jpeg(wanted, bits, predictor, point_transform, rows))
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == wanted.dtype


def test_a_stream_by_hand():
    """3x2 pixels of 4 bits, predictor 7, with a table of five codes: what a reader of the standard writes down."""
    # Categories 0, 1, 2, 3, 4 have the codes 00, 01, 10, 110, 1110. Values 9 8 8 / 6 11 7; predicted are 8 9 8 / 9
    # (6+8)/2 (11+8)/2, so the differences are 1 -1 0 / -3 4 -2.
    bits = "01 1" + "01 0" + "00" + "10 00" + "110 100" + "10 01"
    bits = bits.replace(" ", "")
    data = int(bits.ljust(-(-len(bits) // 8) * 8, "1"), 2).to_bytes(-(-len(bits) // 8), "big")
    stream = b"\xff\xd8" + SOF3 + b"\0\x0b\x04\0\2\0\3\1\7\x11\0"
    stream += DHT + b"\0\x18\1" + bytes([0, 3, 1, 1, *[0] * 12]) + bytes(range(5)) + SOS + b"\0\x08\1\7\x10\7\0\0"
    np.testing.assert_array_equal(decode(stream + data + b"\xff\xd9"), [[9, 8, 8], [6, 11, 7]])


def test_what_stands_between_and_behind_is_passed_over():
    stream = lossless_jpeg(NOISE, 16, rows_an_interval=5)
    comment = b"\xff\xfe" + struct.pack(">H", 6) + SOS + SOF3  # no markers, as they stand in a segment
    found = stream[:2] + b"\xff\xff" + b"\xff\xe0\0\4ab" + comment + stream[2:]
    found = found.replace(b"\xff\xd2", b"\xff\xff\xff\xd2").replace(b"\xff\xd9", b"\xff\xff\xd9\0")
    np.testing.assert_array_equal(decode(found), NOISE)


def test_a_table_is_the_last_of_its_name():
    stream = lossless_jpeg(NOISE, 16)
    other = DHT + b"\0\x14\0" + bytes([1, *[0] * 15]) + b"\5"
    np.testing.assert_array_equal(decode(stream[:2] + other + stream[2:]), NOISE)
    start = stream.index(SOF3)
    assert decode(stream[:start] + other + stream[start:]) is None


def edited(old, new, number=1):
    """A sound stream of 12 bits and four restart intervals with other bytes in place of some that it has."""
    stream = lossless_jpeg(pixels(12), 12, rows_an_interval=6)
    assert old in stream
    return stream.replace(old, new, number)


@pytest.mark.parametrize(
    "stream",
    [
        edited(b"\xff\xd8", b"\xff\xd9"),
        edited(SOF3, b"\xff\xc1"),
        edited(SOF3, b"\xff\xf7"),
        edited(SOF3, b"\xff\xfe"),  # none
        edited(SOF3, b"\xff\xf7\0\x0b\x0c\0\x17\0\x11\1\1\x11\0" + SOF3),  # two
        edited(SOF3 + b"\0\x0b\x0c", SOF3 + b"\0\x0b\x11"),  # 17 bits
        edited(SOF3 + b"\0\x0b\x0c", SOF3 + b"\0\x0b\x01"),
        edited(SOF3 + b"\0\x0b\x0c\0\x17", SOF3 + b"\0\x0b\x0c\0\x00"),  # rows are said elsewhere
        edited(b"\1\1\x11\0", b"\2\1\x11\0"),
        edited(b"\1\1\x11\0", b"\1\2\x11\0"),
        edited(SOS + b"\0\x08\1\1\0", SOS + b"\0\x08\1\1\x10"),  # a table that there is not
        edited(SOS + b"\0\x08\1\1\0\1", SOS + b"\0\x08\1\1\0\0"),  # differences between frames
        edited(SOS + b"\0\x08\1\1\0\1", SOS + b"\0\x08\1\1\0\x08"),
        edited(SOS + b"\0\x08\1\1\0\1\0\0", SOS + b"\0\x08\1\1\0\1\0\x0b"),  # 1 bit is left
        edited(b"\xff\xdd\0\4\0\x66", b"\xff\xdd\0\4\0\x65"),  # no whole rows
        edited(b"\xff\xdd\0\4\0\x66", b"\xff\xdd\0\4\0\x77"),
        edited(b"\xff\xdd\0\4\0\x66", b"\xff\xdd\0\4\0\0"),
        edited(b"\xff\xd1", b"\xff\xd2"),
        edited(b"\xff\xd2", b"\xff\xd9"),
        edited(b"\xff\xd2", b""),
        edited(b"\xff\xd9", b"\xff\xda"),
        edited(b"\xff\xd9", b""),
        edited(b"\xff\xd2", b"\xff\xff\x00\xff\xd2"),
        edited(bytes([0, 0, 0, 0, 0, 17]), bytes([0, 0, 0, 0, 17, 0])),  # more codes than four bits have
        edited(bytes([0, 0, 0, 0, 0, 17, 0]), bytes([0, 0, 0, 0, 0, 0, 17])),  # other ones
        edited(bytes(range(17)), bytes(range(17, 34))),  # categories that there are not
    ],
)
def test_what_is_no_such_stream(stream, capfd):
    assert decode(stream) is None
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("bits", [8, 12])
def test_data_that_end_too_early_are_not_filled_up(bits):
    stream = lossless_jpeg(pixels(bits), bits)
    data = stream.index(SOS) + 10
    for end in range(data, len(stream) - 4):  # of a byte more, the last difference can be all
        assert decode(stream[:end]) is None
        if stream[end - 1] != 0xFF:
            assert decode(stream[:end] + b"\xff\xd9") is None


def test_damage_is_neither_a_panic_nor_a_word(capfd):
    random = np.random.default_rng(0)
    seen = {True: 0, False: 0}
    for bits, predictor, rows in ((8, 1, 0), (12, 7, 6), (16, 4, 1)):
        sound = lossless_jpeg(pixels(bits), bits, predictor, 0, rows)
        for stream, _ in damaged_jpegs(sound, 0xC3, random, 200):
            seen[decode(stream) is not None] += 1
    assert min(seen.values()) > 20
    assert capfd.readouterr() == ("", "")


def test_a_damaged_file_is_a_line_by_its_name(tmp_path, capfd):
    stream = lossless_jpeg(NOISE, 16)
    data = stream.index(SOS) + 10
    dataset = radiograph(NOISE)
    dataset.PixelData = encapsulate([stream[:data] + b"\xff\x00" * 9 + stream[data:]])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = uid.JPEGLossless
    path = write(tmp_path / "a.dcm", dataset)
    with pytest.raises(UserError) as caught:
        read_dicom(path)
    assert str(caught.value) == f"{path}: its pixels are damaged (JPEG Lossless, Non-Hierarchical (Process 14))"
    assert capfd.readouterr() == ("", "")


def test_a_large_image_is_read_in_moments():
    wanted = np.tile(NOISE, (40, 60))
    stream = lossless_jpeg(wanted, 16)
    start = time.monotonic()
    np.testing.assert_array_equal(decode(stream), wanted)
    assert time.monotonic() - start < 5
