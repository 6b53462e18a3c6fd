"""The chest phantom on disk, in the layout of CheXpert: 16-bit DICOM files, tables of labels, masks beside.

    <data_dir>/{train,valid}.csv
    <data_dir>/{train,valid}/patientNNNNN/studyN/view1_frontal.dcm
    <data_dir>/{train,valid}/patientNNNNN/studyN/view2_lateral.dcm     of some
    <data_dir>/ground_truth/<as above>.png                             255 where there is fluid
    <data_dir>/manifest.json                                           what was asked for

Every other patient begins healthy, the others diseased, each with one to three studies; a tenth of the studies is
uncertain and a fourth has a lateral view, both in addition to what was asked for.
"""

import contextlib
import copy
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from descargan_tf import locks, processes, signals
from descargan_tf.data import chest_phantom
from descargan_tf.data.listing import GROUND_TRUTH_FOLDER
from descargan_tf.data.synthetic import SyntheticSettings
from descargan_tf.errors import UserError
from descargan_tf.files import reason
from descargan_tf.types import DISEASED, HEALTHY, SPLITS

MANIFEST = "manifest.json"

_BEING_GENERATED = "{{holder}} is generating {}: wait for it, or end it first."
_ROOT_UID = "1.2.826.0.1.3680043.8.498.77"  # below pydicom's own, which anybody may use
_COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding", "Pleural Effusion", "Support Devices")
_UNCERTAIN = -1
_SHARE = 16  # views that a process draws at a time
_VALID_PATIENTS = 20  # every so-manieth is in valid.csv, but for uncertain studies


def generate(
    data_dir: str | os.PathLike,
    settings: SyntheticSettings,
    num_workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Write the whole data set; the folder appears only when it is complete.

    Args:
        data_dir: must not exist, or be empty.
        settings: counts are of frontal views, the three splits together, as `--mode=prepare` draws them by patient;
            image_size is the shorter side of a picture.
        num_workers: processes; all cores by default. Any number gives the same bytes.
        progress: called with (frontal views done, in all), uncertain ones not counted.

    Returns:
        The manifest.

    Raises:
        UserError: `data_dir` holds something or cannot be written; pydicom is not installed.
    """
    try:
        import pydicom  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            "--dataset=chest_phantom writes DICOM files with pydicom, which is not installed: "
            "pip install -r requirements-medical.txt."
        ) from error
    data_dir = Path(data_dir)
    if data_dir.exists() and (not data_dir.is_dir() or any(data_dir.iterdir())):
        raise UserError(
            f"--data_dir={data_dir} already holds something, and nothing is written over: "
            "name a folder that does not exist, or remove this one."
        )
    absolute = data_dir.absolute()
    partial = absolute.with_name(absolute.name + ".partial")
    try:
        locks.refuse_if_held(partial, _BEING_GENERATED.format(partial))
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with locks.alone_in(partial, _BEING_GENERATED.format(partial)):
            manifest = _write(partial, absolute.name, settings, num_workers or processes.num_cores(), progress)
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        (partial / locks.LOCK).unlink()
        if data_dir.exists():
            data_dir.rmdir()
        partial.rename(data_dir)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(
            f"the data set could not be written to --data_dir={data_dir}: {reason(error)}. "
            "Nothing was left behind; free space or name another folder."
        ) from error
    except signals.Stopped as stop:
        shutil.rmtree(partial, ignore_errors=True)
        stop.leaves = f"nothing was left in --data_dir={data_dir}"
        raise
    return manifest


class _View(NamedTuple):
    """One picture to draw."""

    inner: str  # its file below the folder, without suffix
    kind: str  # "frontal" or "lateral"
    label: int  # HEALTHY, DISEASED or _UNCERTAIN
    number: int  # of the patient
    chest: chest_phantom.Chest
    device: chest_phantom.Device
    size: int  # pixels of the shorter side
    rng: np.random.Generator  # as the patient's was before this picture

    @property
    def shape(self):
        height = round(self.size / min(1.0, self.device.aspect))
        return height, round(height * self.device.aspect)


def _write(root, name, settings, num_workers, progress):
    views, rows, about = _plan(name, settings)
    for part, lines in rows.items():
        text = "".join(",".join(line) + "\n" for line in (_COLUMNS, *lines))
        (root / f"{part}.csv").write_text(text)
    tasks = [(root, views[start : start + _SHARE]) for start in range(0, len(views), _SHARE)]
    done, total = 0, about["frontal"]["healthy"] + about["frontal"]["diseased"]
    # Closed, as workers that are still at work would write into what is cleared after a failure.
    with contextlib.closing(processes.in_order(_write_views, tasks, num_workers)) as counts:
        for count in counts:
            done += count
            if progress:
                progress(done, total)
    return about


def _plan(name, settings):
    """What is to be drawn, the rows of the tables, and the manifest.

    A patient's pictures follow one another in one stream of random numbers, so each is handed the stream as the one
    before leaves it.
    """
    wanted = sum(settings.count(split) for split in SPLITS)
    done = {HEALTHY: 0, DISEASED: 0, _UNCERTAIN: 0}
    rows, drawn = {"train": [], "valid": []}, []
    number = laterals = 0
    while min(done[HEALTHY], done[DISEASED]) < wanted:
        number += 1
        rng = np.random.default_rng([chest_phantom.VERSION, settings.seed, number])
        chest = chest_phantom.sample_chest(rng)
        device = chest_phantom.DEVICES[rng.integers(len(chest_phantom.DEVICES))]
        sex, age = str(rng.choice(("Female", "Male"))), int(rng.integers(20, 90))
        part = "valid" if number % _VALID_PATIENTS == 0 else "train"
        for study in range(1, 1 + int(rng.integers(1, 4))):
            label = (number + (rng.random() < 0.2)) % 2
            if part == "train" and rng.random() < 0.1:
                label = _UNCERTAIN
            elif done[label] == wanted:
                continue
            place = f"{part}/patient{number:05d}/study{study}"
            devices = "1.0" if rng.random() < 0.2 else ""
            labels = {HEALTHY: ("1.0", "", devices), DISEASED: ("", "1.0", devices), _UNCERTAIN: ("", "-1.0", devices)}
            kinds = ["frontal", "lateral"] if rng.random() < 0.25 else ["frontal"]
            for index, kind in enumerate(kinds, start=1):
                inner = f"{place}/view{index}_{kind}"
                before = copy.deepcopy(rng)
                drawn.append(_View(inner, kind, label, number, chest, device, settings.image_size, before))
                _pass_over(drawn[-1], rng)
                projection = "PA" if kind == "frontal" else ""
                rows[part].append((f"{name}/{inner}.dcm", sex, str(age), kind.title(), projection, *labels[label]))
            laterals += len(kinds) - 1
            done[label] += 1
    return (
        drawn,
        rows,
        {
            "generator": "descargan_tf chest_phantom",
            "version": chest_phantom.VERSION,
            "seed": settings.seed,
            "image_size": settings.image_size,
            "patients": number,
            "frontal": {"healthy": done[HEALTHY], "diseased": done[DISEASED], "uncertain": done[_UNCERTAIN]},
            "lateral": laterals,
        },
    )


def _pass_over(view, rng):
    """Leave a stream of random numbers as `_write_view` does."""
    if view.kind == "frontal":
        _effusion(view.label, rng)
        chest_phantom.sample_exposure(*view.shape, rng)
    else:
        chest_phantom.sample_grain(*view.shape, rng)
    chest_phantom.sample_window(view.device, rng)


def _effusion(label, rng):
    if label == HEALTHY:
        return None
    effusion = chest_phantom.sample_effusion(rng)
    if label == _UNCERTAIN:  # so little that nobody would swear to it
        return effusion._replace(height=rng.uniform(0.03, 0.1))
    return effusion


def _write_views(root, views):
    """Draw and write; how many of them are frontal and certain."""
    for view in views:
        _write_view(root, view)
    return sum(view.kind == "frontal" and view.label != _UNCERTAIN for view in views)


def _write_view(root, view):
    """One file, and the mask of a diseased frontal view."""
    chest, device, rng = view.chest, view.device, view.rng
    if view.kind == "frontal":
        image, marked = chest_phantom.draw_frontal(chest, _effusion(view.label, rng), *view.shape, rng)
        if view.label == DISEASED:
            path = root / GROUND_TRUTH_FOLDER / f"{view.inner}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_png(marked))
    else:
        image = chest_phantom.draw_lateral(chest, *view.shape, rng)
    values, window = chest_phantom.store(image, device, rng)
    path = root / f"{view.inner}.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    _data_set(values, window, device, view.inner, view.kind, view.number).save_as(path, enforce_file_format=True)


def _data_set(values, window, device, inner, view, number):
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

    def named(*parts):
        return generate_uid(prefix=f"{_ROOT_UID}.", entropy_srcs=["chest_phantom", *parts])

    study = inner.rpartition("/")[0]
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.ImplementationClassUID = f"{_ROOT_UID}.1"
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = named(inner)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = named(study), named(inner, "series")
    dataset.PatientID, dataset.PatientName = f"PHANTOM{number:05d}", f"Phantom^{number:05d}"
    dataset.AccessionNumber = f"{number:05d}{study[-1]}"
    dataset.Modality, dataset.ManufacturerModelName = "DX", device.model
    dataset.ViewPosition = "PA" if view == "frontal" else "LL"
    dataset.ImageComments = "drawn by a program; no patient"
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.PhotometricInterpretation = "MONOCHROME1" if device.is_inverted else "MONOCHROME2"
    dataset.PresentationLUTShape = "INVERSE" if device.is_inverted else "IDENTITY"
    dataset.Rows, dataset.Columns = values.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.RescaleIntercept, dataset.RescaleSlope = 0, 1
    if device.has_window:
        dataset.WindowCenter, dataset.WindowWidth = window
    dataset.PixelData = values.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def _png(mask):
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG")
    return buffer.getvalue()
