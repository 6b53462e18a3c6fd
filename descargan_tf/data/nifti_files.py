"""NIfTI volumes, a slice at a time: as a radiologist sees it, whatever order the file keeps its voxels in.

Axes are those of the patient, by the affine (nibabel's closest canonical, RAS+): slice 0 is the lowest, hindmost or
leftmost one. A plane is [H, W] with the head or the front up and the patient's right, or front, on the left side:

    axial     rows from front to back,    columns from right to left
    coronal   rows from top to bottom,    columns from right to left
    sagittal  rows from top to bottom,    columns from front to back
"""

import contextlib
import functools
import io
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from descargan_tf.data.images import MAX_PIXELS
from descargan_tf.errors import UserError
from descargan_tf.files import reason, write_atomically

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}  # of --slice_axis, and which of right, front, top it is
SUFFIXES = (".nii", ".nii.gz")

_MASK_ENDINGS = ("_mask", "_seg")
_MAX_HELD_BYTES = 2**31  # of a compressed volume, which can be read from its beginning alone, when it is decoded
_MAX_SAMPLES = 2**24  # voxels that percentiles are taken of
_MAX_DEFLATE_RATIO = 1032  # a byte of gzip cannot be more bytes
_SQUARE = 1.01  # ratio of two spacings up to which pixels count as square


class RangeRule(NamedTuple):
    """Which values of a volume become 0 and 1, --nifti_range."""

    low: float
    high: float
    is_percentile: bool  # of the voxels that are not 0: the air around a head would outweigh it

    def __str__(self) -> str:
        sign = "%" if self.is_percentile else ""
        return f"{self.low:g}{sign},{self.high:g}{sign}"


def parse_range(text: str) -> RangeRule:
    """Read --nifti_range: "0.5%,99.5%" or "low,high".

    Raises:
        UserError: it is neither.
    """
    parts = [part.strip() for part in text.split(",")]
    is_percentile = all(part.endswith("%") for part in parts)
    try:
        low, high = (float(part.removesuffix("%") if is_percentile else part) for part in parts)
    except ValueError:
        low, high = math.nan, math.nan
    is_possible = 0 <= low < high <= 100 if is_percentile else math.isfinite(low) and math.isfinite(high) and low < high
    if not is_possible:
        raise UserError(
            f"--nifti_range={text} is neither two percentiles, as in 0.5%,99.5%, nor two values low,high with "
            "low < high, as in -160,240"
        )
    return RangeRule(low, high, is_percentile)


def parse_slices(text: str) -> tuple[float, float]:
    """Read --slices: low and high, both int, or both a float of 0 to 1 and a share of the volume.

    Raises:
        UserError: it is neither.
    """
    parts = text.split(":")
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            low, high = map(kind, parts)
            if 0 <= low < high and (kind is int or high <= 1):
                return low, high
    raise UserError(
        f"--slices={text} is neither two numbers of slices, as in 60:100 (60 to 99, from 0), nor two shares of the "
        "volume, as in 0.3:0.7; low before high"
    )


def chosen_slices(slices: tuple[float, float], count: int) -> range:
    """Those of `count` slices that --slices asks for; a slice belongs to a share by its middle."""
    low, high = slices
    if isinstance(low, float):
        low, high = (math.ceil(share * count - 0.5) for share in slices)
    return range(min(low, count), min(high, count))


def is_volume(path: str | os.PathLike) -> bool:
    """Whether a file's name is that of a NIfTI volume."""
    return str(path).lower().endswith(SUFFIXES)


def stem_of(path: str | os.PathLike) -> str:
    """The name of a volume without folder and suffix; `Path.stem` leaves the .nii of .nii.gz."""
    name = Path(path).name
    return name[: name.lower().rindex(".nii")]


def is_mask(path: str | os.PathLike) -> bool:
    """Whether a volume's name says that it is the mask of another."""
    return stem_of(path).lower().endswith(_MASK_ENDINGS)


def mask_names(stem: str) -> list[str]:
    """What the mask beside a volume may be called: <stem>_mask, or <stem>_seg; also without the stem's last _part."""
    if stem.lower().endswith(_MASK_ENDINGS):
        return []  # it would be its own
    bases = filter(None, (stem, stem.rpartition("_")[0]))
    return [f"{base}{ending}{suffix}" for base in bases for ending in _MASK_ENDINGS for suffix in SUFFIXES]


class Volume:
    """One NIfTI file with three dimensions, its header read and found sound; voxels are read when they are asked for.

    Attributes:
        path: of the file.
        affine: [4, 4], from the file's voxels to millimetres.
        shape: of the file's array, as the file has it.
        states_orientation: False where the header holds no orientation, so that it is a guess.
    """

    def __init__(self, path: str | os.PathLike):
        """Read the header.

        Raises:
            UserError: naming the file, if it cannot be read or holds anything else than one volume of gray values.
        """
        self.path = Path(path)
        nibabel = _nibabel(self.path)
        with _naming(self.path):
            if not is_volume(self.path):
                raise UserError(f"not a NIfTI file by its name; expected one of {', '.join(SUFFIXES)}")
            if self.path.exists() and not self.path.is_file():  # a pipe would be waited for
                raise UserError("is no file" if self.path.is_dir() else "is no regular file; expected a NIfTI file")
            size = self.path.stat().st_size
            if not size:
                raise UserError("is empty")
            self._image = nibabel.load(self.path)
            if not isinstance(self._image, nibabel.Nifti1Pair):  # of which NIfTI-2 is one, too
                raise UserError("is not a NIfTI file by its content")
            self.affine, self.shape = self._image.affine, self._image.shape
            self._check_header(size)
            if not (np.isfinite(self.affine).all() and np.linalg.matrix_rank(self.affine) == 4):
                raise UserError("its affine is singular or not finite, so that nothing says where its voxels lie")
            orientation = nibabel.orientations.io_orientation(self.affine)
            self._axes = [int(np.flatnonzero(orientation[:, 0] == axis)[0]) for axis in range(3)]
            self._signs = [int(orientation[axis, 1]) for axis in self._axes]
            self._spacing = np.linalg.norm(self.affine[:3, :3], axis=0)
        header = self._image.header
        self.states_orientation = bool(header["sform_code"] or header["qform_code"])

    def _check_header(self, size):
        header = self._image.header
        dtype = header.get_data_dtype()
        if dtype.fields or dtype.kind not in "iufb":
            raise UserError(f"holds {'colours' if dtype.fields else dtype}, expected one gray value a voxel")
        if len(self.shape) < 3 or math.prod(self.shape[3:]) != 1:
            what = "several volumes (4-D)" if len(self.shape) > 3 else "no volume"
            raise UserError(f"holds {what}: {_times(self.shape)}; expected three dimensions; split it first")
        if not all(self.shape):
            raise UserError(f"holds no voxels: {_times(self.shape)}")
        if max(math.prod(pair) for pair in (self.shape[:2], self.shape[1:3], self.shape[:3:2])) > MAX_PIXELS:
            raise UserError(f"claims {_times(self.shape)} voxels, slices of more than {MAX_PIXELS}; is this an image?")
        needed = math.prod(self.shape) * dtype.itemsize
        present = size - int(self._image.dataobj.offset)
        self._is_compressed = self.path.suffix.lower() == ".gz"
        if self._is_compressed:
            present = size * _MAX_DEFLATE_RATIO
        if present < needed:
            raise UserError(f"truncated: {size} bytes cannot hold {_times(self.shape)} voxels of {dtype}")
        if self._is_compressed and needed > _MAX_HELD_BYTES:
            raise UserError(
                f"is compressed and holds {needed / 2**30:.1f} GiB, which cannot be read a slice at a time: gunzip it"
            )

    def count(self, axis: str) -> int:
        """How many slices there are along an axis."""
        return self.shape[self._axes[AXES[axis]]]

    def spacing(self, axis: str) -> tuple[float, float]:
        """Millimetres between the rows and between the columns of a plane."""
        columns, rows = (float(self._spacing[self._axes[other]]) for other in range(3) if other != AXES[axis])
        return rows, columns

    def plane(self, axis: str, index: int) -> np.ndarray:
        """One slice, [H, W] uint8, uint16 or float32, in the file's units (after its slope and intercept).

        Raises:
            UserError: naming the file, if it cannot be read or holds NaN or infinity there.
        """
        file_axis, number = self._place(axis, index)
        return self._turned(self._read(file_axis, number), axis)

    def window(self, axis: str, index: int, low: float, high: float) -> np.ndarray:
        """One slice as a model is to see it: cut to a range, in square pixels; [H, W] float32 in the file's units.

        Raises:
            UserError: as `plane`.
        """
        plane = np.clip(self.plane(axis, index).astype(np.float32), low, high, dtype=np.float32)
        with _naming(self.path):
            return in_square_pixels(plane, self.spacing(axis))

    def plane_of(self, array: np.ndarray, axis: str, index: int) -> np.ndarray:
        """What `plane` gives, of an array of this volume's `shape`: a view, so what is put into it is put there."""
        file_axis, number = self._place(axis, index)
        return self._turned(array.reshape(self.shape[:3])[_across(file_axis, number)], axis)

    def value_range(self, rule: RangeRule) -> tuple[float, float]:
        """The values that become 0 and 1.

        Raises:
            UserError: naming the file, if it holds NaN or infinity, or its percentiles are one value.
        """
        return (rule.low, rule.high) if not rule.is_percentile else self._percentiles(rule)

    @functools.lru_cache(maxsize=1)  # noqa: B019  a volume is let go of when the next is opened
    def _percentiles(self, rule):
        step = -(-math.prod(self.shape) // _MAX_SAMPLES)
        samples = []
        for number in range(self.shape[2]):  # the file's slowest axis: a plane lies in one piece
            values = self._read(2, number)
            samples.append(values[values != 0][::step].astype(np.float32))
        samples = np.concatenate(samples)
        if not samples.size:
            raise UserError(f"{self.path}: every voxel is 0")
        low, high = (float(value) for value in np.percentile(samples, (rule.low, rule.high)))
        if not low < high:
            raise UserError(
                f"{self.path}: percentiles {rule} of its voxels are both {low:g}; pass two values as --nifti_range"
            )
        return low, high

    def lies_on(self, other: "Volume") -> bool:
        """Whether the voxels of two volumes lie in the same places, within half of one."""
        mine, theirs = self._canonical(), other._canonical()
        if mine[0] != theirs[0]:
            return False
        corners = np.stack(np.meshgrid(*((0, count - 1) for count in mine[0]), [1]), -1).reshape(-1, 4)
        apart = corners @ (mine[1] - theirs[1]).T
        return bool(np.abs(apart).max() <= self._spacing.min() / 2)

    def _canonical(self):
        shape = tuple(self.shape[axis] for axis in self._axes)
        turn = np.zeros((4, 4))
        turn[3, 3] = 1
        for axis, (file_axis, sign, count) in enumerate(zip(self._axes, self._signs, shape, strict=True)):
            turn[file_axis, axis] = sign
            turn[file_axis, 3] = 0 if sign > 0 else count - 1
        return shape, self.affine @ turn

    def _place(self, axis, index):
        """A slice by the file's own axis and number."""
        file_axis, sign = self._axes[AXES[axis]], self._signs[AXES[axis]]
        count = self.shape[file_axis]
        if not 0 <= index < count:
            raise UserError(f"{self.path}: has no {axis} slice {index}; there are {count}")
        return file_axis, index if sign > 0 else count - 1 - index

    def _turned(self, plane, axis):
        """A plane in the file's order, as it is shown; a view."""
        columns, rows = (other for other in range(3) if other != AXES[axis])
        if self._axes[columns] < self._axes[rows]:
            plane = plane.T
        # Both run against the canonical axes: rows to the back or down, columns to the patient's left or back. To the
        # left of who looks, that is the patient's right; a sagittal plane has the front there.
        return plane[:: -self._signs[rows], :: -self._signs[columns]]

    def _read(self, file_axis, number):
        with _naming(self.path):
            if self._held is not None:
                values = self._held[_across(file_axis, number)]
                if (self._image.dataobj.slope, self._image.dataobj.inter) != (1, 0):
                    values = values * self._image.dataobj.slope + self._image.dataobj.inter
            else:
                places = (*_across(file_axis, number), *(0 for _ in self.shape[3:]))
                values = np.asarray(self._image.dataobj[places])
            native = values.dtype.newbyteorder("=")
            with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which is reported
                values = values.astype(native if native in (np.uint8, np.uint16) else np.float32)
            if values.dtype == np.float32 and not np.isfinite(values).all():
                raise UserError("holds NaN or infinity (in float32); replace them first")
            return values

    @functools.cached_property
    def _held(self):
        """The array as stored, where it is compressed; None where a slice can be read by itself."""
        if not self._is_compressed:
            return None
        return np.asarray(self._image.dataobj.get_unscaled()).reshape(self.shape[:3])

    def write(self, path: str | os.PathLike, array: np.ndarray) -> None:
        """Write float32 voxels of this volume's shape with its affine and units; whole or not at all.

        Raises:
            UserError: the folder or disk refuses it.
        """
        if array.shape != self.shape:
            raise ValueError(f"array has shape {list(array.shape)}, the volume {list(self.shape)}")
        nibabel = _nibabel(self.path)
        header = self._image.header.copy()
        # Of another program's: what to show of it, and texts that may say who the patient is.
        header["cal_min"] = header["cal_max"] = 0
        for name in {"descrip", "aux_file", "intent_name", "db_name"}.intersection(header):  # NIfTI-2 has fewer of them
            header[name] = b""
        header.extensions.clear()
        header.set_data_dtype(np.float32)
        header.set_slope_inter(1, 0)
        image = type(self._image)(np.asarray(array, np.float32), self.affine, header)
        for name in ("sform", "qform"):
            getattr(image, f"set_{name}")(*getattr(self._image, f"get_{name}")(coded=True), update_affine=False)
        write_atomically(path, lambda file: _write(nibabel, image, file, compressed=str(path).lower().endswith(".gz")))


def open_volume(path: str | os.PathLike) -> Volume:
    """A volume, the same as before where its slices are asked for one after the other."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {reason(error)}") from error
    return _opened(str(path), found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=2)  # one and its mask: a compressed one is decoded once, not once a slice
def _opened(path, _changed, _size):
    return Volume(path)


def in_square_pixels(plane: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """A plane resampled to the finer of its two spacings, float32, so that what is round is drawn round."""
    height, width = plane.shape
    fine = min(spacing)
    if max(spacing) <= _SQUARE * fine:
        return plane
    shape = tuple(max(1, round(count * apart / fine)) for count, apart in zip((height, width), spacing, strict=True))
    if math.prod(shape) > MAX_PIXELS:
        raise UserError(f"a slice of {height}x{width} voxels, {spacing[0]:g} by {spacing[1]:g} mm apart, is too large")
    return resampled(plane, shape)


def resampled(plane: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A plane in another number of pixels, float32: linear interpolation where finer, an average where coarser."""
    if plane.shape == shape:
        return plane.astype(np.float32)
    picture = Image.fromarray(np.ascontiguousarray(plane, np.float32))
    return np.asarray(picture.resize(shape[::-1], Image.Resampling.BILINEAR))


def _across(file_axis, number):
    return tuple(number if axis == file_axis else slice(None) for axis in range(3))


def _times(shape):
    return "x".join(map(str, shape))


def _write(nibabel, image, file, compressed):
    import gzip

    buffer = io.BytesIO()
    image.to_stream(buffer)
    if not compressed:
        file.write(buffer.getvalue())
        return
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=1, mtime=0) as packed:
        packed.write(buffer.getbuffer())


def _nibabel(path):
    try:
        import nibabel
    except ModuleNotFoundError as error:
        raise UserError(
            f"{path}: reading NIfTI needs nibabel, which is not installed: pip install nibabel, or pip install -r "
            "requirements-medical.txt for all of its kind."
        ) from error
    return nibabel


@contextlib.contextmanager
def _naming(path) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {' '.join(reason(error).split())}") from error
    except Exception as error:  # a decoder fed with a damaged file raises nearly anything
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split()) or type(error).__name__}") from error
