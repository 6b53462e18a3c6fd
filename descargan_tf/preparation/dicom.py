"""--source=dicom: radiographs of a hospital's export, a patient by the Patient ID of the files.

Labels by folders, as of --source=folder, or by --labels_csv with the columns accession and label, where folders mean
nothing. Files are DICOM by their content, whatever their names; masks lie in ground_truth beside the class folders,
each below it as its image lies below diseased.

Of the tags, those of data/dicom_files.py are read and no others. Patient ID, Study Instance UID and Manufacturer's
Model Name are kept as keyed pseudonyms: the last is free text, in which names of people and hospitals are found. So is
a View Position that is no word of radiographers; others are kept as they are, the accession number not at all. Names of
files and folders are kept as they are.
"""

import re
from collections import Counter
from pathlib import Path

import numpy as np

from descargan_tf.data.dicom_files import INDEX, SUFFIXES, is_dicom, read_dicom, read_tags
from descargan_tf.data.formats import GROUND_TRUTH_SUFFIXES
from descargan_tf.data.images import parse_value_range
from descargan_tf.data.listing import GROUND_TRUTH_FOLDER
from descargan_tf.errors import UserError
from descargan_tf.names import name_some
from descargan_tf.preparation.folder import found_in, identity, note_orphans, read_mask, walk
from descargan_tf.preparation.sources import Listing, Options, Pixels, RawImage, label_of, pseudonym
from descargan_tf.preparation.tables import read_table
from descargan_tf.types import CLASS_NAMES, DISEASED, SPLITS

_LATERAL = re.compile(r"(LL|RL|LLD|RLD|LATERAL|LAT)")
_VIEWS = re.compile(
    r"(\b(AP|PA|LL|RL|LLD|RLD|LLO|RLO|LPO|RPO|LAO|RAO|CC|MLO|LM|ML|LAT|LATERAL|FRONTAL|OBLIQUE|AXIAL|DECUBITUS|SUPINE"
    r"|PRONE|ERECT|UPRIGHT|PORTABLE|LEFT|RIGHT|CHEST)\b ?)*"
)
_PSEUDONYMS = "devices, patients and studies are kept as keyed hashes"


def list(root: Path, options: Options) -> Listing:
    """As `Source.list`."""
    listing = Listing([], [], [])
    counts: Counter[str] = Counter()
    if options.labels_csv:
        _list_by_table(root, options, listing, counts)
    else:
        _list_by_folders(root, options, listing, counts)
    listing.notes.extend((*(f"{count} {what}" for what, count in sorted(counts.items())), _PSEUDONYMS))
    return listing


def read(image: RawImage, options: Options) -> Pixels:
    """As `Source.read`."""
    return Pixels(*read_dicom(image.path, parse_value_range(options.value_range)))


def read_ground_truth(image: RawImage, options: Options) -> np.ndarray:
    """As `Source.read_ground_truth`: what is not 0 is marked."""
    return read_mask(image.ground_truth)


def _list_by_folders(root, options, listing, counts):
    splits = [split for split in SPLITS if (root / split).is_dir()]
    has_classes = any((root / name).is_dir() for name in CLASS_NAMES)
    if splits and has_classes:
        raise UserError(
            f"--input={root} holds both splits ({', '.join(splits)}) and classes: which of them is meant? Move one out."
        )
    if not splits and not has_classes:
        raise UserError(
            f"--input={root}: holds no folders {' and '.join(CLASS_NAMES)}, written so, but {found_in(root)}: sort the "
            "files into them, or name a table with the columns accession and label as --labels_csv."
        )
    for split in splits or [None]:
        folder = root / split if split else root
        missing = [name for name in CLASS_NAMES if not (folder / name).is_dir()]
        if missing:
            plural = "s" if len(missing) > 1 else ""
            raise UserError(
                f"class folder{plural} {', '.join(missing)} missing in {folder}; found: {found_in(folder)}."
            )
        above, used = frozenset({identity(root), identity(folder)}), set()
        for label, name in enumerate(CLASS_NAMES):
            for path in _files(folder / name, root, listing.problems, above):
                image = _image(root, path, label, options, listing, counts, split)
                if image and label == DISEASED:
                    image = image._replace(ground_truth=_mask(folder, path.relative_to(folder / name)))
                if image:
                    used.add(image.ground_truth)
                    listing.images.append(image)
        place = folder / GROUND_TRUTH_FOLDER
        masks = [*walk(place, root, listing.problems, above)] if place.is_dir() else []
        note_orphans(root, [path for path in masks if path not in used], listing.notes)


def _list_by_table(root, options, listing, counts):
    labels = _labels(options.labels_csv, listing)
    found = set()
    for path in _files(root, root, listing.problems):
        image = _image(root, path, labels, options, listing, counts, None, found)
        if image:
            listing.images.append(image)
    if len(labels) > len(found):
        counts[f"accession numbers of {Path(options.labels_csv).name} without a file"] = len(labels) - len(found)


def _labels(table, listing):
    """Labels by accession number; a number with two labels has none."""
    labels: dict[str, int | None] = {}
    for row in read_table(Path(table), ("accession", "label")):
        try:
            if row.problem or not row["accession"]:
                raise UserError(row.problem or "no accession number")
            label = label_of(row["label"])
            if labels.setdefault(row["accession"], label) != label:
                labels[row["accession"]] = None
                raise UserError("another label than a line before has for this accession number")
        except UserError as error:
            listing.problems.append(f"{Path(table).name}, line {row.line}: {error}")
    return labels


def _image(root, path, label, options, listing, counts, split, found=None):
    """An image, or None where a file is passed over or cannot be used, which is counted or told."""
    name = path.relative_to(root).as_posix()
    try:
        if not is_dicom(path) and path.suffix.lower() not in SUFFIXES:
            counts["files that are no DICOM, passed over"] += 1
            return None
        tags = read_tags(path)
    except UserError as error:
        listing.problems.append(str(error))
        return None
    if found is not None:
        by_accession, label = label, None
        if tags.accession in by_accession:
            label = by_accession[tags.accession]
            found.add(tags.accession)
        if label is None:
            counts["files whose accession number has no label in the table, passed over"] += 1
            return None
    is_lateral = bool(_LATERAL.fullmatch(tags.view.upper()))
    if options.view != "all" and is_lateral != (options.view == "lateral"):
        counts[f"files of another view, passed over (--view={options.view})"] += 1
        return None
    if tags.refusal:  # known before splits are drawn, it makes none of them shorter
        listing.problems.append(tags.refusal)
        return None
    if not tags.patient:
        counts["files without Patient ID: each study counts as a patient, who may be in two splits"] += 1
    return RawImage(
        path=path,
        source=name,
        label=label,
        patient=pseudonym(tags.patient or tags.study, options.key) if tags.patient or tags.study else "",
        study=pseudonym(tags.study, options.key) if tags.study else "",
        view=tags.view if _VIEWS.fullmatch(tags.view.upper()) else _stand_in("view", tags.view, options.key),
        device=_stand_in("device", tags.device, options.key),
        split=split,
    )


def _stand_in(kind, text, key):
    """What can be told from others of its kind, and nothing else; shorter than what stands for a person."""
    return f"{kind} {pseudonym(text, key)[:8]}" if text else ""


def _mask(folder, inner):
    place = folder / GROUND_TRUTH_FOLDER / inner
    found = [path for suffix in GROUND_TRUTH_SUFFIXES if (path := place.with_suffix(suffix)).is_file()]
    if len(found) > 1:
        raise UserError(f"{name_some([str(path) for path in found])}: which of them is the ground truth? Move one out.")
    return found[0] if found else None


def _files(folder, root, problems, above=frozenset()):
    """Every file that may hold an image."""
    return (path for path in walk(folder, root, problems, above) if path.name.upper() != INDEX)
