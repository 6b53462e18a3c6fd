"""What is wrong with a data set, and what is suspicious: sentences from what was read of its files."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from descargan_tf.data.images import Scaling, is_outside
from descargan_tf.data.reading import Facts
from descargan_tf.errors import UserError
from descargan_tf.names import name_some

_MAX_UNREADABLE_NAMED = 10
# An image that stays in the smaller range while others leave it was probably scaled another way.
_SMALLER_RANGES = {"float32": Scaling(0.0, 1.0), "uint16": Scaling(0.0, 255.0), "uint8": Scaling(0.0, 1.0)}
_NARROW_SHARE = 1 / 8  # of the value range in use, below which the range is probably not meant


def raise_problems(root: Path, problems: list[str]) -> None:
    """One UserError with all problems, if there are any."""
    if len(problems) == 1:
        raise UserError(f"data folder {root}: {problems[0]}")
    if problems:
        numbered = "; ".join(f"({number}) {problem}" for number, problem in enumerate(problems, 1))
        raise UserError(f"data folder {root} has {len(problems)} problems: {numbered}")


def file_problems(facts: list[Facts], image_size: int) -> list[str]:
    """What is wrong with the files whatever their values mean."""
    return [
        *_unreadable_problems(facts),
        *_size_problems(facts, image_size),
        *_dtype_problems(facts),
    ]


def automatic_scaling(facts: list[Facts]) -> tuple[Scaling | None, list[str]]:
    """The value range that the files' dtype and values speak for, or None, and what speaks against it."""
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


def range_problems(facts: list[Facts], scaling: Scaling) -> Iterator[str]:
    """Files whose values are not within a value range."""
    outside = [f for f in facts if f.dtype and is_outside(f.minimum, f.maximum, scaling)]
    if outside:
        named = name_some(f"{f.file.name} ({f.minimum:g} to {f.maximum:g})" for f in outside)
        yield f"{_files(len(outside))} with values outside --value_range={scaling}: {named}; pass one that holds all"


# ---- problems


def _unreadable_problems(facts: list[Facts]) -> Iterator[str]:
    reasons = [reason for f in facts for reason in f.unreadable]
    if reasons:
        limit = _MAX_UNREADABLE_NAMED
        more = f"; and {len(reasons) - limit} more" if len(reasons) > limit else ""
        yield f"{_files(len(reasons))} cannot be used: {'; '.join(reasons[:limit])}{more}"


def _size_problems(facts: list[Facts], image_size: int) -> Iterator[str]:
    shapes = [(f.file.name, f.shape) for f in facts if f.shape]
    wrong = [(name, shape) for name, shape in dict.fromkeys(shapes) if shape != (image_size, image_size)]
    if not wrong:
        return
    named = name_some(f"{name} ({height}x{width})" for name, (height, width) in wrong)
    sizes = {shape for _, shape in wrong}
    height, width = next(iter(sizes))
    is_other_size = len(sizes) == 1 and len(wrong) == len(set(shapes)) and height == width and height % 64 == 0
    advice = f"--image_size={height}" if is_other_size else "the --image_size they have, a multiple of 64"
    expected = f"{image_size}x{image_size} (height x width)"
    yield f"{_files(len(wrong))} not {expected}: {named}; resize the files or pass {advice}"


def _dtype_problems(facts: list[Facts]) -> Iterator[str]:
    by_dtype = defaultdict(list)
    for f in facts:
        if f.dtype:
            by_dtype[f.dtype].append(f.file.name)
    if len(by_dtype) > 1:
        kinds = [f"{len(names)} {dtype} ({name_some(names, 3)})" for dtype, names in sorted(by_dtype.items())]
        yield f"mixed ranges: {' and '.join(kinds)}; save all files of both classes in one dtype and range"


def _mixed_range_problems(read: list[Facts], dtype: str, scaling: Scaling) -> Iterator[str]:
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
            f"{_files(len(group))} {place} {smaller} ({name_some((f.file.name for f in group), 3)})"
            for group, place in ((within, "within"), (beyond, "beyond"))
        ]
        yield (
            f"mixed ranges: {' and '.join(groups)}; scale all files of both classes alike, or, if they are, "
            f"say so with --value_range={scaling}"
        )


# ---- what is suspicious


def narrow_range_findings(facts: list[Facts], scaling: Scaling, differences: Collection[str]) -> Iterator[str]:
    """Values that fill little of the value range; so do ground truths of the images named in `differences`."""
    whole = scaling.high - scaling.low
    low, high = min(f.minimum for f in facts), max(f.maximum for f in facts)
    if high - low < whole * _NARROW_SHARE:
        yield (
            f"all values lie in {low:g} to {high:g}, {(high - low) / whole:.1%} of the range {scaling.low:g} to "
            f"{scaling.high:g}; if the files have fewer bits (12-bit: 0,4095), pass --value_range=low,high"
        )
    sizes = [max(f.ground_truth.largest, -f.ground_truth.smallest) for f in facts if f.file.name in differences]
    if sizes and 0 < max(sizes) < whole / 100:
        yield (
            f"the largest ground truth is {max(sizes):g}, under 1 % of the image range {scaling.low:g} to "
            f"{scaling.high:g}; is it in the units of the image files?"
        )


def duplicate_findings(facts: list[Facts]) -> Iterator[str]:
    """The same picture in several splits, or in both classes."""
    by_digest = defaultdict(list)
    for f in facts:
        by_digest[f.digest].append(f.file)
    for aspect, advice in (
        (lambda file: file.split, "different splits; results on them say nothing about new images"),
        (lambda file: file.label, "both classes; which of the two is right?"),
    ):
        groups = [group for group in by_digest.values() if len({aspect(file) for file in group}) > 1]
        if groups:
            named = name_some((" = ".join(file.name for file in group[:3]) for group in groups), 3)
            yield f"{len(groups)} pictures lie, with identical content, in {advice} ({named})"


# ---- words


def _files(count: int) -> str:
    return f"{count} file{'s' if count != 1 else ''}"
