"""Small data sets in folders, for the tests of what reads them."""

import numpy as np
import pytest

from descargan_tf.data.folders import check_data
from descargan_tf.data.images import write_npy, write_png
from descargan_tf.errors import UserError
from descargan_tf.types import DISEASED, HEALTHY, SPLITS

SIZE = 64
CLASSES = {HEALTHY: "healthy", DISEASED: "diseased"}


def picture(seed, dtype=np.uint8, low=0, high=256):
    """Noise that holds both ends of its range, so that no class can be told by it."""
    values = np.random.default_rng(seed).uniform(low, high, (SIZE, SIZE))
    values[0, 0], values[0, 1] = low, high if dtype == np.float32 else high - 1
    return values.astype(dtype)


def make_data_set(root, dtype=np.uint8, low=0, high=256, per_class=2, suffix=".png"):
    """Write `per_class` different images a class and split."""
    seed = 0
    for split in SPLITS:
        for class_name in CLASSES.values():
            folder = root / split / class_name
            folder.mkdir(parents=True)
            for index in range(per_class):
                write = write_png if suffix == ".png" else write_npy
                write(folder / f"{index}{suffix}", picture(seed, dtype, low, high))
                seed += 1
    return root


def check_error(root, **kwargs):
    with pytest.raises(UserError) as caught:
        check_data(root, SIZE, **kwargs)
    return str(caught.value)
