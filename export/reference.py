"""Images with the live model's answers to them, which travel with an export and tell whether it is still the same.

The images are drawn, never taken from the data: an export is passed on, and data often may not be.
"""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from descargan_tf.data.images import scale_pixels, unscale_pixels
from descargan_tf.inference.folding import uses_own_statistics
from descargan_tf.methods.base import Method
from descargan_tf.prediction.outputs import named_outputs
from descargan_tf.prediction.overlay import overlay
from descargan_tf.prediction.splits import predict_split
from descargan_tf.types import DECISION

from .bytes_input import FileRule
from .saved_model import BYTES_SIGNATURE, FLOAT_SIGNATURE
from .verify import LARGEST, REFERENCE, ROOT_MEAN_SQUARE

_BOUND = 1e-4  # largest difference of a pixel in float32
# Statistics of the image itself divide by standard deviations that may be small, and with them what rounding left:
# trained and untrained networks differed by 5e-5 to 2.5e-4 between two kinds of convolution kernels.
_BOUND_OWN_STATISTICS = 1e-3
# Eight bits of mantissa round by 0.4 % in each of some twenty layers. Single pixels at edges then differ by 0.1 to 0.3,
# which says little; over an image the root mean square was 0.004 to 0.03, and of a wrong network it is 0.3 and more.
_BOUND_BFLOAT16 = 0.1
NUM_IMAGES = 4


class Tolerance(NamedTuple):
    """How far an export may be from the live model in float32."""

    measure: str  # LARGEST, or ROOT_MEAN_SQUARE of an image
    bound: float


def tolerance(live: Method, precision: str) -> Tolerance:
    """What rounding may do to a method's answers."""
    if precision == "bfloat16":
        return Tolerance(ROOT_MEAN_SQUARE, _BOUND_BFLOAT16)
    own = any(uses_own_statistics(network) for network in live.networks.values())
    return Tolerance(LARGEST, _BOUND_OWN_STATISTICS if own else _BOUND)


def drawn_images(count: int, image_size: int, seed: int = 0) -> np.ndarray:
    """Smooth waves of several lengths in noise, [count, image_size, image_size, 1] float32 in [-0.9, 0.9]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:image_size, :image_size] / image_size
    waves = np.zeros((count, image_size, image_size))
    for image in waves:
        for frequency in (1, 3, 9):
            angle, phase = rng.uniform(0, 2 * np.pi, 2)
            image += np.sin(2 * np.pi * frequency * (np.cos(angle) * x + np.sin(angle) * y) + phase) / frequency
    waves += rng.normal(0, 0.1, waves.shape)
    return (0.9 * waves / np.abs(waves).max((1, 2), keepdims=True)).astype(np.float32)[..., np.newaxis]


def encode(images: np.ndarray, rule: FileRule) -> tuple[list[bytes], np.ndarray]:
    """Images [N, H, W, 1] as PNG files of the training files' depth, and what prediction reads from such files."""
    factor, offset = rule.training_units()
    values = unscale_pixels(images[..., 0], rule.scaling).astype(np.float64)
    pixels = np.rint((values - offset) / factor)  # of 65535
    if rule.dtype == "uint8":
        pixels = np.rint(pixels / 257).astype(np.uint8)
        values = pixels
    else:
        pixels = pixels.astype(np.uint16)
        values = pixels * factor + offset if rule.dtype == "float32" else pixels
    files = []
    for plane in pixels:
        buffer = io.BytesIO()
        Image.fromarray(plane).save(buffer, "PNG")
        files.append(buffer.getvalue())
    return files, scale_pixels(values, rule.scaling, "drawn image")[..., np.newaxis]


def write_reference(folder: Path, live: Method, image_size: int, rule: FileRule, precision: str) -> None:
    """Write what `verify` compares with: inputs of both signatures and the live model's answers.

    Args:
        folder: of the version.
        live: the method as it was trained, in float32 whatever the export's precision.
        image_size: pixels a side.
        rule: how files become images.
        precision: of the export.
    """
    predict = tf.function(live.predict, autograph=False)
    images = drawn_images(NUM_IMAGES, image_size)
    files, read = encode(images, rule)
    measure, bound = tolerance(live, precision)
    stored = {"measure": np.array(measure), "bound": np.float64(bound)}
    # Bytes of NumPy end at the last one that is not zero; a PNG ends in 0x82.
    inputs = {FLOAT_SIGNATURE: ("image", images, images), BYTES_SIGNATURE: ("image_bytes", np.array(files), read)}
    for signature, (argument, value, seen) in inputs.items():
        prediction = predict_split(predict, seen, NUM_IMAGES)
        stored[f"{signature}/inputs/{argument}"] = value
        answers = named_outputs(prediction)
        if "disease_probability" in answers:
            answers["predicted_class"] = (answers["disease_probability"] > DECISION).astype(np.int64)
        if signature == BYTES_SIGNATURE and prediction.anomaly_map is not None:
            pairs = list(zip(seen[..., 0], prediction.anomaly_map[..., 0], strict=True))
            answers["overlay_png_bytes"] = np.stack([overlay(*pair) for pair in pairs])
            answers["anomaly_map_png_bytes"] = np.stack([overlay(np.ones_like(image), d) for image, d in pairs])
        for name, answer in answers.items():
            stored[f"{signature}/outputs/{name}"] = answer
    path = folder / REFERENCE
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        np.savez_compressed(file, **stored)
