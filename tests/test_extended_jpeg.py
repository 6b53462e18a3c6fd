"""JPEG of 12 bits, as DICOM's default with losses above 8 has it, against a DCT written out; damage is a line."""

import io
import time

import numpy as np
import pytest
from dicom_writing import RETIRED, ZIGZAG, damaged_jpegs, dct_coefficients, encoded, extended_jpeg, radiograph, write
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate

from descargan_tf.data.dicom_files import read_dicom
from descargan_tf.data.extended_jpeg import decode
from descargan_tf.errors import UserError

NOISE = np.random.default_rng(0).integers(0, 1 << 12, (37, 21)).astype(np.uint16)  # no whole blocks
SMOOTH = np.rint(2000 + 1800 * np.sin(np.add.outer(np.arange(37), np.arange(21)) / 9)).astype(np.uint16)
RISING = tuple(range(1, 65))
SOF1, SOS = b"\xff\xc1", b"\xff\xda"


def by_formula(pixels, quantization):
    """What a stream of `extended_jpeg` stands for (A.3.3, A.3.4)."""
    steps = np.empty(64)
    steps[ZIGZAG] = quantization
    rows, columns = (-(-size // 8) for size in pixels.shape)
    blocks = (dct_coefficients(pixels, 12, quantization) * steps).reshape(rows, columns, 8, 8)
    place, wave = np.mgrid[:8, :8]
    cosines = np.cos((2 * place + 1) * wave * np.pi / 16) * np.where(wave, 0.5, 0.5**1.5)
    values = np.einsum("yv,rcvu,xu->rycx", cosines, blocks, cosines).reshape(rows * 8, columns * 8) + 2048
    return np.clip(values, 0, 4095)[: pixels.shape[0], : pixels.shape[1]]


@pytest.mark.parametrize("blocks", [0, 1, 4])  # of a restart interval
@pytest.mark.parametrize("quantization", [(1,) * 64, (64,) * 64, RISING, RISING[::-1]])
@pytest.mark.parametrize("pixels", [NOISE, SMOOTH, np.full_like(SMOOTH, 2048)])  # of the last, no coefficient is left
def test_values_are_those_of_the_formula(pixels, quantization, blocks):
    found = decode(extended_jpeg(pixels, 12, quantization, blocks))
    np.testing.assert_allclose(found, by_formula(pixels, quantization), rtol=0, atol=0.501)
    assert found.dtype == np.uint16


def test_almost_nothing_is_lost_where_nothing_is_quantised():
    assert np.abs(decode(extended_jpeg(NOISE, 12)).astype(int) - NOISE).max() <= 1


def test_the_encoder_of_these_tests_writes_what_others_read():
    pixels = (SMOOTH >> 4).astype(np.uint8)
    picture = Image.open(io.BytesIO(extended_jpeg(pixels, 8, RISING, 4)))
    assert np.abs(np.asarray(picture).astype(int) - pixels).max() < 20
    picture = Image.open(io.BytesIO(extended_jpeg(pixels, 8)))
    assert np.abs(np.asarray(picture).astype(int) - pixels).max() <= 1


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_a_file_of_12_bits(tmp_path, dtype, photometric):
    pixels = SMOOTH.astype(dtype) - (2048 if dtype == np.int16 else 0)
    dataset = radiograph(pixels, BitsStored=12, PhotometricInterpretation=photometric)
    wanted = read_dicom(write(tmp_path / "a.dcm", dataset))
    encoded(dataset, uid.JPEGExtended12Bit)  # has no sign: values are the bits of those that have one
    found = read_dicom(write(tmp_path / "b.dcm", dataset))
    assert np.abs(found.values.astype(float) - wanted.values).max() <= 1
    assert found[1:] == wanted[1:]


@pytest.mark.parametrize("syntax", [uid.JPEGExtended12Bit, *RETIRED])
def test_a_file_of_8_bits(tmp_path, syntax):
    pixels = (SMOOTH >> 4).astype(np.uint8)
    dataset = radiograph(pixels)
    encoded(dataset, syntax)
    assert np.abs(read_dicom(write(tmp_path / "a.dcm", dataset)).values.astype(int) - pixels).max() <= 3


def test_a_retired_syntax_of_12_bits_is_told_with_the_remedy(tmp_path):
    dataset = radiograph(NOISE, BitsStored=12)
    encoded(dataset, uid.JPEGExtended12Bit)
    dataset.file_meta.TransferSyntaxUID = RETIRED[1]
    path = write(tmp_path / "a.dcm", dataset)
    with pytest.raises(UserError) as caught:
        read_dicom(path)
    said = "is compressed (JPEG Full Progression, Non-Hierarchical (Process 10 and 12)), and no installed decoder"
    assert str(caught.value).startswith(f"{path}: {said} reads that")


def edited(old, new):
    """A sound stream of three intervals with other bytes in place of some that it has."""
    stream = extended_jpeg(SMOOTH, 12, RISING, 5)
    assert old in stream
    return stream.replace(old, new, 1)


@pytest.mark.parametrize(
    "stream",
    [
        edited(b"\xff\xd8", b"\xff\xd9"),
        edited(SOF1, b"\xff\xc2"),
        edited(SOF1 + b"\0\x0b\x0c", SOF1 + b"\0\x0b\x0d"),
        edited(b"\1\1\x11\0", b"\1\1\x11\1"),  # a quantisation that there is not
        edited(SOS + b"\0\x08\1\1\0", SOS + b"\0\x08\1\1\1"),  # a table that there is not
        edited(SOS + b"\0\x08\1\1\0", SOS + b"\0\x08\1\1\x10"),
        edited(SOS + b"\0\x08\1\1\0\0\x3f", SOS + b"\0\x08\1\1\0\0\x3e"),
        edited(SOS + b"\0\x08\1\1\0\0\x3f", SOS + b"\0\x08\1\1\0\1\x3f"),
        edited(SOS + b"\0\x08\1\1\0\0\x3f\0", SOS + b"\0\x08\1\1\0\0\x3f\1"),
        edited(b"\xff\xdd\0\4\0\5", b"\xff\xdd\0\4\0\4"),
        edited(b"\xff\xd1", b"\xff\xd9"),
        edited(b"\xff\xd9", b""),
        edited(bytes(range(16)), bytes(range(16, 32))),  # more bits than a coefficient has
    ],
)
def test_what_is_no_such_stream(stream):
    assert decode(stream) is None


def test_data_that_end_too_early_are_not_filled_up():
    stream = extended_jpeg(SMOOTH, 12, RISING)
    for end in range(stream.index(SOS) + 10, len(stream) - 4):
        assert decode(stream[:end]) is None
        if stream[end - 1] != 0xFF:
            assert decode(stream[:end] + b"\xff\xd9") is None


def test_whatever_the_bytes_are_there_is_an_image_or_none():
    random = np.random.default_rng(0)
    seen = {True: 0, False: 0}
    for stream, size in damaged_jpegs(extended_jpeg(SMOOTH, 12, RISING, 6), 0xC1, random, 600):
        found = decode(stream)
        assert found is None or found.shape == (size.height, size.width)
        seen[found is not None] += 1
    assert min(seen.values()) > 20


def test_a_damaged_file_is_a_line_by_its_name(tmp_path):
    stream = extended_jpeg(SMOOTH, 12)
    dataset = radiograph(SMOOTH, BitsStored=12)
    dataset.PixelData = encapsulate([stream[: len(stream) // 2]])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = uid.JPEGExtended12Bit
    path = write(tmp_path / "a.dcm", dataset)
    with pytest.raises(UserError) as caught:
        read_dicom(path)
    assert str(caught.value) == f"{path}: its pixels are damaged (JPEG Extended (Process 2 and 4))"


def test_a_large_image_is_read_in_moments():
    pixels = np.tile(SMOOTH, (20, 40))
    stream = extended_jpeg(pixels, 12, (20,) * 64)
    start = time.monotonic()
    assert decode(stream).shape == pixels.shape
    assert time.monotonic() - start < 10
