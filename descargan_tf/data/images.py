"""One image file: decode it without losing a bit, scale its values, write one atomically."""

import io
import math
import os
import struct
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from descargan_tf.data import formats
from descargan_tf.data.formats import IMAGE_SUFFIXES
from descargan_tf.errors import UserError
from descargan_tf.files import reason, write_atomically

MAX_PIXELS = 2**26  # 8192 x 8192, far above a radiograph; a file that claims more is a mistake or an attack

_ACCEPTED = "uint8, uint16 or float (float16, float32, float64; read as float32)"
_INTEGERS = (np.uint8, np.uint16)
_READERS = {
    formats.PNG: PngImagePlugin.PngImageFile,
    formats.JPEG: JpegImagePlugin.JpegImageFile,
    formats.TIFF: TiffImagePlugin.TiffImageFile,
}
_ORIENTATION = 274
# How pixels are brought upright, by the orientation that a camera wrote down.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TIFF_PHOTOMETRIC = 262
_TIFF_BITS_PER_SAMPLE = 258
_TIFF_SAMPLE_FORMAT = 339
# numpy parses headers with Python's ast, which keeps one count of its depth for all threads (python/cpython#106905): a
# thread that begins while another is interrupted makes that one fail, on a sound file.
_npy_header_lock = threading.Lock()


class DecodedImage(NamedTuple):
    """The content of one file, in the file's own units."""

    pixels: np.ndarray  # [H, W] uint8, uint16 or float32
    ground_truth: np.ndarray | None  # [H, W] float32, healthy - diseased; only in the authors' two-channel files


class Scaling(NamedTuple):
    """The file values that become -1 and 1; one for all images of a data set, never one per image."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g},{self.high:g}"

    @property
    def factor(self) -> float:
        """How many units of [-1, 1] one unit of the file is; what a difference of images is multiplied by."""
        return 2.0 / (self.high - self.low)


def parse_value_range(text: str) -> Scaling | None:
    """Read --value_range: "auto" gives None, "low,high" the scaling. UserError for anything else."""
    if text.strip() == "auto":
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = math.nan, math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f'--value_range={text} is not "auto" or two numbers "low,high" with low < high, such as 0,4095')
    return Scaling(low, high)


def is_outside(minimum: float, maximum: float, scaling: Scaling) -> bool:
    """Whether values from `minimum` to `maximum` leave the scaling's range."""
    # In float32, as the pixels are: float32(0.3) > 0.3 must not count as outside "0,0.3".
    return bool(np.float32(minimum) < np.float32(scaling.low) or np.float32(maximum) > np.float32(scaling.high))


def scale_pixels(pixels: np.ndarray, scaling: Scaling, name: str | os.PathLike) -> np.ndarray:
    """Map file values to float32 in [-1, 1]; UserError naming the file if a value lies outside the scaling's range."""
    minimum, maximum = pixels.min(), pixels.max()
    if is_outside(minimum, maximum, scaling):
        raise UserError(
            f"{name}: values from {minimum:g} to {maximum:g}, expected {scaling.low:g} to {scaling.high:g}; "
            "pass the range of all files as --value_range=low,high"
        )
    # The two-term form leaves values already in [-1, 1] bit for bit as they are (factor 1, offset 0).
    offset = -(scaling.high + scaling.low) / (scaling.high - scaling.low)
    scaled = pixels.astype(np.float64) * scaling.factor + offset
    return np.clip(scaled, -1.0, 1.0).astype(np.float32)  # the clip takes off rounding only


def unscale_pixels(images: np.ndarray, scaling: Scaling) -> np.ndarray:
    """Map [-1, 1] back to file values, float32; the inverse of `scale_pixels`."""
    middle = (scaling.high + scaling.low) / 2.0
    return (np.asarray(images, np.float64) / scaling.factor + middle).astype(np.float32)


def read_image(path: str | os.PathLike, takes_colour: bool = False, takes_integers: bool = False) -> DecodedImage:
    """Decode one file as `formats` says: recognised by its content; only .npy by its name.

    A .npy file holds [H, W], [H, W, 1], [1, H, W], or the authors' float [2, H, W] of image and diseased - healthy.
    Gray is kept as it is, 8 or 16 bit or float; RGB of 8 bits only if its three channels are equal, or where colour is
    taken, which becomes its luminance (ITU-R BT.601). Where integers are taken, as of masks, a .npy file may hold any,
    or bool: bool becomes uint8, all but uint8 and uint16 float32.

    Raises:
        UserError: naming the file, if it cannot be read or holds anything else, or NaN or infinity.
    """
    path = Path(path)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"{path}: not an image format known here; expected one of {', '.join(IMAGE_SUFFIXES)}")
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise UserError("is no file" if path.is_dir() else "is no regular file; expected an image file")
        raw = path.read_bytes()
        is_npy = path.suffix.lower() == ".npy"
        decoded = _decode_npy(raw, takes_integers) if is_npy else DecodedImage(_decode_picture(raw, takes_colour), None)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {reason(error)}") from error
    except Exception as error:  # a decoder fed with a damaged file raises nearly anything
        raise UserError(f"{path}: cannot be read: {error or type(error).__name__}") from error
    for array in decoded:
        if array is not None and array.dtype == np.float32 and not np.isfinite(array).all():
            count = int(array.size - np.isfinite(array).sum())
            raise UserError(f"{path}: {count} values are NaN or infinite (in float32); replace them before training")
    return decoded


def write_npy(path: str | os.PathLike, array: np.ndarray) -> None:
    """Write a .npy file that is either whole or not there; UserError if the folder or disk refuses it."""
    write_atomically(path, lambda file: _save(file, array))


def npy_bytes(array: np.ndarray) -> bytes:
    """The content of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _save(file, array):
    """In pieces, without a copy of the whole."""
    # Not the file itself: numpy would go by its descriptor, and does not say that a disk is full.
    np.save(SimpleNamespace(write=file.write), array, allow_pickle=False)


def write_png(path: str | os.PathLike, array: np.ndarray) -> None:
    """Write a PNG that is either whole or not there: [H, W] uint8 or uint16 (gray), or [H, W, 3] uint8 (RGB).

    Raises:
        ValueError: another shape or dtype.
        UserError: the folder or disk refuses it.
    """
    array = np.ascontiguousarray(array)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    gray = array.ndim == 2 and array.dtype in (np.uint8, np.uint16)
    rgb = array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8
    if not (gray or rgb):
        raise ValueError(
            f"array is {array.dtype} {list(array.shape)}, expected [H, W] uint8 or uint16, or [H, W, 3] uint8"
        )
    write_atomically(path, lambda file: Image.fromarray(array).save(file, "PNG"))


def _check_pixel_count(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise UserError(f"claims {height}x{width} pixels, more than the {MAX_PIXELS} allowed; is this an image?")
    if height * width == 0:
        raise UserError(f"holds no pixels: {height}x{width}")


def _decode_npy(raw: bytes, takes_integers: bool) -> DecodedImage:
    # By hand from the header on: np.load would allocate whatever the header claims before it looks at the data.
    stream = io.BytesIO(raw)
    version = np.lib.format.read_magic(stream)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise UserError(f"npy version {version[0]}.{version[1]} is for records; expected a plain array")
    with _npy_header_lock:
        shape, is_fortran, dtype = read_header(stream)
    if dtype.hasobject:
        raise UserError("holds pickled Python objects, which are not loaded because they can run code; save an array")
    is_pair = len(shape) == 3 and shape[0] == 2 and shape[2] != 1
    if not (len(shape) == 2 or (len(shape) == 3 and 1 in (shape[0], shape[2])) or is_pair):
        raise UserError(
            f"shape {list(shape)}, expected [H, W], [H, W, 1], [1, H, W], "
            "or [2, H, W] with the image and its ground truth (diseased - healthy)"
        )
    if is_pair and dtype.kind != "f":
        raise UserError(f"shape {list(shape)} of {dtype}: an image and its ground truth must be float")
    becomes = dtype.newbyteorder("=")
    if dtype.kind == "f" and dtype.itemsize <= 8:
        becomes = np.float32
    elif takes_integers and dtype.kind in "biu" and becomes not in _INTEGERS:
        becomes = np.uint8 if dtype.kind == "b" else np.float32
    elif becomes not in _INTEGERS:
        raise UserError(f"dtype {dtype}, expected {'bool, an integer or float type' if takes_integers else _ACCEPTED}")
    height, width = shape[:2] if len(shape) == 3 and shape[2] == 1 else shape[-2:]
    _check_pixel_count(height, width)
    count, offset = math.prod(shape), stream.tell()
    if len(raw) - offset < count * dtype.itemsize:
        raise UserError(
            f"truncated: {len(raw) - offset} bytes of data, but {list(shape)} {dtype} needs {count * dtype.itemsize}"
        )
    array = np.frombuffer(raw, dtype, count, offset).reshape(shape, order="F" if is_fortran else "C")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which read_image reports
        array = array.astype(becomes, order="C")
    if is_pair:
        # Reference: the authors store diseased - healthy (create_synthetic_dataset.py 233); here it is the reverse.
        return DecodedImage(array[0], -array[1])
    return DecodedImage(array.reshape(height, width), None)


def _decode_picture(raw: bytes, takes_colour: bool) -> np.ndarray:
    format = formats.format_of(raw)
    if format is None:
        raise UserError("cannot be read: the content is neither PNG, JPEG nor TIFF" if raw else "the file is empty")
    if format is formats.PNG:
        raw = formats.png_of_pixels_alone(raw)
    # Not Image.open: above its own limit that prints a warning and goes on.
    with _READERS[format](io.BytesIO(raw)) as image:
        _check_pixel_count(image.height, image.width)
        if getattr(image, "n_frames", 1) > 1:
            raise UserError(f"holds {image.n_frames} pictures, expected one; save each in a file of its own")
        _refuse_what_pillow_would_change(image, raw)
        image.load()  # turns a TIFF
        return _to_gray(_upright(image) if format is formats.JPEG else image, takes_colour)


def _upright(image: Image.Image) -> Image.Image:
    # Not ImageOps.exif_transpose, which asks XMP where there is no EXIF block.
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif"))
        orientation = exif.get(_ORIENTATION)
    except (SyntaxError, struct.error):  # a block that is none says nothing
        orientation = None
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _refuse_what_pillow_would_change(image: Image.Image, raw: bytes) -> None:
    """UserError for the variants that Pillow decodes, but to other values than those in the file."""
    if isinstance(image, PngImagePlugin.PngImageFile):
        bit_depth, colour_type = raw[24], raw[25]  # of IHDR, the first chunk
        bits, is_gray = bit_depth, colour_type == 0
        is_signed = is_inverted = False
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = max(image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, (1,)))
        is_gray = len(image.getbands()) == 1
        is_signed = 2 in image.tag_v2.get(_TIFF_SAMPLE_FORMAT, (1,))
        is_inverted = image.tag_v2.get(_TIFF_PHOTOMETRIC) == 0
    else:
        return
    if is_signed:
        raise UserError(f"holds signed {bits}-bit integers, expected {_ACCEPTED}")
    if bits > 8 and not is_gray:
        raise UserError(f"holds {bits}-bit colour, which would lose its lower bits; save it with one gray channel")
    if bits > 8 and is_inverted:
        raise UserError(f"{bits}-bit TIFF with white as zero; save it with black as zero (PhotometricInterpretation 1)")


def _to_gray(image: Image.Image, takes_colour: bool) -> np.ndarray:
    mode = image.mode
    if mode == "1":
        image = image.convert("L")  # 0 and 255
    elif mode in ("P", "PA"):
        image = image.convert("RGBA" if mode == "PA" or "transparency" in image.info else "RGB")
    elif mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    elif mode == "I":
        raise UserError(f"holds 32-bit integers, expected {_ACCEPTED}")
    elif mode == "F":
        return np.asarray(image).astype(np.float32)
    elif mode not in ("L", "LA", "RGB", "RGBA"):
        raise UserError(f"colour mode {mode}, expected gray; convert the file to one gray channel")
    array = np.array(image)
    if image.mode in ("LA", "RGBA"):
        if array[..., -1].min() < 255:
            raise UserError("has transparent pixels, whose values mean nothing; flatten it to one gray channel")
        array = array[..., :-1]
    if array.ndim == 2:
        return array
    if (array != array[..., :1]).any():
        if takes_colour:
            return np.array(Image.fromarray(array).convert("L"))
        raise UserError("is a colour image: its channels differ; expected gray, convert it to one gray channel")
    return np.ascontiguousarray(array[..., 0])
