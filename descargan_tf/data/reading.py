"""The files of a listing, read by several threads: pixels, ground truth, and what the checks must know of each.

A float ground truth is healthy - diseased in the units of the image files; an 8-bit one is a mask, 0 or 255, and
becomes 0 or 1.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from descargan_tf.data.images import read_image
from descargan_tf.data.listing import GROUND_TRUTH_FOLDER, File
from descargan_tf.errors import UserError
from descargan_tf.types import HEALTHY

Progress = Callable[[int, int], None]  # called with (files done, files in all)


class GroundTruthFacts(NamedTuple):
    """What is kept of a ground truth after it was read."""

    name: str  # of the file it came from
    kind: str  # "signed" or "mask"
    shape: tuple[int, int]
    largest: float  # absolute value
    digest: bytes  # as that of an image


class Facts(NamedTuple):
    """What is kept of a file after it was read; None and () where it could not be read."""

    file: File
    unreadable: tuple[str, ...] = ()
    dtype: str | None = None
    shape: tuple[int, int] | None = None
    minimum: float | None = None
    maximum: float | None = None
    digest: bytes | None = None  # of the pixels, so that the same picture is known again whatever the format
    ground_truth: GroundTruthFacts | None = None


def read_all(
    files: Sequence[File], num_threads: int, progress: Progress | None
) -> Iterator[tuple[Facts, np.ndarray | None, np.ndarray | None]]:
    """Yield facts, pixels and raw ground truth of each file, in order, a chunk at a time so as not to hold them all."""
    chunk = 16 * num_threads
    with ThreadPoolExecutor(num_threads) as pool:
        for start in range(0, len(files), chunk):
            for offset, result in enumerate(pool.map(_read, files[start : start + chunk])):
                if progress:
                    progress(start + offset + 1, len(files))
                yield result


def _read(file: File) -> tuple[Facts, np.ndarray | None, np.ndarray | None]:
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
        return Facts(file, tuple(unreadable), ground_truth=truth_facts), None, difference
    facts = Facts(
        file=file,
        unreadable=tuple(unreadable),
        dtype=pixels.dtype.name,
        shape=pixels.shape,
        minimum=float(pixels.min()),
        maximum=float(pixels.max()),
        digest=_digest(pixels),
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


def _ground_truth_facts(name: str, kind: str, difference: np.ndarray) -> GroundTruthFacts:
    return GroundTruthFacts(name, kind, difference.shape, float(np.abs(difference).max()), _digest(difference))


def _digest(array: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(array), digest_size=16).digest()
