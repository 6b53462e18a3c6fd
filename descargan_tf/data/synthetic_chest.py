"""Drawn radiographs, diseased with a pleural effusion, in the form of the paper's synthetic images.

The pictures are `chest_phantom`'s without its files: a patient an image, square, with the same range for all. The
healthy twin of a diseased image is drawn with its patient, posture, exposure and noise, so that the ground truth is the
difference itself and not a mask of it.

Images smaller than 128 are drawn at a multiple of their size, at least 128, and averaged down: ribs are thin.
"""

import numpy as np

from descargan_tf.data import chest_phantom
from descargan_tf.types import DISEASED, HEALTHY, SPLITS

VERSION = 1  # raise it when the same settings give other bytes
_DRAWN = 128


def draw_example(seed: int, split: str, index: int, image_size: int) -> tuple[np.ndarray, int, np.ndarray]:
    """Image `index` of a split, a function of its arguments alone; as `synthetic.draw_example`.

    Returns:
        image [H, W] float32 in [-1, 1], bright where dense, label, ground truth [H, W] float32, healthy - diseased
        (zero for a healthy image).
    """
    stream = [chest_phantom.VERSION, VERSION, seed, SPLITS.index(split), index]
    rng = np.random.default_rng(stream)
    chest, effusion = chest_phantom.sample_chest(rng), chest_phantom.sample_effusion(rng)

    factor = -(-_DRAWN // image_size)
    size = image_size * factor
    disease = None if index % 2 == HEALTHY else effusion
    # The same posture, exposure and noise for both.
    drawn = chest_phantom.draw_with_twin(chest, disease, size, size, np.random.default_rng([*stream, 1]))
    image, healthy = (
        (each.reshape(image_size, factor, image_size, factor).mean((1, 3)) * 2 - 1).astype(np.float32)
        for each in drawn[:2]
    )
    return image, HEALTHY if disease is None else DISEASED, healthy - image
