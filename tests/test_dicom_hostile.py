"""DICOM files that ask for more than they are: refused by name before a decoder makes room for it."""

import logging
import os
import struct

import numpy as np
import pytest
from dicom_writing import encoded, radiograph, write
from pydicom import uid
from pydicom.encaps import encapsulate, generate_frames

from descargan_tf.data.codestreams import jpeg_2000_size, jpeg_size, without_boxes
from descargan_tf.data.dicom_files import is_dicom, read_dicom, read_tags
from descargan_tf.errors import UserError

RAMP = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)
DAMAGED = "is damaged, ends too early, or is no DICOM by the standard"


def compressed(syntax, pixels=RAMP, **tags):
    """A data set, and the one frame in it."""
    dataset = radiograph(pixels, BitsStored=12, **tags)
    encoded(dataset, syntax)
    return dataset, next(generate_frames(dataset.PixelData, number_of_frames=1))


def holding(dataset, *frames, syntax=None):
    dataset.PixelData = encapsulate(list(frames))
    dataset["PixelData"].is_undefined_length = True
    if syntax:
        dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def refusal(tmp_path, dataset):
    """What is said of a file."""
    path = write(tmp_path / "a.dcm", dataset)
    with pytest.raises(UserError) as caught:
        read_dicom(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


def changed(stream, marker, offset, form, *values):
    """A stream with other values in the segment behind its first `marker`."""
    stream = bytearray(stream)
    struct.pack_into(form, stream, stream.index(marker) + offset, *values)
    return bytes(stream)


@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2K])
def test_a_jpeg_2000_stream_larger_than_its_header_is_not_decoded(tmp_path, syntax, monkeypatch):
    monkeypatch.setattr("pydicom.pixels.pixel_array", lambda *args, **kwargs: pytest.fail("was decoded"))
    dataset, stream = compressed(uid.JPEG2000Lossless)
    large = changed(stream, b"\xff\x51", 6, ">2L", 8192, 9000)
    said = "its compressed pixels are 9000x8192, and its header says 64x48"
    assert refusal(tmp_path, holding(dataset, large, syntax=syntax)) == said


@pytest.mark.parametrize(
    ("offset", "form", "values", "said"),
    [
        (38, ">H", [60], "its compressed pixels have 60 channels of 12 bits, and its header says one of 16"),
        (40, ">B", [23], "its compressed pixels have 1 channels of 24 bits, and its header says one of 16"),
        (14, ">2L", [8, 8], "its compressed pixels are 56x40, and its header says 64x48"),
        (22, ">2L", [1, 1], "its compressed pixels are cut into 3072 tiles, more than the 256 allowed"),
        (22, ">2L", [0, 1], "its pixels are damaged (JPEG 2000 Image Compression (Lossless Only))"),
        (41, ">2B", [2, 2], "its pixels are damaged (JPEG 2000 Image Compression (Lossless Only))"),
    ],
)
def test_what_a_jpeg_2000_stream_says_of_itself_is_the_headers(tmp_path, offset, form, values, said):
    dataset, stream = compressed(uid.JPEG2000Lossless)
    stream = changed(stream, b"\xff\x51", offset, form, *values)
    assert refusal(tmp_path, holding(dataset, stream)) == said


def precincts_of_a_pixel(stream, place):
    """The codestream with precincts of 2x2 pixels asked for in a main header or in that of the first tile."""
    start, tile = stream.index(b"\xff\x52"), stream.index(b"\xff\x90")
    asked = bytearray(stream[start : start + 14]) + bytes([0]) + bytes([0x11]) * stream[start + 9]
    asked[4] |= 1
    if place == "COC":  # which channel, and the fields of COD behind the first four
        asked = bytearray(b"\xff\x53\0\0\0\x01") + asked[9:]
    asked[2:4] = struct.pack(">H", len(asked) - 2)
    if place == "COD":
        return stream[:start] + bytes(asked) + stream[start + 14 :]
    if place == "COC":
        return stream[: start + 14] + bytes(asked) + stream[start + 14 :]
    if place == "behind an unknown marker":  # whose length, to who believes in it, is that of all that follows
        return stream[:tile] + b"\xff\x30" + bytes(asked) + stream[tile:]
    length = struct.unpack_from(">L", stream, tile + 6)[0] + len(asked)
    head = stream[tile : tile + 6] + struct.pack(">L", length) + stream[tile + 10 : tile + 12]
    return stream[:tile] + head + bytes(asked) + stream[tile + 12 :]


@pytest.mark.parametrize("place", ["COD", "COC", "tile", "behind an unknown marker"])
def test_precincts_of_a_pixel_are_refused(tmp_path, place, monkeypatch):
    monkeypatch.setattr("pydicom.pixels.pixel_array", lambda *args, **kwargs: pytest.fail("was decoded"))
    dataset, stream = compressed(uid.JPEG2000Lossless, np.zeros((512, 512), np.uint16))
    said = {
        "behind an unknown marker": "the headers of its compressed pixels are damaged",
        None: "its compressed pixels are cut into 87552 precincts, more than the 4096 allowed",
    }
    stream = precincts_of_a_pixel(stream, place)
    assert refusal(tmp_path, holding(dataset, stream)) == said.get(place, said[None])


def test_tile_parts_that_lead_back_end(tmp_path):
    dataset, stream = compressed(uid.JPEG2000Lossless)
    stream = changed(stream, b"\xff\x90", 6, ">L", 1)
    assert refusal(tmp_path, holding(dataset, stream)) == "the headers of its compressed pixels are damaged"


def boxes(stream, length=None, between=b""):
    """A JP2 file around a codestream."""
    first = struct.pack(">L4sL", 12, b"jP  ", 0x0D0A870A)
    if length == 1:
        return first + between + struct.pack(">L4sQ", 1, b"jp2c", 16 + len(stream)) + stream
    return first + between + struct.pack(">L4s", 8 + len(stream) if length is None else length, b"jp2c") + stream


@pytest.mark.parametrize("length", [None, 0, 1])
def test_a_codestream_in_boxes_is_read_without_them(tmp_path, length):
    dataset, stream = compressed(uid.JPEG2000Lossless)
    header = struct.pack(">L4sL4sLL6x", 30, b"jp2h", 22, b"ihdr", 30000, 30000)
    wrapped = boxes(stream, length, header)
    path = write(tmp_path / "a.dcm", holding(dataset, wrapped))
    np.testing.assert_array_equal(read_dicom(path).values, RAMP)
    large = boxes(changed(stream, b"\xff\x51", 6, ">2L", 8192, 9000), length, header)
    assert "9000x8192" in refusal(tmp_path, holding(dataset, large))


@pytest.mark.parametrize("between", [bytes(8), bytes(4) + b"free", b"\0\0\0\1free" + bytes(8), b"\xff" * 8])
def test_boxes_that_lead_nowhere_end(tmp_path, between):
    dataset, stream = compressed(uid.JPEG2000Lossless)
    refusal(tmp_path, holding(dataset, boxes(stream, None, between)[:40]))


@pytest.mark.parametrize("name", ["JPEGLSLossless", "JPEGBaseline8Bit", "JPEGExtended12Bit", "JPEGLossless"])
def test_jpeg_of_another_size_than_its_header_is_not_decoded(tmp_path, name, monkeypatch):
    monkeypatch.setattr("pydicom.pixels.pixel_array", lambda *args, **kwargs: pytest.fail("was decoded"))
    monkeypatch.setattr("pydicom_jpeg_decoder.decode_jpeg", lambda *args: pytest.fail("was decoded"))
    dataset, stream = compressed(uid.JPEGLossless if name == "JPEGLossless" else uid.JPEGLSLossless)
    if name == "JPEGLossless":
        stream = changed(stream, b"\xff\xc3", 5, ">2H", 60000, 50000)
    elif name == "JPEGLSLossless":
        stream = changed(stream, b"\xff\xf7", 5, ">2H", 60000, 50000)
    else:
        frame = b"\xff\xc0\0\x0b\x08" if name == "JPEGBaseline8Bit" else b"\xff\xc1\0\x0b\x0c"
        stream = b"\xff\xd8\xff\xe0\0\4ab\xff" + frame + struct.pack(">2H", 60000, 50000) + b"\1\1\x11\0"
    said = "its compressed pixels are 60000x50000, and its header says 64x48"
    assert refusal(tmp_path, holding(dataset, stream, syntax=getattr(uid, name))) == said


@pytest.mark.parametrize("name", ["JPEGBaseline8Bit", "JPEGLSLossless", "JPEG2000", "JPEGLosslessSV1"])
@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"\xff\x4f\xff\x51"])
def test_what_is_no_such_stream_is_not_given_to_a_decoder_that_takes_many(tmp_path, name, content, monkeypatch):
    monkeypatch.setattr("pydicom.pixels.pixel_array", lambda *args, **kwargs: pytest.fail("was decoded"))
    dataset = holding(radiograph(RAMP), content + b"x" * 60, syntax=getattr(uid, name))
    assert refusal(tmp_path, dataset).startswith("its pixels are damaged (JPEG")


@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.RLELossless, uid.JPEGLosslessSV1])
def test_frames_that_the_header_does_not_know_are_not_decoded(tmp_path, syntax, monkeypatch):
    monkeypatch.setattr("pydicom.pixels.pixel_array", lambda *args, **kwargs: pytest.fail("was decoded"))
    dataset, stream = compressed(syntax)
    said = "holds the compressed pixels of several frames, and its header says one"
    assert refusal(tmp_path, holding(dataset, *[stream] * 50)) == said


def test_uncompressed_frames_that_the_header_does_not_know(tmp_path):
    dataset = radiograph(RAMP)
    dataset.PixelData += bytes(10)  # some devices fill up
    np.testing.assert_array_equal(read_dicom(write(tmp_path / "a.dcm", dataset)).values, RAMP)
    dataset.PixelData = RAMP.tobytes() * 3
    assert refusal(tmp_path, dataset) == "holds the pixels of 3 frames, and its header says one"


def test_offsets_far_beyond_the_file(tmp_path):
    dataset, stream = compressed(uid.JPEG2000Lossless)
    holding(dataset, stream)
    dataset.ExtendedOffsetTable = struct.pack("<Q", 0) * 1000
    dataset.ExtendedOffsetTableLengths = struct.pack("<Q", 1 << 40) * 1000
    np.testing.assert_array_equal(read_dicom(write(tmp_path / "a.dcm", dataset)).values, RAMP)


def test_what_a_decoder_would_panic_on_is_a_line_alone(tmp_path, capfd):
    dataset, _ = compressed(uid.RLELossless)
    run = b"\x81\x00" * 4000
    frame = struct.pack("<16L", 2, 64, 64 + len(run), *[0] * 13) + run * 2
    assert refusal(tmp_path, holding(dataset, frame)) == "its pixels are damaged (RLE Lossless)"
    assert capfd.readouterr() == ("", "")  # it would say so in words of its own, past Python


def test_a_panic_is_a_line(tmp_path, monkeypatch):
    class PanicException(BaseException):
        pass

    def panic(*args, **kwargs):
        raise PanicException

    monkeypatch.setattr("pydicom.pixels.pixel_array", panic)
    dataset, _ = compressed(uid.RLELossless)
    assert refusal(tmp_path, dataset) == f"{DAMAGED} (PanicException)"


def test_nothing_that_a_decoder_says_is_logged(tmp_path, caplog):
    dataset, stream = compressed(uid.JPEG2000Lossless)
    holding(dataset, stream[: stream.index(b"\xff\x5c")] + stream[stream.index(b"\xff\x90") :])  # no QCD
    assert refusal(tmp_path, dataset) == "its pixels are damaged (JPEG 2000 Image Compression (Lossless Only))"
    assert [record.name for record in caplog.records if record.name.startswith("pydicom")] == []
    logging.getLogger("pydicom").warning("is heard again")
    assert "is heard again" in caplog.text


def test_a_transfer_syntax_that_is_no_such_thing_is_not_quoted(tmp_path):
    raw = write(tmp_path / "a.dcm", radiograph(RAMP)).read_bytes()
    path = tmp_path / "b.dcm"
    path.write_bytes(raw.replace(b"1.2.840.10008.1.2.1\0", b"DOE^JANE^19500203^F\0"))
    with pytest.raises(UserError) as caught:
        read_dicom(path)
    assert "DOE" not in str(caught.value)


def test_a_file_too_long_for_one_image_is_not_read(tmp_path):
    path = write(tmp_path / "a.dcm", radiograph(RAMP))
    os.truncate(path, 700 << 20)  # of which the disk holds next to nothing
    with pytest.raises(UserError) as caught:
        read_dicom(path)
    assert str(caught.value) == f"{path}: is 700 MiB long, more than 512: does it hold more than one image?"
    assert read_tags(path).view == "PA"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.dcm")
    for read in (is_dicom, read_dicom, read_tags):
        with pytest.raises(UserError) as caught:
            read(tmp_path / "a.dcm")
        assert str(caught.value) == f"{tmp_path}/a.dcm: is no regular file; expected a DICOM file"


def test_sizes_of_streams():
    _, stream = compressed(uid.JPEG2000Lossless)
    assert jpeg_2000_size(stream) == (64, 48, 1, 12)
    assert without_boxes(stream) is stream
    _, stream = compressed(uid.JPEGLSLossless)
    assert jpeg_size(stream) == (64, 48, 1, 12)
    for length in range(len(stream[:40])):
        assert jpeg_size(stream[:length]) in (None, (64, 48, 1, 12))
