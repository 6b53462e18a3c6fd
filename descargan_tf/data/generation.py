"""Drawn data sets on disk: made by several processes, with a manifest that says what each file must be."""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from descargan_tf import locks, processes, signals
from descargan_tf.data import synthetic, synthetic_chest
from descargan_tf.data.images import npy_bytes
from descargan_tf.data.listing import GROUND_TRUTH_FOLDER
from descargan_tf.data.memory import spoken
from descargan_tf.data.synthetic import SyntheticSettings
from descargan_tf.errors import UserError
from descargan_tf.files import is_within, reason
from descargan_tf.types import CLASS_NAMES, DISEASED, DRAWN, SPLITS

MANIFEST = "manifest.json"
_MODULES = dict(zip(DRAWN, (synthetic, synthetic_chest), strict=True))  # each with a VERSION and draw_example
_TASK = 32  # images that a process draws at a time; fewer take less time than its start
_BEING_GENERATED = "{{holder}} is generating {}: wait for it, or end it first."


def generate(
    data_dir: str | os.PathLike,
    settings: SyntheticSettings,
    num_workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Write the whole data set and its manifest; the folder appears only when it is complete.

    Args:
        data_dir: must not exist, or be empty.
        settings: what to draw.
        num_workers: processes; by default as many as there are cores, fewer for few images. Any number gives the same
            bytes.
        progress: called with (images done, images in all).

    Returns:
        The manifest.

    Raises:
        UserError: `data_dir` holds something, cannot be written, or has too little space.
    """
    data_dir = Path(data_dir)
    if data_dir.exists() and (not data_dir.is_dir() or any(data_dir.iterdir())):
        raise UserError(
            f"--data_dir={data_dir} already holds something, and nothing is written over: "
            "name a folder that does not exist, or remove this one."
        )
    _refuse_small_disk(data_dir, settings)
    absolute = data_dir.absolute()  # "." has no name to put .partial behind
    partial = absolute.with_name(absolute.name + ".partial")
    try:
        _remove_leftover(partial)
        partial.mkdir(parents=True, exist_ok=True)
        checksums = {}
        with locks.alone_in(partial, _BEING_GENERATED.format(partial)):
            for split in SPLITS:
                for folder in (*CLASS_NAMES, GROUND_TRUTH_FOLDER):
                    (partial / split / folder).mkdir(parents=True)
            # Closed, as workers that are still at work would write into what is cleared after a failure.
            with contextlib.closing(_run(partial, settings, num_workers or _num_workers(settings))) as drawn:
                for done, part in drawn:
                    checksums.update(part)
                    if progress:
                        progress(done, 2 * sum(settings.count(split) for split in SPLITS))
        manifest = {
            "generator": "descargan_tf synthetic",
            "version": _MODULES[settings.dataset].VERSION,
            **dataclasses.asdict(settings),
            "sha256": dict(sorted(checksums.items())),
        }
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        (partial / locks.LOCK).unlink()
        if data_dir.exists():
            data_dir.rmdir()
        partial.rename(data_dir)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(
            f"the data set could not be written to --data_dir={data_dir}: {reason(error)}. "
            "Nothing was left behind; free space or name another folder."
        ) from error
    except signals.Stopped as stop:
        shutil.rmtree(partial, ignore_errors=True)
        stop.leaves = f"nothing was left in --data_dir={data_dir}"
        raise
    return manifest


def read_manifest(data_dir: str | os.PathLike) -> dict | None:
    """The manifest of a generated data set, or None for a folder without one.

    Raises:
        UserError: the file is there and is not a manifest.
    """
    path = Path(data_dir) / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text())
        manifest.setdefault("dataset", "synthetic")  # manifests of earlier versions do not say it
        for field in dataclasses.fields(SyntheticSettings):
            field.type(manifest[field.name])
        manifest["version"], manifest["sha256"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a manifest of generated data ({error!r}): generate the data again.") from error
    return manifest


def check_settings(data_dir: str | os.PathLike, manifest: dict, settings: SyntheticSettings) -> None:
    """Refuse a data set that was generated with other settings.

    Raises:
        UserError: names each setting that differs, or the files that are missing.
    """
    wanted = {"version": _MODULES[settings.dataset].VERSION, **dataclasses.asdict(settings)}
    titles = {"version": "generator version", "seed": "--data_seed"}  # --seed is that of a run
    differing = [
        f"{titles.get(name, '--' + name)} is {manifest[name]} there and {value} here"
        for name, value in wanted.items()
        if manifest[name] != value
    ]
    if differing:
        raise UserError(
            f"the data in --data_dir={data_dir} was generated with other settings: {'; '.join(differing)}. "
            "Give the same settings, or name another folder."
        )
    outside = [name for name in manifest["sha256"] if not is_within(Path(data_dir) / name, data_dir)]
    if outside:
        raise UserError(f"{Path(data_dir) / MANIFEST} names {outside[0]!r}, which leads out of --data_dir={data_dir}.")
    missing = [name for name in manifest["sha256"] if not (Path(data_dir) / name).exists()]
    if missing:
        raise UserError(
            f"--data_dir={data_dir} lacks {len(missing)} of its {len(manifest['sha256'])} files, {missing[0]} first: "
            "remove the folder and generate it again."
        )


def verify_checksums(data_dir: str | os.PathLike, manifest: dict) -> None:
    """Compare every file with the manifest.

    Raises:
        UserError: names up to five files that differ.
    """
    damaged = []
    for name, expected in manifest["sha256"].items():
        if _checksum(Path(data_dir) / name) != expected:
            damaged.append(name)
    if damaged:
        raise UserError(
            f"{len(damaged)} files of --data_dir={data_dir} are not what was generated: {', '.join(damaged[:5])}. "
            "Remove the folder and generate it again."
        )


def _checksum(path):
    try:
        return hashlib.sha256(np.load(path, allow_pickle=False).tobytes()).hexdigest()
    except (OSError, ValueError, EOFError):  # gone, cut off, or no array
        return None


def _refuse_small_disk(data_dir: Path, settings: SyntheticSettings) -> None:
    """What can be told before hours of drawing."""
    num_files = sum(3 * settings.count(split) for split in SPLITS)  # two images, and the ground truth of one
    needed = num_files * len(npy_bytes(np.zeros((settings.image_size,) * 2, np.float32)))
    there = next(folder for folder in (data_dir.absolute(), *data_dir.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UserError(
            f"--data_dir={data_dir}: {num_files:,} files of {settings.image_size}x{settings.image_size} need "
            f"{spoken(needed)}, and {spoken(free)} are free there; draw fewer (--num_train, --num_validate, "
            "--num_test) or smaller ones, or name a folder elsewhere"
        )


def _remove_leftover(partial: Path) -> None:
    """Clear what a killed generation left; refuse to disturb one that is still at work."""
    locks.refuse_if_held(partial, _BEING_GENERATED.format(partial))
    if partial.exists():
        shutil.rmtree(partial)


def _num_workers(settings):
    total = sum(2 * settings.count(split) for split in SPLITS)
    return min(processes.num_cores(), max(1, total // _TASK))


def _run(root: Path, settings: SyntheticSettings, num_workers: int) -> Iterator[tuple[int, dict[str, str]]]:
    tasks = []
    for split in SPLITS:
        total = 2 * settings.count(split)
        tasks += [(split, start, min(start + _TASK, total)) for start in range(0, total, _TASK)]
    done = 0
    with contextlib.closing(
        processes.in_order(_write_range, [(root, settings, *task) for task in tasks], num_workers)
    ) as parts:
        for (_, start, stop), part in zip(tasks, parts, strict=True):
            done += stop - start
            yield done, part


def _write_range(root: Path, settings: SyntheticSettings, split: str, start: int, stop: int) -> dict[str, str]:
    checksums = {}
    for index in range(start, stop):
        image, label, ground_truth = _MODULES[settings.dataset].draw_example(
            settings.seed, split, index, settings.image_size
        )
        arrays = {CLASS_NAMES[label]: image}
        if label == DISEASED:
            arrays[GROUND_TRUTH_FOLDER] = ground_truth
        for folder, array in arrays.items():
            name = f"{split}/{folder}/{index:05d}.npy"
            (root / name).write_bytes(npy_bytes(array))
            # Over the pixels, not the file: the header belongs to numpy.
            checksums[name] = hashlib.sha256(array.tobytes()).hexdigest()
    return checksums
