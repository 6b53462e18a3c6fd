"""Checkpoints: all that a run is, in one folder of plain arrays, written whole or not at all, read whole or not at all.

state.npz         what is trained
checkpoint.json   what is said of it
SHA256SUMS        of both, as `sha256sum --check` reads it; checkpoints of earlier versions have none
"""

import contextlib
import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from descargan_tf.errors import UserError
from descargan_tf.files import reason, sync

_ARRAYS, _ABOUT, _SUMS = "state.npz", "checkpoint.json", "SHA256SUMS"
_ASIDE = ".damaged"  # what the name of a damaged checkpoint ends with once the run has gone on without it


class Damaged(UserError):
    """A checkpoint is not what was written; the one before it may be whole."""


class Found(NamedTuple):
    """A checkpoint that was read whole."""

    folder: Path
    arrays: dict[str, np.ndarray]
    about: dict


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
        (partial / _ABOUT).write_text(_lines(about))
        (partial / _SUMS).write_text("".join(f"{_digest(partial / name)}  {name}\n" for name in (_ARRAYS, _ABOUT)))
        # On the disk before it has its name: a machine that loses power would else leave a name without content.
        for path in (*partial.iterdir(), partial):
            sync(path)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        _recover(folder)
        raise UserError(
            f"the checkpoint {folder} could not be written: {reason(error)}. "
            "Earlier checkpoints are untouched; free space and run the same command to go on from the latest."
        ) from error


def _lines(about):
    """JSON with a line for each thing that is said."""
    return "{\n" + ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in about.items()) + "\n}\n"


def _digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _recover(folder: Path) -> None:
    """Put back what a failure between the two renames of `save` left under another name."""
    old = folder.with_name(folder.name + ".old")
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load(folder: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays and description of a checkpoint.

    Raises:
        Damaged: it is none, or not what was written.
        UserError: it may not be read.
    """
    while True:
        with _readable(folder):
            told = (folder / _ABOUT).read_bytes()
            about = describe(folder)
            _check(folder, _ARRAYS)
            with np.load(folder / _ARRAYS, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            if (folder / _ABOUT).read_bytes() == told:  # else a training has put another in its place meanwhile
                return arrays, about


def describe(folder: Path) -> dict:
    """The description of a checkpoint alone.

    Raises:
        Damaged: it is none, or not what was written.
        UserError: it may not be read.
    """
    with _readable(folder):
        _check(folder, _ABOUT)
        about = json.loads((folder / _ABOUT).read_text())
        if not isinstance(about, dict):
            raise ValueError(f"{_ABOUT} holds no object")
        return about


def _check(folder, name):
    """ValueError where a file is not the one that was written; earlier versions wrote no sums."""
    if not (folder / _SUMS).exists():
        return
    if f"{_digest(folder / name)}  {name}" not in (folder / _SUMS).read_text().splitlines():
        raise ValueError(f"the sha256 of {name} is not that in {_SUMS}")


@contextlib.contextmanager
def _readable(folder):
    try:
        yield
    except PermissionError as error:  # which says nothing of what is in it
        raise UserError(f"{folder} cannot be read: {reason(error)}.") from error
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
        raise Damaged(
            f"{folder} is not a readable checkpoint ({error}): name another with --checkpoint; training goes on from "
            "the one before."
        ) from error


def load_latest(checkpoints: Path, say: Callable[[str], None], *, sets_aside: bool = True) -> Found | None:
    """The latest checkpoint that is whole, None where there is none at all; damaged ones after it are set aside.

    Args:
        checkpoints: of a run.
        say: is told of each that is set aside.
        sets_aside: False where another process of the same training does so; two must not.

    Raises:
        UserError: there are some, and none is whole: a training does not begin anew where there was one.
    """
    damaged = {}
    for step in reversed(steps(checkpoints)):
        folder = checkpoints / str(step)
        try:
            found = Found(folder, *load(folder))
            if found.about.get("step") != step:
                raise Damaged(f"{folder} is not a readable checkpoint (it says that it is of another step).")
        except Damaged as error:
            damaged[folder] = error
            continue
        for bad, error in damaged.items() if sets_aside else ():
            say(f"WARNING: {_set_aside(bad, error)}; going on from step {step}, the latest that is whole")
        return found
    if damaged:
        raise UserError(
            f"none of the checkpoints in {checkpoints} is whole: {next(iter(damaged.values()))} Put back a copy of "
            "one, or name another folder to begin anew."
        )
    return None


def has_best(checkpoints: Path, best: str, say: Callable[[str], None]) -> bool:
    """Whether there is a best checkpoint; one that is damaged is set aside."""
    _recover(checkpoints / best)
    if not (checkpoints / best).exists():
        return False
    try:
        load(checkpoints / best)
    except Damaged as error:
        say(f"WARNING: {_set_aside(checkpoints / best, error)}; the best of the next validations takes its place")
        return False
    return True


def _set_aside(folder, error):
    """Keep it under another name; what is to be said of that."""
    aside = folder.with_name(folder.name + _ASIDE)
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    return f"{folder} is damaged ({error.__cause__ or error}) and set aside as {aside.name}"


def clear_partial(checkpoints: Path) -> None:
    """Remove what a save that was killed has left, in a run in which nobody else writes."""
    for partial in checkpoints.glob("*.partial"):
        shutil.rmtree(partial)


def steps(checkpoints: Path) -> list[int]:
    """The steps of which there is a numbered checkpoint, or what is left of one, ascending."""
    if not checkpoints.is_dir():
        return []
    return sorted(int(folder.name) for folder in checkpoints.iterdir() if folder.name.isdigit() and _is_there(folder))


def _is_there(folder):
    """Whether there is a checkpoint, or what is left of one."""
    return any((folder / name).exists() for name in (_ARRAYS, _ABOUT, _SUMS))


def find(run_dir: Path, which: str) -> Path:
    """The folder that `--checkpoint` names: best, latest, a step, or a folder.

    Raises:
        UserError: there is none; lists what there is.
    """
    checkpoints = run_dir / "checkpoints"
    known = steps(checkpoints)
    # The second is all there is after a kill between the renames of `save`. Only a training may put it back: one that
    # is at work would find its place taken.
    for folder in (checkpoints / "best", checkpoints / "best.old"):
        if which == "best" and _is_there(folder):
            return folder
    if which in ("best", "latest") and known:
        return checkpoints / str(known[-1])
    if which.isdigit() and int(which) in known:
        return checkpoints / str(int(which))
    if _is_there(Path(which)):
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
