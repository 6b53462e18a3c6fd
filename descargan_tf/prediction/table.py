"""What predicted files are called and what their table says; one answer for `--mode=predict` and for the client."""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from descargan_tf.files import write_atomically

COLUMNS = ("file", "disease_probability", "anomaly_score", "predicted_class")
TABLE = "predictions.csv"


def output_names(files: Sequence[Path]) -> dict[Path, str]:
    """The stem of each file; where two would share one, with the suffix, or a number, behind it."""
    count = Counter(file.stem for file in files)
    names, taken = {}, {stem for stem in count if count[stem] == 1}
    for file in files:
        name = file.stem
        if count[name] > 1:
            base = name = f"{name}_{file.suffix[1:]}"
            number = 2
            while name in taken:
                name, number = f"{base}_{number}", number + 1
            taken.add(name)
        names[file] = name
    return names


def table_row(file: Path, probability: float | None, score: float | None, predicted_class: str | None) -> Sequence[str]:
    """One row under COLUMNS; what a method does not say stays empty."""
    numbers = ("" if number is None else f"{number:.6f}" for number in (probability, score))
    return (file.name, *numbers, predicted_class or "")


def write_table(folder: str | os.PathLike, rows: Iterable[Sequence[str]]) -> Path:
    """Write TABLE into a folder; UserError if the folder or disk refuses it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    return write_atomically(Path(folder) / TABLE, text.getvalue().encode())
