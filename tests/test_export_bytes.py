"""Files decoded in the graph: as prediction reads them, and refused before they do harm."""

import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from exports import SIZE, UINT8, encoded
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from descargan_tf.data.images import Scaling, read_image, scale_pixels
from descargan_tf.errors import UserError
from descargan_tf.export.bytes_input import MAX_PIXELS, FileRule, decode_images
from descargan_tf.export.reference import drawn_images, encode

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
SMOOTH = (127 + 90 * np.sin(np.arange(SIZE)[:, None] / 7) * np.cos(np.arange(SIZE) / 5)).astype(np.uint8)
FLOAT = FileRule(Scaling(-1, 1), "float32")
_decoders = {}


def decode(content, rule=UINT8):
    """[SIZE, SIZE] of one file."""
    if rule not in _decoders:
        _decoders[rule] = tf.function(
            lambda files: decode_images(files, SIZE, rule),
            input_signature=[tf.TensorSpec((None,), tf.string)],
            autograph=False,
        )
    return _decoders[rule](tf.constant([content])).numpy()[0, ..., 0]


def refusal(content, rule=UINT8):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        decode(content, rule)
    return caught.value.message


def as_predicted(content, tmp_path, kind, rule=UINT8):
    path = tmp_path / f"image.{kind.lower()}"
    path.write_bytes(content)
    return scale_pixels(read_image(path).pixels, rule.scaling, path)


def in_mode(mode):
    return Image.fromarray(GRAY).convert(mode)


def low_bits(bits):
    """A gray PNG of 1, 2 or 4 bits a pixel, which Pillow does not write."""
    values = RNG.integers(0, 2**bits, (SIZE, SIZE), dtype=np.uint8)
    packed = np.packbits(np.unpackbits(values[..., None], axis=-1)[..., -bits:].reshape(SIZE, -1), axis=1)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    return png_start(SIZE, SIZE, bits, 0) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_start(width, height, bits=8, colour_type=0):
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))


def jpeg_start(width, height, bits=8, channels=1):
    frame = struct.pack(">BHHB", bits, height, width, channels) + bytes([1, 0x11, 0]) * channels
    return b"\xff\xd8\xff\xc0" + struct.pack(">H", 2 + len(frame)) + frame + b"\xff\xda\x00\x08"


# ---- as prediction reads them


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("PNG", encoded(GRAY)),
        ("PNG", encoded(in_mode("1"))),
        ("PNG", low_bits(1)),
        ("PNG", low_bits(2)),
        ("PNG", low_bits(4)),
        ("PNG", encoded(in_mode("P"))),
        ("PNG", encoded(in_mode("LA"))),
        ("PNG", encoded(in_mode("RGB"))),
        ("PNG", encoded(in_mode("RGBA"))),
        ("JPEG", encoded(GRAY, "JPEG", quality=80)),
        ("JPEG", encoded(SMOOTH, "JPEG", progressive=True)),
        ("JPEG", encoded(in_mode("RGB"), "JPEG")),
        ("JPEG", encoded(SMOOTH, "JPEG", icc_profile=b"x" * 100_000)),
    ],
)
def test_a_file_becomes_what_prediction_makes_of_it(tmp_path, kind, content):
    np.testing.assert_array_equal(decode(content), as_predicted(content, tmp_path, kind))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(10))
def test_a_camera_orientation_is_undone_as_prediction_does_it(tmp_path, orientation, order):
    head = {"<": b"II*\0", ">": b"MM\0*"}[order]
    entries = [(256, 3, 77, 0), (274, 3, orientation, 0), (305, 4, 9, None)]
    block = head + struct.pack(order + "IH", 8, len(entries))
    for tag, kind, value, rest in entries:
        block += struct.pack(order + "HHI", tag, kind, 1)
        block += struct.pack(order + "I", value) if rest is None else struct.pack(order + "HH", value, rest)
    content = encoded(GRAY, "JPEG", exif=b"Exif\0\0" + block + bytes(4))
    np.testing.assert_array_equal(decode(content), as_predicted(content, tmp_path, "JPEG"))
    turned = {1: GRAY, 3: GRAY[::-1, ::-1], 6: np.rot90(GRAY, -1), 8: np.rot90(GRAY)}
    if orientation in turned:
        assert np.abs(decode(content) - (turned[orientation] / 127.5 - 1)).mean() < 0.2


@pytest.mark.parametrize("rule", [FileRule(Scaling(0, 4095), "uint16"), FileRule(Scaling(-3, 1200), "uint16")])
def test_sixteen_bits_go_through_the_scaling_of_the_training_data(tmp_path, rule):
    pixels = RNG.integers(0, 1200, (SIZE, SIZE), dtype=np.uint16)
    content = encoded(pixels)
    np.testing.assert_array_equal(decode(content, rule), as_predicted(content, tmp_path, "PNG", rule))


def test_a_narrow_range_of_eight_bits_is_the_trainings(tmp_path):
    rule = FileRule(Scaling(10, 200), "uint8")
    content = encoded(np.clip(GRAY, 10, 200))
    np.testing.assert_array_equal(decode(content, rule), as_predicted(content, tmp_path, "PNG", rule))


@pytest.mark.parametrize("rule", [UINT8, FLOAT, FileRule(Scaling(0, 65535), "uint16")])
def test_eight_and_sixteen_bits_of_one_picture_are_one_image(rule):
    eight, sixteen = encoded(GRAY), encoded(GRAY.astype(np.uint16) * 257)
    np.testing.assert_array_equal(decode(eight, rule), decode(sixteen, rule))
    np.testing.assert_allclose(decode(eight, rule), GRAY / 127.5 - 1, atol=1e-6)


def test_files_of_floats_are_stood_for_by_their_range():
    pixels = RNG.integers(0, 65536, (SIZE, SIZE), dtype=np.uint16)
    np.testing.assert_allclose(
        decode(encoded(pixels), FileRule(Scaling(-5, 9), "float32")), pixels / 32767.5 - 1, atol=1e-6
    )


@pytest.mark.parametrize(
    "rule", [UINT8, FLOAT, FileRule(Scaling(0, 4095), "uint16"), FileRule(Scaling(20, 90), "uint8")]
)
def test_drawn_images_come_back_as_they_were_said_to(rule):
    files, read = encode(drawn_images(2, SIZE), rule)
    for content, image in zip(files, read, strict=True):
        np.testing.assert_allclose(decode(content, rule), image[..., 0], atol=1e-6)
        assert image.std() > 0.1


@pytest.mark.parametrize("shape", [(128, 128), (50, 200), (20, 16), (64, 63), (1, 1)])
def test_other_sizes_are_resized_without_aliasing(shape):
    pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
    # Pillow's bilinear filter widens with the factor, too.
    resized = Image.fromarray(pixels.astype(np.float32)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(decode(encoded(pixels)), np.asarray(resized) / 127.5 - 1, atol=1e-5)


# ---- refused


@pytest.mark.parametrize(
    "content", [b"", b"x", b"hello", b"GIF89a", b"BM" + bytes(60), encoded(GRAY, "GIF"), encoded(GRAY, "TIFF")]
)
def test_what_is_no_picture_is_named_so(content):
    assert "Unknown image file format: image_bytes must hold a PNG or a JPEG file" in refusal(content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (encoded(GRAY)[:200], "Invalid PNG data"),
        (encoded(GRAY)[:20], "PNG without its header"),
        (encoded(GRAY)[:8], "PNG without its header"),
        (encoded(GRAY, "JPEG")[:300], "damaged JPEG"),
        (encoded(GRAY, "JPEG")[:-900], "Invalid JPEG data"),
        (b"\xff\xd8\xff", "damaged JPEG"),
        (b"\xff\xd8" + b"\xff\xe0\x00\x02" * 5000, "damaged JPEG"),
        (b"\xff\xd8\xff\xe0\x00\x00", "damaged JPEG"),
        (encoded(np.dstack([GRAY, GRAY, 255 - GRAY])), "is a colour image"),
        (encoded(np.dstack([GRAY] * 4)), "has transparent pixels"),
        (encoded(in_mode("CMYK"), "JPEG"), r"8 bits and 1 or 3 channels; bits and channels are] [8] [4]"),
        (jpeg_start(SIZE, SIZE, bits=12), "bits and channels are] [12] [1]"),
        (png_start(SIZE, SIZE, 16, 2), "16-bit PNG must have one gray channel; colour type is] [2]"),
    ],
)
def test_bad_files_are_refused_in_words(content, words):
    assert words in refusal(content)


@pytest.mark.parametrize("start", [png_start, jpeg_start])
@pytest.mark.parametrize(("width", "height"), [(65000, 65000), (0, 10), (10, 0), (MAX_PIXELS // 64 + 1, 64)])
def test_the_size_is_refused_by_the_header_alone(start, width, height):
    if start is jpeg_start and width > 65535:
        width, height = 65535, MAX_PIXELS // 65535 + 1
    message = refusal(start(width, height))
    assert f"at most {MAX_PIXELS} pixels; height and width are] [{height}] [{width}]" in message


def test_the_largest_png_header_does_not_overflow():
    assert "[2147483647] [2147483647]" in refusal(png_start(2**31 - 1, 2**31 - 1))
    assert "[4294967295] [4294967295]" in refusal(png_start(2**32 - 1, 2**32 - 1))


def test_a_size_behind_a_second_frame_header_is_not_believed():
    frame = jpeg_start(65000, 65000)[2:-4]
    honest = encoded(GRAY, "JPEG")
    at = honest.index(b"\xff\xc0")
    assert "damaged JPEG" in refusal(honest[:at] + honest[at : at + 13] + frame + honest[at + 13 :])


def test_a_large_compressed_nothing_is_not_decoded():
    """64 MiB of zeros in 64 KiB would be decoded if the header alone did not forbid it."""
    bomb = png_start(8192, 8192) + chunk(b"IDAT", zlib.compress(bytes(8193 * 8192), 9)) + chunk(b"IEND", b"")
    assert len(bomb) < 100_000
    assert "at most" in refusal(bomb)


@pytest.mark.parametrize(
    ("rule", "pixels", "words"),
    [
        (FileRule(Scaling(0, 200), "uint8"), np.maximum(GRAY, 1), "[1 255] [leave the range 0,200 of"),
        (FileRule(Scaling(0, 4095), "uint16"), np.full((SIZE, SIZE), 4096, np.uint16), "[4096 4096] [leave"),
        (FileRule(Scaling(9, 4095), "uint16"), np.full((SIZE, SIZE), 8, np.uint16), "[8 8] [leave the range 9,4095"),
    ],
)
def test_values_outside_the_training_range_are_refused_as_prediction_does(tmp_path, rule, pixels, words):
    content = encoded(pixels)
    assert words in refusal(content, rule)
    with pytest.raises(UserError, match="pass the range of all files"):
        as_predicted(content, tmp_path, "PNG", rule)


def test_eight_bits_that_cannot_be_the_training_values_are_refused():
    """255 of 8 bits is 65535 of 16, which scans of 12 bits never hold."""
    assert "65535] [leave the range 0,4095" in refusal(encoded(GRAY), FileRule(Scaling(0, 4095), "uint16"))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([encoded(SMOOTH), encoded(SMOOTH.astype(np.uint16) * 200), encoded(SMOOTH, "JPEG")]),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=4),
    st.integers(0, 4000) | st.none(),
)
def test_damaged_files_are_refused_or_read_and_nothing_else(content, changes, end):
    damaged = bytearray(content)
    for position, value in changes:
        damaged[position % len(damaged)] = value
    try:
        image = decode(bytes(damaged[:end]))
    except tf.errors.InvalidArgumentError:
        return
    assert np.isfinite(image).all()
    assert np.abs(image).max() <= 1
