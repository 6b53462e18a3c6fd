"""Nearly the same picture in two splits: found by a perceptual hash, confirmed by the picture's finer structure.

The hash (pHash: signs of low frequencies) is that of the picture at 32x32. Radiographs of different people may well
agree in it, as all chests look alike from afar, so that it only chooses pairs; what decides is the correlation of the
pictures at 64x64 without their shades. The limits were measured, see docs/measurements.md: of the chest phantom's and
the synthetic images no two of different people correlate above 0.94, while what was rescaled, brightened, put in
another window or saved as a good JPEG keeps 0.95 and more, at 128x128 at least. Pictures that were turned, mirrored,
shifted or cut are not found.
"""

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import scipy  # whose parts load when they are asked for: most of what starts does not
from PIL import Image

_HASH_SIDE, _FREQUENCIES = 32, 16
_BITS = _FREQUENCIES**2 - 1  # the mean is not one of them
_MAX_DISTANCE = 48  # bits that differ; half of all do between pictures that have nothing in common
_DETAIL_SIDE, _SHADES = 64, 1.0  # pixels; sd of the blur that is taken off
_CORRELATION = 0.95
MAX_PAIRS = 10_000  # a data set of copies alone has as many as it has images, squared
_TOGETHER = 512  # pictures whose distances to all others are in memory at a time


class Fingerprint(NamedTuple):
    """What is kept of a picture, 4 KiB."""

    bits: np.ndarray  # [255] bool
    detail: np.ndarray  # [4096] int8


class Pair(NamedTuple):
    """Two pictures by their numbers, and how their finer structure correlates."""

    first: int
    second: int
    correlation: float


def fingerprint_of(image: np.ndarray) -> Fingerprint | None:
    """That of an image [H, W]; None of one without any structure."""
    values = np.asarray(image, np.float32)
    detail = _shrunk(values, _DETAIL_SIDE)
    detail = detail - scipy.ndimage.gaussian_filter(detail, _SHADES)
    size = np.sqrt(np.mean(np.square(detail)))
    if size <= 1e-6 * max(np.abs(values).max(), 1e-30):
        return None
    # Clipped, as a few strong edges, those of black bars above all, would outweigh the rest.
    detail = np.clip(detail / size, -1, 1)
    waves = scipy.fft.dctn(_shrunk(values, _HASH_SIDE), norm="ortho")[:_FREQUENCIES, :_FREQUENCIES].ravel()[1:]
    return Fingerprint(waves > np.median(waves), np.rint(detail.ravel() * 127).astype(np.int8))


def near_duplicates(fingerprints: Sequence[Fingerprint | None], groups: Sequence[str]) -> list[Pair]:
    """Pairs of nearly the same picture in different groups, most alike first; groups are the splits' names.

    After `MAX_PAIRS` the search ends.
    """
    known = np.array([index for index, found in enumerate(fingerprints) if found is not None], int)
    if not len(known):
        return []
    bits = np.stack([fingerprints[index].bits for index in known])
    detail = np.stack([fingerprints[index].detail for index in known])
    names = np.array(groups)[known]
    pairs: list[tuple] = []
    # The smallest group is compared with all later ones, and so on: the largest is never within the loop.
    order = sorted(set(names.tolist()), key=lambda name: ((names == name).sum(), name))
    for position, name in enumerate(order[:-1]):
        others = np.flatnonzero(np.isin(names, order[position + 1 :]))
        mine = np.flatnonzero(names == name)
        for start in range(0, len(mine), _TOGETHER):
            part = mine[start : start + _TOGETHER]
            for beginning in range(0, len(others), 8 * _TOGETHER):
                if len(pairs) < MAX_PAIRS:
                    found = _compare(bits, detail, part, others[beginning : beginning + 8 * _TOGETHER])
                    pairs += islice(found, MAX_PAIRS - len(pairs))
    named = [Pair(*sorted((int(known[a]), int(known[b]))), float(value)) for a, b, value in pairs]
    return sorted(named, key=lambda pair: (-pair.correlation, pair.first, pair.second))


def _compare(bits, detail, first, second):
    # A product of signs is the number of bits that agree less that of those that do not; BLAS is quick at it.
    agreement = _signs(bits[first]) @ _signs(bits[second]).T
    is_near = agreement >= _BITS - 2 * _MAX_DISTANCE
    rows, columns = np.flatnonzero(is_near.any(1)), np.flatnonzero(is_near.any(0))
    if not len(rows):
        return
    correlation = _unit(detail[first[rows]]) @ _unit(detail[second[columns]]).T
    for row, column in np.argwhere((correlation >= _CORRELATION) & is_near[np.ix_(rows, columns)]):
        yield first[rows[row]], second[columns[column]], correlation[row, column]


def _signs(bits):
    return bits.astype(np.float32) * 2 - 1


def _unit(detail):
    values = detail.astype(np.float32)
    values -= values.mean(1, keepdims=True)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def _shrunk(image, side):
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BOX))
