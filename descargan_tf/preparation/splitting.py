"""Who is trained with and who is tested on: decided by patient, so that nobody is on both sides."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from descargan_tf.errors import UserError
from descargan_tf.preparation.sources import RawImage
from descargan_tf.types import CLASS_NAMES

TRAIN = "train"
DRAWN = ("test", "validate")  # the order matters: each takes from what the one before it left


class Splitting(NamedTuple):
    """Images with their splits, and what had to be left out for it."""

    images: list[RawImage]  # in the order given; every one has a split
    left_out: list[str]  # sources; of patients whose further images fit neither the numbers asked for nor training


def patient_of(image: RawImage) -> str:
    """Who an image is of; where that is not known, the file stands for a patient of its own."""
    return image.patient or f"file {image.source.partition('#')[0]}"


def split_by_patient(images: Sequence[RawImage], wanted: Mapping[str, int], data_seed: int) -> Splitting:
    """Give every image a split; those that the source gave stay, and a split that it gave to none is drawn.

    The draw depends on `data_seed` and on the images' names alone: not on their order, nor on a pseudonym's key.

    Args:
        images: from a source.
        wanted: images of each class in "validate" and "test".
        data_seed: of the draw.

    Raises:
        UserError: a patient in two splits that were given, or too few images or patients; says how many there are.
    """
    _refuse_shared_patients(images)
    given = {image.split for image in images} - {None, TRAIN}
    groups: dict[str, list[int]] = {}
    for position in sorted(range(len(images)), key=lambda position: images[position].source):
        if images[position].split in (None, TRAIN):
            groups.setdefault(patient_of(images[position]), []).append(position)
    patients = list(groups.values())  # by the first of their names
    order = np.random.default_rng(data_seed).permutation(len(patients))
    left = [patients[number] for number in order]
    chosen: dict[int, str | None] = {position: TRAIN for group in left for position in group}
    for split in (split for split in DRAWN if split not in given):
        taken, left = _take(left, images, split, wanted[split])
        for position, is_kept in taken.items():
            chosen[position] = split if is_kept else None
    _refuse_empty_classes(images, chosen, wanted, given)
    result, left_out = [], []
    for position, image in enumerate(images):
        split = chosen.get(position, image.split)
        if split is None:
            left_out.append(image.source)
        else:
            result.append(image._replace(split=split))
    return Splitting(result, left_out)


def _take(patients, images, split, wanted):
    """Patients until each class has as many images as are wanted; what of theirs is kept, and whose turn comes next.

    First those all of whose images fit in, so that few images are lost.
    """
    need = dict.fromkeys(range(len(CLASS_NAMES)), wanted)
    taken: dict[int, bool] = {}
    for may_lose in (False, True):
        left = []
        for group in patients:
            counts = Counter(images[position].label for position in group)
            is_of_use = any(need[label] > 0 for label in counts)
            if is_of_use and (may_lose or all(count <= need[label] for label, count in counts.items())):
                for position in group:
                    label = images[position].label
                    taken[position] = need[label] > 0
                    need[label] -= taken[position]
            else:
                left.append(group)
        patients = left
    lacking = [label for label, count in need.items() if count > 0]
    if lacking:
        raise UserError(f"{_too_few(images, lacking[0], split, wanted)}: ask for fewer, or give more images.")
    return taken, patients


def _too_few(images, label, split, wanted):
    pool = [image for image in images if image.label == label and image.split in (None, TRAIN)]
    patients = len({patient_of(image) for image in pool})
    return (
        f"--num_{split}={wanted} of each class, but too few are {CLASS_NAMES[label]}: {len(pool)} images of {patients} "
        "patients for all splits that are to be drawn"
    )


def _refuse_empty_classes(images, chosen, wanted, given):
    counts = Counter((chosen.get(position, image.split), image.label) for position, image in enumerate(images))
    for split in (TRAIN, *given):
        for label, name in enumerate(CLASS_NAMES):
            if not counts[split, label]:
                drawn = " ".join(f"--num_{other}={wanted[other]}" for other in reversed(DRAWN) if other not in given)
                reason = f"; {drawn} of each class left none" if split == TRAIN and drawn else ""
                raise UserError(f"no image of class {name} is in split {split}{reason}: there must be one at least.")


def _refuse_shared_patients(images):
    seen: dict[str, RawImage] = {}
    for image in images:
        if not image.patient:
            continue
        first = seen.setdefault(image.patient, image)
        if (first.split or TRAIN) != (image.split or TRAIN):
            raise UserError(
                f"patient {image.patient} is in two splits, {first.split or TRAIN} ({first.source}) and "
                f"{image.split or TRAIN} ({image.source}): what is tested on must not be trained with."
            )
