"""From image files to maps on disk (`--mode=predict`)."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from descargan_tf import signals
from descargan_tf.data import dicom_files
from descargan_tf.data.images import Scaling, read_image, scale_pixels, write_npy, write_png
from descargan_tf.data.listing import list_images
from descargan_tf.data.nifti_files import is_volume
from descargan_tf.errors import UserError
from descargan_tf.files import reading, write_atomically
from descargan_tf.prediction.dicom_overlay import DicomOverlays
from descargan_tf.prediction.outputs import named_outputs
from descargan_tf.prediction.overlay import SCALE, overlay
from descargan_tf.prediction.shards import WHOLE, Shard
from descargan_tf.prediction.splits import predict_split
from descargan_tf.prediction.table import (
    class_column,
    labels,
    output_names,
    refuse_folder_of_inputs,
    table_row,
    write_table,
)
from descargan_tf.prediction.volumes import Slicing, predict_volume, volumes_in

_CHUNK = 64  # images in memory at a time


def find_inputs(path: str | os.PathLike, volumes: str = "*") -> list[Path]:
    """The file itself, or the image files and NIfTI volumes directly in a folder, by name.

    Args:
        path: the file or folder.
        volumes: which volumes of a folder, by a pattern of their names.

    Raises:
        UserError: nothing there.
    """
    path = Path(path)
    with reading(f"--input={path}"):
        if path.is_dir():
            return _files_in(path, volumes)
        if path.exists():
            return [path]
    link = f"is a link to {path.readlink()}, which" if path.is_symlink() else ""
    raise UserError(f"--input={path} {link}{' ' * bool(link)}does not exist: name an image file or a folder of them.")


def _files_in(path, volumes):
    images, ignored = list_images(path)
    dicoms = [file for file in path.iterdir() if file.name[0] != "." and dicom_files.is_taken_for_dicom(file)]
    files = sorted([*images, *dicoms, *volumes_in(path, volumes)], key=lambda file: file.name)
    if not files:
        raise UserError(
            f"--input={path} holds no image file ({ignored} others): .npy, .png, .jpg, .jpeg, .tif, .dcm, .nii "
            "and .nii.gz are read."
        )
    return files


def predict_files(
    predict: Callable,
    files: list[Path],
    output_dir: Path,
    image_size: int,
    scaling: Scaling,
    dtype: str,
    batch_size: int,
    progress: Callable[[int], None] | None = None,
    slicing: Slicing | None = None,
    read: Callable[[Path], np.ndarray] | None = None,
    dicom_overlays: DicomOverlays | None = None,
    shard: Shard = WHOLE,
) -> list[str]:
    """Write `<stem>_healthy.npy`, `<stem>_map.npy`, `<stem>_overlay.png` for each file and `predictions.csv` for all.

    Healthy image and signed map (healthy - input) are [H, W] float32 in the network's units, images in [-1, 1]. A
    method without a healthy image has no such file, and its map, if it has one, is a saliency in [0, 1]. Where files
    share a stem, `output_names` says how they are told apart.

    Args:
        predict: images [B, H, W, 1] to Prediction.
        files: what to read.
        output_dir: made if need be; files of the same names are replaced.
        image_size: that of the training.
        scaling: that of the training data.
        dtype: of the training files; others cannot have the same meaning.
        batch_size: images at a time.
        progress: called with the number of files just done; slices, of a volume.
        slicing: what is done with NIfTI volumes, see `volumes.predict_volume`; None: they are no image files.
        read: from a file to [H, W] in [-1, 1], where files are not to be as those of the training.
        dicom_overlays: what gives `<stem>_overlay.dcm` as well, where a file is DICOM.
        shard: which of the files are done here; the table is then the shard's own, and `shards.join` makes one of all.

    Returns:
        A message per file that could not be read, or has all results but that overlay; all others are done. What ends
        it early leaves a table of what was done by then.

    Raises:
        UserError: the results would lie among the inputs, or cannot be written.
    """
    refuse_folder_of_inputs(files, output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    names, called = output_names(files), labels(files)  # of all, so that every shard says the same
    files = shard.of(files)
    table = shard.table
    rows, failed = [], []
    if read is None:
        read = functools.partial(_read, image_size=image_size, scaling=scaling, dtype=dtype)

    def left():
        return f"{len(rows)} of {len(files)} images done" + (f": {output_dir / table}" if rows else "")

    with signals.leaving(left):
        try:
            volumes = [file for file in files if slicing is not None and is_volume(file)]
            images = [file for file in files if file not in set(volumes)]
            common = (image_size, batch_size, progress)
            _predict_images(predict, images, output_dir, names, called, read, rows, failed, dicom_overlays, *common)
            for file in volumes:
                try:
                    rows.append(predict_volume(predict, file, output_dir, names[file], called[file], slicing, *common))
                except UserError as error:
                    failed.append(str(error))
        except BaseException:
            if rows:
                write_table(output_dir, rows, table)
            raise
        write_table(output_dir, rows, table)
    return failed


def _predict_images(
    predict, files, output_dir, names, called, read, rows, failed, dicom_overlays, image_size, batch_size, progress
):
    for start in range(0, len(files), _CHUNK):
        chunk, images = [], []
        for file in files[start : start + _CHUNK]:
            try:
                images.append(read(file))
                chunk.append(file)
            except UserError as error:
                failed.append(str(error))
                if progress:
                    progress(1)
        if not chunk:
            continue
        images = np.stack(images)[..., None]
        prediction = predict_split(predict, images, min(batch_size, len(files)))
        for i, file in enumerate(chunk):
            stem = names[file]
            if prediction.anomaly_map is not None:
                if prediction.healthy_image is not None:
                    write_npy(output_dir / f"{stem}_healthy.npy", prediction.healthy_image[i, ..., 0])
                anomaly_map = prediction.anomaly_map[i, ..., 0]
                write_npy(output_dir / f"{stem}_map.npy", anomaly_map)
                write_png(output_dir / f"{stem}_overlay.png", overlay(images[i, ..., 0], anomaly_map, SCALE))
                if dicom_overlays and dicom_overlays.takes(file):
                    failed += _write_dicom_overlay(
                        output_dir / f"{stem}_overlay.dcm", dicom_overlays, file, anomaly_map
                    )
            rows.append(_row(called[file], prediction, i))
            if progress:
                progress(1)


def _write_dicom_overlay(path, dicom_overlays, file, anomaly_map):
    """A message where there can be none; what the disk refuses is raised."""
    try:
        write = dicom_overlays.of(file, anomaly_map)
    except UserError as error:
        return [f"{error}; its other results are written"]
    write_atomically(path, write)
    return []


def _read(file, image_size, scaling, dtype):
    if dicom_files.is_taken_for_dicom(file):
        raise UserError(
            f"{file}: is DICOM, and the model was trained on a folder's {dtype} files: DICOM is read by models of "
            "images that --mode=prepare has made."
        )
    pixels = read_image(file).pixels
    if str(pixels.dtype) != dtype:
        raise UserError(f"{file}: holds {pixels.dtype} and the model was trained on {dtype} files; convert it first")
    if pixels.shape != (image_size, image_size):
        raise UserError(
            f"{file}: is {pixels.shape[0]}x{pixels.shape[1]} and the model takes {image_size}x{image_size}; "
            "resize it first"
        )
    return scale_pixels(pixels, scaling, file)


def _row(label, prediction, i):
    outputs = named_outputs(prediction)
    probability, score = (
        float(outputs[name][i]) if name in outputs else None for name in ("disease_probability", "anomaly_score")
    )
    return table_row(label, probability, score, class_column(probability))
