"""Chest-like radiographs drawn as a formula: a surrogate of CheXpert that anyone can make, pass on and look at.

A picture is the path of X-rays through soft tissue, bone and air: body, spine, clavicles, ribs, heart, two lungs with
vessels and diaphragms, for a patient who is the same in all studies but for breath and posture. A pleural effusion
replaces air by fluid of the density of soft tissue, below a surface that climbs along the chest wall, so that the
costophrenic angle is blunted; side, height and slope vary. The rest of the picture is the formula without it, and the
mask is where the two differ by more than the noise. Exposure varies from picture to picture and so does the range that
a device stores, both without regard to the disease.

No anatomy is copied from anybody's images, and no measurement is to be made of them.
"""

import math
from typing import NamedTuple

import numpy as np

VERSION = 1  # raise it when the same settings give other bytes

_WHITE = 4095  # 12 bits stored
_VISIBLE = 0.04  # of the image's range: what the fluid must add to a pixel to be marked, about twice the noise


class Device(NamedTuple):
    """A machine that radiographs come from; each patient is seen by one."""

    model: str
    aspect: float  # width by height
    is_inverted: bool  # stores MONOCHROME1
    has_window: bool


DEVICES = (
    Device("PHANTOM-A", 1.0, False, True),
    Device("PHANTOM-B", 0.84, False, False),
    Device("PHANTOM-C", 1.2, True, True),
)


class Chest(NamedTuple):
    """What is a patient's own; lengths in half heights of the picture, which spans -1 to 1 from top to bottom."""

    width: float  # of a lung
    apex: float  # y of the lungs' tops
    base: float  # y of the domes of the diaphragms
    heart: float  # half width of the heart
    wall: float  # soft tissue over the lungs
    bone: float  # how dense
    slope: float  # of the ribs
    ribs: float  # distance between them
    vessels: int  # seed of the lungs' texture


class Effusion(NamedTuple):
    """Fluid in one pleural space."""

    side: int  # -1: left of the picture, the patient's right
    height: float  # at the chest wall, above the costophrenic angle, in heights of the lung
    climb: float  # of it only there, 0 to 1
    softness: float  # of its surface


def sample_chest(rng: np.random.Generator) -> Chest:
    """Draw a patient."""
    return Chest(
        width=rng.uniform(0.46, 0.56),
        apex=rng.uniform(-0.84, -0.74),
        base=rng.uniform(0.36, 0.54),
        heart=rng.uniform(0.28, 0.38),
        wall=rng.uniform(0.35, 0.55),
        bone=rng.uniform(0.75, 1.2),
        slope=rng.uniform(0.2, 0.4),
        ribs=rng.uniform(0.155, 0.185),
        vessels=int(rng.integers(2**31)),
    )


def sample_effusion(rng: np.random.Generator) -> Effusion:
    """Draw a disease: from a blunted angle to half a lung."""
    return Effusion(
        side=int(rng.choice((-1, 1))),
        height=rng.uniform(0.14, 0.5),
        climb=rng.uniform(0.25, 0.55),
        softness=rng.uniform(0.02, 0.05),
    )


class Exposure(NamedTuple):
    """What differs between two frontal views of a patient, but for the disease."""

    turn: float
    shift: np.ndarray  # [2]
    breath: float
    grain: np.ndarray  # [H, W] of unit strength
    contrast: float
    middle: float  # brightness
    dose: float  # strength of the noise, about 1


def sample_exposure(height: int, width: int, rng: np.random.Generator) -> Exposure:
    """Draw posture, exposure and noise: all the randomness of `draw_frontal`, in its order."""
    turn, shift, breath = rng.normal(0, 0.02), rng.normal(0, 0.02, 2), rng.normal(0, 0.03)
    grain = rng.standard_normal((height, width))
    contrast, middle, dose = rng.uniform(0.40, 0.50), rng.uniform(0.42, 0.54), rng.uniform(0.8, 1.3)
    return Exposure(turn, shift, breath, grain, contrast, middle, dose)


def sample_grain(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the noise of a lateral view, of unit strength: all the randomness of `draw_lateral`."""
    return rng.standard_normal((height, width))


def sample_window(device: Device, rng: np.random.Generator) -> tuple[int, int]:
    """Draw which stored values are black and white, before any inversion: all the randomness of `store`."""
    if device.has_window:  # it leaves room on both sides
        return int(rng.integers(150, 500)), int(rng.integers(3300, 3900))
    return 0, _WHITE


def draw_frontal(
    chest: Chest, effusion: Effusion | None, height: int, width: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One posteroanterior view.

    Args:
        chest: the patient.
        effusion: the disease, if any.
        height, width: pixels.
        rng: of posture, exposure and noise.

    Returns:
        [H, W] float64 in 0..1, bright where dense, and the mask, bool [H, W].
    """
    image, _, mask = draw_with_twin(chest, effusion, height, width, rng)
    return image, mask


def draw_with_twin(
    chest: Chest, effusion: Effusion | None, height: int, width: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `draw_frontal`, with the same view without the disease: image, twin, mask."""
    turn, shift, breath, grain, contrast, middle, dose = sample_exposure(height, width, rng)
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width) * width / height, indexing="ij")
    x, y = (x - shift[0]) * math.cos(turn) + y * math.sin(turn), (y - shift[1]) * math.cos(turn) - x * math.sin(turn)
    x = x / min(1.0, width / height * 1.06)  # the whole chest is in a narrow picture, too
    base = chest.base + breath

    air, fluid, vessels = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    for side in (-1, 1):
        lung, inner, depth = _lung(chest, base - 0.05 * (side < 0), side, x, y)
        air += lung
        vessels += lung * _vessels(chest, side, x, y)
        if effusion and effusion.side == side:
            surface = effusion.height * (1 - effusion.climb * (1 - np.clip(inner, 0, 1.1) ** 2))
            fluid += lung * _step((surface - depth) / effusion.softness)

    tissue = _body(chest, x, y) + _heart(chest, base, x, y) + _abdomen(base, x, y)
    bone = chest.bone * (_spine(x, y) + _ribs(chest, base, x, y) + _clavicles(chest, x, y))
    trachea = 0.22 * _step((0.055 - np.abs(x - 0.012)) / 0.015) * _step((-0.28 - y) / 0.08)

    def exposed(fluid):
        # Fluid takes the place of air and of nothing else; vessels in it are as dense as it is.
        return tissue + bone - trachea - (0.95 * air - vessels) * (1 - fluid / np.maximum(air, 1e-6))

    healthy = exposed(np.zeros_like(fluid))
    # What a device makes of the path: contrast and brightness by the exposure, noise by the dose behind the body.
    noise = 0.012 * dose * _smooth(grain)

    def displayed(path):
        return 1 / (1 + np.exp(-4 * contrast * (path - 0.62) - 4 * (middle - 0.5)))

    def detected(shown):
        return np.clip(shown + noise * (0.6 + 0.8 * shown), 0, 1)

    without = displayed(healthy)
    twin = detected(without)
    if effusion is None:
        return twin, twin, np.zeros(twin.shape, bool)
    shown = displayed(exposed(fluid))
    return detected(shown), twin, shown - without > _VISIBLE


def draw_lateral(chest: Chest, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """One lateral view, which nothing is learned from; [H, W] float64 in 0..1."""
    grain = sample_grain(height, width, rng)
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width) * width / height, indexing="ij")
    curve = 0.5 - 0.18 * np.cos(1.6 * (y - 0.1))
    body = 1.0 * _step((0.78 - 0.1 * y**2 - np.abs(x)) / 0.05)
    lung = _step((1 - ((x - 0.0) / (0.52 + 0.08 * y)) ** 4 - ((y + 0.15) / 0.75) ** 4) / 0.2)
    dome = _step((y - chest.base - 0.25 * x) / 0.04)
    heart = 0.45 * _step((1 - ((x + 0.2) / chest.heart) ** 2 - ((y - 0.25) / 0.3) ** 2) / 0.4)
    spine = _step((0.1 - np.abs(x - curve)) / 0.03) * (0.3 + 0.1 * np.cos(y * 34))
    path = body - 0.75 * lung * (1 - dome) + heart * lung + chest.bone * spine + 0.25 * dome * body
    image = 1 / (1 + np.exp(-2 * (path - 0.62))) + 0.015 * _smooth(grain)
    return np.clip(image, 0, 1)


def store(image: np.ndarray, device: Device, rng: np.random.Generator) -> tuple[np.ndarray, tuple[int, int]]:
    """What a device writes down.

    Returns:
        [H, W] uint16 of 12 bits, and centre and width of the window that shows it (of the stored values).
    """
    low, high = sample_window(device, rng)
    values = np.rint(low + np.clip(image, 0, 1) * (high - low)).astype(np.uint16)
    if device.is_inverted:
        values, low, high = _WHITE - values, _WHITE - high, _WHITE - low
    return values, ((low + high + 1) // 2, high - low + 1)


def _step(z):
    """0 to 1 over a unit or two."""
    return 1 / (1 + np.exp(-4 * np.clip(z, -12, 12)))


def _smooth(grain):
    """White noise as a detector blurs it, of the same strength."""
    blurred = grain.copy()
    for axis in (0, 1):
        blurred = (np.roll(blurred, 1, axis) + 2 * blurred + np.roll(blurred, -1, axis)) / 4
    return 0.5 * grain + 1.3 * blurred


def _lung(chest, base, side, x, y):
    """How much air there is, 0..1; how far out, 0 at the spine to 1 at the wall; height above the angle, in lungs."""
    t = np.clip((y - chest.apex) / (base + 0.3 - chest.apex), 0, 1)  # 0 at the apex
    outer = 0.17 + chest.width * np.sqrt(np.clip(1 - (1 - t) ** 2.6, 0, 1))
    medial = 0.13 + 0.05 * t + 0.03 * np.cos(6 * t)
    across = (side * x - medial) / np.maximum(outer - medial, 0.05)
    dome = base + 0.30 * np.clip(np.abs(across - 0.35) / 0.65, 0, 1.4) ** 2.2
    inside = (
        _step((side * x - medial) / 0.025)
        * _step((outer - side * x) / 0.016)
        * _step((y - chest.apex) / 0.03)
        * _step((dome - y) / 0.014)
    )
    thickness = 0.62 + 0.38 * np.sqrt(np.clip(4 * across * (1 - across), 0, 1))
    return inside * thickness, across, (base + 0.30 - y) / (base + 0.30 - chest.apex)


def _vessels(chest, side, x, y):
    """Branches from the hilum that grow thin outwards."""
    rng = np.random.default_rng([chest.vessels, side + 1])
    found = np.zeros_like(x)
    hilum = np.array([0.2, rng.uniform(-0.16, -0.04)])
    u, v = side * x - hilum[0], y - hilum[1]
    for _ in range(16):
        angle, bend = rng.uniform(-1.35, 1.35), rng.normal(0, 0.5)
        length, strength = rng.uniform(0.3, 0.65), rng.uniform(0.08, 0.2)
        along = u * math.cos(angle) + v * math.sin(angle)
        there = (along > 0) & (along < length)  # elsewhere it is not: most of the picture
        along, a, b = along[there], u[there], v[there]
        across = b * math.cos(angle) - a * math.sin(angle) - bend * along**2
        thin = 1 - along / length
        found[there] += strength * thin * np.exp(-((across / (0.006 + 0.022 * thin)) ** 2))
    around = np.hypot(u, v / 1.6)
    return 0.45 * np.tanh((found + 0.2 * np.exp(-((around / 0.14) ** 2))) / 0.45)


def _body(chest, x, y):
    shoulder = 0.80 + 0.9 * _step((y + 0.72) / 0.12) - 0.62 * _step((y + 0.42) / 0.16)  # neck, shoulders, armpits
    trunk = np.where(y < -0.72, 0.3 + 0.6 * np.exp(-(((y + 0.72) / 0.1) ** 2)), shoulder * 0.86 + 0.04 * y)
    edge = _step((trunk - np.abs(x)) / 0.03)
    depth = np.sqrt(np.clip(1.1 - (x / 1.15) ** 2, 0.12, 1.1))
    return edge * depth * (0.75 + 0.5 * chest.wall) + edge * 0.16 * np.exp(-((x / 0.16) ** 2))


def _heart(chest, base, x, y):
    u, v = (x - 0.12) / chest.heart, (y - base + 0.20) / 0.34
    lean = u + 0.28 * v
    left = _step((1 - lean**2 - v**2) / 0.16)
    arch = _step((1 - ((x - 0.12) / 0.1) ** 2 - ((y + 0.33) / 0.1) ** 2) / 0.4)
    return 0.55 * left * np.sqrt(np.clip(1.15 - lean**2 * 0.6 - v**2 * 0.4, 0, 1)) + 0.22 * arch


def _abdomen(base, x, y):
    below = _step((y - base - 0.16) / 0.1)
    bubble = np.exp(-(((x - 0.38) / 0.13) ** 2) - ((y - base - 0.2) / 0.05) ** 2)
    return 0.22 * below - 0.3 * bubble


def _spine(x, y):
    column = _step((0.085 - np.abs(x)) / 0.02)
    bodies = 0.75 + 0.25 * np.tanh(3 * np.cos(y * 2 * math.pi / 0.145))
    processes = np.exp(-((x / 0.018) ** 2)) * (0.5 + 0.5 * np.cos(y * 2 * math.pi / 0.145 + 1))
    return 0.17 * column * bodies + 0.06 * processes


def _ribs(chest, base, x, y):
    found = np.zeros_like(x)
    out = np.abs(x)
    fade, lateral = _step((y - base - 0.5) / -0.1), _step((out - 0.36) / 0.05)
    for number in range(10):
        top = chest.apex + 0.06 + number * chest.ribs
        reach = 0.17 + chest.width * math.sqrt(max(0.0, 1 - (1 - min(1.0, (number + 0.8) / 7)) ** 2.4)) + 0.02
        far, within = np.clip(out / reach, 0, 1.05), _step((reach - out) / 0.012)
        # Behind: up from the spine and down along the wall. In front: from there to the breastbone, fainter.
        behind = top - 0.09 * np.sin(math.pi * np.clip(far * 1.1, 0, 1)) + chest.slope * far**2 * 0.75
        before = top + chest.slope * 0.75 + 0.22 * (1 - far) + 0.06 * (1 - far) ** 2
        found += 0.12 * _band(y - behind, 0.033) * within * fade
        found += 0.06 * _band(y - before, 0.035) * within * lateral * fade
    return found


def _band(distance, half):
    """A rib's profile: a bar whose edges, hit along the surface, are denser than its marrow."""
    distance = np.abs(distance)
    bar, inside = _step((half - distance) / 0.008), distance < half
    profile = np.full_like(bar, 0.65 + 0.5)  # a power is slow, and most of the picture lies outside
    profile[inside] = 0.65 + 0.5 * (distance[inside] / half) ** 3
    return bar * profile


def _clavicles(chest, x, y):
    out = np.abs(x)
    line = chest.apex + 0.17 - 0.2 * np.clip(out - 0.08, 0, None) + 0.05 * np.sin(out * 7)
    return 0.2 * _band(y - line, 0.03) * _step((out - 0.07) / 0.02) * _step((0.78 - out) / 0.03)
