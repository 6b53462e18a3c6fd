"""What a kind of raw files must be able to say, and the kinds there are, by the name that --source has for them."""

import dataclasses
import hashlib
import hmac
import importlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np

from descargan_tf.errors import UserError
from descargan_tf.types import CLASS_NAMES

# What a table may call a class.
LABELS = {**{name: label for label, name in enumerate(CLASS_NAMES)}, **{str(label): label for label in (0, 1)}}


@dataclasses.dataclass(frozen=True)
class Options:
    """What sources are told; every field but `key` is the flag of its name. `SOURCES` says who listens to which."""

    image_size: int = 256
    value_range: str = "auto"  # "low,high" of the files' values; of DICOM files, of those without a VOI
    labels_csv: str = ""
    finding: str = "Pleural Effusion"
    uncertain: str = "drop"
    view: str = "frontal"
    slice_axis: str = "axial"
    slices: str = "0.0:1.0"
    nifti_range: str = "0.5%,99.5%"
    volumes: str = "*"
    unmarked_slices: str = "drop"
    patient_pattern: str = ""
    key: bytes = dataclasses.field(default=b"", repr=False)  # of `pseudonym`; never written into the data set


class RawImage(NamedTuple):
    """One image of a source: where it lies, and what is known of it before it is read."""

    path: Path  # the file to read
    source: str  # its name in the manifest, relative to --input; "#slice=17" behind it where a file holds several
    label: int  # HEALTHY or DISEASED
    patient: str = ""  # a pseudonym where the source holds identities; "": unknown, the file is its own patient
    study: str = ""
    view: str = ""
    device: str = ""
    split: str | None = None  # where the source says so; None: drawn by patient
    index: int | None = None  # of the slice or frame in the file
    ground_truth: Path | None = None  # a mask of the same height and width; of a volume, `index` counts in it too


class Pixels(NamedTuple):
    """The content of one image, after what its format demands, and before it is fitted to --image_size."""

    values: np.ndarray  # [H, W] uint8, uint16 or float32
    low: float  # what becomes 0
    high: float  # what becomes 1


class Listing(NamedTuple):
    """What a source holds, by its names, tables and headers."""

    images: list[RawImage]
    problems: list[str]  # a line for each file that cannot be used; counts as a file that failed
    notes: list[str]  # what was counted, chosen and left out; a line each, printed and kept in dataset.json
    beside: Mapping[tuple[str, int], str] = MappingProxyType({})  # by split and label: said beside the number of images


class Source(Protocol):
    """A kind of raw files; its modules hold functions of these names, which run in a process of their own, too."""

    def list(self, root: Path, options: Options) -> Listing:
        """Find the images; opens no more than tables and headers.

        Raises:
            UserError: nothing can be made of the whole, such as a table without a column that it needs.
        """

    def read(self, image: RawImage, options: Options) -> Pixels:
        """Decode one image, in a worker process.

        Raises:
            UserError: names the file in one line.
        """

    def read_ground_truth(self, image: RawImage, options: Options) -> np.ndarray:
        """Which pixels are diseased, of an image that has a ground truth: bool [H, W], as high and wide as its image.

        Raises:
            UserError: names the file in one line.
        """


class _Entry(NamedTuple):
    module: str
    needs: str  # what must be importable
    package: str  # what installs it
    options: tuple[str, ...]  # fields of Options that it listens to, beside image_size and key


# Loaded when asked for: most sources need a package that not everybody has.
SOURCES = {
    "folder": _Entry("folder", "", "", ("value_range",)),
    "csv": _Entry("table", "", "", ("value_range", "labels_csv")),
    "chexpert": _Entry("chexpert", "", "", ("finding", "uncertain", "view")),
    "dicom": _Entry("dicom", "pydicom", "pydicom", ("value_range", "labels_csv", "view")),
    "nifti": _Entry(
        "nifti",
        "nibabel",
        "nibabel",
        ("labels_csv", "slice_axis", "slices", "nifti_range", "volumes", "unmarked_slices", "patient_pattern"),
    ),
}


def refuse_unheard(name: str, options: Options) -> None:
    """UserError where something is asked for that a source does not listen to."""
    for field in dataclasses.fields(Options):
        value = getattr(options, field.name)
        if field.name in ("image_size", "key", *SOURCES[name].options) or value == field.default:
            continue
        others = " or ".join(f"--source={other}" for other, entry in SOURCES.items() if field.name in entry.options)
        raise UserError(f"--{field.name}={value} says nothing to --source={name}: leave it out, or give {others}.")


def label_of(text: str) -> int:
    """The class that a field of a table names, in whatever case; 0.0 and 1.0 are as programs write 0 and 1.

    Raises:
        UserError: it names none.
    """
    label = LABELS.get(text.lower().removesuffix(".0"))
    if label is None:
        raise UserError(f"its label is none of {', '.join(LABELS)}")
    return label


def load(name: str) -> Source:
    """The source of a name.

    Raises:
        UserError: there is none, or a package that it needs is not installed.
    """
    if name not in SOURCES:
        raise UserError(f"--source={name}: known are {', '.join(SOURCES)}.")
    entry = SOURCES[name]
    try:
        if entry.needs:
            importlib.import_module(entry.needs)
        return importlib.import_module(f"descargan_tf.preparation.{entry.module}")
    except ModuleNotFoundError as error:
        if entry.needs:
            raise UserError(
                f"--source={name} needs the module {error.name}, which is not installed: "
                f"pip install {entry.package}, or pip install -r requirements-medical.txt for all of its kind."
            ) from error
        raise


def pseudonym(identity: str, key: bytes) -> str:
    """What stands for a person, or for anything else that identifies: 16 hexadecimal digits, the same for the same key.

    Without the key nobody can find out who it was, or try names until one fits.
    """
    return hmac.new(key, identity.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:16]
