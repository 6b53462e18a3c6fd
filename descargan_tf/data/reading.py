"""The files of a listing, read by several threads: pixels, ground truth, and what the checks must know of each.

Ground truth is given as it is in its file, and what it is decided over a whole split: see `ground_truth`.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from descargan_tf.data import leaks
from descargan_tf.data.images import read_image
from descargan_tf.data.listing import GROUND_TRUTH_FOLDER, File
from descargan_tf.errors import UserError
from descargan_tf.types import HEALTHY

Progress = Callable[[int, int], None]  # called with (files done, files in all)


class GroundTruthFacts(NamedTuple):
    """What is kept of a ground truth after it was read."""

    name: str  # of the file it came from
    is_channel: bool  # the second one of its image, which is a signed difference by the format
    dtype: str
    shape: tuple[int, int]
    smallest: float
    largest: float
    is_two_valued: bool  # no value but 0 and a positive one
    is_whole: bool  # no values but 0, 1, 2, ..., as labels are
    marked: float  # share of the pixels that are not 0
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
    ground_truth_problem: str | None = None  # why it could not be read, where there is one
    statistics: leaks.Statistics | None = None
    without_disease: tuple[leaks.Statistics, ...] = ()  # where ground truth says what they would be


# One reads while the other looks at pixels; more wait for Python's lock: eight took twice as long, on two cores.
NUM_THREADS = 2


def read_all(
    files: Sequence[File], num_threads: int, progress: Progress | None, measured: bool = True
) -> Iterator[tuple[Facts, np.ndarray | None, np.ndarray | None]]:
    """Yield facts, pixels and raw ground truth of each file, in order, a chunk at a time so as not to hold them all.

    Where they are not to be `measured`, facts are without statistics and digest, which take most of the time.
    """
    read = functools.partial(_read, measured=measured)
    chunk = 16 * num_threads
    with ThreadPoolExecutor(num_threads) as pool:
        for start in range(0, len(files), chunk):
            for offset, result in enumerate(pool.map(read, files[start : start + chunk])):
                if progress:
                    progress(start + offset + 1, len(files))
                yield result


def _read(file: File, measured: bool) -> tuple[Facts, np.ndarray | None, np.ndarray | None]:
    unreadable = []
    pixels = difference = truth_facts = truth_problem = None
    try:
        pixels, difference = read_image(file.path)
        if difference is not None:
            truth_facts = _ground_truth_facts(file.name, difference, is_channel=True)
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
            difference = _read_ground_truth(file.ground_truth)
            truth_facts = _ground_truth_facts(name, difference, is_channel=False)
        except UserError as error:
            truth_problem, truth_facts, difference = _relative(error, file.ground_truth, name), None, None
    if pixels is None:
        return Facts(file, tuple(unreadable), ground_truth=truth_facts), None, difference
    is_known = measured and difference is not None and difference.shape == pixels.shape
    facts = Facts(
        file=file,
        unreadable=tuple(unreadable),
        dtype=pixels.dtype.name,
        shape=pixels.shape,
        minimum=float(pixels.min()),
        maximum=float(pixels.max()),
        digest=_digest(pixels) if measured else None,
        ground_truth=truth_facts,
        ground_truth_problem=truth_problem,
        statistics=leaks.statistics_of(pixels) if measured else None,
        without_disease=tuple(leaks.without_disease(pixels, difference)) if is_known else (),
    )
    return facts, pixels, difference


def _relative(error: UserError, path: Path, name: str) -> str:
    return f"{name}: {str(error).removeprefix(f'{path}: ')}"


def _read_ground_truth(path: Path) -> np.ndarray:
    pixels, second = read_image(path, takes_integers=True)
    if second is not None:
        raise UserError("two channels, expected the ground truth alone, [H, W]")
    return pixels


def _ground_truth_facts(name: str, values: np.ndarray, is_channel: bool) -> GroundTruthFacts:
    largest = values.max()
    return GroundTruthFacts(
        name=name,
        is_channel=is_channel,
        dtype=values.dtype.name,
        shape=values.shape,
        smallest=float(values.min()),
        largest=float(largest),
        is_two_valued=bool(largest >= 0 and np.all((values == 0) | (values == largest))),
        is_whole=bool(values.min() >= 0 and np.all(values == np.floor(values))),
        marked=float(np.mean(values != 0)),
        digest=_digest(values),
    )


def _digest(array: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(array), digest_size=16).digest()
