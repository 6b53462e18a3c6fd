"""The paper's synthetic data (sect. 3 and Table 1 of the supplement), drawn as a formula.

Two ellipse contours e1 (small) and e2 (large) lie over two systems of circular waves c1 and c2. In a diseased image
the space around e1 is deformed by the gradient of a Gaussian, so that e1 and the waves around it shrink. An image is
a formula in continuous coordinates: the diseased one is the same formula at displaced coordinates, so nothing is
resampled and nothing has to be filled in at the border.

Where the supplement leaves a rule open, or the authors' program departs from it (D1.x are its known traps):

* Counts are quotas, not attempts (D1.1 to D1.3); splits are train, validate, test (D1.4); label 0 is healthy (D1.5).
* Both classes take the same path and the same fixed scaling: raw values lie in [-0.8, 1] by construction (two waves of
  amplitude up to 0.4, contours at 1) and are mapped affinely to [-1, 1]. Never per-image min-max (D1.6).
* The ground truth is healthy - diseased (D1.8) in the units of the images (D1.7), and zero for healthy images (D1.9).
* Centres are real numbers, U([50, 200]) (D1.10). No minimum distance (D1.11): an image is excluded when the filled
  ellipses touch or one contains the other, tested on 720 points of each outline.
* An ellipse not wholly inside the image, on any of its four sides, excludes the image (D1.12), judged by the outermost
  contour (D1.13).
* The contour is the band between the ellipses (a, b) and (a - g, b - g), with real-valued g (D1.14) and an edge that is
  one pixel soft.
* c1 has a centre of its own (D1.15); c2 shares that of e2 (D1.16). The waves go on beyond radius 255, so that no corner
  is empty (D1.17). They add up; contours lie over them with value 1. Wave frequencies and heights as printed (D1.18).
* No smoothing of the finished image (D1.19).
* The displacement points away from the centre of e1 in the sampled coordinates (so the content shrinks), and its
  largest length is 0.1 in [-1, 1] units (D1.20), with corners of the image at -1 and 1 (D1.21, D1.22), sigma 0.19
  (D1.23).
* One random generator per image, from (seed, split, index) (D1.24). No plots (D1.25), no name in two meanings
  (D1.26), no library for geometry (D1.27).
* A base image serves one class only (unpaired): even indices are healthy, odd ones diseased.

Images smaller than 256 are drawn at a multiple of their size, at least 256, and averaged down, so the geometry scales.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from descargan_tf.types import DISEASED, HEALTHY, SPLITS

VERSION = 1  # raise it when the same settings give other bytes

_EXTENT = 256  # the supplement's coordinates run from 0 to 255
_SIGMA = 0.19  # of the Gaussian, in [-1, 1] units
_MAX_DISPLACEMENT = 0.1  # in [-1, 1] units
_RAW_RANGE = (-0.8, 1.0)
_OUTLINE = np.linspace(0.0, 2.0 * math.pi, 720, endpoint=False)


class Ellipse(NamedTuple):
    """A contour; lengths in the supplement's coordinates, phi in radians."""

    x: float
    y: float
    a: float
    b: float
    phi: float
    thickness: float

    def local(self, x, y):
        """Coordinates along the two axes, from the centre."""
        cos, sin = math.cos(self.phi), math.sin(self.phi)
        return cos * (x - self.x) + sin * (y - self.y), cos * (y - self.y) - sin * (x - self.x)

    def outline(self):
        """720 points of the outer contour, [720] and [720]."""
        u, v = self.a * np.cos(_OUTLINE), self.b * np.sin(_OUTLINE)
        cos, sin = math.cos(self.phi), math.sin(self.phi)
        return self.x + cos * u - sin * v, self.y + sin * u + cos * v

    def contains(self, x, y):
        """Whether points lie in the filled ellipse."""
        u, v = self.local(x, y)
        return (u / self.a) ** 2 + (v / self.b) ** 2 <= 1.0


class Waves(NamedTuple):
    """sin(t f) h, with t the distance from the centre."""

    x: float
    y: float
    frequency: float
    height: float


class Geometry(NamedTuple):
    """All that one image shows."""

    e1: Ellipse
    e2: Ellipse
    c1: Waves
    c2: Waves


@dataclasses.dataclass(frozen=True)
class SyntheticSettings:
    """What decides the bytes of a drawn data set; counts are images per class."""

    seed: int = 0
    image_size: int = 256
    num_train: int = 2000
    num_validate: int = 200
    num_test: int = 200
    dataset: str = "synthetic"  # or "synthetic_chest": what is drawn

    def count(self, split: str) -> int:
        """Images per class in a split."""
        return getattr(self, f"num_{split}")


def sample_geometry(rng: np.random.Generator) -> Geometry:
    """Draw parameters (supplement, Table 1) until the ellipses are inside the image and apart."""
    while True:
        e1 = Ellipse(
            *rng.uniform(50, 200, 2), *rng.normal((40, 20), 1), rng.uniform(0, 2 * math.pi), rng.normal(5, 0.7)
        )
        e2 = Ellipse(
            *rng.uniform(50, 200, 2), *rng.normal((70, 35), 1), rng.uniform(0, 2 * math.pi), rng.normal(5, 0.7)
        )
        c1 = Waves(*rng.uniform(50, 200, 2), rng.uniform(0.2, 0.35), rng.uniform(0.2, 0.4))
        c2 = Waves(e2.x, e2.y, rng.uniform(0.35, 0.5), rng.uniform(0.2, 0.4))
        if _inside(e1) and _inside(e2) and not _intersect(e1, e2):
            return Geometry(e1, e2, c1, c2)


def _inside(e: Ellipse) -> bool:
    half_width = math.hypot(e.a * math.cos(e.phi), e.b * math.sin(e.phi))
    half_height = math.hypot(e.a * math.sin(e.phi), e.b * math.cos(e.phi))
    last = _EXTENT - 1
    return half_width <= e.x <= last - half_width and half_height <= e.y <= last - half_height


def _intersect(e1: Ellipse, e2: Ellipse) -> bool:
    return bool(e2.contains(*e1.outline()).any() or e1.contains(*e2.outline()).any())


def displace(x: np.ndarray, y: np.ndarray, e1: Ellipse) -> tuple[np.ndarray, np.ndarray]:
    """The coordinates at which a diseased image samples the healthy one (supplement, deformation field)."""
    unit = (_EXTENT - 1) / 2  # one [-1, 1] unit
    u, v = (x - e1.x) / unit, (y - e1.y) / unit
    # |grad| of the Gaussian is largest at radius sigma; this factor makes the displacement there 0.1.
    size = (_MAX_DISPLACEMENT / _SIGMA) * np.exp(0.5 - (u * u + v * v) / (2 * _SIGMA**2))
    return x + size * u * unit, y + size * v * unit


def draw_image(geometry: Geometry, image_size: int, *, diseased: bool) -> np.ndarray:
    """Evaluate the image.

    Returns:
        [image_size, image_size] float32 in [-1, 1].
    """
    factor = -(-_EXTENT // image_size)
    pixel = _EXTENT / (image_size * factor)  # in the supplement's coordinates
    axis = ((np.arange(image_size * factor) + 0.5) * pixel - 0.5).astype(np.float32)
    x, y = axis[None, :], axis[:, None]
    if diseased:
        x, y = displace(x, y, geometry.e1)
    image = np.zeros((image_size * factor,) * 2, np.float32)
    for waves in (geometry.c1, geometry.c2):
        dx, dy = x - np.float32(waves.x), y - np.float32(waves.y)
        image += np.sin(np.sqrt(dx * dx + dy * dy) * np.float32(waves.frequency)) * np.float32(waves.height)
    x, y = np.broadcast_arrays(x, y)
    for ellipse in (geometry.e1, geometry.e2):
        # Nothing of it lies farther out, displaced or not; computing only there halves the time.
        reach = ellipse.a + _MAX_DISPLACEMENT * _EXTENT
        rows, columns = (
            slice(max(int((centre - reach) / pixel), 0), int((centre + reach) / pixel) + 1)
            for centre in (ellipse.y, ellipse.x)
        )
        part = image[rows, columns]
        part += _contour(ellipse, x[rows, columns], y[rows, columns], pixel) * (1 - part)
    low, high = _RAW_RANGE
    image = (image - np.float32(low)) * np.float32(2 / (high - low)) - 1
    if factor > 1:
        image = image.reshape(image_size, factor, image_size, factor).mean((1, 3), dtype=np.float32)
    return np.clip(image, -1, 1)  # rounding alone can pass the ends


def _contour(e: Ellipse, x, y, pixel: float) -> np.ndarray:
    """How much of each pixel the band between the outer and the inner ellipse covers, 0 to 1."""
    cos, sin = np.float32(math.cos(e.phi)), np.float32(math.sin(e.phi))
    dx, dy = x - np.float32(e.x), y - np.float32(e.y)
    u, v = cos * dx + sin * dy, cos * dy - sin * dx

    def signed_distance(a, b):
        # f - 1 over |grad f|, the distance to first order: exact where it matters, within a pixel of the outline.
        p, q = u * np.float32(1 / a), v * np.float32(1 / b)
        f = np.sqrt(p * p + q * q)
        p *= np.float32(1 / a)
        q *= np.float32(1 / b)
        return (f - 1) * f / np.maximum(np.sqrt(p * p + q * q), np.float32(1e-6))

    outer, inner = signed_distance(e.a, e.b), signed_distance(e.a - e.thickness, e.b - e.thickness)
    scale = np.float32(1 / pixel)
    return np.clip(0.5 - outer * scale, 0, 1) * np.clip(0.5 + inner * scale, 0, 1)


def draw_example(seed: int, split: str, index: int, image_size: int) -> tuple[np.ndarray, int, np.ndarray]:
    """Image `index` of a split: a function of its arguments alone.

    Returns:
        image [H, W] float32, label, ground truth [H, W] float32 (zero for a healthy image).
    """
    rng = np.random.default_rng([VERSION, seed, SPLITS.index(split), index])
    geometry = sample_geometry(rng)
    healthy = draw_image(geometry, image_size, diseased=False)
    if index % 2 == HEALTHY:
        return healthy, HEALTHY, np.zeros_like(healthy)
    diseased = draw_image(geometry, image_size, diseased=True)
    return diseased, DISEASED, healthy - diseased
