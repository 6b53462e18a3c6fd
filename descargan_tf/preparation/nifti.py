"""--source=nifti: slices of volumes, .nii and .nii.gz, whose labels are folders or --labels_csv.

    <root>/.../{healthy,diseased}/...       anywhere in the path; so may be train, validate or test above
    <name>_mask.nii.gz or <name>_seg.nii.gz beside <name>.nii.gz, or beside it without its last _part, as BraTS has it;
    or ground_truth/<name>.nii.gz in its folder, or beside the class folder

A mask marks the voxels that are not 0. A slice of a diseased volume is diseased; where the volume has a mask, only a
slice that it marks is, and --unmarked_slices says what becomes of the others. A slice's number is that of
`nifti_files`: from below, behind or the left.

A volume's patient is a column of --labels_csv, else what --patient_pattern finds in its path; else sub-<label> where
the file's name begins so (BIDS), or else the name up to the first part that names a session or a kind of image. Nothing
but a pseudonym of it is kept.
"""

import contextlib
import fnmatch
import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from descargan_tf import processes
from descargan_tf.data.listing import GROUND_TRUTH_FOLDER
from descargan_tf.data.nifti_files import (
    SUFFIXES,
    Volume,
    chosen_slices,
    in_square_pixels,
    is_mask,
    is_volume,
    mask_names,
    open_volume,
    parse_range,
    parse_slices,
    stem_of,
)
from descargan_tf.errors import UserError
from descargan_tf.names import name_some
from descargan_tf.preparation import table
from descargan_tf.preparation.folder import walk
from descargan_tf.preparation.sources import Listing, Options, Pixels, RawImage, pseudonym
from descargan_tf.types import CLASS_NAMES, DISEASED, HEALTHY, SPLITS

DROP, AS_HEALTHY = "drop", "healthy"
UNMARKED = (DROP, AS_HEALTHY)  # of --unmarked_slices

_WORTH_PROCESSES = 2**27  # bytes of files, some five seconds for one process

# What begins the part of a name that is no longer the patient's.
_AFTER_PATIENT = re.compile(r"_(ses|run|acq|visit|scan|time|tp|t1|t2|flair|dwi|adc|pd|swi|ct|mr)", re.IGNORECASE)


def list(root: Path, options: Options) -> Listing:
    """As `Source.list`; voxels are read, too: what a slice is depends on its mask, and on whether it shows anything.

    So it is done over all cores, a volume at a time.
    """
    slices = parse_slices(options.slices)
    parse_range(options.nifti_range)
    _compiled(options.patient_pattern)
    listing = Listing([], [], [])
    volumes = _of_table(root, options, listing) if options.labels_csv else _of_folders(root, options, listing)
    counts, unsure = Counter(), []
    tasks = [(raw, slices, options) for raw in volumes]
    with contextlib.closing(processes.in_order(_listed, tasks, _num_workers(volumes))) as results:
        for raw, found in zip(volumes, results, strict=True):
            if found.problem:
                listing.problems.append(_relative(found.problem, root))
                continue
            listing.images.extend(found.images)
            counts.update(found.counts)
            if not found.states_orientation:
                unsure.append(raw.source)
    patients = len({image.patient for image in listing.images})
    listing.notes.append(
        f"{len(volumes)} volumes of {patients} patients, {options.slice_axis} slices {options.slices}: "
        + (", ".join(f"{count} {what}" for what, count in counts.items() if count) or "none")
    )
    if unsure:
        listing.notes.append(f"{name_some(unsure)}: no orientation in the header (sform, qform), taken as LAS+")
    return listing


def read(image: RawImage, options: Options) -> Pixels:
    """As `Source.read`: the slice in square pixels, cut to the range, which is one for all slices of a volume."""
    volume = open_volume(image.path)
    low, high = volume.value_range(parse_range(options.nifti_range))
    return Pixels(volume.window(options.slice_axis, image.index, low, high), low, high)


def read_ground_truth(image: RawImage, options: Options) -> np.ndarray:
    """As `Source.read_ground_truth`."""
    mask = open_volume(image.ground_truth)
    plane = mask.plane(options.slice_axis, image.index) != 0
    return in_square_pixels(plane, mask.spacing(options.slice_axis)) >= 0.5


class _Volume(NamedTuple):
    """What was found in a volume, or why it cannot be used."""

    images: Sequence[RawImage]
    counts: Mapping[str, int]
    states_orientation: bool
    problem: str = ""


def _listed(raw: RawImage, slices, options: Options) -> _Volume:
    """Runs in a process of its own, too."""
    try:
        patient = raw.patient or pseudonym(_patient_of(raw.source, options.patient_pattern), options.key)
        volume = open_volume(raw.path)
        found, counts = _slices(raw._replace(patient=patient, view=options.slice_axis), volume, slices, options)
    except UserError as error:
        return _Volume((), {}, True, str(error))
    return _Volume(found, counts, volume.states_orientation)


def _num_workers(volumes):
    """One where all are decoded before a second process would have begun."""
    total = 0
    for raw in volumes:
        with contextlib.suppress(OSError):  # which is told when the volume is opened
            total += raw.path.stat().st_size
    return processes.num_cores() if total >= _WORTH_PROCESSES else 1


def _of_table(root, options, listing):
    found = table.list(root, options)
    listing.problems.extend(found.problems)
    listing.notes.extend(found.notes)
    volumes = []
    for raw in found.images:
        if is_volume(raw.path):
            volumes.append(raw if raw.ground_truth else raw._replace(ground_truth=_mask_of(raw.path)))
        else:
            listing.problems.append(f"{raw.source}: not a NIfTI file by its name; expected {' or '.join(SUFFIXES)}")
    return volumes


def _of_folders(root, options, listing):
    paths = [*walk(root, root, listing.problems)]
    volumes, others, unlabelled = [], 0, []
    masks = {path for path in paths if is_volume(path) and _may_be_mask(path.relative_to(root))}
    in_any_case = {str(path).lower(): path for path in sorted(masks)}
    for path in paths:
        inner = path.relative_to(root)
        if not is_volume(path):
            others += 1
        elif path in masks:
            continue
        elif not fnmatch.fnmatchcase(path.name, options.volumes):
            others += 1
        else:
            names = [part for part in inner.parts[:-1] if part in CLASS_NAMES]
            splits = [part for part in inner.parts[:-1] if part in SPLITS]
            if not names:
                unlabelled.append(inner.as_posix())
                continue
            label, split = CLASS_NAMES.index(names[-1]), splits[-1] if splits else None
            volumes.append(
                RawImage(path, inner.as_posix(), label, split=split, ground_truth=_mask_of(path, in_any_case))
            )
    if unlabelled:
        listing.problems.append(
            f"{name_some(unlabelled)}: in no folder {' or '.join(CLASS_NAMES)}; move them, or name them in --labels_csv"
        )
    if not volumes:
        raise UserError(
            f"--input={root}: no volume {options.volumes} that ends in {' or '.join(SUFFIXES)} lies in a folder "
            f"{' or '.join(CLASS_NAMES)}, written so, among {len(paths)} files."
        )
    orphans = sorted(path.relative_to(root).as_posix() for path in masks - {raw.ground_truth for raw in volumes})
    if orphans:
        listing.notes.append(f"{name_some(orphans)}: masks of no volume that was chosen, passed over")
    if others:
        listing.notes.append(f"{others} files that are no volume or not {options.volumes} by their names, passed over")
    return volumes


def _may_be_mask(inner):
    return is_mask(inner) or GROUND_TRUTH_FOLDER in (part.lower() for part in inner.parts[:-1])


def _mask_of(path: Path, in_any_case: Mapping[str, Path] = MappingProxyType({})) -> Path | None:
    """The mask of a volume; where none is called as `mask_names` says, one of the given that is in another case."""
    stem = stem_of(path)
    places = [path.parent / name for name in mask_names(stem)]
    for folder in (path.parent, path.parent.parent):
        places += [folder / GROUND_TRUTH_FOLDER / f"{stem}{suffix}" for suffix in SUFFIXES]
    found = next((place for place in places if place.is_file()), None)
    return found or next(filter(None, (in_any_case.get(str(place).lower()) for place in places)), None)


def _slices(raw: RawImage, volume: Volume, slices, options):
    axis = options.slice_axis
    chosen = chosen_slices(slices, volume.count(axis))
    if not chosen:
        count = volume.count(axis)
        raise UserError(f"{raw.path}: has {count} {axis} slices, none of them in --slices={options.slices}")
    mask = open_volume(raw.ground_truth) if raw.ground_truth else None
    if mask and not mask.lies_on(volume):
        raise UserError(f"{raw.path}: its mask {raw.ground_truth.name} has another shape or lies elsewhere (affine)")
    found, new = [], Counter()
    for index in chosen:
        is_marked = mask is not None and bool(mask.plane(axis, index).any())
        if is_marked and raw.label == HEALTHY:
            raise UserError(f"{raw.path}: is healthy, and its mask {raw.ground_truth.name} marks slice {index}")
        plane = volume.plane(axis, index)
        is_unmarked = raw.label == DISEASED and mask is not None and not is_marked
        if plane.min() == plane.max():
            new["dropped as they hold one value alone"] += 1
        elif is_unmarked and options.unmarked_slices == DROP:
            new["of diseased volumes dropped as their mask marks nothing there"] += 1
        else:
            new["of diseased volumes taken as healthy"] += is_unmarked
            label = HEALTHY if is_unmarked else raw.label
            new[CLASS_NAMES[label]] += 1
            truth = raw.ground_truth if is_marked else None
            found.append(
                raw._replace(source=f"{raw.source}#slice={index}", label=label, index=index, ground_truth=truth)
            )
    return found, new


def _patient_of(source, pattern):
    if pattern:
        match = _compiled(pattern).search(source)
        if match is None:
            raise UserError(f"{source}: --patient_pattern={pattern} is not found in it")
        return match[1] if match.re.groups else match[0]
    stem = stem_of(source)
    if match := re.match(r"sub-[^_]+", stem):
        return match[0]
    match = _AFTER_PATIENT.search(stem)
    return stem[: match.start()] if match and match.start() else stem


@functools.cache
def _compiled(pattern):
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"--patient_pattern={pattern} is no regular expression: {error}") from None


def _relative(message, root):
    return message.removeprefix(f"{root}/")
