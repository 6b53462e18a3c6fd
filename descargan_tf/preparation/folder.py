"""--source=folder: images of any size and type in folders named after the classes.

    <root>/{healthy,diseased}/...                                 splits are drawn
    <root>/{train,validate,test}/{healthy,diseased}/...           a split that is not there is drawn from train
    .../ground_truth/<as below diseased>.{npy,png,tif,tiff}       masks, optional, beside the class folders

A file directly in a class folder is of a patient of its own; a folder in it is a patient, with all that it holds. A
mask has the name of its image, and lies below ground_truth as the image lies below diseased; its suffix may differ.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from descargan_tf.data.formats import GROUND_TRUTH_SUFFIXES, IMAGE_SUFFIXES
from descargan_tf.data.images import parse_value_range, read_image
from descargan_tf.data.listing import GROUND_TRUTH_FOLDER, list_data_set
from descargan_tf.errors import UserError
from descargan_tf.files import reason
from descargan_tf.names import name_some, normal_form
from descargan_tf.preparation.sources import Listing, Options, Pixels, RawImage
from descargan_tf.types import CLASS_NAMES, DISEASED, SPLITS

_WHOLE_RANGE = {np.dtype(np.uint8): (0, 255), np.dtype(np.uint16): (0, 65535), np.dtype(np.float32): (0, 1)}


def list(root: Path, options: Options) -> Listing:
    """As `Source.list`."""
    splits = [split for split in SPLITS if (root / split).is_dir()]
    has_classes = any((root / name).is_dir() for name in CLASS_NAMES)
    if splits and has_classes:
        raise UserError(
            f"--input={root} holds both splits ({', '.join(splits)}) and classes: which of them is meant? Move one out."
        )
    if not splits and not has_classes:
        raise UserError(f"--input={root}: neither class folders nor splits; {_hint(root)}.")
    listing = Listing([], [], [])
    for split in splits or [None]:
        _list_classes(root, split, listing)
    return listing


def read(image: RawImage, options: Options) -> Pixels:
    """As `Source.read`."""
    return read_pixels(image.path, options.value_range)


def read_ground_truth(image: RawImage, options: Options) -> np.ndarray:
    """As `Source.read_ground_truth`: what is not 0 is marked."""
    return read_mask(image.ground_truth)


def read_pixels(path: Path, value_range: str) -> Pixels:
    """Decode an image file; colour becomes its luminance.

    Args:
        path: of the file.
        value_range: "low,high", or "auto": all that 8 or 16 bits can say, and 0 to 1 for floats.

    Raises:
        UserError: names the file.
    """
    values, difference = read_image(path, takes_colour=True)
    if difference is not None:
        raise UserError(
            f"{path}: holds a ground truth beside its image, as this program's synthetic data do: "
            "--dataset=folders trains on such files as they are"
        )
    scaling = parse_value_range(value_range)
    return Pixels(values, *(scaling or _WHOLE_RANGE[values.dtype]))


def read_mask(path: Path) -> np.ndarray:
    """Decode a mask: bool [H, W].

    Raises:
        UserError: names the file.
    """
    values, difference = read_image(path, takes_colour=True, takes_integers=True)
    if difference is not None:
        raise UserError(f"{path}: two channels, expected a mask alone, [H, W]")
    return values != 0


def _hint(root):
    return list_data_set(root, SPLITS).problems[0].replace("--data_dir", "--input")


def _list_classes(root, split, listing):
    folder = root / split if split else root
    missing = [name for name in CLASS_NAMES if not (folder / name).is_dir()]
    if missing:
        raise UserError(
            f"class folder{'s' if len(missing) > 1 else ''} {', '.join(missing)} missing in {folder}; "
            f"found: {found_in(folder)}."
        )
    above = frozenset({identity(root), identity(folder)})
    masks = _masks(folder / GROUND_TRUTH_FOLDER, root, listing, above)
    used, others = set(), 0
    for label, name in enumerate(CLASS_NAMES):
        paths = [*walk(folder / name, root, listing.problems, above)]
        images = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]
        others += len(paths) - len(images)
        times = Counter(_key(path, folder / name) for path in images)
        for path in images:
            key = _key(path, folder / name)
            mask = masks.get(key) if label == DISEASED and times[key] == 1 else None
            used.add(mask)
            inner = path.relative_to(folder / name)
            listing.images.append(
                RawImage(
                    path=path,
                    source=path.relative_to(root).as_posix(),
                    label=label,
                    patient=inner.parts[0] if len(inner.parts) > 1 else "",
                    split=split,
                    ground_truth=mask,
                )
            )
    if others:
        listing.notes.append(f"{folder}: {others} files are no images by their names, and passed over")
    note_orphans(root, [path for path in masks.values() if path not in used], listing.notes)


def found_in(folder: Path) -> str:
    """What lies in a folder that lacks what was looked for."""
    return name_some(sorted(path.name for path in folder.iterdir())) or "nothing"


def note_orphans(root: Path, paths: Sequence[Path], notes) -> None:
    """Say which files of ground truth are used for no image: somebody has made them to be used."""
    others = [path for path in paths if path.suffix.lower() not in GROUND_TRUTH_SUFFIXES]
    for some, why in (
        ([path for path in paths if path not in others], "ground truth of no one diseased image, passed over"),
        (others, f"passed over, as a ground truth ends in {' '.join(GROUND_TRUTH_SUFFIXES)}"),
    ):
        if some:
            notes.append(f"{name_some(sorted(path.relative_to(root).as_posix() for path in some))}: {why}")


def _masks(folder, root, listing, above):
    found, doubled = {}, set()
    paths = [*walk(folder, root, listing.problems, above)] if folder.is_dir() else []
    for path in (path for path in paths if path.suffix.lower() in GROUND_TRUTH_SUFFIXES):
        key = _key(path, folder)
        doubled |= {key} & found.keys()
        found[key] = path
    note_orphans(root, [path for path in paths if path.suffix.lower() not in GROUND_TRUTH_SUFFIXES], listing.notes)
    for key in sorted(doubled):
        listing.notes.append(f"{folder}: {key} is there with two suffixes, and neither is used as ground truth")
        del found[key]
    return found


def _key(path, folder):
    return normal_form(path.relative_to(folder).with_suffix("").as_posix())


def identity(folder: Path) -> tuple[int, int]:
    """What a folder is, by whatever link it is reached."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, which is missed when it is read
        return False


def walk(folder: Path, root: Path, problems, above=frozenset()) -> Iterator[Path]:
    """Every file below a folder that is not hidden, by name; links are followed, but not round in a circle.

    Args:
        folder: where to begin.
        root: what its name in a problem is relative to.
        problems: takes a line for each folder that cannot be read, and each link that leads back.
        above: the `identity` of folders that hold `folder`.
    """
    name = folder.relative_to(root).as_posix()
    try:
        here = identity(folder)
        if here in above:
            problems.append(f"{name}: a link to a folder that it lies in")
            return
        with os.scandir(folder) as found:
            entries = sorted((entry.name, _is_folder(entry)) for entry in found if not entry.name.startswith("."))
    except OSError as error:
        problems.append(f"{name}: cannot be read: {reason(error)}")
        return
    for entry, is_folder in entries:
        if is_folder:
            yield from walk(folder / entry, root, problems, above | {here})
        else:
            yield folder / entry
