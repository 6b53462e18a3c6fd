"""A prepared data set on disk, written in shards and read by memory maps.

dataset.json                        every decision; written last, so its presence says that all is there
manifest.csv                        a row per image, `COLUMNS`
shards/<split>-<class>-00000.npy        [n, S, S] uint16, 0..65535 is 0..1 of the source's value range
shards/<split>-<class>-00000-masks.npy  [n, S, S] uint8, 0 or 1, where the source has ground truth
shards/<split>-<class>-00000.csv        the manifest's rows of that shard, for who goes on after a kill
"""

import csv
import functools
import io
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from descargan_tf.data.images import Scaling, write_npy
from descargan_tf.errors import UserError
from descargan_tf.files import is_within, reading, reason, write_atomically
from descargan_tf.types import CLASS_NAMES, HEALTHY, MASK, SPLITS

DATASET = "dataset.json"
MANIFEST = "manifest.csv"
SHARDS = "shards"
COLUMNS = (
    *("path", "row", "source", "patient", "study", "view", "device", "label", "split", "sha256"),
    *("height", "width", "dtype", "minimum", "maximum", "fit", "ground_truth"),
)
NONE = "none"  # of the manifest's column ground_truth; or MASK
WHITE = 65535
SCALING = Scaling(0.0, float(WHITE))
_VERSION = 1
_SHARD_IMAGES, _SHARD_BYTES = 256, 2**26  # at most; so that several processes can each hold one of large images
_PLACES = {column: place for place, column in enumerate(COLUMNS)}
_OWN = {"source", "sha256"}  # columns in which hardly any two rows say the same
_NAME = re.compile(rf"({'|'.join(SPLITS)})-({'|'.join(CLASS_NAMES)})-\d{{5}}")
_AGAIN = "prepare it again (--mode=prepare) into another folder"


# ---- writing


def images_per_shard(image_size: int) -> int:
    """How many images a shard is to hold: fewer of large ones."""
    return max(1, min(_SHARD_IMAGES, _SHARD_BYTES // (2 * image_size**2)))


def write_shard(
    folder: str | os.PathLike,
    split: str,
    label: int,
    number: int,
    images: np.ndarray,
    masks: np.ndarray | None,
    rows: Sequence[Mapping],
) -> None:
    """Write one shard; what is interrupted leaves no part of it under its name.

    Args:
        folder: of the data set.
        split: a member of SPLITS.
        label: HEALTHY or DISEASED.
        number: of the shard within its class.
        images: [n, S, S] uint16.
        masks: [n, S, S] uint8, 0 or 1, or None.
        rows: one mapping per image, `COLUMNS` but for path, row, label and split.

    Raises:
        UserError: the folder or the disk refuses it.
    """
    if images.dtype != np.uint16 or images.ndim != 3 or len(images) != len(rows):
        raise ValueError(f"images {images.shape} {images.dtype} and {len(rows)} rows, expected [n, S, S] uint16 and n")
    if masks is not None and (masks.shape != images.shape or masks.dtype != np.uint8 or masks.max(initial=0) > 1):
        raise ValueError(f"masks {masks.shape} {masks.dtype}, expected {images.shape} uint8 of 0 and 1")
    name = f"{split}-{CLASS_NAMES[label]}-{number:05d}"
    base = Path(folder) / SHARDS
    try:
        base.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{base}: cannot be written: {reason(error)}") from error
    path = f"{SHARDS}/{name}.npy"
    write_npy(base / f"{name}.npy", images)
    masks_path = base / f"{name}-masks.npy"
    if masks is not None:
        write_npy(masks_path, masks)
    else:  # of a shard that is written again
        masks_path.unlink(missing_ok=True)
    # Last, as it is what says that the shard is there.
    place = {"path": path, "split": split, "label": CLASS_NAMES[label]}
    full = [{**row, **place, "row": index} for index, row in enumerate(rows)]
    write_atomically(base / f"{name}.csv", lambda file: _write_table(file, full))


def finish(folder: str | os.PathLike, decisions: Mapping) -> None:
    """Gather the manifest from the shards' tables, then write `dataset.json`, which says that all is there.

    Raises:
        UserError: a shard's table is damaged, or the disk refuses it.
    """
    folder = Path(folder)
    with reading(folder):
        for leftover in (folder / SHARDS).glob(".*.partial"):  # of writers that were killed
            leftover.unlink()
        tables = sorted((folder / SHARDS).glob("*.csv"))
    rows = [row for table in tables for row in _read_table(table)]
    _check_rows(folder, rows)
    write_atomically(folder / MANIFEST, lambda file: _write_table(file, rows))
    sizes = {_load(folder / row["path"]).shape[1] for row in rows if row["row"] == "0"}
    about = {"version": _VERSION, "image_size": sizes.pop() if len(sizes) == 1 else None, **decisions}
    write_atomically(folder / DATASET, (json.dumps(about, indent=1) + "\n").encode())


def is_complete(folder: str | os.PathLike) -> bool:
    """Whether a prepared data set lies there, whole."""
    return (Path(folder) / DATASET).is_file()


# ---- reading


class StoredImages:
    """Images [N, S, S, 1] that stay on disk until they are asked for, float32 when they are.

    Args:
        parts: a shard's path and its rows, in order.
        size: S.
        factor: values are value * factor + offset.
        offset: see there.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, parts: Sequence[tuple[Path | None, np.ndarray]], size: int, factor: float, offset: float):
        self._parts, self._factor, self._offset = list(parts), np.float32(factor), np.float32(offset)
        counts = [len(rows) for _, rows in self._parts]
        self._starts = np.cumsum([0, *counts])
        self.shape = (int(self._starts[-1]), size, size, 1)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """In memory, all of them."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, key) -> np.ndarray:
        """By number, slice, or array of numbers or bools, over the first axis alone."""
        rest = ()
        if isinstance(key, tuple):
            key, *rest = key
        numbers = np.arange(len(self))[key]
        found = self._read(np.atleast_1d(numbers))
        found = found if np.ndim(numbers) else found[0]
        return found[(slice(None),) * np.ndim(numbers) + tuple(rest)] if rest else found

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        found = self._read(np.arange(len(self)))
        return found if dtype is None else found.astype(dtype)

    def where(self, chosen: np.ndarray) -> "StoredImages":
        """Those of a mask [N] of bools, still on disk."""
        parts = [
            (path, rows[chosen[start : start + len(rows)]])
            for (path, rows), start in zip(self._parts, self._starts[:-1], strict=True)
        ]
        return StoredImages([part for part in parts if len(part[1])], self.shape[1], self._factor, self._offset)

    def _read(self, numbers):
        values = np.empty((len(numbers), *self.shape[1:3]), np.float32)
        owners = np.searchsorted(self._starts, numbers, side="right") - 1
        for owner in np.unique(owners):
            path, rows = self._parts[owner]
            mine = np.flatnonzero(owners == owner)
            values[mine] = 0 if path is None else _load(path)[rows[numbers[mine] - self._starts[owner]]]
        values *= self._factor
        values += self._offset
        return values[..., None]


def select(images: np.ndarray | StoredImages, chosen: np.ndarray) -> np.ndarray | StoredImages:
    """Those of a mask [N] of bools; what is on disk stays there."""
    return images.where(chosen) if isinstance(images, StoredImages) else images[chosen]


class Row(Mapping):
    """A row of the manifest by column, a third of a dict's size: the rows of all images are in memory."""

    __slots__ = ("_fields",)

    def __init__(self, fields: tuple[str, ...]):
        self._fields = fields  # in the order of COLUMNS

    def __getitem__(self, column: str) -> str:
        return self._fields[_PLACES[column]]

    def __iter__(self) -> Iterator[str]:
        return iter(COLUMNS)

    def __len__(self) -> int:
        return len(COLUMNS)


class Prepared:
    """A prepared data set, checked as far as its tables and the heads of its files tell.

    Attributes:
        folder: it lies there.
        decisions: what `dataset.json` says.
        image_size: pixels a side.
    """

    def __init__(self, folder: Path, decisions: dict, rows: list[Row]):
        self.folder, self.decisions = folder, decisions
        self.image_size: int = decisions["image_size"]
        # As everywhere: healthy first, each class in the manifest's order.
        self._rows = {
            split: [row for name in CLASS_NAMES for row in rows if row["split"] == split and row["label"] == name]
            for split in SPLITS
        }
        self._names: dict[str, tuple[str, ...]] = {}

    def rows(self, split: str) -> list[Row]:
        """The manifest's rows of a split, healthy first: what number n of `images` is."""
        return self._rows[split]

    def names(self, split: str) -> tuple[str, ...]:
        """What the images of a split are called, in the order of `rows`; made once, as all who ask keep them."""
        if split not in self._names:
            self._names[split] = tuple(f"{split}/{row['label']}/{row['source']}" for row in self.rows(split))
        return self._names[split]

    def labels(self, split: str) -> np.ndarray:
        """[N] int32."""
        return np.array([CLASS_NAMES.index(row["label"]) for row in self.rows(split)], np.int32)

    def images(self, split: str) -> StoredImages:
        """[N, S, S, 1] float32 in [-1, 1]."""
        return StoredImages(self._parts(split, ".npy"), self.image_size, 2 / WHITE, -1)

    def has_ground_truth(self, split: str) -> np.ndarray:
        """[N] bool: healthy images, whose ground truth is zero, and diseased ones with a mask."""
        return np.array(
            [row["label"] == CLASS_NAMES[HEALTHY] or row["ground_truth"] == MASK for row in self.rows(split)]
        )

    def ground_truth(self, split: str) -> StoredImages | None:
        """[N, S, S, 1] float32, 0 or 1; None where no diseased image has one."""
        if not any(row["ground_truth"] == MASK and row["label"] != CLASS_NAMES[HEALTHY] for row in self.rows(split)):
            return None
        return StoredImages(self._parts(split, "-masks.npy"), self.image_size, 1, 0)

    def _parts(self, split, ending):
        numbers: dict[str, list[int]] = {}
        for row in self.rows(split):
            numbers.setdefault(row["path"], []).append(int(row["row"]))
        parts = []
        for name, rows in numbers.items():
            path = self.folder / f"{name.removesuffix('.npy')}{ending}"
            parts.append((path if path.is_file() else None, np.array(rows)))
        return parts


def open_prepared(folder: str | os.PathLike) -> Prepared:
    """Read the tables, look at the head of every shard; no image is read.

    Raises:
        UserError: no prepared data set, or a part of it is missing or damaged; names the file.
    """
    folder = Path(folder)
    with reading(folder):
        if not is_complete(folder):
            hint = (
                "its preparation was ended early, give the same command again"
                if (folder / SHARDS).is_dir()
                else ("make one of raw files with --mode=prepare")
            )
            raise UserError(f"--data_dir={folder} holds no prepared data set (no {DATASET}): {hint}.")
        try:
            decisions = json.loads((folder / DATASET).read_bytes())
            if decisions["version"] != _VERSION or not isinstance(decisions["image_size"], int):
                raise ValueError(f"version {decisions['version']}, image size {decisions['image_size']}")
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder / DATASET} is damaged or of another version ({error!r}): {_AGAIN}.") from error
        rows = _read_table(folder / MANIFEST)
    _check_rows(folder, rows)
    _check_shards(folder, rows, decisions["image_size"])
    return Prepared(folder, decisions, rows)


def _check_rows(folder, rows):
    for number, row in enumerate(rows, 2):
        place = f"{folder / MANIFEST} line {number}"
        # A manifest is a table that anyone can edit; it must not lead elsewhere.
        directory, _, name = row["path"].partition("/")
        match = _NAME.fullmatch(name.removesuffix(".npy"))
        if directory != SHARDS or not name.endswith(".npy") or not match:
            raise UserError(f"{place}: path {row['path']!r} names no shard of this data set.")
        if (row["split"], row["label"]) != match.groups():
            raise UserError(f"{place}: says {row['split']} {row['label']}, but its path is {row['path']}.")
        if not row["row"].isascii() or not row["row"].isdigit():
            raise UserError(f"{place}: row {row['row']!r} is no number.")


def _check_shards(folder, rows, size):
    largest: dict[str, int] = {}
    with_masks = set()
    for row in rows:
        largest[row["path"]] = max(largest.get(row["path"], 0), int(row["row"]))
        if row["ground_truth"] == MASK:
            with_masks.add(row["path"])
    for name, last in largest.items():
        for ending, dtype in ((".npy", np.uint16), ("-masks.npy", np.uint8))[: 1 + (name in with_masks)]:
            path = folder / f"{name.removesuffix('.npy')}{ending}"
            if not is_within(path, folder):
                raise UserError(
                    f"{path}: a link leads out of the data set, to {os.path.realpath(path)}: bring the file itself in."
                )
            array = _load(path)
            if array.dtype != dtype or array.ndim != 3 or array.shape[1:] != (size, size) or len(array) <= last:
                raise UserError(
                    f"{path}: holds {array.dtype} {list(array.shape)}, expected {np.dtype(dtype)} of at least "
                    f"{last + 1} images of {size}x{size}: {_AGAIN}."
                )


def _load(path):
    """A map of the file, let go with the last reference to it: what is mapped counts as memory of the process."""
    try:
        dtype, shape, offset = _head(str(path), os.stat(path).st_mtime_ns)
        return np.memmap(path, dtype, "r", offset, shape)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read: {reason(error)}: bring the data back and give the same command, or {_AGAIN}."
        ) from error
    except (ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read: {error or type(error).__name__}: {_AGAIN}.") from error


@functools.lru_cache(maxsize=65536)
def _head(path, _):
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    return found.dtype, found.shape, found.offset


def _write_table(file: BinaryIO, rows):
    text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    text.detach()  # writes what is left; the file is closed by whom it belongs to


def _read_table(path):
    rows, shared = [], {}
    try:
        with reading(path), open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            table = csv.reader(file, strict=True)
            header = next(table, None)
            if tuple(header or ()) != COLUMNS:
                raise UserError(f"{path}: columns {header}, expected {', '.join(COLUMNS)}: {_AGAIN}.")
            for fields in filter(None, table):
                if len(fields) != len(COLUMNS):
                    raise UserError(f"{path}: line {len(rows) + 2} is damaged: {_AGAIN}.")
                said = zip(COLUMNS, fields, strict=True)
                # What many rows say is kept once.
                rows.append(Row(tuple(text if name in _OWN else shared.setdefault(text, text) for name, text in said)))
    except csv.Error as error:
        raise UserError(f"{path}: is damaged ({error}): {_AGAIN}.") from error
    return rows
