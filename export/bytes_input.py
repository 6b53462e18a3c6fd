"""From PNG or JPEG bytes to the network's input, all inside the graph.

The rules are those of `descargan_tf.data.images`, which reads the same files for training and prediction; a test holds
the two to each other. The header is parsed first, so that what claims to be too large is never decoded. It is parsed
here as no operation of TensorFlow tells a PNG's size or a JPEG's orientation; tf.io.extract_jpeg_shape would save
nothing beside the walk to the orientation, and calls 12 bits an invalid file.
"""

import functools
from typing import NamedTuple

import tensorflow as tf

from descargan_tf.data.images import Scaling

# 4728 x 5928 of the largest mammograms fits; decoded, 16 bits then take 64 MiB a channel, and as floats 128.
MAX_PIXELS = 2**25
_MAX_SEGMENTS = 1000  # before the pixels of a JPEG; real ones have a dozen
_FULL = 65535  # of a pixel, whatever the file's bits
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_EXIF = list(b"Exif\0\0")
_ORIENTATION = 0x0112


class FileRule(NamedTuple):
    """How a file's values become the network's: what `predict` knows of the training data."""

    scaling: Scaling  # the training files' values that become -1 and 1
    dtype: str  # of the training files: uint8, uint16 or float32

    def training_units(self) -> tuple[float, float]:
        """(factor, offset) from pixels in [0, 65535] to the values of the training files.

        A type's full range stands for the full range of another, as PNG defines it: 255 of 8 bits is 65535 of 16. Files
        of floats have no full range, so theirs is the scaling's.
        """
        if self.dtype == "uint8":
            return 1 / 257, 0.0
        if self.dtype == "uint16":
            return 1.0, 0.0
        return (self.scaling.high - self.scaling.low) / _FULL, self.scaling.low


def decode_images(image_bytes, image_size: int, rule: FileRule):
    """[B] strings to [B, image_size, image_size, 1] float32 in [-1, 1].

    In the graph's own words InvalidArgumentError, HTTP 400 of a server: neither PNG nor JPEG, too many pixels, colour,
    transparency, values outside the scaling, a damaged file.
    """
    return _decoder(image_size, rule)(image_bytes)


@functools.cache
def _decoder(image_size, rule):
    """The graph of it, which hangs on no method: traced once for all exports of a process."""
    shape = (image_size, image_size, 1)

    def decode(image_bytes):
        return tf.map_fn(
            lambda content: tf.ensure_shape(decode_image(content, image_size, rule), shape),
            image_bytes,
            fn_output_signature=tf.TensorSpec(shape, tf.float32),
            parallel_iterations=2,  # decoded images in memory at a time
        )

    return _traced(decode, (None,))


@functools.cache
def _pixel_reader():
    """The graph of `_pixels`, which hangs on no scaling either."""
    return _traced(_pixels, ())


def _traced(function, shape):
    """Of strings of a shape; outside of the graph that asks for it, which it would keep."""
    with tf.init_scope():
        return tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec(shape, tf.string))


def decode_image(content, image_size: int, rule: FileRule):
    """One file's bytes, [] string, to [image_size, image_size, 1] float32 in [-1, 1]; other sizes are stretched."""
    pixels = _pixel_reader()(content)
    factor, offset = rule.training_units()
    pixels = _inside(pixels, factor, offset, rule.scaling)
    # Where the size is right already, every weight of this is 1 or 0, and no value changes.
    size = (image_size, image_size)
    resized = tf.image.resize(pixels[..., tf.newaxis], size, "bilinear", antialias=True)
    # float64, and two terms, as `scale_pixels` does it.
    low, high = rule.scaling
    values = tf.cast(resized, tf.float64) * factor + offset
    # Between the two factors, or TensorFlow's optimiser merges them into one that rounds otherwise.
    values = tf.ensure_shape(values, (*size, 1))
    scaled = values * rule.scaling.factor - (high + low) / (high - low)
    return tf.cast(tf.clip_by_value(scaled, -1.0, 1.0), tf.float32)


def _pixels(content):
    """One file's bytes to its pixels, [h, w] float32 in [0, 65535], upright."""
    is_png = tf.equal(tf.strings.substr(content, 0, len(_PNG)), _PNG)
    is_jpeg = tf.equal(tf.strings.substr(content, 0, len(_JPEG)), _JPEG)
    known = tf.Assert(is_png | is_jpeg, ["Unknown image file format: image_bytes must hold a PNG or a JPEG file"])
    with tf.control_dependencies([known]):
        content = tf.identity(content)
    pixels = tf.cond(is_png, lambda: _decode_png(content), lambda: _decode_jpeg(content))
    return tf.ensure_shape(pixels, (None, None))


def _inside(pixels, factor, offset, scaling):
    """Refuse values that the scaling does not cover, as prediction does."""
    extremes = tf.cast(tf.stack([tf.reduce_min(pixels), tf.reduce_max(pixels)]), tf.float64) * factor + offset
    extremes = tf.cast(extremes, tf.float32)
    low, high = (tf.constant(value, tf.float32) for value in scaling)
    message = ["image_bytes: values (lowest, highest)", extremes, f"leave the range {scaling} of the training images"]
    with tf.control_dependencies([tf.Assert((extremes[0] >= low) & (extremes[1] <= high), message)]):
        return tf.identity(pixels)


def _refuse_size(height, width):
    message = [f"image_bytes: too large or empty, at most {MAX_PIXELS} pixels; height and width are", height, width]
    return tf.Assert((height * width > 0) & (height * width <= MAX_PIXELS), message)


def _number(data, position, count, is_little=False):
    """The integer in `count` of the bytes [n] uint8 from a position on, int64; PNG and JPEG are big-endian."""
    part = tf.ensure_shape(tf.cast(data[position : position + count], tf.int64), (count,))
    # Two constants: a slice with a negative stride stops the server's layout optimiser for the whole graph.
    little = [256**i for i in range(count)]
    return tf.reduce_sum(part * tf.where(is_little, tf.constant(little, tf.int64), tf.constant(little[::-1], tf.int64)))


def _decode_png(content):
    header = tf.strings.substr(tf.strings.join([tf.strings.substr(content, 0, 26), "\0" * 26]), 0, 26)
    header = tf.io.decode_raw(header, tf.uint8)
    width, height, bits, colour_type = (_number(header, *where) for where in ((16, 4), (20, 4), (24, 1), (25, 1)))
    is_header = (tf.strings.length(content) >= 26) & tf.reduce_all(tf.equal(header[12:16], list(b"IHDR")))
    checks = [
        tf.Assert(is_header, ["image_bytes: a PNG without its header"]),
        _refuse_size(height, width),
        tf.Assert(
            (bits <= 8) | tf.equal(colour_type, 0),
            ["image_bytes: 16-bit PNG must have one gray channel; colour type is", colour_type],
        ),
    ]
    with tf.control_dependencies(checks):
        return tf.cast(_one_channel(tf.io.decode_png(content, channels=0, dtype=tf.uint16)), tf.float32)


def _decode_jpeg(content):
    data = tf.io.decode_raw(content, tf.uint8)
    frame, exif = _jpeg_segments(data)
    data = tf.concat([data, tf.zeros(16, tf.uint8)], axis=0)
    bits, height, width, channels = (
        _number(data, frame + offset, count) for offset, count in ((4, 1), (5, 2), (7, 2), (9, 1))
    )
    checks = [
        _refuse_size(height, width),
        tf.Assert(
            tf.equal(bits, 8) & (tf.equal(channels, 1) | tf.equal(channels, 3)),
            ["image_bytes: JPEG must have 8 bits and 1 or 3 channels; bits and channels are", bits, channels],
        ),
    ]
    with tf.control_dependencies(checks):
        pixels = tf.io.decode_jpeg(content, channels=0, dct_method="INTEGER_ACCURATE")
    orientation = tf.cond(exif > 0, lambda: _orientation(data[exif:]), lambda: tf.constant(1, tf.int64))
    # Turned as floats: oneDNN transposes no small integers, and says so on standard error of every server.
    return _upright(tf.cast(_one_channel(pixels), tf.float32) * (_FULL / pixels.dtype.max), orientation)


def _jpeg_segments(data):
    """Where the frame header's marker and the content of the Exif block of a JPEG begin; 0: there is none."""
    length = tf.size(data)

    def unfinished(position, frame, exif, state):
        return tf.equal(state, 0)

    def step(position, frame, exif, state):
        ahead = tf.cast(tf.ensure_shape(_padded(data, position, 10), (10,)), tf.int32)
        marker, size = ahead[1], 256 * ahead[2] + ahead[3]
        is_fill = tf.equal(marker, 0xFF)
        is_alone = tf.equal(marker, 0x01) | ((marker >= 0xD0) & (marker <= 0xD7))
        is_frame = (marker >= 0xC0) & (marker <= 0xCF) & tf.reduce_all(marker != tf.constant([0xC4, 0xC8, 0xCC]))
        is_scan = tf.equal(marker, 0xDA)
        is_exif = tf.equal(marker, 0xE1) & tf.reduce_all(tf.equal(ahead[4:], _EXIF)) & tf.equal(exif, 0)
        is_broken = (
            tf.not_equal(ahead[0], 0xFF)
            | tf.equal(marker, 0)
            | tf.equal(marker, 0xD8)
            | tf.equal(marker, 0xD9)
            | (position + 4 > length)
            | ~(is_fill | is_alone | (size >= 2))
            | (is_frame & (frame > 0))
            | (is_scan & tf.equal(frame, 0))
        )
        state = tf.where(is_broken, -1, tf.where(is_scan, 1, 0))
        frame = tf.where(is_frame, position, frame)
        exif = tf.where(is_exif, position + 10, exif)
        return position + tf.where(is_fill, 1, tf.where(is_alone, 2, 2 + size)), frame, exif, state

    start = (tf.constant(2), tf.constant(0), tf.constant(0), tf.constant(0))
    _, frame, exif, state = tf.while_loop(unfinished, step, start, maximum_iterations=_MAX_SEGMENTS)
    with tf.control_dependencies([tf.Assert(tf.equal(state, 1), ["image_bytes: damaged JPEG: no pixels found"])]):
        return tf.identity(frame), tf.identity(exif)


def _padded(data, position, count):
    """data[position : position + count], zeros behind its end."""
    part = data[position : position + count]
    return tf.pad(part, [[0, count - tf.size(part)]])


def _orientation(data):
    """The orientation 1 to 8 in an Exif block, which begins with a TIFF header; 1 where it has none."""
    data = tf.concat([data, tf.zeros(8, tf.uint8)], axis=0)
    is_little = tf.equal(data[0], ord("I"))

    end = tf.cast(tf.size(data), tf.int64)
    first = tf.minimum(_number(data, 4, 4, is_little), end - 2)
    count = tf.minimum(_number(data, first, 2, is_little), (end - first - 2) // 12)
    entries = tf.cast(tf.reshape(data[first + 2 : first + 2 + 12 * count], (-1, 12)), tf.int64)
    high, low = (tf.where(is_little, entries[:, j], entries[:, i]) for i, j in ((0, 1), (1, 0)))
    tags = 256 * high + low
    is_long = tf.equal(tf.where(is_little, entries[:, 2], entries[:, 3]), 4)
    # The low byte is enough: a valid orientation is below 9.
    values = tf.where(is_little, entries[:, 8], tf.where(is_long, entries[:, 11], entries[:, 9]))
    value = tf.reduce_max(tf.where(tf.equal(tags, _ORIENTATION), values, 1))
    return tf.where(value <= 8, value, 1)


def _upright(pixels, orientation):
    """Undo a camera's orientation."""

    def when(condition, change, pixels):
        return tf.cond(condition, lambda: change(pixels), lambda: pixels)

    pixels = when(orientation >= 5, tf.transpose, pixels)
    pixels = when(tf.reduce_any(tf.equal(orientation, [3, 4, 7, 8])), lambda p: tf.reverse(p, [0]), pixels)
    return when(tf.reduce_any(tf.equal(orientation, [2, 3, 6, 7])), lambda p: tf.reverse(p, [1]), pixels)


def _one_channel(pixels):
    """[h, w, c] integers to [h, w]; refuses colour and transparency."""
    channels = tf.shape(pixels)[2]
    has_alpha = tf.equal(channels % 2, 0)
    gray = pixels[..., 0]
    is_opaque = tf.reduce_all(tf.equal(pixels[..., channels - 1], pixels.dtype.max)) | ~has_alpha
    middle, last = (pixels[..., tf.minimum(i, channels - 1)] for i in (1, 2))
    is_gray = (channels < 3) | (tf.reduce_all(tf.equal(gray, middle)) & tf.reduce_all(tf.equal(gray, last)))
    checks = [
        tf.Assert(is_opaque, ["image_bytes: has transparent pixels; flatten it to one gray channel"]),
        tf.Assert(is_gray, ["image_bytes: is a colour image, its channels differ; convert it to one gray channel"]),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(gray)
