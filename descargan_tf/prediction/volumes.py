"""From NIfTI volumes to maps on disk, slice by slice; what is written lies on the voxels that it came from."""

import fnmatch
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from descargan_tf.data.nifti_files import (
    RangeRule,
    Volume,
    chosen_slices,
    in_square_pixels,
    is_mask,
    is_volume,
    mask_names,
    resampled,
    stem_of,
)
from descargan_tf.errors import UserError
from descargan_tf.files import reading
from descargan_tf.prediction.outputs import named_outputs
from descargan_tf.prediction.splits import predict_split
from descargan_tf.prediction.table import class_column, table_row, write_table
from descargan_tf.preparation.fitting import fit, unfit

SLICE_COLUMNS = ("slice", "disease_probability", "anomaly_score", "predicted_class")


class Slicing(NamedTuple):
    """How slices of a volume become images; as it was done with the training's."""

    axis: str  # a key of nifti_files.AXES
    slices: tuple[float, float]  # as nifti_files.parse_slices gives it
    value_range: RangeRule
    fit: str  # a member of fitting.FITS


def volumes_in(folder: Path, pattern: str) -> list[Path]:
    """The volumes directly in a folder whose names fit a pattern, as in *_flair.nii.gz, and which are no others' masks.

    Raises:
        UserError: the folder cannot be read.
    """
    with reading(folder):
        volumes = [
            path for path in folder.iterdir() if is_volume(path) and not path.name.startswith(".") and not path.is_dir()
        ]
    of_others = {name.lower() for path in volumes for name in mask_names(stem_of(path))}
    return sorted(
        path
        for path in volumes
        if fnmatch.fnmatchcase(path.name, pattern) and not (is_mask(path) and path.name.lower() in of_others)
    )


def num_slices(file: Path, slicing: Slicing) -> int:
    """How many slices of a volume will be gone through; 1 where it cannot be read, which is said later."""
    try:
        return max(1, len(chosen_slices(slicing.slices, Volume(file).count(slicing.axis))))
    except UserError:
        return 1


def predict_volume(
    predict: Callable,
    file: Path,
    output_dir: Path,
    stem: str,
    label: str,
    slicing: Slicing,
    image_size: int,
    batch_size: int,
    progress: Callable[[int], None] | None = None,
) -> Sequence[str]:
    """Write `<stem>_map.nii.gz`, `<stem>_healthy.nii.gz` and `<stem>_slices.csv`; give the volume's row of the table.

    The map is 0 where nothing was predicted: in other slices, in slices that hold one value alone, and in what --fit
    cut off. It has the units in which the volume's range is -1 to 1. The healthy volume is the source, in its own
    units, plus the map brought to these; so it keeps what the network's resolution has not. Both have the source's
    shape and affine. The volume's probability is the highest of its slices, its score the mean of theirs.

    Args:
        predict: images [B, H, W, 1] to Prediction.
        file: what to read.
        output_dir: exists.
        stem: of the names of what is written.
        label: what the table calls it.
        slicing: that of the training data.
        image_size: that of the training.
        batch_size: slices at a time.
        progress: called with the number of slices just done.

    Raises:
        UserError: naming the file, if it cannot be read or shows nothing; or a result cannot be written.
    """
    volume = Volume(file)
    indices = chosen_slices(slicing.slices, volume.count(slicing.axis))
    low, high = volume.value_range(slicing.value_range)
    # Where a method has no map, neither comes into being.
    written: dict[str, np.ndarray] = {}
    rows, numbers = [], []
    for start in range(0, len(indices), batch_size):
        planes = {index: volume.plane(slicing.axis, index) for index in indices[start : start + batch_size]}
        planes = {index: plane for index, plane in planes.items() if plane.min() < plane.max()}
        if planes:
            windows = [(volume.window(slicing.axis, index, low, high) - low) / (high - low) for index in planes]
            images = [fit(window, image_size, slicing.fit) * 2 - 1 for window in windows]
            prediction = predict_split(predict, np.stack(images)[..., None], batch_size)
            for position, index in enumerate(planes):
                numbers.append(_numbers(prediction, position))
                rows.append(table_row(str(index), *numbers[-1], class_column(numbers[-1][0])))
            _put(written, prediction, planes, volume, slicing, (high - low) / 2)
        if progress:
            progress(len(indices[start : start + batch_size]))
    if not numbers:
        raise UserError(
            f"{file}: none of its {volume.count(slicing.axis)} {slicing.axis} slices is among those asked for and "
            "holds more than one value"
        )
    for name, array in written.items():
        volume.write(output_dir / f"{stem}_{name}.nii.gz", array)
    write_table(output_dir, rows, f"{stem}_slices.csv", SLICE_COLUMNS)
    probability, score = (
        None if column[0] is None else float(how(column))
        for how, column in zip((np.max, np.mean), zip(*numbers, strict=True), strict=True)
    )
    return table_row(label, probability, score, class_column(probability))


def _numbers(prediction, position):
    outputs = named_outputs(prediction)
    return tuple(
        float(outputs[name][position]) if name in outputs else None for name in ("disease_probability", "anomaly_score")
    )


def _put(written, prediction, planes, volume, slicing, unit):
    """Lay a batch's maps where their slices lie."""
    if prediction.anomaly_map is None:
        return
    if not written:
        written["map"] = np.zeros(volume.shape, np.float32)
        if prediction.healthy_image is not None:
            written["healthy"] = _copy(volume, slicing.axis)
    for position, (index, plane) in enumerate(planes.items()):
        shape = in_square_pixels(plane, volume.spacing(slicing.axis)).shape
        signed = resampled(unfit(prediction.anomaly_map[position, ..., 0], *shape, slicing.fit), plane.shape)
        volume.plane_of(written["map"], slicing.axis, index)[...] = signed
        if "healthy" in written:
            volume.plane_of(written["healthy"], slicing.axis, index)[...] += signed * unit


def _copy(volume, axis):
    copy = np.zeros(volume.shape, np.float32)
    for index in range(volume.count(axis)):
        volume.plane_of(copy, axis, index)[...] = volume.plane(axis, index)
    return copy
