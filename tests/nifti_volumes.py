"""Small NIfTI files, for the tests of what reads and writes them."""

import itertools

import nibabel
import numpy as np

ORIENTATIONS = [
    tuple(zip(order, signs, strict=True))
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]  # as nibabel writes them; each is one way in which a file may keep its voxels
SPACING = (1.0, 2.0, 3.0)  # right, front, top


def canonical_image(array, spacing=SPACING):
    """An image whose axes lead to the patient's right, front and top."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = 10, -20, 30
    return nibabel.Nifti1Image(array, affine)


def write_volume(path, array, orientation=ORIENTATIONS[0], spacing=SPACING):
    """Write what is given by right, front and top in the order that an orientation has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = canonical_image(np.asarray(array), spacing).as_reoriented(np.array(orientation))
    image.to_filename(path)
    return image


def noise(shape=(5, 7, 9), seed=0, dtype=np.int16):
    return np.random.default_rng(seed).integers(1, 1000, shape).astype(dtype)
