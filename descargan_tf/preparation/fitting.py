"""An image of any height and width becomes a square one: what is added, cut off or bent is the user's choice."""

from typing import NamedTuple

import numpy as np
from PIL import Image

PAD, CROP, STRETCH = "pad", "crop", "stretch"
FITS = (PAD, CROP, STRETCH)  # of --fit


class _Geometry(NamedTuple):
    box: tuple[float, float, float, float]  # of the raw image: left, top, right, bottom
    height: int  # of what the box becomes, in the middle of the square
    width: int


def fit(values: np.ndarray, size: int, how: str) -> np.ndarray:
    """Bring an image to [size, size] float32; smaller by averaging, so that nothing is aliased or overshoots.

    Args:
        values: [H, W] in [0, 1].
        size: pixels a side.
        how: PAD: all of the image, black bars beside it; CROP: the middle square; STRETCH: all of it, bent to a square.
    """
    height, width = values.shape
    geometry = _geometry(height, width, size, how)
    if (height, width) == (size, size):
        return values.astype(np.float32)  # every bit of it
    # A triangle as wide as a pixel of the result: an average where that is coarser, linear interpolation where finer.
    resampled = Image.fromarray(np.ascontiguousarray(values, np.float32)).resize(
        (geometry.width, geometry.height), Image.Resampling.BILINEAR, geometry.box
    )
    square = np.zeros((size, size), np.float32)
    top, left = (size - geometry.height) // 2, (size - geometry.width) // 2
    square[top : top + geometry.height, left : left + geometry.width] = resampled
    return square


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
