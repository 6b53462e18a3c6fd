"""--source=chexpert: the chest radiographs of the paper's second experiment, as Stanford hands them out.

    CheXpert-v1.0[-small]/{train,valid}.csv
    CheXpert-v1.0[-small]/{train,valid}/patientNNNNN/studyN/viewN_{frontal,lateral}.jpg
    CheXpert-v1.0[-small]/ground_truth/<as above>.png     masks: of --dataset=chest_phantom, as CheXpert has none

or, as the archives of the full-sized images are unpacked, tables and valid in the first of several folders, and the
patients of train shared out over the others:

    CheXpert-v1.0 batch 1 (validate & csv)/{train,valid}.csv
    CheXpert-v1.0 batch 1 (validate & csv)/valid/patientNNNNN/...
    CheXpert-v1.0 batch {2 (train 1),3 (train 2),4 (train 3)}/patientNNNNN/...

--input is the folder of the tables, or the one that it lies in. Healthy is who has 1 under "No Finding", diseased who
has 1 under --finding; -1 is a radiologist's "uncertain", an empty field "not mentioned". Both tables are put together
and the splits drawn by patient, as valid.csv is too small for the paper's numbers. Of sex and age nothing is read.

The agreement under which the images are given forbids to pass on any part of them: so nothing of them is in this
program, and a prepared data set is for who prepared it.
"""

import re
from collections import Counter
from pathlib import Path

import numpy as np

from descargan_tf.data.dicom_files import SUFFIXES, read_dicom
from descargan_tf.data.listing import GROUND_TRUTH_FOLDER
from descargan_tf.errors import UserError
from descargan_tf.files import is_within
from descargan_tf.preparation.folder import read_mask, read_pixels
from descargan_tf.preparation.sources import Listing, Options, Pixels, RawImage
from descargan_tf.preparation.table import file_within, refuse_links_out
from descargan_tf.preparation.tables import read_table
from descargan_tf.types import DISEASED, HEALTHY

NAMES = ("CheXpert-v1.0", "CheXpert-v1.0-small")
BATCH = "CheXpert-v1.0 batch "  # how the names of the unpacked archives begin
TABLES = ("train.csv", "valid.csv")
NO_FINDING = "No Finding"
# Paper, sect. 4.2: images of the training set; validation and test have 200 of each class.
PAPER = {("train", HEALTHY): 14_179, ("train", DISEASED): 16_776}

_PATH, _VIEW, _PROJECTION = "Path", "Frontal/Lateral", "AP/PA"
_NO_LABELS = (_PATH, "Sex", "Age", _VIEW, _PROJECTION, NO_FINDING)
_PLACE = re.compile(r"(?:[^/]+/)?((?:train|valid)/(patient\d+)/(study\d+)/[^/]+)")


def list(root: Path, options: Options) -> Listing:
    """As `Source.list`.

    Raises:
        UserError: there is no table, a table lacks a column, or no column is called as --finding says.
    """
    if options.finding == NO_FINDING:
        raise UserError(f"--finding={NO_FINDING} is what makes an image healthy: name a disease, as Pleural Effusion.")
    folder = _folder(root)
    _refuse_folders_elsewhere(folder)
    batches = _batches(folder)
    listing = Listing([], [], [], {place: f"paper: {count:,}" for place, count in PAPER.items()})
    counts: Counter[str] = Counter()
    present = [folder / name for name in TABLES if (folder / name).is_file()]
    listing.notes.extend(f"{folder / name}: not there" for name in TABLES if folder / name not in present)
    seen = set()
    for table in present:
        for row in _rows(table, options.finding):
            try:
                image, reason = _image(folder, batches, row, options)
                if image is None:
                    counts[reason] += 1
                elif image.source in seen:
                    raise UserError(f"{image.source}: named before")
                else:
                    seen.add(image.source)
                    listing.images.append(image)
            except UserError as error:
                listing.problems.append(f"{table.name}, line {row.line}: {error}")
    listing.notes.extend(f"left out: {count} {reason}" for reason, count in sorted(counts.items()))
    return listing


def read(image: RawImage, options: Options) -> Pixels:
    """As `Source.read`; DICOM files, which the phantom has, are read by the standard."""
    if image.path.suffix.lower() in SUFFIXES:
        return Pixels(*read_dicom(image.path))
    return read_pixels(image.path, "auto")


def read_ground_truth(image: RawImage, options: Options) -> np.ndarray:
    """As `Source.read_ground_truth`: what is not 0 is marked."""
    return read_mask(image.ground_truth)


def _folder(root):
    for folder in (root, *(root / name for name in NAMES), *sorted(root.glob(f"{BATCH}*"))):
        if any((folder / name).is_file() for name in TABLES):
            return folder
    places = " or ".join((*NAMES, f"{BATCH}1"))
    raise UserError(
        f"--input={root}: neither {' nor '.join(TABLES)} lies there, nor in {places} below it: name the "
        "folder that CheXpert was unpacked to."
    )


def _batches(folder):
    """Folders beside the tables' that hold patients of train."""
    folder = folder.absolute()  # "." has neither a name nor neighbours
    if not folder.name.startswith(BATCH):
        return []
    return [path for path in sorted(folder.parent.glob(f"{BATCH}*")) if path != folder and path.is_dir()]


def _file(folder, batches, inner):
    """Name and path of what a table calls {train,valid}/..."""
    split, _, rest = inner.partition("/")
    for batch in batches if split == "train" else ():
        if (batch / rest).is_file():
            name, path = file_within(batch, rest)
            return f"{split}/{name}", path
    return file_within(folder, inner)


def _refuse_folders_elsewhere(folder):
    """A line in all, where each row of the tables would give one."""
    for inner in (folder / Path(table).stem for table in TABLES):
        if not is_within(inner, folder):
            raise UserError(
                f"{inner}: a link leads out of {folder}, to {inner.resolve()}: as --input, name a folder in which "
                f"{inner.name} itself lies, with {' and '.join(TABLES)} beside it."
            )


def _rows(table, finding):
    rows = read_table(table, (_PATH, _VIEW, NO_FINDING))
    for row in rows:
        if not row.problem and finding not in row.values:
            known = ", ".join(name for name in row.values if name not in _NO_LABELS)
            raise UserError(f"--finding={finding}: {table} has no such column; there are: {known}.")
        yield row


def _image(folder, batches, row, options):
    """An image, or None and why it is left out."""
    if row.problem:
        raise UserError(row.problem)
    view = row[_VIEW].lower()
    if view not in ("frontal", "lateral"):
        raise UserError(f"{_VIEW} is neither Frontal nor Lateral")
    if options.view not in (view, "all"):
        return None, f"{view} views (--view={options.view})"
    label, reason = _label(_state(row, NO_FINDING), _state(row, options.finding), options)
    if label is None:
        return None, reason
    place = _PLACE.fullmatch(row[_PATH])
    if not place:
        raise UserError(f"{_PATH} is not such as {NAMES[0]}/train/patient00001/study1/view1.jpg")
    # What the table calls the folder may differ from what it is called: the tables of both are the same.
    name, path = _file(folder, batches, place[1])
    mask = (folder / GROUND_TRUTH_FOLDER / name).with_suffix(".png") if label == DISEASED else None
    mask = mask if mask and mask.is_file() else None
    if mask:
        refuse_links_out(folder, mask.relative_to(folder))
    return RawImage(
        path=path,
        source=name,
        label=label,
        patient=place[2],  # a number that the collection has given; nothing of the person is in it
        study=place[3],
        view=" ".join(filter(None, (view, row[_PROJECTION]))),
        ground_truth=mask,
    ), ""


def _state(row, column):
    """1 there, 0 not there, -1 uncertain; None: not mentioned."""
    text = row[column]
    try:
        state = float(text) if text else None
    except ValueError:
        state = 2.0
    if state not in (None, 1, 0, -1):
        raise UserError(f"{column} is none of 1.0, 0.0, -1.0 and nothing")
    return state


def _label(no_finding, finding, options):
    if finding == -1:
        if options.uncertain == "drop":
            return None, f"where {options.finding} is uncertain (--uncertain=drop)"
        finding = 1 if options.uncertain == "positive" else 0
    if finding == 1:
        return (DISEASED, "") if no_finding != 1 else (None, f"that say both {NO_FINDING} and {options.finding}")
    if no_finding == 1:
        return HEALTHY, ""
    return None, f"with neither {NO_FINDING} nor {options.finding}"
