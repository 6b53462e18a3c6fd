"""An image of any height and width becomes a square one: what is added, cut off or bent is the user's choice."""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

PAD, CROP, STRETCH = "pad", "crop", "stretch"
FITS = (PAD, CROP, STRETCH)  # of --fit


class _Geometry(NamedTuple):
    box: tuple[float, float, float, float]  # of the raw image: left, top, right, bottom
    height: int  # of what the box becomes, in the middle of the square
    width: int


def fit(values: np.ndarray, size: int, how: str, background: float = 0) -> np.ndarray:
    """Bring an image to [size, size] float32; smaller by averaging, so that nothing is aliased or overshoots.

    Args:
        values: [H, W] of any type that float32 holds without loss.
        size: pixels a side.
        how: PAD: all of the image, bars beside it; CROP: the middle square; STRETCH: all of it, bent to a square.
        background: value of the bars.
    """
    height, width = values.shape
    geometry = _geometry(height, width, size, how)
    if (height, width) == (size, size):
        return values.astype(np.float32)  # every bit of it
    # A triangle as wide as a pixel of the result: an average where that is coarser, linear interpolation where finer.
    resampled = Image.fromarray(np.ascontiguousarray(values, np.float32)).resize(
        (geometry.width, geometry.height), Image.Resampling.BILINEAR, geometry.box
    )
    square = np.full((size, size), background, np.float32)
    top, left = (size - geometry.height) // 2, (size - geometry.width) // 2
    square[top : top + geometry.height, left : left + geometry.width] = resampled
    return square


def unfit(square: np.ndarray, height: int, width: int, how: str) -> np.ndarray:
    """Lay what was made of a fitted image, such as a map, where that image came from.

    Args:
        square: [size, size].
        height: of the raw image.
        width: of the raw image.
        how: as it was fitted.

    Returns:
        [height, width] float32, 0 where `fit` had cut off.
    """
    size = square.shape[0]
    if (height, width) == (size, size):
        return square.astype(np.float32)
    geometry = _geometry(height, width, size, how)
    top, left = (size - geometry.height) // 2, (size - geometry.width) // 2
    inner = square[top : top + geometry.height, left : left + geometry.width]
    rows, from_top, to_bottom = _whole_pixels(geometry.box[1], geometry.box[3], geometry.height)
    columns, from_left, to_right = _whole_pixels(geometry.box[0], geometry.box[2], geometry.width)
    raw = np.zeros((height, width), np.float32)
    if rows and columns:
        raw[rows.start : rows.stop, columns.start : columns.stop] = Image.fromarray(
            np.ascontiguousarray(inner, np.float32)
        ).resize((len(columns), len(rows)), Image.Resampling.BILINEAR, (from_left, from_top, to_right, to_bottom))
    return raw


def fit_in_range(values: np.ndarray, low: float, high: float, size: int, how: str) -> np.ndarray:
    """Bring an image to [size, size] float64 in [0, 1], of which `low` becomes 0 and `high` 1; else as `fit`."""
    fitted = fit(values, size, how, background=low).astype(np.float64)
    return np.clip((fitted - low) / (high - low), 0, 1)  # the clip takes off rounding only


def fit_mask(mask: np.ndarray, size: int, how: str) -> np.ndarray:
    """Bring a mask where its image goes: uint8 [size, size], 1 where at least half of a pixel is marked."""
    return (fit(mask.astype(np.float32), size, how) >= 0.5).astype(np.uint8)


def _geometry(height, width, size, how):
    if how == CROP:
        side = min(height, width)
        left, top = (width - side) / 2, (height - side) / 2
        return _Geometry((left, top, left + side, top + side), size, size)
    whole = (0, 0, width, height)
    if how == STRETCH:
        return _Geometry(whole, size, size)
    if how == PAD:
        longest = max(height, width)
        return _Geometry(whole, max(1, round(height * size / longest)), max(1, round(width * size / longest)))
    raise ValueError(f"how is {how!r}, expected one of {', '.join(FITS)}")


def _whole_pixels(low, high, length):
    """Pixels of the raw image that lie within a box, and where they begin and end in the `length` that it became."""
    pixels = range(math.ceil(low), math.floor(high))  # a box that cuts off an odd number begins in the middle of one
    scale = length / (high - low)
    return pixels, (pixels.start - low) * scale, (pixels.stop - low) * scale
