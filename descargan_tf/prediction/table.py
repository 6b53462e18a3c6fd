"""What predicted files are called and what their table says; one answer for `--mode=predict` and for the client."""

import csv
import hashlib
import io
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from descargan_tf.data.listing import GROUND_TRUTH_FOLDER, list_images
from descargan_tf.errors import UserError
from descargan_tf.files import write_atomically
from descargan_tf.names import normal_form, shown
from descargan_tf.types import CLASS_NAMES, DECISION, SPLITS

COLUMNS = ("file", "disease_probability", "anomaly_score", "predicted_class")
TABLE = "predictions.csv"

_RESULTS = ("_healthy.npy", "_map.npy", "_overlay.png")
_PACKED = (".gz",)  # suffixes before which the kind of file has one of its own: scan.nii.gz
_MAX_BYTES = 255 - len("_healthy.nii.gz")  # of a name before what is put behind it


def output_names(files: Sequence[Path]) -> dict[Path, str]:
    """The stem of each file; where several would share one, with what tells them apart.

    That is the suffix behind it, else as many folders as it takes before it, else a number. Names that differ in case
    or Unicode form alone count as one, as they do to some file systems; one that would be too long is cut, and ends in
    a digest of what it was.
    """
    groups = defaultdict(list)
    for file in files:
        groups[_key(_stem(file))].append(file)
    names, taken = {}, {key for key, group in groups.items() if len(group) == 1}
    for group in groups.values():
        if len(group) == 1:
            names[group[0]] = _cut(_stem(group[0]))
            continue
        for file, name in zip(group, _told_apart(group), strict=True):
            base, number = name, 2
            while _key(name) in taken:
                name, number = f"{base}_{number}", number + 1
            taken.add(_key(name))
            names[file] = _cut(name)
    return {file: names[file] for file in files}


def labels(files: Sequence[Path]) -> dict[Path, str]:
    """What each file is called in the table: its name, or its path as it was given where others have its name."""
    count = Counter(file.name for file in files)
    return {file: shown(file if count[file.name] > 1 else file.name) for file in files}


def table_row(label: str, probability: float | None, score: float | None, predicted_class: str | None) -> Sequence[str]:
    """One row under COLUMNS; what a method does not say stays empty."""
    numbers = ("" if number is None else f"{number:.6f}" for number in (probability, score))
    return (label, *numbers, predicted_class or "")


def class_column(probability: float | None) -> str | None:
    """The class that a probability means, None where there is none."""
    return None if probability is None else CLASS_NAMES[probability > DECISION]


def write_table(
    folder: str | os.PathLike, rows: Iterable[Sequence[str]], name: str = TABLE, columns: Sequence[str] = COLUMNS
) -> Path:
    """Write a table into a folder; UserError if the folder or disk refuses it."""
    return write_atomically(Path(folder) / name, table_bytes(rows, columns))


def table_bytes(rows: Iterable[Sequence[str]], columns: Sequence[str] = COLUMNS) -> bytes:
    """The content of a table's file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()


def refuse_folder_of_inputs(files: Sequence[Path], output_dir: Path) -> None:
    """Results never lie among images: `a_map.npy` of one may be another, and the next time all are taken for such.

    Raises:
        UserError: the output folder is that of an input, or of what one is a link to, or a class of a data set.
    """
    output = os.path.realpath(output_dir)
    image = _image_of_data_set(Path(output))
    if image is not None:
        raise UserError(
            f"--output_dir={output_dir} is a folder of a data set, which holds {image.name}: results would pass for "
            "its images; name another folder"
        )
    folders = {file.parent: file for file in files} | {
        Path(os.path.realpath(file)).parent: file for file in files if file.is_symlink()
    }
    for folder, file in folders.items():
        if os.path.realpath(folder) == output:
            raise UserError(
                f"--output_dir={output_dir} is the folder of the input {file}: results would lie among the images, and "
                "could replace one; name another folder"
            )


def _image_of_data_set(folder):
    """One that is no result of a prediction, where a folder has the name and place of a class; else None."""
    if folder.parent.name not in SPLITS or folder.name not in (*CLASS_NAMES, GROUND_TRUTH_FOLDER):
        return None
    images = list_images(folder)[0] if folder.is_dir() else ()
    return next((image for image in images if not image.name.endswith(_RESULTS)), None)


def _stem(file):
    return Path(file.stem).stem if file.suffix.lower() in _PACKED else file.stem


def _key(name):
    return normal_form(name).casefold()


def _told_apart(group) -> list[str]:
    """By the first way that gives each its own name; by the suffix if none does."""
    ways = list(_ways(group))
    return next((names for names in ways if len(set(map(_key, names))) == len(names)), ways[0])


def _ways(group) -> Iterator[list[str]]:
    suffixes = [file.name[len(_stem(file)) + 1 :].replace(".", "_") for file in group]
    yield [f"{_stem(file)}_{suffix}" for file, suffix in zip(group, suffixes, strict=True)]
    folders = [[part for part in file.parts[:-1] if part not in (file.anchor, "..")] for file in group]
    for depth in range(1, max(map(len, folders)) + 1):
        before = ["".join(f"{part}_" for part in parts[-depth:]) for parts in folders]
        stems = [f"{start}{_stem(file)}" for start, file in zip(before, group, strict=True)]
        yield stems
        yield [f"{stem}_{suffix}" for stem, suffix in zip(stems, suffixes, strict=True)]


def _cut(name):
    if len(os.fsencode(name)) <= _MAX_BYTES:
        return name
    end = "~" + hashlib.blake2b(os.fsencode(name), digest_size=4).hexdigest()
    while len(os.fsencode(name)) > _MAX_BYTES - len(end):
        name = name[:-1]
    return name + end
