"""A data set in folders: find its files, check them all before anything is trained, load a split into memory.

    <root>/{train,validate,test}/{healthy,diseased}/*.{npy,png,jpg,jpeg,tif,tiff}
    <root>/{train,validate,test}/ground_truth/<stem of the diseased image>.{npy,png,tif,tiff}     (optional)

A float ground truth is healthy - diseased in the units of the image files and is scaled with their factor; an 8-bit
one is a mask, 0 or 255, and becomes 0 or 1. The label is the folder's name, whatever the alphabetical order.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from descargan_tf.data.images import IMAGE_SUFFIXES, Scaling, is_outside, parse_value_range, read_image, scale_pixels
from descargan_tf.errors import UserError
from descargan_tf.types import CLASS_NAMES, DISEASED, HEALTHY, SPLITS, Split

GROUND_TRUTH_FOLDER = "ground_truth"

_GROUND_TRUTH_SUFFIXES = (".npy", ".png", ".tif", ".tiff")  # not JPEG, which blurs the border of a mask
_MAX_NAMED = 5  # files named in a message
_MAX_UNREADABLE_NAMED = 10
_MIN_IMAGES_FOR_LEAK = 20  # per class; with fewer a threshold separates the classes by luck
_LEAK_ACCURACY = 0.95
# An image that stays in the smaller range while others leave it was probably scaled another way.
_SMALLER_RANGES = {"float32": Scaling(0.0, 1.0), "uint16": Scaling(0.0, 255.0), "uint8": Scaling(0.0, 1.0)}
_NARROW_SHARE = 1 / 8  # of the value range in use, below which the range is probably not meant

Progress = Callable[[int, int], None]  # called with (files done, files in all)


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
    ground_truth_kind: str | None  # "signed", "mask", or None where there is no ground truth
    classes: tuple[ClassSummary, ...]  # by split, healthy first
    warnings: tuple[str, ...]

    def count(self, split: str, label: int) -> int:
        """How many images a class has in a split."""
        return sum(c.num_images for c in self.classes if c.split == split and c.label == label)

    def lines(self) -> list[str]:
        """Lay out a table, one row per split and class, and the warnings below it."""
        totals = [sum(c.num_images for c in self.classes if c.label == label) for label in (HEALTHY, DISEASED)]
        rows = [("split", "label", "images", "values", "dtype", "size", "ground truth", "ignored")]
        for c in self.classes:
            kind = "zero" if c.label == HEALTHY else self.ground_truth_kind
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
            *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows),
            *(f"warning: {warning}" for warning in self.warnings),
        ]

    def __str__(self) -> str:
        return "\n".join(self.lines())


class _File(NamedTuple):
    path: Path
    name: str  # relative to the root
    split: str
    label: int
    ground_truth: Path | None


class _Listing(NamedTuple):
    files: list[_File]  # by split, healthy first, by file name
    num_ignored: dict[tuple[str, int], int]
    problems: list[str]
    warnings: list[str]


class _GroundTruthFacts(NamedTuple):
    name: str  # of the file it came from
    kind: str  # "signed" or "mask"
    shape: tuple[int, int]
    largest: float  # absolute value


class _Facts(NamedTuple):
    """What is kept of a file after it was read; None and () where it could not be read."""

    file: _File
    unreadable: tuple[str, ...] = ()
    dtype: str | None = None
    shape: tuple[int, int] | None = None
    minimum: float | None = None
    maximum: float | None = None
    digest: bytes | None = None
    ground_truth: _GroundTruthFacts | None = None


def list_images(folder: str | Path) -> tuple[list[Path], int]:
    """Find the image files directly in a folder, sorted by name, and count what else lies there."""
    entries = sorted(Path(folder).iterdir(), key=lambda path: path.name)
    images = [
        path
        for path in entries
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and not path.is_dir()
    ]
    return images, len(entries) - len(images)


def check_data(
    root: str | Path,
    image_size: int,
    value_range: str = "auto",
    splits: Sequence[str] = SPLITS,
    num_threads: int = 8,
    progress: Progress | None = None,
) -> DataSummary:
    """Read every file and say what is there, or everything that is wrong, at once.

    `value_range` is "low,high" in file values, or "auto": the whole range of uint8 or uint16; for floats [0, 1] if all
    files of all splits lie in it, else [-1, 1]. With "auto", files of which only some leave [0, 1] (float, uint8) or
    [0, 255] (uint16) are mixed ranges.

    Raises:
        UserError: with all problems found.
    """
    root = Path(root)
    scaling = parse_value_range(value_range)
    listing = _list_data_set(root, splits)
    facts = [file_facts for file_facts, _, _ in _read_all(listing.files, num_threads, progress)]
    problems = listing.problems + _file_problems(facts, image_size)
    dtypes = {f.dtype for f in facts if f.dtype}
    # Where dtypes are mixed no one range can be right, and the mixture is already reported.
    if len(dtypes) == 1:
        if scaling is None:
            scaling, range_problems = _automatic_scaling(facts)
            problems += range_problems
        if scaling is not None:
            problems += _range_problems(facts, scaling)
    _raise_problems(root, problems)
    return DataSummary(
        root=str(root),
        image_size=image_size,
        dtype=dtypes.pop(),
        scaling=scaling,
        ground_truth_kind=next((f.ground_truth.kind for f in facts if f.ground_truth), None),
        classes=tuple(_summarise(facts, listing, split, label) for split in splits for label in (HEALTHY, DISEASED)),
        warnings=(
            *listing.warnings,
            *_narrow_range_warnings(facts, scaling),
            *_class_leak_warnings(facts, splits),
            *_duplicate_warnings(facts),
        ),
    )


def load_split(
    root: str | Path,
    split: str,
    image_size: int,
    scaling: tuple[float, float],
    num_threads: int = 8,
    progress: Progress | None = None,
) -> Split:
    """Load one split into memory: healthy files first, each class by file name.

    `scaling` is that of the `DataSummary`, the same for every split. Healthy images have a ground truth of zero;
    `ground_truth` is None where the split has none.

    Raises:
        UserError: with all problems found.
    """
    root = Path(root)
    scaling = Scaling(*scaling)
    listing = _list_data_set(root, (split,))
    files = listing.files
    images = np.zeros((len(files), image_size, image_size, 1), np.float32)
    ground_truth = np.zeros(images.shape, np.float32)  # unlike zeros_like, costs no memory until written to
    facts = []
    for index, (file_facts, pixels, difference) in enumerate(_read_all(files, num_threads, progress)):
        facts.append(file_facts)
        has_size = file_facts.shape == (image_size, image_size)
        if has_size and not is_outside(file_facts.minimum, file_facts.maximum, scaling):
            images[index, ..., 0] = scale_pixels(pixels, scaling, file_facts.file.name)
        if difference is not None and difference.shape == (image_size, image_size):
            factor = scaling.factor if file_facts.ground_truth.kind == "signed" else 1.0
            ground_truth[index, ..., 0] = difference * np.float32(factor)
    _raise_problems(root, [*listing.problems, *_file_problems(facts, image_size), *_range_problems(facts, scaling)])
    return Split(
        images=images,
        labels=np.array([file.label for file in files], np.int32),
        ground_truth=ground_truth if any(f.ground_truth for f in facts) else None,
        names=tuple(file.name for file in files),
    )


# ---- finding files


def _subfolders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _found(folder: Path) -> str:
    return ", ".join(_subfolders(folder)[:20]) or "no folder"


def _list_data_set(root: Path, splits: Sequence[str]) -> _Listing:
    if not root.is_dir():
        raise UserError(f"--data_dir={root} {'is not a folder' if root.exists() else 'does not exist'}")
    listing = _Listing([], {}, [], [])
    missing = [split for split in splits if not (root / split).is_dir()]
    if missing:
        listing.problems.append(
            f"split folder{'s' if len(missing) > 1 else ''} {', '.join(missing)} missing in {root}; "
            f"found: {_found(root)}{_level_hint(root)}{_spelling_hint(root, missing)}"
        )
    for split in splits:
        if split not in missing:
            _list_one_split(root, split, listing)
    return listing


def _level_hint(root: Path) -> str:
    root = root.resolve()  # "." has no name
    found = _subfolders(root)
    if set(found) & set(CLASS_NAMES):
        if root.name in SPLITS:
            return f"; the folder is one level too low, try --data_dir={root.parent}"
        return f"; it holds classes but no splits: move them into {root}/{{{','.join(SPLITS)}}}"
    if root.name in CLASS_NAMES:
        return f"; the folder is two levels too low, try --data_dir={root.parent.parent}"
    for name in found:
        if set(_subfolders(root / name)) & set(SPLITS):
            return f"; the folder is one level too high, try --data_dir={root / name}"
    return ""


def _spelling_hint(folder: Path, missing: Sequence[str]) -> str:
    hints = []
    for name in missing:
        # "val", "valid", "validation" for "validate"; "Healthy" for "healthy"; "testing" for "test".
        likely = [found for found in _subfolders(folder) if found.lower()[:3] == name[:3]]
        hints += [f"rename {found} to {name}" for found in likely[:1]]
    return f"; names are exact and case-sensitive: {', '.join(hints)}" if hints else ""


def _list_one_split(root: Path, split: str, listing: _Listing) -> None:
    folder = root / split
    missing = [name for name in CLASS_NAMES if not (folder / name).is_dir()]
    if missing:
        listing.problems.append(
            f"class folder{'s' if len(missing) > 1 else ''} {', '.join(missing)} missing in {folder}; found: "
            f"{_found(folder)}; expected {split}/healthy and {split}/diseased{_spelling_hint(folder, missing)}"
        )
    truths = _list_ground_truths(folder / GROUND_TRUTH_FOLDER, root, listing)
    diseased_stems = set()
    for label, class_name in enumerate(CLASS_NAMES):
        if class_name in missing:
            continue
        paths, listing.num_ignored[split, label] = list_images(folder / class_name)
        if not paths:
            deeper = _subfolders(folder / class_name)
            listing.problems.append(
                f"no image in {folder / class_name}; expected files ending in {' '.join(IMAGE_SUFFIXES)}"
                + (f", directly in it and not in its subfolders ({', '.join(deeper[:_MAX_NAMED])})" if deeper else "")
            )
        for path in paths:
            truth = truths.get(path.stem) if label == DISEASED else None
            if truth and path.stem in diseased_stems:
                listing.problems.append(f"{truth.name} is the ground truth of several images: {split}/*/{path.stem}.*")
            if label == DISEASED:
                diseased_stems.add(path.stem)
            listing.files.append(_File(path, path.relative_to(root).as_posix(), split, label, truth))
    orphans = [path.relative_to(root).as_posix() for stem, path in truths.items() if stem not in diseased_stems]
    if orphans and "diseased" not in missing:
        listing.warnings.append(f"{_name(orphans)}: ground truth of no diseased image, ignored")


def _list_ground_truths(folder: Path, root: Path, listing: _Listing) -> dict[str, Path]:
    truths: dict[str, Path] = {}
    if not folder.is_dir():
        return truths
    for path in list_images(folder)[0]:
        name = path.relative_to(root).as_posix()
        if path.suffix.lower() not in _GROUND_TRUTH_SUFFIXES:
            listing.warnings.append(f"{name}: ignored, a ground truth ends in {' '.join(_GROUND_TRUTH_SUFFIXES)}")
        elif path.stem in truths:
            listing.problems.append(f"{truths[path.stem].name} and {path.name} in {folder} are for the same image")
        else:
            truths[path.stem] = path
    return truths


# ---- reading files


def _read_all(
    files: Sequence[_File], num_threads: int, progress: Progress | None
) -> Iterator[tuple[_Facts, np.ndarray | None, np.ndarray | None]]:
    """Yield facts, pixels and raw ground truth of each file, in order, a chunk at a time so as not to hold them all."""
    chunk = 16 * num_threads
    with ThreadPoolExecutor(num_threads) as pool:
        for start in range(0, len(files), chunk):
            for offset, result in enumerate(pool.map(_read, files[start : start + chunk])):
                if progress:
                    progress(start + offset + 1, len(files))
                yield result


def _read(file: _File) -> tuple[_Facts, np.ndarray | None, np.ndarray | None]:
    unreadable = []
    pixels = difference = truth_facts = None
    try:
        pixels, difference = read_image(file.path)
        if difference is not None:
            truth_facts = _ground_truth_facts(file.name, "signed", difference)
    except UserError as error:
        unreadable.append(_relative(error, file.path, file.name))
    if file.label == HEALTHY:
        # Departs: the authors' healthy files carry the ground truth of the image's diseased twin; it is zero here.
        difference = truth_facts = None
    elif file.ground_truth is not None:
        name = f"{file.split}/{GROUND_TRUTH_FOLDER}/{file.ground_truth.name}"
        try:
            if truth_facts is not None:
                raise UserError(f"{file.name} already holds a ground truth of its own; remove one of the two")
            kind, difference = _read_ground_truth(file.ground_truth)
            truth_facts = _ground_truth_facts(name, kind, difference)
        except UserError as error:
            unreadable.append(_relative(error, file.ground_truth, name))
    if pixels is None:
        return _Facts(file, tuple(unreadable), ground_truth=truth_facts), None, difference
    facts = _Facts(
        file=file,
        unreadable=tuple(unreadable),
        dtype=pixels.dtype.name,
        shape=pixels.shape,
        minimum=float(pixels.min()),
        maximum=float(pixels.max()),
        # Of the pixels, so that the same picture saved twice is found whatever the format.
        digest=hashlib.blake2b(np.ascontiguousarray(pixels), digest_size=16).digest(),
        ground_truth=truth_facts,
    )
    return facts, pixels, difference


def _relative(error: UserError, path: Path, name: str) -> str:
    return f"{name}: {str(error).removeprefix(f'{path}: ')}"


def _read_ground_truth(path: Path) -> tuple[str, np.ndarray]:
    pixels, second = read_image(path)
    if second is not None:
        raise UserError("two channels, expected the ground truth alone, [H, W]")
    if pixels.dtype == np.uint16:
        raise UserError("uint16, expected an 8-bit mask of 0 and 255, or float healthy - diseased")
    if pixels.dtype == np.float32:
        return "signed", pixels
    if pixels.max() == 1:
        raise UserError("the mask holds 0 and 1, expected 0 and 255; multiply it by 255")
    return "mask", pixels.astype(np.float32) / np.float32(255)


def _ground_truth_facts(name: str, kind: str, difference: np.ndarray) -> _GroundTruthFacts:
    return _GroundTruthFacts(name, kind, difference.shape, float(np.abs(difference).max()))


# ---- what is wrong


def _name(names: Iterable[str], limit: int = _MAX_NAMED) -> str:
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _files(count: int) -> str:
    return f"{count} file{'s' if count != 1 else ''}"


def _raise_problems(root: Path, problems: list[str]) -> None:
    if len(problems) == 1:
        raise UserError(f"data folder {root}: {problems[0]}")
    if problems:
        numbered = "; ".join(f"({number}) {problem}" for number, problem in enumerate(problems, 1))
        raise UserError(f"data folder {root} has {len(problems)} problems: {numbered}")


def _file_problems(facts: list[_Facts], image_size: int) -> list[str]:
    return [
        *_unreadable_problems(facts),
        *_size_problems(facts, image_size),
        *_dtype_problems(facts),
        *_ground_truth_problems(facts),
    ]


def _unreadable_problems(facts: list[_Facts]) -> Iterator[str]:
    reasons = [reason for f in facts for reason in f.unreadable]
    if reasons:
        limit = _MAX_UNREADABLE_NAMED
        more = f"; and {len(reasons) - limit} more" if len(reasons) > limit else ""
        yield f"{_files(len(reasons))} cannot be used: {'; '.join(reasons[:limit])}{more}"


def _size_problems(facts: list[_Facts], image_size: int) -> Iterator[str]:
    shapes = [(f.file.name, f.shape) for f in facts if f.shape]
    shapes += [(f.ground_truth.name, f.ground_truth.shape) for f in facts if f.ground_truth]
    wrong = [(name, shape) for name, shape in dict.fromkeys(shapes) if shape != (image_size, image_size)]
    if not wrong:
        return
    named = _name(f"{name} ({height}x{width})" for name, (height, width) in wrong)
    sizes = {shape for _, shape in wrong}
    height, width = next(iter(sizes))
    is_other_size = len(sizes) == 1 and len(wrong) == len(set(shapes)) and height == width and height % 64 == 0
    advice = f"--image_size={height}" if is_other_size else "the --image_size they have, a multiple of 64"
    expected = f"{image_size}x{image_size} (height x width)"
    yield f"{_files(len(wrong))} not {expected}: {named}; resize the files or pass {advice}"


def _dtype_problems(facts: list[_Facts]) -> Iterator[str]:
    by_dtype = defaultdict(list)
    for f in facts:
        if f.dtype:
            by_dtype[f.dtype].append(f.file.name)
    if len(by_dtype) > 1:
        kinds = [f"{len(names)} {dtype} ({_name(names, 3)})" for dtype, names in sorted(by_dtype.items())]
        yield f"mixed ranges: {' and '.join(kinds)}; save all files of both classes in one dtype and range"


def _ground_truth_problems(facts: list[_Facts]) -> Iterator[str]:
    diseased = [f for f in facts if f.file.label == DISEASED]
    for split in dict.fromkeys(f.file.split for f in diseased):
        in_split = [f for f in diseased if f.file.split == split]
        # One whose ground truth could not be read is reported as that.
        without = [f.file.name for f in in_split if not f.ground_truth and not f.unreadable]
        if without and any(f.ground_truth or f.file.ground_truth for f in in_split):
            yield (
                f"{len(without)} of {len(in_split)} diseased images of {split} have no ground truth: {_name(without)}; "
                f"add {split}/{GROUND_TRUTH_FOLDER}/<same stem>.npy or .png, or remove the others"
            )
    kinds = {f.ground_truth.kind: f.ground_truth.name for f in diseased if f.ground_truth}
    if len(kinds) > 1:
        yield f"ground truth is a mask in {kinds['mask']} but signed in {kinds['signed']}; expected one kind"


def _automatic_scaling(facts: list[_Facts]) -> tuple[Scaling | None, list[str]]:
    read = [f for f in facts if f.dtype]
    dtype = read[0].dtype
    lowest, highest = min(read, key=lambda f: f.minimum), max(read, key=lambda f: f.maximum)
    candidates = [Scaling(0.0, 1.0), Scaling(-1.0, 1.0)]
    if dtype != "float32":
        candidates = [Scaling(0.0, float(np.iinfo(dtype).max))]
    for scaling in candidates:
        if not is_outside(lowest.minimum, highest.maximum, scaling):
            return scaling, list(_mixed_range_problems(read, dtype, scaling))
    return None, [
        "float values are in neither [0, 1] nor [-1, 1]: "
        f"lowest {lowest.minimum:g} in {lowest.file.name}, highest {highest.maximum:g} in {highest.file.name}; "
        "pass the range they come from as --value_range=low,high"
    ]


def _mixed_range_problems(read: list[_Facts], dtype: str, scaling: Scaling) -> Iterator[str]:
    """Some files in [0, 1] among others in [-1, 1], 8 bits in uint16, or fractions that were cast to 0 and 1."""
    smaller = _SMALLER_RANGES[dtype]
    if scaling == smaller:
        return
    # A constant image, such as a black one, is of no range.
    varied = [f for f in read if f.minimum < f.maximum]
    within = [f for f in varied if not is_outside(f.minimum, f.maximum, smaller)]
    if within and len(within) < len(varied):
        beyond = [f for f in varied if is_outside(f.minimum, f.maximum, smaller)]
        groups = [
            f"{_files(len(group))} {place} {smaller} ({_name((f.file.name for f in group), 3)})"
            for group, place in ((within, "within"), (beyond, "beyond"))
        ]
        yield (
            f"mixed ranges: {' and '.join(groups)}; scale all files of both classes alike, or, if they are, "
            f"say so with --value_range={scaling}"
        )


def _range_problems(facts: list[_Facts], scaling: Scaling) -> Iterator[str]:
    outside = [f for f in facts if f.dtype and is_outside(f.minimum, f.maximum, scaling)]
    if outside:
        named = _name(f"{f.file.name} ({f.minimum:g} to {f.maximum:g})" for f in outside)
        yield f"{_files(len(outside))} with values outside --value_range={scaling}: {named}; pass one that holds all"
    truths = [f.ground_truth for f in facts if f.ground_truth and f.ground_truth.kind == "signed"]
    # A difference of two images can be no larger than the range they lie in; 1e-3 for rounding.
    too_large = [t for t in truths if t.largest > (scaling.high - scaling.low) * 1.001]
    if too_large:
        yield (
            f"{len(too_large)} ground truths larger than any difference within {scaling.low:g} to {scaling.high:g}: "
            f"{_name(f'{t.name} ({t.largest:g})' for t in too_large)}; give them in the units of the image files"
        )


# ---- what is suspicious


def _narrow_range_warnings(facts: list[_Facts], scaling: Scaling) -> Iterator[str]:
    whole = scaling.high - scaling.low
    low, high = min(f.minimum for f in facts), max(f.maximum for f in facts)
    if high - low < whole * _NARROW_SHARE:
        yield (
            f"all values lie in {low:g} to {high:g}, {(high - low) / whole:.1%} of the range {scaling.low:g} to "
            f"{scaling.high:g}; if the files have fewer bits (12-bit: 0,4095), pass --value_range=low,high"
        )
    signed = [f.ground_truth.largest for f in facts if f.ground_truth and f.ground_truth.kind == "signed"]
    if signed and max(signed) < whole / 100:
        yield (
            f"the largest ground truth is {max(signed):g}, under 1 % of the image range {scaling.low:g} to "
            f"{scaling.high:g}; is it in the units of the image files?"
        )


def threshold_accuracy(healthy: Sequence[float], diseased: Sequence[float]) -> float:
    """Balanced accuracy of the best single threshold between two sets of numbers: 0.5 knows nothing, 1 everything."""
    healthy, diseased = np.sort(healthy), np.sort(diseased)
    thresholds = np.union1d(healthy, diseased)
    healthy_below = np.searchsorted(healthy, thresholds, side="right") / len(healthy)
    diseased_below = np.searchsorted(diseased, thresholds, side="right") / len(diseased)
    return float(0.5 + np.abs(healthy_below - diseased_below).max() / 2)


def _class_leak_warnings(facts: list[_Facts], splits: Sequence[str]) -> Iterator[str]:
    scopes = {f"in {split}": [f for f in facts if f.file.split == split] for split in splits}
    scopes["over all splits"] = facts
    for statistic in ("minimum", "maximum"):
        leaks = []
        for scope, members in scopes.items():
            healthy = [getattr(f, statistic) for f in members if f.file.label == HEALTHY]
            diseased = [getattr(f, statistic) for f in members if f.file.label == DISEASED]
            if min(len(healthy), len(diseased)) < _MIN_IMAGES_FOR_LEAK:
                continue
            accuracy = threshold_accuracy(healthy, diseased)
            if accuracy > _LEAK_ACCURACY:
                leaks.append(f"{accuracy:.0%} {scope}")
        if leaks:
            yield (
                f"class leak: the {statistic} of an image alone tells its class (accuracy {', '.join(leaks)}); "
                "a network will learn that in place of the disease. Were the classes scaled differently, or per image?"
            )


def _duplicate_warnings(facts: list[_Facts]) -> Iterator[str]:
    by_digest = defaultdict(list)
    for f in facts:
        by_digest[f.digest].append(f.file)
    for aspect, advice in (
        (lambda file: file.split, "different splits; results on them say nothing about new images"),
        (lambda file: file.label, "both classes; which of the two is right?"),
    ):
        groups = [group for group in by_digest.values() if len({aspect(file) for file in group}) > 1]
        if groups:
            named = _name((" = ".join(file.name for file in group[:3]) for group in groups), 3)
            yield f"{len(groups)} pictures lie, with identical content, in {advice} ({named})"


def _summarise(facts: list[_Facts], listing: _Listing, split: str, label: int) -> ClassSummary:
    members = [f for f in facts if f.file.split == split and f.file.label == label]
    has_truth = any(f.ground_truth for f in facts if f.file.split == split)
    return ClassSummary(
        split=split,
        label=label,
        num_images=len(members),
        minimum=min(f.minimum for f in members),
        maximum=max(f.maximum for f in members),
        num_ground_truths=len(members) if has_truth else 0,
        num_ignored=listing.num_ignored[split, label],
    )
