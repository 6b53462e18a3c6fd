"""What a split's ground truth is, which images have one, and what to say of it. It stops nothing but pixel measures.

A mask says which pixels disease has changed; a signed difference, healthy - diseased in the units of the images, says
by how much and in which direction as well. `--ground_truth=auto` tells them apart over the whole split: 8-bit files are
masks, and so are others without any value but 0 and one positive one. A pixel is marked where its mask is not 0.
"""

from collections.abc import Sequence
from typing import NamedTuple

from descargan_tf.data.images import Scaling
from descargan_tf.data.listing import GROUND_TRUTH_FOLDER
from descargan_tf.data.reading import Facts, GroundTruthFacts
from descargan_tf.names import name_some
from descargan_tf.types import DIFFERENCE, DISEASED, MASK

AUTO = "auto"
KINDS = (AUTO, MASK, DIFFERENCE)  # of --ground_truth
_SMALL_RANGE = 2.0  # of images, -1 to 1 or 0 to 1, whose differences are fractions
_MOSTLY = 0.5  # share of the pixels above which masks are probably inverted
_TITLES = {MASK: "masks", DIFFERENCE: "signed differences"}


class GroundTruth(NamedTuple):
    """What is known of a split."""

    kind: str  # MASK or DIFFERENCE
    why: str
    images: frozenset[str]  # names of the diseased images that have one which can be used
    is_empty: bool  # whether all of those are 0 everywhere
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        return f"{_TITLES[self.kind]} ({self.why})"


def of_split(facts: Sequence[Facts], split: str, image_size: int, scaling: Scaling, asked: str) -> GroundTruth | None:
    """What the ground truth of a split is; None where it has none at all.

    Args:
        facts: of the files of the data set, of this split or more.
        split: its name.
        image_size: pixels a side.
        scaling: of the images, whose units a signed difference has.
        asked: a member of KINDS.
    """
    diseased = [f for f in facts if f.file.split == split and f.file.label == DISEASED]
    read = [f.ground_truth for f in diseased if f.ground_truth]
    unusable = {f.file.name: f.ground_truth_problem for f in diseased if f.ground_truth_problem}
    if not read and not unusable:
        return None
    kind, why = (asked, f"--ground_truth={asked}") if asked != AUTO else _kind_of(read)
    for f in diseased:
        reason = f.ground_truth and _why_unusable(f.ground_truth, kind, image_size, scaling, asked)
        if reason:
            unusable[f.file.name] = f"{f.ground_truth.name}: {reason}"
    usable = {f.file.name: f.ground_truth for f in diseased if f.ground_truth and f.file.name not in unusable}
    warnings = [
        *_unusable_warnings(unusable, split),
        *_missing_warnings([f.file.name for f in diseased if f.file.name not in usable], len(diseased), split),
        *(_mask_warnings(list(usable.values()), split) if kind == MASK else ()),
        *_empty_warnings(list(usable.values()), split, kind),
        *(_like_masks_warnings(list(usable.values()), split, scaling) if (kind, asked) == (DIFFERENCE, AUTO) else ()),
    ]
    is_empty = not any(truth.marked for truth in usable.values())
    return GroundTruth(kind, why, frozenset(usable), is_empty, tuple(warnings))


def several_kinds_warnings(truths: dict[str, GroundTruth | None]) -> list[str]:
    """Splits whose ground truths cannot be compared."""
    known = {split: truth for split, truth in truths.items() if truth and not truth.is_empty}
    if len({truth.kind for truth in known.values()}) < 2:
        return []
    named = ", ".join(f"{split}: {truth}" for split, truth in known.items())
    return [f"the splits have ground truths of two kinds ({named}); say what they are with --ground_truth=mask"]


def _kind_of(read: list[GroundTruthFacts]) -> tuple[str, str]:
    if any(truth.is_channel for truth in read):
        return DIFFERENCE, "the images' second channel"
    if not read:
        return MASK, "none can be read"
    others = [truth for truth in read if truth.dtype != "uint8"]
    if not others:
        return MASK, "8-bit files"
    values = {truth.largest for truth in others if truth.largest or truth.smallest}
    if len(values) == 1 and all(truth.is_two_valued for truth in others):
        return MASK, f"no values but 0 and {values.pop():g}"
    if not values and len(others) < len(read):
        return MASK, "8-bit files, all others 0"
    if not values:
        return DIFFERENCE, "all values are 0"
    return DIFFERENCE, "more values than 0 and a positive one"


def _why_unusable(truth, kind, image_size, scaling, asked):
    height, width = truth.shape
    if truth.shape != (image_size, image_size):
        return f"{height}x{width}, expected {image_size}x{image_size}"
    if kind == MASK:
        return None
    if asked == AUTO and truth.dtype == "uint8":
        return "an 8-bit mask among signed differences; --ground_truth=mask takes all of them for masks"
    if asked == AUTO and truth.dtype == "uint16":
        return "16-bit with more than two values; say what it is with --ground_truth=mask or --ground_truth=difference"
    # A difference of two images can be no larger than the range they lie in; 1e-3 for rounding.
    largest = max(truth.largest, -truth.smallest)
    if largest > (scaling.high - scaling.low) * 1.001:
        return (
            f"{largest:g} is larger than any difference within {scaling.low:g} to {scaling.high:g}; give it in the "
            "units of the image files, or say --ground_truth=mask"
        )
    return None


def _unusable_warnings(unusable, split):
    if unusable:
        more = f"; and {len(unusable) - 5} more" if len(unusable) > 5 else ""
        reasons = "; ".join(list(unusable.values())[:5])
        yield f"{len(unusable)} ground truths of {split} cannot be used: {reasons}{more}"


def _missing_warnings(without, total, split):
    if len(without) == total:
        yield f"no diseased image of {split} has a usable ground truth: pixel measures are not available there"
    elif without:
        yield (
            f"{len(without)} of {total} diseased images of {split} have no ground truth: {name_some(without)}; pixel "
            f"measures are over the {total - len(without)} others (expected {split}/{GROUND_TRUTH_FOLDER}/<same stem>"
            ".npy, .png or .tif)"
        )


def _mask_warnings(usable, split):
    several = [truth.name for truth in usable if not truth.is_two_valued]
    if several:
        yield (
            f"{len(several)} masks of {split} hold more values than 0 and one other ({name_some(several)}): every "
            "pixel that is not 0 counts as marked"
        )
    share = sum(truth.marked for truth in usable) / len(usable) if usable else 0
    if share > _MOSTLY:
        yield f"the masks of {split} mark {share:.0%} of the pixels: are they inverted? Not 0 means diseased"


def _like_masks_warnings(usable, split, scaling):
    """Of differences that are probably none: labels from 0 up, or one value in each file and not the same in all."""
    own = [truth for truth in usable if truth.marked and not truth.is_channel]
    if own and all(truth.is_two_valued for truth in own):
        what = "0 and one positive value each"
    elif own and all(truth.is_whole for truth in own) and scaling.high - scaling.low <= _SMALL_RANGE:
        what = f"no values but whole numbers up to {max(truth.largest for truth in own):g}"
    else:
        return
    yield f"the signed differences of {split} hold {what}: are they masks? Then say --ground_truth=mask"


def _empty_warnings(usable, split, kind):
    empty = [truth.name for truth in usable if not truth.marked]
    if empty and len(empty) == len(usable):
        yield f"every ground truth of {split} is 0 everywhere: pixel measures are not available there"
    elif empty and kind == MASK:
        yield f"{len(empty)} of {len(usable)} masks of {split} mark no pixel: {name_some(empty)}"
