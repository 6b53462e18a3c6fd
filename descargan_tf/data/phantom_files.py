"""The chest phantom on disk, in the layout of CheXpert: 16-bit DICOM files, tables of labels, masks beside.

    <data_dir>/{train,valid}.csv
    <data_dir>/{train,valid}/patientNNNNN/studyN/view1_frontal.dcm
    <data_dir>/{train,valid}/patientNNNNN/studyN/view2_lateral.dcm     of some
    <data_dir>/ground_truth/<as above>.png                             255 where there is fluid
    <data_dir>/manifest.json                                           what was asked for

Every other patient begins healthy, the others diseased, each with one to three studies; a tenth of the studies is
uncertain and a fourth has a lateral view, both in addition to what was asked for.
"""

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from descargan_tf import locks, signals
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
_VALID_PATIENTS = 20  # every so-manieth is in valid.csv, but for uncertain studies


def generate(
    data_dir: str | os.PathLike, settings: SyntheticSettings, progress: Callable[[int, int], None] | None = None
) -> dict:
    """Write the whole data set; the folder appears only when it is complete.

    Args:
        data_dir: must not exist, or be empty.
        settings: counts are of frontal views, the three splits together, as `--mode=prepare` draws them by patient;
            image_size is the shorter side of a picture.
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
            manifest = _write(partial, absolute.name, settings, progress)
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


def _write(root, name, settings, progress):
    wanted = sum(settings.count(split) for split in SPLITS)
    done = {HEALTHY: 0, DISEASED: 0, _UNCERTAIN: 0}
    rows = {"train": [], "valid": []}
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
            views = ["frontal", "lateral"] if rng.random() < 0.25 else ["frontal"]
            for index, view in enumerate(views, start=1):
                inner = f"{place}/view{index}_{view}"
                mask = _write_view(root, inner, view, label, chest, device, settings.image_size, rng, number)
                projection = "PA" if view == "frontal" else ""
                rows[part].append((f"{name}/{inner}.dcm", sex, str(age), view.title(), projection, *labels[label]))
                if mask is not None:
                    path = root / GROUND_TRUTH_FOLDER / f"{inner}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(_png(mask))
            laterals += len(views) - 1
            done[label] += 1
            if progress and label != _UNCERTAIN:
                progress(done[HEALTHY] + done[DISEASED], 2 * wanted)
    for part, lines in rows.items():
        text = "".join(",".join(line) + "\n" for line in (_COLUMNS, *lines))
        (root / f"{part}.csv").write_text(text)
    return {
        "generator": "descargan_tf chest_phantom",
        "version": chest_phantom.VERSION,
        "seed": settings.seed,
        "image_size": settings.image_size,
        "patients": number,
        "frontal": {"healthy": done[HEALTHY], "diseased": done[DISEASED], "uncertain": done[_UNCERTAIN]},
        "lateral": laterals,
    }


def _write_view(root, inner, view, label, chest, device, size, rng, number):
    """One file; the mask of a diseased frontal view, None of others."""
    height = round(size / min(1.0, device.aspect))
    width = round(height * device.aspect)
    mask = None
    if view == "frontal":
        effusion = chest_phantom.sample_effusion(rng) if label != HEALTHY else None
        if label == _UNCERTAIN:  # so little that nobody would swear to it
            effusion = effusion._replace(height=rng.uniform(0.03, 0.1))
        image, marked = chest_phantom.draw_frontal(chest, effusion, height, width, rng)
        mask = marked if label == DISEASED else None
    else:
        image = chest_phantom.draw_lateral(chest, height, width, rng)
    values, window = chest_phantom.store(image, device, rng)
    path = root / f"{inner}.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    _data_set(values, window, device, inner, view, number).save_as(path, enforce_file_format=True)
    return mask


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
