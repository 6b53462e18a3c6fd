"""What is read, and as what: one table for training, prediction, the client and the server.

| format | told by                      | values                   | turned by               | read by               |
|--------|------------------------------|--------------------------|-------------------------|-----------------------|
| npy    | the name's .npy              | uint8, uint16, floats    | nothing                 | training, prediction  |
| PNG    | its first bytes              | 8 bits, 16 bits gray     | nothing, see below      | all four              |
| JPEG   | its first bytes              | 8 bits                   | the EXIF block          | all four              |
| TIFF   | its first bytes, BigTIFF too | uint8, uint16, floats    | the tag of its own      | training, prediction  |

Of a PNG nothing counts but what its pixels are made of (IHDR, PLTE, tRNS, IDAT, IEND). Texts, profiles and further
frames are passed over, whatever their size. So is an orientation in an eXIf chunk: the PNG specification has decoders
take its content as "of historical value only", since nothing says that it is of these pixels, and neither libpng nor
TensorFlow turn them. A JPEG is turned by its EXIF block alone, not by XMP, which the serving graph does not read.
"""

import struct
import zlib
from typing import NamedTuple

from descargan_tf.errors import UserError


class Format(NamedTuple):
    """One kind of image file."""

    name: str
    suffixes: tuple[str, ...]  # by which a folder's files are chosen
    magic: tuple[bytes, ...]  # first bytes, which say what a file is; none: its suffix does
    is_served: bool  # server and client take it
    is_lossless: bool  # fit for a ground truth; JPEG blurs the border of a mask


NPY = Format("npy", (".npy",), (), is_served=False, is_lossless=True)
PNG = Format("PNG", (".png",), (b"\x89PNG\r\n\x1a\n",), is_served=True, is_lossless=True)
JPEG = Format("JPEG", (".jpg", ".jpeg"), (b"\xff\xd8\xff",), is_served=True, is_lossless=False)
TIFF = Format("TIFF", (".tif", ".tiff"), (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), is_served=False, is_lossless=True)
FORMATS = (NPY, PNG, JPEG, TIFF)

IMAGE_SUFFIXES = tuple(suffix for format in FORMATS for suffix in format.suffixes)
GROUND_TRUTH_SUFFIXES = tuple(suffix for format in FORMATS if format.is_lossless for suffix in format.suffixes)
SERVED_SUFFIXES = tuple(suffix for format in FORMATS if format.is_served for suffix in format.suffixes)
SERVED_MAGIC = tuple(magic for format in FORMATS if format.is_served for magic in format.magic)

_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_TRUNCATED = "cannot be read: image file is truncated"


def format_of(raw: bytes) -> Format | None:
    """The format that a file's first bytes tell, None where they tell none."""
    return next((format for format in FORMATS if format.magic and raw.startswith(format.magic)), None)


def png_of_pixels_alone(raw: bytes) -> bytes:
    """A PNG without all that its pixels are not made of.

    Raises:
        UserError: it ends too early, or is damaged; libpng, and with it the server, refuses the same.
    """
    kept, position = [raw[:8]], 8
    while True:
        head = raw[position : position + 8]
        if len(head) < 8:
            raise UserError(_TRUNCATED)
        length, kind = struct.unpack(">I4s", head)
        end = position + 12 + length
        if end > len(raw):
            raise UserError(_TRUNCATED)
        if (kind == b"IHDR") != (position == 8):
            raise UserError("cannot be read: damaged PNG: its header must come first, and once")
        if kind in _PNG_PIXELS:
            checksum = int.from_bytes(raw[end - 4 : end], "big")
            # tRNS is ancillary, and libpng then does without it; a damaged one is a guess here, too.
            if zlib.crc32(raw[position + 4 : end - 4]) != checksum:
                raise UserError(f"cannot be read: damaged PNG: the checksum of {kind.decode()} is not its content's")
            kept.append(raw[position:end])
        elif not kind[:1].islower():  # a small letter says that a decoder may pass over it
            raise UserError(f"cannot be read: damaged PNG: a part {kind!r} that is not known")
        if kind == b"IEND":
            return b"".join(kept)
        position = end
