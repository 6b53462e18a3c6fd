"""Which files of a data folder are read, and as what: found by name, before any is opened.

    <root>/{train,validate,test}/{healthy,diseased}/*.{npy,png,jpg,jpeg,tif,tiff}
    <root>/{train,validate,test}/ground_truth/<stem of the diseased image>.{npy,png,tif,tiff}     (optional)

The label is the folder's name, whatever the alphabetical order.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from descargan_tf.data.formats import GROUND_TRUTH_SUFFIXES, IMAGE_SUFFIXES
from descargan_tf.errors import UserError
from descargan_tf.files import reading, reason
from descargan_tf.names import name_some, normal_form
from descargan_tf.types import CLASS_NAMES, DISEASED, SPLITS

GROUND_TRUTH_FOLDER = "ground_truth"

_MAX_NAMED = 5  # subfolders named in a message


class File(NamedTuple):
    """One image of a data set, and where its ground truth lies."""

    path: Path
    name: str  # relative to the root
    split: str
    label: int
    ground_truth: Path | None


class Listing(NamedTuple):
    """What a data folder holds by its names, and what is wrong with them."""

    files: list[File]  # by split, healthy first, by file name
    num_ignored: dict[tuple[str, int], int]
    problems: list[str]
    warnings: list[str]


def list_images(folder: str | Path) -> tuple[list[Path], int]:
    """Find the image files directly in a folder, sorted by name, and count what else lies there.

    This alone decides what is read, wherever images come from. A link counts as what it leads to, one that leads
    nowhere as a file, so that it is missed.

    Raises:
        UserError: the folder cannot be read.
    """
    with reading(folder):
        entries = sorted(Path(folder).iterdir(), key=lambda path: path.name)
        images = [
            path
            for path in entries
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and not path.is_dir()
        ]
    return images, len(entries) - len(images)


def list_data_set(root: Path, splits: Sequence[str]) -> Listing:
    """Find the files of some splits.

    Raises:
        UserError: the folder itself is not there, or something of it cannot be read.
    """
    try:
        if not root.is_dir():
            is_link = root.is_symlink() and not root.exists()
            problem = f"is a link to {root.readlink()}, which does not exist" if is_link else "does not exist"
            raise UserError(f"--data_dir={root} {'is not a folder' if root.exists() else problem}")
        return _list_splits(root, splits)
    except OSError as error:
        raise UserError(f"--data_dir={root} cannot be read: {reason(error)}: {error.filename}") from error


def _list_splits(root: Path, splits: Sequence[str]) -> Listing:
    listing = Listing([], {}, [], [])
    missing = [split for split in splits if not (root / split).is_dir()]
    if missing:
        listing.problems.append(
            f"split folder{'s' if len(missing) > 1 else ''} {', '.join(missing)} missing in {root}; "
            f"found: {_found(root)}{_link_hint(root, missing)}{_level_hint(root)}{_spelling_hint(root, missing)}"
        )
    for split in splits:
        if split not in missing:
            _list_one_split(root, split, listing)
    return listing


def _level_hint(root: Path) -> str:
    root = root.resolve()  # "." has no name
    found = _subfolders(root)
    if set(found) & set(CLASS_NAMES):
        if root.name in SPLITS:
            return f"; the folder is one level too low, try --data_dir={root.parent}"
        return f"; it holds classes but no splits: move them into {root}/{{{','.join(SPLITS)}}}"
    if root.name in CLASS_NAMES:
        return f"; the folder is two levels too low, try --data_dir={root.parent.parent}"
    for name in found:
        if set(_subfolders(root / name)) & set(SPLITS):
            return f"; the folder is one level too high, try --data_dir={root / name}"
    return ""


def _link_hint(folder: Path, missing: Sequence[str]) -> str:
    links = [folder / name for name in missing if (folder / name).is_symlink()]
    return "".join(f"; {link.name} is a link to {link.readlink()}, which is no folder" for link in links)


def _spelling_hint(folder: Path, missing: Sequence[str]) -> str:
    hints = []
    for name in missing:
        # "val", "valid", "validation" for "validate"; "Healthy" for "healthy"; "testing" for "test".
        likely = [found for found in _subfolders(folder) if found.lower()[:3] == name[:3]]
        hints += [f"rename {found} to {name}" for found in likely[:1]]
    return f"; names are exact and case-sensitive: {', '.join(hints)}" if hints else ""


def _list_one_split(root: Path, split: str, listing: Listing) -> None:
    folder = root / split
    missing = [name for name in CLASS_NAMES if not (folder / name).is_dir()]
    if missing:
        listing.problems.append(
            f"class folder{'s' if len(missing) > 1 else ''} {', '.join(missing)} missing in {folder}; found: "
            f"{_found(folder)}{_link_hint(folder, missing)}; expected {split}/healthy and {split}/diseased"
            f"{_spelling_hint(folder, missing)}"
        )
    truths = _list_ground_truths(folder / GROUND_TRUTH_FOLDER, root, listing)
    used = set()
    for label, class_name in enumerate(CLASS_NAMES):
        if class_name in missing:
            continue
        paths, listing.num_ignored[split, label] = list_images(folder / class_name)
        if not paths:
            deeper = _subfolders(folder / class_name)
            listing.problems.append(
                f"no image in {folder / class_name}; expected files ending in {' '.join(IMAGE_SUFFIXES)}"
                + (f", directly in it and not in its subfolders ({', '.join(deeper[:_MAX_NAMED])})" if deeper else "")
            )
        matches = _match(paths, truths) if label == DISEASED else {}
        times_used = Counter(matches.values())
        for path in paths:
            truth = matches.get(path)
            if times_used[truth] > 1:
                if truth not in used:
                    listing.warnings.append(
                        f"{truth.name} is the ground truth of several images, {split}/*/{path.stem}.*: of none, then"
                    )
                used.add(truth)
                truth = None
            if truth:
                used.add(truth)
            listing.files.append(File(path, path.relative_to(root).as_posix(), split, label, truth))
    orphans = [path.relative_to(root).as_posix() for path in truths.values() if path not in used]
    if orphans and "diseased" not in missing:
        listing.warnings.append(f"{name_some(orphans)}: ground truth of no diseased image, ignored")


def _match(images: Sequence[Path], truths: dict[str, Path]) -> dict[Path, Path]:
    """By stem; where an image's own is not there, by one that differs from it in its Unicode form alone."""
    stems = {path.stem for path in images}
    by_form = {normal_form(stem): path for stem, path in truths.items() if stem not in stems}
    found = {path: truths.get(path.stem) or by_form.get(normal_form(path.stem)) for path in images}
    return {path: truth for path, truth in found.items() if truth}


def _list_ground_truths(folder: Path, root: Path, listing: Listing) -> dict[str, Path]:
    truths: dict[str, Path] = {}
    doubled = set()
    if not folder.is_dir():
        if folder.is_symlink():
            listing.warnings.append(f"{folder} is a link to {folder.readlink()}, which is no folder: no ground truth")
        elif folder.exists():
            listing.warnings.append(f"{folder} is no folder: no ground truth")
        return truths
    try:
        paths, _ = list_images(folder)
    except UserError as error:
        listing.warnings.append(f"{error}: no ground truth")
        return truths
    for path in paths:
        name = path.relative_to(root).as_posix()
        if path.suffix.lower() not in GROUND_TRUTH_SUFFIXES:
            listing.warnings.append(f"{name}: ignored, a ground truth ends in {' '.join(GROUND_TRUTH_SUFFIXES)}")
        elif path.stem in truths:
            doubled.add(path.stem)
            listing.warnings.append(
                f"{truths[path.stem].name} and {path.name} in {folder} are for the same image: neither is used"
            )
        else:
            truths[path.stem] = path
    return {stem: path for stem, path in truths.items() if stem not in doubled}


def _subfolders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _found(folder: Path) -> str:
    return ", ".join(_subfolders(folder)[:20]) or "no folder"
