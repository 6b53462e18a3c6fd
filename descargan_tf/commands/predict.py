"""--mode=predict."""

import datetime
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from descargan_tf import flags, provenance, run_folder, signals
from descargan_tf.config import Config
from descargan_tf.data import dicom_files, nifti_files, prepared
from descargan_tf.data.formats import IMAGE_SUFFIXES
from descargan_tf.data.images import Scaling, is_outside, parse_value_range, scale_pixels
from descargan_tf.data.nifti_files import is_volume
from descargan_tf.data.secondary_capture import SecondaryCaptures, require_pydicom
from descargan_tf.errors import UserError
from descargan_tf.evaluation.paper import PAPER
from descargan_tf.files import reason
from descargan_tf.methods.base import Method
from descargan_tf.names import one_line
from descargan_tf.prediction import shards
from descargan_tf.prediction.dicom_overlay import DicomOverlays
from descargan_tf.prediction.files import find_inputs, predict_files
from descargan_tf.prediction.splits import BATCH_SIZE
from descargan_tf.prediction.table import TABLE, refuse_folder_of_inputs
from descargan_tf.prediction.volumes import Slicing, num_slices
from descargan_tf.preparation.fitting import fit_in_range
from descargan_tf.preparation.folder import read_pixels
from descargan_tf.training.backends import compiled_predict


@signals.leaving("nothing was predicted")
def predict(config: Config) -> int:
    """Maps and a CSV for image files."""
    shard = shards.parse(config.shard)
    files = find_inputs(config.input, config.volumes)
    mine = shard.of(files)
    ignored = _num_ignored(config.input, files)
    output_dir = Path(config.output_dir or Path(config.run_dir) / "predictions")
    refuse_folder_of_inputs(files, output_dir)
    if config.dicom_overlay:
        _require_dicom(config, files)
    facts = run_folder.data_facts(config.trained_dir)
    method = run_folder.restore(config).method
    dicom_overlays = overlays_of(config, method, facts) if config.dicom_overlay else None
    try:
        slicing = slicing_of(config, facts)
        total = sum(num_slices(file, slicing) if is_volume(file) else 1 for file in mine)
        with tqdm(total=total, unit="image", disable=None, desc="predict") as bar:
            failed = predict_files(
                compiled_predict(config, method, weights_stay=True),
                files,
                output_dir,
                config.image_size,
                facts["scaling"],
                facts["dtype"],
                BATCH_SIZE,
                bar.update,
                slicing,
                raw_reader(config.image_size, facts),
                dicom_overlays,
                shard,
            )
        others = shards.join(output_dir, files, shard) if shard.count > 1 else []
    except OSError as error:
        raise UserError(f"--output_dir={output_dir} cannot be written: {reason(error)}.") from error
    print(f"{len(mine) - len(failed)} of {len(mine)} images done: {output_dir / shard.table}")
    if shard.count > 1 and not others:
        print(f"the tables of all {shard.count} shards in one: {output_dir / TABLE}")
    elif others:
        print(f"{len(others)} of {shard.count} shards have no table yet, {others[0].index}/{shard.count} for one")
    if ignored:
        endings = " ".join((*IMAGE_SUFFIXES, *dicom_files.SUFFIXES, *nifti_files.SUFFIXES))
        print(f"passed over: {ignored} subfolders, hidden files and files that do not end in {endings}, or are masks")
    for message in failed:
        print(f"not done: {one_line(message)}", file=sys.stderr)
    return 1 if failed else 0


def _num_ignored(path, files):
    return len(os.listdir(path)) - len(files) if os.path.isdir(path) else 0


def raw_reader(image_size: int, facts: dict) -> Callable[[Path], np.ndarray] | None:
    """Read a raw file as those that the training's data were prepared from; None where they were not prepared.

    Args:
        image_size: that of the training.
        facts: of the training's data.
    """
    made = facts.get("preparation")
    if not made:
        return None
    value_range = made.get("value_range", "auto")

    def read(file):
        if dicom_files.is_taken_for_dicom(file):
            values, low, high = dicom_files.read_dicom(file, parse_value_range(value_range))
        else:
            values, low, high = read_pixels(file, value_range)
        if not np.isfinite(values).all():
            raise UserError(f"{file}: values that are NaN or infinite")
        if is_outside(float(values.min()), float(values.max()), Scaling(low, high)):
            raise UserError(f"{file}: values from {values.min():g} to {values.max():g}, expected {low:g} to {high:g}.")
        stored = np.rint(fit_in_range(values, low, high, image_size, made["fit"]) * prepared.SCALING.high)
        return scale_pixels(stored.astype(np.uint16), prepared.SCALING, file)

    return read


def _require_dicom(config, files):
    if not any(map(dicom_files.is_taken_for_dicom, files)):
        raise UserError(
            f"--dicom_overlay: there is no DICOM file in --input={config.input}: leave it out, or name such files."
        )
    require_pydicom("--dicom_overlay")


def overlays_of(config: Config, method: Method, facts: dict) -> DicomOverlays:
    """What --dicom_overlay writes.

    Args:
        config: of the run.
        method: restored.
        facts: of the training's data.

    Raises:
        UserError: the model reads no DICOM, or gives no map.
    """
    made = facts.get("preparation")
    if not made:
        raise UserError(
            "--dicom_overlay: the model was trained on folders of images of one size, and predicts no DICOM: prepare "
            "the images by --mode=prepare, and train with --dataset=prepared."
        )
    if method.only_classifies and config.saliency == "none":
        raise UserError(f"--dicom_overlay: --method={config.method} has no map without --saliency: say which.")
    label = PAPER[config.method].label if config.method in PAPER else config.method
    captures = SecondaryCaptures(
        f"{label} anomaly map, not for diagnosis",
        "Anomaly map of a research program over the source image. Red: the healthy image that the program imagines is "
        "brighter, or disease is seen there; blue: it is darker. Not for diagnosis.",
        provenance.git_commit(),
        datetime.datetime.now(),
    )
    return DicomOverlays(made["fit"], captures, parse_value_range(made.get("value_range", "auto")))


def slicing_of(config, facts):
    """How volumes are sliced: as the training's were, where its data were prepared from volumes; else as the flags say.

    Raises:
        UserError: a flag says otherwise than what the training's data were made with.
    """
    names = ("slice_axis", "nifti_range", "fit")
    asked = {name: getattr(config, name) for name in names}
    made = facts.get("preparation", {})
    if made.get("source") == "nifti":
        for name in names:
            if asked[name] not in (made[name], flags.FIELDS[name].default):
                raise UserError(
                    f"--{name}={asked[name]}: the model was trained on slices that were made with {made[name]}; leave "
                    "it out."
                )
        asked = {name: made[name] for name in names}
    return Slicing(
        asked["slice_axis"],
        nifti_files.parse_slices(config.slices),
        nifti_files.parse_range(asked["nifti_range"]),
        asked["fit"],
    )
