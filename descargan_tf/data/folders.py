"""A data set in folders, through two doors: check all of it before anything is trained, load a split into memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from descargan_tf.data import checks, ground_truth, leaks
from descargan_tf.data.digest import contents_of
from descargan_tf.data.images import Scaling, is_outside, parse_value_range, scale_pixels
from descargan_tf.data.listing import Listing, list_data_set
from descargan_tf.data.memory import refuse_too_large
from descargan_tf.data.reading import NUM_THREADS, Facts, Progress, read_all
from descargan_tf.types import CLASS_NAMES, DIFFERENCE, DISEASED, HEALTHY, MASK, SPLITS, Split


class ClassSummary(NamedTuple):
    """What was found in one class folder of one split."""

    split: str
    label: int
    num_images: int
    minimum: float  # in the units of the files
    maximum: float
    num_ground_truths: int
    num_ignored: int  # hidden files, other suffixes and subfolders


class DataSummary(NamedTuple):
    """A data set in which `check_data` found nothing wrong."""

    root: str
    image_size: int
    dtype: str
    scaling: Scaling  # what `load_split` takes
    ground_truths: dict[str, ground_truth.GroundTruth | None]  # by split
    classes: tuple[ClassSummary, ...]  # by split, healthy first
    warnings: tuple[str, ...]
    contents: dict[str, str]  # of each file that was read, as `digest` names it
    findings: tuple[str, ...]  # those of the warnings that say the results may be wrong
    measured: leaks.Measured  # of all images, or of some hundred a class and split

    def count(self, split: str, label: int) -> int:
        """How many images a class has in a split."""
        return sum(c.num_images for c in self.classes if c.split == split and c.label == label)

    def lines(self) -> list[str]:
        """Lay out a table, one row per split and class, and the warnings below it."""
        totals = [sum(c.num_images for c in self.classes if c.label == label) for label in (HEALTHY, DISEASED)]
        rows = [("split", "label", "images", "values", "dtype", "size", "ground truth", "ignored")]
        for c in self.classes:
            truth = self.ground_truths[c.split]
            kind = "zero" if c.label == HEALTHY or truth is None else truth.kind
            rows.append(
                (
                    c.split,
                    f"{c.label}={CLASS_NAMES[c.label]}",
                    f"n={c.num_images}",
                    f"{c.minimum:g}..{c.maximum:g}",
                    self.dtype,
                    f"{self.image_size}x{self.image_size}",
                    f"{c.num_ground_truths} {kind}" if c.num_ground_truths else "none",
                    str(c.num_ignored),
                )
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return [
            f"data folder {self.root}",
            f"labels: 0=healthy n={totals[HEALTHY]}, 1=diseased n={totals[DISEASED]}",
            f"scaling: file values {self.scaling.low:g} to {self.scaling.high:g} become -1 to 1, in every image",
            *(f"ground truth of {split}: {truth}" for split, truth in self.ground_truths.items() if truth),
            *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows),
            *(f"warning: {warning}" for warning in self.warnings),
        ]

    def __str__(self) -> str:
        return "\n".join(self.lines())


def check_data(
    root: str | Path,
    image_size: int,
    value_range: str = "auto",
    splits: Sequence[str] = SPLITS,
    num_threads: int = NUM_THREADS,
    progress: Progress | None = None,
    in_memory: Mapping[str, float] | None = None,
    asked_ground_truth: str = ground_truth.AUTO,
) -> DataSummary:
    """Read every file and say what is there, or everything that is wrong, at once.

    `value_range` is "low,high" in file values, or "auto": the whole range of uint8 or uint16; for floats [0, 1] if all
    files of all splits lie in it, else [-1, 1]. With "auto", files of which only some leave [0, 1] (float, uint8) or
    [0, 255] (uint16) are mixed ranges. `in_memory` says of splits that are to be loaded how often their images will
    be in memory at a time. `asked_ground_truth` is --ground_truth, a member of `ground_truth.KINDS`; what is wrong with
    ground truth is a warning.

    Raises:
        UserError: with all problems found; before anything is read, if memory is too small for what is to be loaded.
    """
    root = Path(root)
    scaling = parse_value_range(value_range)
    listing = list_data_set(root, splits)
    refuse_too_large(root, listing, in_memory or {}, image_size)
    facts = [file_facts for file_facts, _, _ in read_all(listing.files, num_threads, progress)]
    problems = listing.problems + checks.file_problems(facts, image_size)
    dtypes = {f.dtype for f in facts if f.dtype}
    # Where dtypes are mixed no one range can be right, and the mixture is already reported.
    if len(dtypes) == 1:
        if scaling is None:
            scaling, range_problems = checks.automatic_scaling(facts)
            problems += range_problems
        if scaling is not None:
            problems += checks.range_problems(facts, scaling)
    checks.raise_problems(root, problems)
    truths = {split: ground_truth.of_split(facts, split, image_size, scaling, asked_ground_truth) for split in splits}
    known = [truth for truth in truths.values() if truth]
    differences = frozenset().union(*(truth.images for truth in known if truth.kind == DIFFERENCE))
    measured = leaks.measured(
        [f.file.split for f in facts],
        [f.file.label for f in facts],
        [f.statistics for f in facts],
        [f.without_disease for f in facts],
    )
    findings = (
        *checks.narrow_range_findings(facts, scaling, differences),
        *leaks.constant_findings(measured, [f.file.name for f in facts]),
        *leaks.class_leak_findings(measured),
        *leaks.acquisition_findings([_row(f.file) for f in facts]),
        *checks.duplicate_findings(facts),
    )
    return DataSummary(
        root=str(root),
        image_size=image_size,
        dtype=dtypes.pop(),
        scaling=scaling,
        ground_truths=truths,
        classes=tuple(
            _summarise(facts, listing, truths[split], split, label) for split in splits for label in (HEALTHY, DISEASED)
        ),
        warnings=(
            *listing.warnings,
            *(warning for truth in known for warning in truth.warnings),
            *ground_truth.several_kinds_warnings(truths),
            *findings,
        ),
        contents=contents_of(facts),
        findings=findings,
        measured=measured,
    )


def load_split(
    root: str | Path,
    split: str,
    image_size: int,
    scaling: tuple[float, float],
    num_threads: int = NUM_THREADS,
    progress: Progress | None = None,
    asked_ground_truth: str = ground_truth.AUTO,
) -> Split:
    """Load one split into memory: healthy files first, each class by file name.

    `scaling` is that of the `DataSummary`, the same for every split. Healthy images have a ground truth of zero; that
    of the Split is None where no diseased image has one that can be used. `asked_ground_truth` as in `check_data`.

    Raises:
        UserError: with all problems found.
    """
    root = Path(root)
    scaling = Scaling(*scaling)
    listing = list_data_set(root, (split,))
    refuse_too_large(root, listing, {split: 1}, image_size)
    files = listing.files
    images = np.zeros((len(files), image_size, image_size, 1), np.float32)
    differences = np.zeros(images.shape, np.float32)  # unlike zeros_like, costs no memory until written to
    facts = []
    for index, (file_facts, pixels, difference) in enumerate(read_all(files, num_threads, progress, measured=False)):
        facts.append(file_facts)
        has_size = file_facts.shape == (image_size, image_size)
        if has_size and not is_outside(file_facts.minimum, file_facts.maximum, scaling):
            images[index, ..., 0] = scale_pixels(pixels, scaling, file_facts.file.name)
        if difference is not None and difference.shape == (image_size, image_size):
            differences[index, ..., 0] = difference
    checks.raise_problems(
        root, [*listing.problems, *checks.file_problems(facts, image_size), *checks.range_problems(facts, scaling)]
    )
    truth = ground_truth.of_split(facts, split, image_size, scaling, asked_ground_truth)
    known = np.array([file.label == HEALTHY or bool(truth and file.name in truth.images) for file in files])
    # One by one and not of healthy images, which would cost their memory.
    for index in np.flatnonzero([file.label == DISEASED for file in files]):
        own = differences[index]
        if not known[index]:
            own[:] = 0
        elif truth.kind == MASK:
            own[:] = own != 0
        else:
            own *= np.float32(scaling.factor)
    return Split(
        images=images,
        labels=np.array([file.label for file in files], np.int32),
        ground_truth=differences if truth and truth.images else None,
        names=tuple(file.name for file in files),
        ground_truth_kind=truth.kind if truth else DIFFERENCE,
        has_ground_truth=known,
    )


def _row(file):
    """What a name tells of how an image was stored; size and dtype are the same of all."""
    suffix = file.path.suffix.lower().removeprefix(".")
    format = {"jpeg": "jpg", "tiff": "tif"}.get(suffix, suffix)
    return {"split": file.split, "label": CLASS_NAMES[file.label], "format": format}


def _summarise(
    facts: list[Facts], listing: Listing, truth: ground_truth.GroundTruth | None, split: str, label: int
) -> ClassSummary:
    members = [f for f in facts if f.file.split == split and f.file.label == label]
    num_truths = len(truth.images) if truth else 0
    return ClassSummary(
        split=split,
        label=label,
        num_images=len(members),
        minimum=min(f.minimum for f in members),
        maximum=max(f.maximum for f in members),
        num_ground_truths=len(members) if label == HEALTHY and num_truths else num_truths,
        num_ignored=listing.num_ignored[split, label],
    )
