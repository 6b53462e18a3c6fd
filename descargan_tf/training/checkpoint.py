"""Checkpoints: all that a run is, in one folder of plain arrays, written whole or not at all."""

import contextlib
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np

from descargan_tf.errors import UserError
from descargan_tf.files import reason

_ARRAYS, _ABOUT = "state.npz", "checkpoint.json"


def save(folder: Path, arrays: dict[str, np.ndarray], about: dict) -> None:
    """Write a checkpoint beside its place, then rename it there.

    Raises:
        UserError: the disk is full or not writable; what was there before is untouched.
    """
    partial, old = (folder.with_name(folder.name + suffix) for suffix in (".partial", ".old"))
    try:
        _recover(folder)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with open(partial / _ARRAYS, "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        (partial / _ABOUT).write_text(json.dumps(about, indent=1) + "\n")
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        _recover(folder)
        raise UserError(
            f"the checkpoint {folder} could not be written: {reason(error)}. "
            "Earlier checkpoints are untouched; free space and run the same command to go on from the latest."
        ) from error


def _recover(folder: Path) -> None:
    """Put back what a failure between the two renames of `save` left under another name."""
    old = folder.with_name(folder.name + ".old")
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load(folder: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays and description of a checkpoint.

    Raises:
        UserError: not a checkpoint, or damaged.
    """
    about = describe(folder)
    with _readable(folder), np.load(folder / _ARRAYS, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}, about


def describe(folder: Path) -> dict:
    """The description of a checkpoint alone.

    Raises:
        UserError: not a checkpoint, or damaged.
    """
    with _readable(folder):
        return json.loads((folder / _ABOUT).read_text())


@contextlib.contextmanager
def _readable(folder):
    try:
        yield
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{folder} is not a readable checkpoint ({error}): name another with --checkpoint, or "
            "remove it to resume from the one before."
        ) from error


def steps(checkpoints: Path) -> list[int]:
    """The steps of which a numbered checkpoint exists, ascending."""
    if not checkpoints.is_dir():
        return []
    return sorted(int(p.name) for p in checkpoints.iterdir() if p.name.isdigit() and (p / _ABOUT).exists())


def find(run_dir: Path, which: str) -> Path:
    """The folder that `--checkpoint` names: best, latest, a step, or a folder.

    Raises:
        UserError: there is none; lists what there is.
    """
    checkpoints = run_dir / "checkpoints"
    _recover(checkpoints / "best")
    known = steps(checkpoints)
    if which == "best" and (checkpoints / "best" / _ABOUT).exists():
        return checkpoints / "best"
    if which in ("best", "latest") and known:
        return checkpoints / str(known[-1])
    if which.isdigit() and int(which) in known:
        return checkpoints / str(int(which))
    if (Path(which) / _ABOUT).exists():
        return Path(which)
    listed = ", ".join(map(str, known)) or "none"
    raise UserError(f"--checkpoint={which}: no such checkpoint in {checkpoints} (steps there: {listed}).")


def prune(checkpoints: Path, keep: int) -> None:
    """Remove all numbered checkpoints but the last `keep`."""
    for step in steps(checkpoints)[:-keep]:
        remove(checkpoints, step)


def remove(checkpoints: Path, step: int) -> None:
    """Remove the checkpoint of a step."""
    shutil.rmtree(checkpoints / str(step))


def network_arrays(name: str, network) -> dict[str, np.ndarray]:
    """A Keras model's weights in its own order."""
    return {f"{name}/{i:03d}": np.asarray(weight) for i, weight in enumerate(network.weights)}


def optimizer_arrays(name: str, optimizer) -> dict[str, np.ndarray]:
    """A Keras optimiser's slots and counter."""
    return {f"{name}/{i:03d}": np.asarray(variable) for i, variable in enumerate(optimizer.variables)}


def assign(name: str, variables, arrays: dict[str, np.ndarray], folder: Path) -> None:
    """Put a checkpoint's arrays into variables of the same shapes.

    Raises:
        UserError: other networks wrote it; names the first array that does not fit.
    """
    stored = sum(key.startswith(name + "/") for key in arrays)
    if stored != len(variables):
        raise UserError(
            f"checkpoint {folder} holds {stored} arrays of {name} and this configuration has {len(variables)}: "
            "it was made by another method or program version."
        )
    for i, variable in enumerate(variables):
        array = arrays[f"{name}/{i:03d}"]
        if tuple(array.shape) != tuple(variable.shape):
            raise UserError(
                f"checkpoint {folder} was made with another size: {variable.path} is {array.shape} there and "
                f"{tuple(variable.shape)} here. Give the --image_size, --generator_filters and --discriminator_filters "
                "that it was trained with."
            )
    for i, variable in enumerate(variables):
        variable.assign(arrays[f"{name}/{i:03d}"])
