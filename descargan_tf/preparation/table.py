"""--source=csv: images that --labels_csv names, with their labels.

    path,label[,patient,study,view,split,ground_truth]

`path` and `ground_truth` are relative to --input and stay in it; `label` is healthy or diseased, or 0 or 1; `split` is
train, validate or test, and empty where it is to be drawn. Of `patient` and `study` nothing but a pseudonym is kept.
"""

import os
from pathlib import Path

import numpy as np

from descargan_tf.data import dicom_files, nifti_files
from descargan_tf.data.formats import IMAGE_SUFFIXES
from descargan_tf.errors import UserError
from descargan_tf.files import is_within
from descargan_tf.preparation.folder import read_mask, read_pixels
from descargan_tf.preparation.sources import Listing, Options, Pixels, RawImage, label_of, pseudonym
from descargan_tf.preparation.tables import Row, read_table
from descargan_tf.types import DISEASED, SPLITS

_SUFFIXES = (*IMAGE_SUFFIXES, *dicom_files.SUFFIXES, *nifti_files.SUFFIXES)
_KNOWN = ("path", "label", "patient", "study", "view", "split", "ground_truth")


def list(root: Path, options: Options) -> Listing:
    """As `Source.list`."""
    if not options.labels_csv:
        raise UserError("--source=csv needs --labels_csv=<table with the columns path and label>.")
    table = Path(options.labels_csv)
    listing = Listing([], [], [])
    seen: dict[str, int] = {}
    columns: dict[str, None] = {}
    for row in read_table(table, ("path", "label"), _KNOWN):
        columns |= dict.fromkeys(row.values)
        try:
            image = _image(root, row, options.key)
            if image.source in seen:
                raise UserError(f"{image.source}: named in line {seen[image.source]} already")
            seen[image.source] = row.line
            listing.images.append(image)
        except UserError as error:
            listing.problems.append(f"{table.name}, line {row.line}: {error}")
    if unknown := [name for name in columns if name and name not in _KNOWN]:
        listing.notes.append(f"{table.name}: columns that say nothing here: {', '.join(unknown)}")
    return listing


def read(image: RawImage, options: Options) -> Pixels:
    """As `Source.read`."""
    return read_pixels(image.path, options.value_range)


def read_ground_truth(image: RawImage, options: Options) -> np.ndarray:
    """As `Source.read_ground_truth`."""
    return read_mask(image.ground_truth)


def _image(root, row: Row, key):
    if row.problem:
        raise UserError(row.problem)
    label, split = label_of(row["label"]), row["split"].lower()
    if split not in ("", *SPLITS):
        raise UserError(f"its split is none of {', '.join(SPLITS)}, nor empty, where it is to be drawn")
    name, path = file_within(root, row["path"])
    ground_truth = None
    if row["ground_truth"] and label == DISEASED:
        _, ground_truth = file_within(root, row["ground_truth"])
    return RawImage(
        path=path,
        source=name,
        label=label,
        patient=pseudonym(row["patient"], key) if row["patient"] else "",
        study=pseudonym(row["study"], key) if row["study"] else "",
        view=row["view"],
        split=split or None,
        ground_truth=ground_truth,
    )


def file_within(root: Path, name: str) -> tuple[str, Path]:
    r"""The file that a table names, with its name in one spelling; `\` is taken for `/` where that finds one.

    Raises:
        UserError: the name is empty, leads out of the folder, by a link or without, or to nothing.
    """
    for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
        inner = os.path.normpath(spelling)
        if os.path.isabs(spelling) or inner.split(os.sep)[0] == os.pardir or "\0" in spelling:
            raise UserError(f"{_quoted(name)} leads out of {root}: it must be relative to it")
        if not spelling or inner == os.curdir:
            raise UserError("path is empty")
        if os.path.lexists(root / inner):
            refuse_links_out(root, inner)
            return Path(inner).as_posix(), root / inner
    raise UserError(f"{_quoted(name)}: missing in {root}")


def _quoted(name):
    """What stands where a path is expected; not what may be about somebody, in a column that was taken for another."""
    return name if name.lower().endswith(_SUFFIXES) else f"a path that does not end in {', '.join(_SUFFIXES)}"


def refuse_links_out(root: Path, name: str | Path) -> None:
    """UserError where what a table names lies behind a link out of the folder: tables may come from anybody."""
    if not is_within(root / name, root):
        raise UserError(
            f"{name}: a link leads out of {root}, to {os.path.realpath(root / name)}: bring the file in, or name the "
            "folder that it lies in"
        )
