"""Raw files to a prepared data set: planned, spread over cores, gone on with after a kill, every bad file named.

What is not finished lies in <data_dir>/.preparing and is removed at the end: the plan, the key of pseudonyms, and for
each shard that is done a file that says so, what failed in it and which masks are lost.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import multiprocessing
import secrets
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np

from descargan_tf import locks, processes, signals
from descargan_tf.data import prepared
from descargan_tf.data.images import Scaling, is_outside, parse_value_range
from descargan_tf.errors import UserError
from descargan_tf.files import reading, reason, write_atomically
from descargan_tf.names import one_line
from descargan_tf.preparation import sources
from descargan_tf.preparation.fitting import fit_in_range, fit_mask
from descargan_tf.preparation.sources import Listing, Options, RawImage
from descargan_tf.preparation.splitting import Splitting, patient_of, split_by_patient
from descargan_tf.types import CLASS_NAMES, MASK, SPLITS

WORK = ".preparing"
FAILED = "failed.txt"  # in a data set that is complete: a line for each file that is not in it

_PLAN = "plan.json"
_BEING_PREPARED = "{{holder}} is preparing {}: wait for it, or end it first."
_GO_ON = "what is prepared stays, and the same command goes on from there"

Progress = Callable[[int, int], None]  # called with (images done, images in all)
Report = Callable[[str], None]  # called with a line for each file that failed


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a data set is prepared, beside what its source is told."""

    source: str  # a key of sources.SOURCES
    fit: str  # a member of fitting.FITS
    num_validate: int  # images of each class, where the source gives no splits
    num_test: int
    data_seed: int
    strict: bool = False  # stop at the first file that fails


class Plan(NamedTuple):
    """What will be prepared."""

    listing: Listing
    splitting: Splitting

    def counts(self) -> Counter:
        """Images by split and label."""
        return Counter((image.split, image.label) for image in self.splitting.images)

    def lines(self) -> list[str]:
        """Say what was found, a table of images and patients, and what is left out."""
        patients = {place: set() for place in self.counts()}
        for image in self.splitting.images:
            patients[image.split, image.label].add(patient_of(image))
        beside = self.listing.beside
        unknown = sum(not image.patient for image in self.splitting.images)
        return [
            *self.listing.notes,
            *([f"{unknown} images of which no patient is known: each file counts as one"] if unknown else []),
            *(
                f"{split} {name}: {len_images} images of {len(patients[split, label])} patients"
                + (f" ({beside[split, label]})" if (split, label) in beside else "")
                for split in SPLITS
                for label, name in enumerate(CLASS_NAMES)
                if (len_images := self.counts()[split, label])
            ),
            *(
                [f"left out: {len(self.splitting.left_out)} further images of patients in validate or test"]
                if self.splitting.left_out
                else []
            ),
        ]


class Result(NamedTuple):
    """What a preparation made."""

    counts: Mapping[tuple[str, int], int]  # images by split and label
    missing: Mapping[tuple[str, int], int]  # images that were planned and failed, likewise
    failures: list[str]  # a line each; what slices of a volume say alike is one
    lost_masks: list[str]  # sources of images whose mask marks something, but less than half of any pixel by now


class _Done(NamedTuple):
    """What a shard came to, beside its images."""

    failed: list[str]  # a line each
    lost_masks: list[str]  # sources


class _Shard(NamedTuple):
    split: str
    label: int
    number: int
    images: list[RawImage]

    @property
    def name(self):
        return f"{self.split}-{CLASS_NAMES[self.label]}-{self.number:05d}"


class _Work(NamedTuple):
    """What a worker is told once."""

    data_dir: Path
    options: Options
    settings: Settings


class _Stop(Exception):
    """Somebody has ended the whole: a worker leaves its shard."""


def make_plan(root: Path, options: Options, settings: Settings) -> Plan:
    """List the source and draw the splits; nothing is written.

    Raises:
        UserError: the source has nothing that can be used, or too little for what is asked.
    """
    if not root.is_dir():
        problem = "is no folder" if root.exists() else "does not exist"
        raise UserError(f"--input={root} {problem}: name the folder of the raw files.")
    sources.refuse_unheard(settings.source, options)
    parse_value_range(options.value_range)
    with reading(root):
        listing = sources.load(settings.source).list(root, options)
    if settings.strict and listing.problems:
        raise UserError(f"{listing.problems[0]} (--strict)")
    if not listing.images:
        first = f", {listing.problems[0]}" if listing.problems else ""
        raise UserError(
            f"--input={root}: no image that can be used; {len(listing.problems)} files failed{first}"
            + "".join(f"; {note}" for note in listing.notes)
        )
    wanted = {"validate": settings.num_validate, "test": settings.num_test}
    try:
        return Plan(listing, split_by_patient(listing.images, wanted, settings.data_seed))
    except UserError as error:
        if not (count := len(listing.problems)):
            raise
        raise UserError(f"{error} {count} files failed before, as this one: {listing.problems[0]}") from error


def prepare(
    root: Path,
    data_dir: Path,
    options: Options,
    settings: Settings,
    num_workers: int | None = None,
    said: Callable[[str], None] = print,
    failed: Report = print,
    progress: Progress | None = None,
) -> Result:
    """Prepare a data set, or go on where a preparation with the same settings was ended.

    Args:
        root: of the raw files.
        data_dir: must not exist, be empty, or hold what an ended preparation left.
        options: what the source is told; where it has no key, one is drawn that nobody knows afterwards.
        settings: what else is asked.
        num_workers: processes; all cores by default. Any number gives the same bytes.
        said: takes a line of what was found.
        failed: takes the line of a file that failed.
        progress: called with (images done, images in all).

    Raises:
        UserError: as `make_plan`; `data_dir` holds something else, or cannot be written; a file failed under `strict`.
    """
    work = data_dir / WORK
    _refuse_other_content(data_dir)
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--data_dir={data_dir} cannot be written: {reason(error)}") from error
    with locks.alone_in(work, _BEING_PREPARED.format(data_dir)), signals.leaving(_GO_ON):
        options = dataclasses.replace(options, key=options.key or _key(work))
        try:
            plan = make_plan(root, options, settings)
        except UserError:
            _leave_no_trace(work)
            raise
        _refuse_other_plan(work, root, plan, options, settings)
        for line in plan.lines():
            said(line)
        for problem in plan.listing.problems:
            failed(problem)
        shards = _shards(plan, options.image_size)
        failures = [*plan.listing.problems]
        before = sum(len(shard.images) for shard in shards if _is_done(work, shard))
        if before:
            said(f"goes on: {before} of {len(plan.splitting.images)} images were done before")
        counts, missing, lost_masks = Counter(plan.counts()), Counter(), []
        told = set(failures)
        for shard, done in _run(
            _Work(data_dir, options, settings), shards, num_workers or processes.num_cores(), progress
        ):
            missing[shard.split, shard.label] += len(done.failed)
            lost_masks += done.lost_masks
            for line in (line for line in done.failed if line not in told):  # slices of a volume say the same of it
                told.add(line)
                failures.append(line)
                failed(line)
            if settings.strict and done.failed:
                raise UserError(f"{done.failed[0]} (--strict; {_GO_ON} without it)")
        counts -= missing
        _refuse_empty(counts, plan)
        result = Result(counts, missing, failures, sorted(lost_masks))
        _finish(data_dir, plan, options, settings, result)
    shutil.rmtree(work)
    return result


# ---- what is there already


def _refuse_other_content(data_dir):
    if prepared.is_complete(data_dir):
        shutil.rmtree(data_dir / WORK, ignore_errors=True)  # of a preparation that was killed at its very end
        raise UserError(
            f"--data_dir={data_dir} holds a prepared data set, and nothing is written over: name another folder, or "
            "remove it first."
        )
    if data_dir.exists() and not (data_dir / WORK).is_dir() and (not data_dir.is_dir() or any(data_dir.iterdir())):
        raise UserError(
            f"--data_dir={data_dir} already holds something, and nothing is written over: name a folder that does not "
            "exist, or remove this one."
        )


def _leave_no_trace(work):
    """Of a preparation that was refused before it began."""
    if not (work / _PLAN).exists():
        shutil.rmtree(work, ignore_errors=True)
        with contextlib.suppress(OSError):  # it held something before
            work.parent.rmdir()


def _key(work):
    """The key of pseudonyms: random, the same until the data set is complete, and gone then."""
    path = work / "key"
    with reading(path):
        if not path.exists():
            write_atomically(path, secrets.token_bytes(32))
            path.chmod(0o600)
        return path.read_bytes()


def _refuse_other_plan(work, root, plan, options, settings):
    images = [
        [image.source, image.label, image.split, image.patient, str(image.ground_truth)]
        for image in plan.splitting.images
    ]
    digest = hashlib.sha256(json.dumps(images).encode()).hexdigest()
    now = {"input": str(root.resolve()), **_asked(options, settings), "images": digest}
    path = work / _PLAN
    with reading(path):
        if not path.exists():
            write_atomically(path, json.dumps(now).encode())
        try:
            before = json.loads(path.read_bytes())
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}): remove {work.parent} and begin again.") from error
    if before == now:
        return
    differing = [f"--{name} was {before.get(name)} and is {now[name]}" for name in now if before.get(name) != now[name]]
    if differing[0].startswith("--images"):
        differing = ["what lies in --input has changed since"]
    raise UserError(
        f"--data_dir={work.parent} holds the beginning of another preparation: "
        f"{'; '.join(line for line in differing if not line.startswith('--images'))}. Give the same flags to go on, or "
        "name another folder."
    )


def _asked(options, settings):
    """What was asked for, by flag: not what the source does not listen to, nor --strict, which changes no data set."""
    listened_to = ("image_size", *sources.SOURCES[settings.source].options)
    asked = {**{name: getattr(options, name) for name in listened_to}, **dataclasses.asdict(settings)}
    return {name: value for name, value in asked.items() if name != "strict"}


# ---- shards and workers


def _shards(plan: Plan, image_size: int) -> list[_Shard]:
    by_place: dict[tuple[str, int], list[RawImage]] = {}
    for image in sorted(plan.splitting.images, key=lambda image: image.source):
        by_place.setdefault((image.split, image.label), []).append(image)
    step = prepared.images_per_shard(image_size)  # a worker holds a shard in memory until it is written
    return [
        _Shard(split, label, start // step, by_place[split, label][start : start + step])
        for split, label in sorted(by_place)
        for start in range(0, len(by_place[split, label]), step)
    ]


def _done_file(work, shard):
    return work / f"{shard.name}.json"


def _is_done(work, shard):
    return _done_file(work, shard).exists()


def _run(
    work: _Work, shards: Sequence[_Shard], num_workers: int, progress: Progress | None
) -> Iterator[tuple[_Shard, _Done]]:
    """Yield each shard, once it is done, with what it came to."""
    total = sum(len(shard.images) for shard in shards)
    before, missing = 0, []
    for shard in shards:
        if _is_done(work.data_dir / WORK, shard):
            before += len(shard.images)
            yield shard, _Done(**json.loads(_done_file(work.data_dir / WORK, shard).read_bytes()))
        else:
            missing.append(shard)

    def tell(count):
        if progress:
            progress(before + count, total)

    tell(0)
    if min(num_workers, len(missing)) > 1:
        yield from _run_in_processes(work, missing, min(num_workers, len(missing)), tell)
        return
    counter = itertools.count(1)
    for shard in missing:  # a process of its own would take longer to start
        yield shard, _prepare_shard(work, shard, lambda: tell(next(counter)))


def _run_in_processes(work, shards, num_workers, tell):
    # spawn: the caller may hold TensorFlow's threads, which a fork would not copy.
    context = multiprocessing.get_context("spawn")
    counter, stop = context.Value("q", 0), context.Event()
    with ProcessPoolExecutor(num_workers, context, _begin, (work, counter, stop)) as pool:
        futures = {pool.submit(_prepare_in_worker, shard): shard for shard in shards}
        waiting = set(futures)
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                tell(counter.value)
                for future in done:
                    yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise UserError(
                f"a process that prepares images was ended from outside, as by a system short of memory: {_GO_ON}; "
                "with fewer cores (taskset -c 0) it takes less."
            ) from error
        finally:
            stop.set()
            for future in futures:
                future.cancel()


class _Worker:
    """What a worker process keeps from its beginning."""

    work: _Work
    one_more: Callable[[], None]


def _begin(work, counter, stop):
    signals.end_with_parent()

    def one_more():
        if stop.is_set():
            raise _Stop
        with counter.get_lock():
            counter.value += 1

    _Worker.work, _Worker.one_more = work, staticmethod(one_more)


def _prepare_in_worker(shard):
    return _prepare_shard(_Worker.work, shard, _Worker.one_more)


def _prepare_shard(work: _Work, shard: _Shard, one_more: Callable[[], None]) -> _Done:
    """Read, fit and write."""
    source = sources.load(work.settings.source)
    rows, done, shape = [], _Done([], []), (len(shard.images), *[work.options.image_size] * 2)
    images, masks = np.empty(shape, np.uint16), None  # written into, as a stack of them all would be a second copy
    for image in shard.images:
        try:
            with warnings.catch_warnings(action="ignore"):  # decoders' of damaged files, which fail or not
                pixels, mask, row, is_lost = _prepare_image(source, image, work.options, work.settings)
            done.lost_masks.extend([image.source] * is_lost)
            images[len(rows)] = pixels
            if mask is not None:
                masks = np.zeros(shape, np.uint8) if masks is None else masks
                masks[len(rows)] = mask
            rows.append(row)
        except UserError as error:
            is_named = str(image.path) in str(error) or image.source in str(error)
            done.failed.append(one_line(error if is_named else f"{image.source}: {error}"))
        except (OSError, MemoryError) as error:
            done.failed.append(one_line(f"{image.source}: cannot be read: {error or type(error).__name__}"))
        one_more()
    if rows:
        masks = None if masks is None else masks[: len(rows)]
        prepared.write_shard(work.data_dir, *shard[:3], images[: len(rows)], masks, rows)
    # Behind the shard, as it says that the shard is there.
    write_atomically(_done_file(work.data_dir / WORK, shard), json.dumps(done._asdict()).encode())
    return done


def _prepare_image(source, image, options, settings):
    """[S, S] uint16, a mask or None, the row of the manifest, and whether the mask no longer marks anything."""
    values, low, high = source.read(image, options)
    if values.ndim != 2 or not values.size:
        raise UserError(f"{image.source}: pixels {list(values.shape)}, expected [height, width]")
    minimum, maximum = float(values.min()), float(values.max())
    if not (np.isfinite(minimum) and np.isfinite(maximum)):
        raise UserError(f"{image.source}: values that are NaN or infinite")
    if is_outside(minimum, maximum, Scaling(low, high)):
        raise UserError(
            f"{image.source}: values from {minimum:g} to {maximum:g}, expected {low:g} to {high:g}; pass the range of "
            "all files as --value_range=low,high"
        )
    scaled = fit_in_range(values, low, high, options.image_size, settings.fit)
    mask, is_lost = None, False
    if image.ground_truth is not None:
        marked = source.read_ground_truth(image, options)
        if marked.shape != values.shape:
            raise UserError(
                f"{image.source}: {list(values.shape)} pixels, but {list(marked.shape)} in its ground truth "
                f"{image.ground_truth.name}"
            )
        mask = fit_mask(marked, options.image_size, settings.fit)
        is_lost = bool(marked.any() and not mask.any())
    row = {
        "source": image.source,
        "patient": image.patient,
        "study": image.study,
        "view": image.view,
        "device": image.device,
        "sha256": _sha256(image.path, image.path.stat().st_mtime_ns),
        "height": values.shape[0],
        "width": values.shape[1],
        "dtype": values.dtype.name,
        "minimum": minimum,
        "maximum": maximum,
        "fit": settings.fit,
        "ground_truth": prepared.NONE if mask is None else MASK,
    }
    return np.rint(scaled * prepared.SCALING.high).astype(np.uint16), mask, row, is_lost


@functools.lru_cache(maxsize=2)  # the slices of a volume come one after another
def _sha256(path, _):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# ---- the end


def _refuse_empty(counts, plan):
    for split, label in plan.counts():
        if not counts[split, label]:
            raise UserError(
                f"every image of class {CLASS_NAMES[label]} in split {split} failed: there is nothing to go on with. "
                "Mend the files, and remove --data_dir to begin again."
            )


def _finish(data_dir, plan, options, settings, result):
    if result.failures:
        lines = "".join(f"{one_line(line)}\n" for line in sorted(result.failures))
        write_atomically(data_dir / FAILED, lines.encode("utf-8", "surrogateescape"))
    prepared.finish(
        data_dir,
        {
            **_asked(options, settings),
            "notes": plan.listing.notes,
            "left_out": len(plan.splitting.left_out),
            "failed": len(result.failures),
            "lost_masks": len(result.lost_masks),
        },
    )
