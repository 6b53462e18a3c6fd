"""One file, one meaning: prediction, which reads as training does, and the server's graph, on the same bytes.

Each file is either the same image to both, or refused by both.
"""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from exports import SIZE, UINT8, encoded
from PIL import Image, PngImagePlugin
from test_export_bytes import GRAY, SMOOTH, chunk, decode, in_mode, low_bits, png_start

from descargan_tf.data.images import read_image, scale_pixels
from descargan_tf.errors import UserError

ROWS = b"".join(b"\0" + row.tobytes() for row in GRAY)
PACKED = zlib.compress(ROWS)
END = chunk(b"IEND", b"")
LARGE = b"0" * 3_000_000
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def exif(orientation, order="<", kind=3):
    head = {"<": b"II*\0", ">": b"MM\0*"}[order]
    value = struct.pack(order + "I", orientation) if kind == 4 else struct.pack(order + "HH", orientation, 0)
    return head + struct.pack(order + "IHHHI", 8, 1, 274, kind, 1) + value + bytes(4)


def png(*parts, rows=PACKED, end=END, bits=8, colour_type=0):
    """A PNG whose further parts lie between its header and its pixels."""
    return png_start(SIZE, SIZE, bits, colour_type) + b"".join(parts) + chunk(b"IDAT", rows) + end


def spoilt(part):
    """A part of a PNG with a wrong checksum."""
    return part[:-1] + bytes([part[-1] ^ 1])


def saved(array, **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG", **options)
    return file.getvalue()


def jpeg(*segments, behind=b"", array=SMOOTH, **options):
    """A JPEG with further segments (marker, content) behind its first bytes."""
    whole = encoded(array, "JPEG", **options)
    parts = b"".join(b"\xff" + bytes([marker]) + struct.pack(">H", 2 + len(c)) + c for marker, c in segments)
    return whole[:2] + parts + whole[2:] + behind


def transparent(array, colour):
    return saved(array, transparency=colour)


def text(name):
    info = PngImagePlugin.PngInfo()
    if name == "zTXt":
        info.add_text("comment", LARGE.decode(), zip=True)
    elif name == "iTXt":
        info.add_itxt("comment", LARGE.decode(), zip=True)
    else:
        info.add_text("comment", LARGE.decode())
    return saved(GRAY, pnginfo=info)


def animated():
    file = io.BytesIO()
    Image.fromarray(GRAY).save(file, "PNG", save_all=True, append_images=[Image.fromarray(255 - GRAY)])
    return file.getvalue()


def interlaced():
    """GRAY in the seven passes of Adam7, which Pillow does not write."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = b"".join(b"\0" + row.tobytes() for x, y, dx, dy in passes for row in GRAY[y::dy, x::dx])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", SIZE, SIZE, 8, 0, 0, 0, 1))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + END


SAME = {
    "orientation in a PNG": png(chunk(b"eXIf", exif(6))),
    "orientation behind a PNG's pixels": png(end=chunk(b"eXIf", exif(3)) + END),
    "orientation in a PNG's text": saved(GRAY, exif=b"Exif\0\0" + exif(8)),
    "large compressed text": text("zTXt"),
    "large compressed international text": text("iTXt"),
    "large text": text("tEXt"),
    "large colour profile": png(chunk(b"iCCP", b"x\0\0" + zlib.compress(LARGE))),
    "damaged text": png(spoilt(chunk(b"tEXt", b"a\0b"))),
    "gamma": png(chunk(b"gAMA", struct.pack(">I", 45455))),
    "significant bits": png(chunk(b"sBIT", b"\5")),
    "background": png(chunk(b"bKGD", b"\0\7")),
    "animation": animated(),
    "interlaced": interlaced(),
    "pixels in two parts": png(rows=PACKED[:99], end=chunk(b"IDAT", PACKED[99:]) + END),
    "behind the end of a PNG": png() + LARGE,
    "a transparent gray": transparent(GRAY, 7),
    "a transparent colour that no pixel has": transparent(np.dstack([GRAY] * 3), (1, 2, 3)),
    "palette": encoded(in_mode("P")),
    "two bits": low_bits(2),
    "JPEG turned by EXIF": jpeg((0xE1, b"Exif\0\0" + exif(6))),
    "JPEG turned by EXIF in the other order": jpeg((0xE1, b"Exif\0\0" + exif(8, ">"))),
    "JPEG turned by a long number": jpeg((0xE1, b"Exif\0\0" + exif(5, ">", kind=4))),
    "JPEG that XMP alone would turn": jpeg((0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)),
    "JPEG whose EXIF and XMP differ": jpeg(
        (0xE1, b"Exif\0\0" + exif(1)), (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)
    ),
    "JPEG with two EXIF blocks": jpeg((0xE1, b"Exif\0\0" + exif(6)), (0xE1, b"Exif\0\0" + exif(3))),
    "JPEG with an EXIF block that is none": jpeg((0xE1, b"Exif\0\0" + b"nothing like it")),
    "JPEG with an empty EXIF block": jpeg((0xE1, b"Exif\0\0")),
    "JPEG with long comments": jpeg(*[(0xFE, b"x" * 65000)] * 20),
    "behind the end of a JPEG": jpeg(behind=jpeg(array=255 - SMOOTH)),
    "progressive": jpeg(progressive=True),
    "restart markers": jpeg(restart_marker_blocks=3),
    "three equal channels": jpeg(array=np.dstack([SMOOTH] * 3)),
}
REFUSED = {
    "PNG without its end": png(end=b""),
    "PNG whose pixels are cut off": png()[:-200],
    "PNG whose pixels are fewer than it says": png(rows=zlib.compress(ROWS[:-200])),
    "PNG with a wrong checksum": png(end=spoilt(END)).replace(chunk(b"IDAT", PACKED), spoilt(chunk(b"IDAT", PACKED))),
    "PNG with a wrong checksum of its stream": png(rows=PACKED[:-1] + bytes([PACKED[-1] ^ 1])),
    "PNG with a part nobody knows": png(chunk(b"ABCD", b"x")),
    "PNG with two headers": png(png_start(SIZE, SIZE)[8:]),
    "transparent pixels": encoded(np.dstack([GRAY] * 4)),
    "colours": encoded(np.dstack([GRAY, GRAY, 255 - GRAY])),
    "JPEG whose pixels are cut off": jpeg()[:-900],
    "four channels": encoded(in_mode("CMYK"), "JPEG"),
}


def as_predicted(content, tmp_path):
    path = tmp_path / "image.png"  # any known suffix: the content decides
    path.write_bytes(content)
    return scale_pixels(read_image(path).pixels, UINT8.scaling, path)


@pytest.mark.parametrize("content", SAME.values(), ids=SAME)
def test_a_file_is_the_same_image_to_both(tmp_path, content):
    pixels = as_predicted(content, tmp_path)
    np.testing.assert_array_equal(decode(content), pixels)
    assert pixels.std() > 0.1


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED)
def test_a_file_is_refused_by_both(tmp_path, content):
    with pytest.raises(UserError, match=r"image\.png: "):
        as_predicted(content, tmp_path)
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(content)
