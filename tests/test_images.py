import gc
import io
import os
import struct
import threading
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from descargan_tf import files
from descargan_tf.data import images
from descargan_tf.data.images import (
    Scaling,
    is_outside,
    parse_value_range,
    read_image,
    scale_pixels,
    unscale_pixels,
    write_npy,
    write_png,
)
from descargan_tf.errors import UserError

GRAY8 = np.arange(6, dtype=np.uint8).reshape(2, 3) * 50
GRAY16 = np.array([[0, 1, 255], [256, 40001, 65535]], np.uint16)
FLOATS = np.array([[-1.5, 0.0, 1e-7], [0.25, 3.0, 1e5]], np.float32)


def read_error(path):
    with pytest.raises(UserError) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(width, height, bit_depth, colour_type, rows=b""):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


PIXELS = {"uint8": GRAY8, "uint16": GRAY16, "float32": FLOATS}


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [(".png", "uint8"), (".png", "uint16")]
    + [(suffix, dtype) for suffix in (".tif", ".tiff", ".npy") for dtype in ("uint8", "uint16", "float32")],
)
def test_values_and_dtype_are_kept_exactly(tmp_path, suffix, dtype):
    path, pixels = tmp_path / f"a{suffix}", PIXELS[dtype]
    np.save(path, pixels) if suffix == ".npy" else Image.fromarray(pixels).save(path)
    decoded = read_image(path)
    assert decoded.pixels.dtype == dtype
    assert decoded.ground_truth is None
    np.testing.assert_array_equal(decoded.pixels, pixels)


def tiff(pixels, order, photometric=1, sample_format=1):
    """An uncompressed one-channel TIFF by hand; order "<" or ">"."""
    height, width = pixels.shape
    bits = pixels.dtype.itemsize * 8
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    fields = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 277: 1, 278: height, 339: sample_format}
    fields |= {273: 8 + 2 + 12 * 10 + 4, 279: len(data)}  # where the data begin, and how many bytes
    entries = [struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in sorted(fields.items())]
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    return start + b"".join(entries) + bytes(4) + data


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_tiff_keeps_its_values_in_either_byte_order(tmp_path, order):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(GRAY16, order))
    decoded = read_image(path).pixels
    assert decoded.dtype == np.uint16
    assert decoded.dtype.isnative
    np.testing.assert_array_equal(decoded, GRAY16)


def test_tiff_that_pillow_would_change_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(GRAY16, "<", photometric=0))
    assert "16-bit TIFF with white as zero" in read_error(path)
    path.write_bytes(tiff(GRAY8, "<", sample_format=2))
    assert "holds signed 8-bit integers, expected uint8, uint16 or float" in read_error(path)
    Image.fromarray(GRAY16.astype(np.int32)).save(path)
    assert "holds signed 32-bit integers, expected uint8, uint16 or float" in read_error(path)


def test_uncompressed_white_is_zero_8_bit_tiff_is_inverted(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(GRAY8, "<", photometric=0))
    np.testing.assert_array_equal(read_image(path).pixels, 255 - GRAY8)


def test_jpeg_is_one_channel(tmp_path):
    gray = np.full((16, 24), 77, np.uint8)
    for name, array in (("gray.jpg", gray), ("rgb.JPEG", np.stack([gray] * 3, -1))):
        Image.fromarray(array).save(tmp_path / name)
        pixels = read_image(tmp_path / name).pixels
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, gray)


def test_jpeg_is_turned_as_its_orientation_says(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees clockwise to display
    pixels = np.repeat(np.repeat(np.array([[0, 255, 0]], np.uint8), 8, 0), 8, 1)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=100)
    np.testing.assert_allclose(read_image(tmp_path / "a.jpg").pixels, np.rot90(pixels, -1), atol=3)


def test_xmp_turns_nothing(tmp_path):
    xmp = b'<rdf:Description tiff:Orientation="6"/>'
    Image.fromarray(GRAY8).save(tmp_path / "a.jpg", xmp=xmp)
    assert read_image(tmp_path / "a.jpg").pixels.shape == GRAY8.shape


def test_of_a_png_its_pixels_alone_count(tmp_path):
    """Neither an orientation nor a text of any size; tests/test_one_meaning.py holds the server to the same."""
    exif = Image.Exif()
    exif[274] = 6
    text = PngImagePlugin.PngInfo()
    text.add_text("x", "0" * 3_000_000, zip=True)
    Image.fromarray(GRAY16).save(tmp_path / "a.png", exif=exif, pnginfo=text)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, GRAY16)


@pytest.mark.parametrize("pixels", PIXELS.values(), ids=PIXELS)
def test_big_tiff(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.tif", big_tiff=True)
    assert (tmp_path / "a.tif").read_bytes().startswith(b"II+\0")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, pixels)


def test_a_tiff_is_turned_by_its_own_tag(tmp_path):
    Image.fromarray(GRAY8).save(tmp_path / "a.tif", tiffinfo={274: 6})
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, np.rot90(GRAY8, -1))


def test_a_pipe_and_a_folder_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert "is no regular file; expected an image file" in read_error(tmp_path / "a.png")
    (tmp_path / "b.png").mkdir()
    assert "is no file" in read_error(tmp_path / "b.png")


@pytest.mark.parametrize("channels", [3, 4])
def test_rgb_with_equal_channels_is_gray(tmp_path, channels):
    rgb = np.stack([GRAY8] * 3 + [np.full_like(GRAY8, 255)], -1)[..., :channels]
    Image.fromarray(rgb).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, GRAY8)


def test_colour_is_refused(tmp_path):
    rgb = np.stack([GRAY8] * 3, -1)
    rgb[1, 2, 0] += 1  # a single pixel is enough
    Image.fromarray(rgb).save(tmp_path / "a.png")
    assert "is a colour image: its channels differ; expected gray" in read_error(tmp_path / "a.png")
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "a.jpg")
    assert "colour mode CMYK, expected gray" in read_error(tmp_path / "a.jpg")


def test_transparent_pixels_are_refused(tmp_path):
    Image.fromarray(np.stack([GRAY8] * 4, -1)).save(tmp_path / "a.png")
    assert "has transparent pixels" in read_error(tmp_path / "a.png")


def test_palette_and_one_bit_pictures(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "L").convert("P")
    image.putpalette([10, 10, 10, 200, 200, 200, 90, 90, 90])
    image.save(tmp_path / "gray.png")
    np.testing.assert_array_equal(read_image(tmp_path / "gray.png").pixels, [[10, 200, 90]])
    image.putpalette([10, 10, 10, 200, 0, 200, 90, 90, 90])
    image.save(tmp_path / "colour.png")
    assert "is a colour image" in read_error(tmp_path / "colour.png")
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png").pixels, [[255, 0]])


def test_16_bit_colour_png_is_refused_rather_than_cut_to_8_bits(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(raw_png(1, 1, 16, 2, b"\0" + bytes(6)))
    assert "holds 16-bit colour, which would lose its lower bits" in read_error(path)


def test_several_pictures_in_one_file_are_refused(tmp_path):
    pages = [Image.fromarray(GRAY8), Image.fromarray(GRAY8)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert "holds 2 pictures, expected one" in read_error(tmp_path / "a.tif")


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1), (1, 2, 3)])
def test_npy_layouts(tmp_path, shape):
    np.save(tmp_path / "a.npy", GRAY16.reshape(shape))
    np.testing.assert_array_equal(read_image(tmp_path / "a.npy").pixels, GRAY16)


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8", ">f8"])
def test_npy_floats_become_native_float32(tmp_path, dtype):
    values = np.array([[0.5, -0.25], [1.0, 0.0]])
    np.save(tmp_path / "a.npy", np.asfortranarray(values.astype(dtype)))
    pixels = read_image(tmp_path / "a.npy").pixels
    assert pixels.dtype == np.float32
    assert pixels.dtype.isnative
    np.testing.assert_array_equal(pixels, values)


def test_authors_npy_has_its_ground_truth_turned_to_healthy_minus_diseased(tmp_path):
    diseased, healthy = np.float64([[0.2, 0.5]]), np.float64([[0.3, 0.1]])
    np.save(tmp_path / "a.npy", np.stack([diseased, diseased - healthy]))
    decoded = read_image(tmp_path / "a.npy")
    np.testing.assert_array_equal(decoded.pixels, diseased.astype(np.float32))
    np.testing.assert_allclose(decoded.ground_truth, healthy - diseased, rtol=1e-6)
    assert decoded.ground_truth.dtype == np.float32


def test_a_thread_that_reads_npy_does_not_disturb_another(tmp_path):
    """numpy's header parser uses Python's ast, whose depth counter all threads share (python/cpython#106905)."""
    path, reader, others = tmp_path / "a.npy", threading.get_ident(), []
    np.save(path, np.zeros((4, 4), np.float32))

    def read_too(phase, info):  # Python's garbage collector calls it from within the parser
        if phase == "start" and threading.get_ident() == reader and len(others) < 30:
            others.append(threading.Thread(target=read_image, args=(path,)))
            others[-1].start()
            others[-1].join(0.02)  # it has to wait for the parser, which waits for this

    thresholds = gc.get_threshold()
    gc.callbacks.append(read_too)
    try:
        gc.set_threshold(3)
        for _ in range(3):
            assert read_image(path).pixels.shape == (4, 4)
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(read_too)
        for other in others:
            other.join()
    assert others


@pytest.mark.parametrize("dtype", ["int16", "int32", "int64", "uint32", "bool", "complex64"])
def test_npy_dtypes_that_would_be_a_guess_are_refused(tmp_path, dtype):
    np.save(tmp_path / "a.npy", np.ones((2, 2), dtype))
    message = read_error(tmp_path / "a.npy")
    assert f"dtype {dtype}, expected uint8, uint16 or float (float16, float32, float64; read as float32)" in message


def test_npy_shapes_that_are_no_image_are_refused(tmp_path):
    path = tmp_path / "a.npy"
    for shape in ((4,), (3, 4, 5), (4, 5, 3), (1, 1, 4, 5)):
        np.save(path, np.zeros(shape, np.float32))
        assert f"shape {list(shape)}, expected [H, W], [H, W, 1], [1, H, W], or [2, H, W]" in read_error(path)
    np.save(path, np.zeros((2, 4, 5), np.uint8))
    assert "shape [2, 4, 5] of uint8: an image and its ground truth must be float" in read_error(path)
    np.save(path, np.zeros((0, 4), np.float32))
    assert "holds no pixels: 0x4" in read_error(path)


def test_pickled_npy_is_not_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], object), allow_pickle=True)
    assert "holds pickled Python objects, which are not loaded" in read_error(tmp_path / "a.npy")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("channel", [0, 1])
def test_nan_and_infinity_are_refused(tmp_path, bad, channel):
    pixels = np.zeros((2, 3, 3))
    pixels[channel, 1, 1] = bad
    np.save(tmp_path / "a.npy", pixels)
    assert "1 values are NaN or infinite (in float32)" in read_error(tmp_path / "a.npy")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".npy"])
def test_truncated_file_is_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    np.save(path, pixels) if suffix == ".npy" else Image.fromarray(pixels).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    message = read_error(path)
    assert "truncated" in message
    path.write_bytes(b"")
    assert len(read_error(path)) > len(f"{path}: ") + 5


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_every_cut_of_a_file_is_an_image_or_a_user_error(tmp_path):
    for suffix in (".png", ".tif", ".npy"):
        path = tmp_path / f"a{suffix}"
        np.save(path, GRAY8) if suffix == ".npy" else Image.fromarray(GRAY8).save(path)
        whole = path.read_bytes()
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            try:
                pixels = read_image(path).pixels
            except UserError as error:
                assert str(error).startswith(f"{path}: ")  # noqa: PT017 - both outcomes are right
            else:
                np.testing.assert_array_equal(pixels, GRAY8)


def test_content_decides_and_unknown_content_is_refused(tmp_path):
    Image.fromarray(GRAY8).save(tmp_path / "really_png.jpg", "PNG")
    np.testing.assert_array_equal(read_image(tmp_path / "really_png.jpg").pixels, GRAY8)
    Image.fromarray(GRAY8).save(tmp_path / "really_bmp.png", "BMP")
    assert "the content is neither PNG, JPEG nor TIFF" in read_error(tmp_path / "really_bmp.png")
    assert "cannot be read: No such file" in read_error(tmp_path / "missing.png")
    (tmp_path / "text.npy").write_text("hello, this is text")
    assert "cannot be read: the magic string is not correct" in read_error(tmp_path / "text.npy")
    message = read_error(tmp_path / "a.bmp")
    assert "not an image format known here; expected one of .npy, .png, .jpg, .jpeg, .tif, .tiff" in message


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [10_000, 100_000])
def test_decompression_bomb_is_refused_without_a_warning(tmp_path, side):
    path = tmp_path / "a.png"
    path.write_bytes(raw_png(side, side, 8, 0))
    assert f"claims {side}x{side} pixels, more than the 67108864 allowed" in read_error(path)


def test_npy_that_claims_too_much_allocates_nothing(tmp_path):
    stream = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)}
    np.lib.format.write_array_header_1_0(stream, header)
    (tmp_path / "a.npy").write_bytes(stream.getvalue())
    assert "claims 1000000x1000000 pixels" in read_error(tmp_path / "a.npy")


def test_written_files_read_back(tmp_path):
    write_png(tmp_path / "8.png", GRAY8)
    write_png(tmp_path / "16.png", GRAY16[:, ::-1])
    write_png(tmp_path / "big_endian.png", GRAY16.astype(">u2"))
    write_npy(tmp_path / "f.npy", FLOATS)
    rgb = np.random.default_rng(0).integers(0, 255, (4, 5, 3)).astype(np.uint8)
    write_png(tmp_path / "rgb.png", rgb)
    np.testing.assert_array_equal(read_image(tmp_path / "8.png").pixels, GRAY8)
    np.testing.assert_array_equal(read_image(tmp_path / "16.png").pixels, GRAY16[:, ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / "big_endian.png").pixels, GRAY16)
    np.testing.assert_array_equal(read_image(tmp_path / "f.npy").pixels, FLOATS)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "rgb.png")), rgb)
    assert len(list(tmp_path.iterdir())) == 5


def test_written_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    write_npy(tmp_path / "a.npy", FLOATS)
    assert os.stat(tmp_path / "a.npy").st_mode == os.stat(tmp_path / "usual").st_mode


@pytest.mark.parametrize(("write", "name"), [(write_npy, "a.npy"), (write_png, "a.png")])
def test_old_file_survives_a_failed_write(tmp_path, monkeypatch, write, name):
    path = tmp_path / name
    write(path, GRAY8)
    old = path.read_bytes()

    def save_half(first, second, *args, **kwargs):
        file = first if hasattr(first, "write") else second
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(images.np, "save", save_half)
    monkeypatch.setattr(images.Image.Image, "save", save_half)
    with pytest.raises(UserError) as caught:
        write(path, GRAY8 + 1)
    assert str(caught.value) == f"{path}: cannot be written: No space left on device"
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_old_file_survives_a_defect_and_an_interrupt(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    write_npy(path, GRAY8)
    old = path.read_bytes()

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_npy(path, GRAY16)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_as_long_as_names_can_be_is_written(tmp_path):
    write_npy(tmp_path / f"{'L' * 251}.npy", GRAY8)
    assert os.listdir(tmp_path) == [f"{'L' * 251}.npy"]


def test_writing_into_a_missing_folder_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="cannot be written: No such file or directory"):
        write_npy(tmp_path / "missing" / "a.npy", GRAY8)


@pytest.mark.parametrize("array", [FLOATS, GRAY8[..., None], np.zeros((2, 2, 3), np.uint16), np.zeros((2, 2), bool)])
def test_png_of_another_kind_is_a_defect(tmp_path, array):
    with pytest.raises(ValueError, match=r"expected \[H, W\] uint8 or uint16"):
        write_png(tmp_path / "a.png", array)


def test_value_range_is_parsed():
    assert parse_value_range("auto") is None
    assert parse_value_range(" 0, 4095") == Scaling(0.0, 4095.0)
    assert parse_value_range("-1024,3071.5") == Scaling(-1024.0, 3071.5)
    for text in ("", "1", "1,2,3", "a,b", "2,1", "1,1", "nan,1", "0,inf"):
        with pytest.raises(UserError) as caught:
            parse_value_range(text)
        assert f'--value_range={text} is not "auto" or two numbers' in str(caught.value)


def test_scaling_by_hand():
    scaled = scale_pixels(np.array([[0, 51, 255]], np.uint8), Scaling(0, 255), "a")
    np.testing.assert_array_equal(scaled, np.float32([[-1.0, -0.6, 1.0]]))
    scaled = scale_pixels(np.array([[0, 65535]], np.uint16), Scaling(0, 65535), "a")
    np.testing.assert_array_equal(scaled, np.float32([[-1.0, 1.0]]))
    assert Scaling(0, 255).factor == 2 / 255
    assert str(Scaling(0.0, 4095.0)) == "0,4095"


def test_values_in_minus_one_to_one_are_not_touched():
    pixels = np.random.default_rng(0).uniform(-1, 1, (8, 8)).astype(np.float32) * np.float32(1e-6)
    np.testing.assert_array_equal(scale_pixels(pixels, Scaling(-1, 1), "a"), pixels)


def test_values_outside_the_range_are_refused():
    with pytest.raises(UserError) as caught:
        scale_pixels(np.array([[0, 300]], np.uint16), Scaling(0, 255), "scan.png")
    assert str(caught.value).startswith("scan.png: values from 0 to 300, expected 0 to 255; pass the range")
    assert not is_outside(0, float(np.float32(0.3)), Scaling(0, 0.3))  # float32(0.3) > 0.3


@settings(max_examples=100, deadline=None)
@given(
    low=st.floats(-1e4, 1e4, width=32),
    width=st.floats(0.125, 1e4, width=32),
    shares=st.lists(st.floats(0, 1, width=32), min_size=2, max_size=8),
)
def test_scaling_round_trip(low, width, shares):
    scaling = Scaling(low, low + width)
    pixels = (low + width * np.float64([[0.0, 1.0, *shares]])).astype(np.float32)
    pixels = np.clip(pixels, np.float32(scaling.low), np.float32(scaling.high))
    scaled = scale_pixels(pixels, scaling, "a")
    assert scaled.dtype == np.float32
    assert scaled.min() >= -1
    assert scaled.max() <= 1
    assert (np.diff(scaled[0, np.argsort(pixels[0])]) >= 0).all()  # order is kept
    tolerance = 2e-7 * width + 2e-7 * max(abs(scaling.low), abs(scaling.high))  # float32 in both units
    np.testing.assert_allclose(unscale_pixels(scaled, scaling), pixels, rtol=0, atol=tolerance)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 65535))
def test_16_bit_values_survive_scaling_exactly(value):
    pixels = np.array([[value]], np.uint16)
    scaling = Scaling(0, 65535)
    restored = unscale_pixels(scale_pixels(pixels, scaling, "a"), scaling)
    assert round(float(restored[0, 0])) == value
