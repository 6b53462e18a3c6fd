"""What a served model is asked, and what is written of its answers: one way for the client and for a Beam pipeline.

The tables and names of `--mode=predict` are in `prediction.table`. It needs neither TensorFlow nor Keras.
"""

import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from descargan_tf.data.formats import FORMATS, SERVED_MAGIC, SERVED_SUFFIXES, format_of
from descargan_tf.data.images import npy_bytes
from descargan_tf.data.listing import list_images
from descargan_tf.errors import UserError
from descargan_tf.files import reason
from descargan_tf.prediction.table import table_row

SIGNATURE = "serving_bytes"


class Answer(NamedTuple):
    """What the model says of one image, at the size of its training; None where its method has no such answer."""

    anomaly_map: np.ndarray | None  # [H, W] float32, healthy image - input, signed
    healthy_image: np.ndarray | None  # [H, W] float32 in [-1, 1]
    disease_probability: float | None
    anomaly_score: float | None  # larger is more diseased
    predicted_class: str | None  # one of CLASS_NAMES
    overlay_png: bytes | None  # the map in colour over the image
    anomaly_map_png: bytes | None  # the map in colour

    def files(self, stem: str) -> dict[str, bytes]:
        """What is written of it, by file name, as `--mode=predict` writes it."""
        arrays = {"healthy": self.healthy_image, "map": self.anomaly_map}
        found = {f"{stem}_{kind}.npy": npy_bytes(array) for kind, array in arrays.items() if array is not None}
        if self.overlay_png is not None:
            found[f"{stem}_overlay.png"] = self.overlay_png
        return found

    def row(self, label: str) -> Sequence[str]:
        """Its row of `predictions.csv`."""
        return table_row(label, self.disease_probability, self.anomaly_score, self.predicted_class)


def find_inputs(paths: Iterable[str | Path]) -> list[Path]:
    """The files themselves, and of a folder the PNG and JPEG files directly in it, each once.

    Raises:
        UserError: a folder that holds none. A file that is not there is left to who reads it.
    """
    files = []
    for path in map(Path, paths):
        found = [path]
        if path.is_dir():
            found = [file for file in list_images(path)[0] if file.suffix.lower() in SERVED_SUFFIXES]
            if not found:
                others = _other_images(path)
                raise UserError(
                    f"{path} holds no image file that an export reads: {', '.join(SERVED_SUFFIXES)}"
                    + (f"; it holds {others}" if others else "")
                )
        files += found
    return list(dict.fromkeys(files))


def tell_what_is_passed_over(folder: Path) -> None:
    """A line about the image files of a folder that an export does not read."""
    if others := _other_images(folder):
        print(f"passed over in {folder}: {others}", file=sys.stderr)


def _other_images(folder: Path) -> str:
    """The image files that an export does not read, and what does; empty without any."""
    names = [path.name.lower() for path in list_images(folder)[0]]
    others = [format for format in FORMATS if not format.is_served]
    counts = {format.name: sum(name.endswith(format.suffixes) for name in names) for format in others}
    kinds = " and ".join(f"{count} {name}" for name, count in counts.items() if count)
    return f"{kinds}; {_here(folder)}" if kinds else ""


def read_image(path: Path) -> bytes:
    """The content of a PNG or JPEG file.

    Raises:
        UserError: it cannot be read, or is neither.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise UserError("is no regular file; expected an image file")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read: {reason(error)}") from error
    check_content(content, path)
    return content


def check_content(content: bytes, path: object = "<file or folder>") -> None:
    """UserError if it is neither PNG nor JPEG; `path` is what the message has of where it lies."""
    if content.startswith(SERVED_MAGIC):
        return
    found = format_of(content)
    if found is None:
        raise UserError("is neither PNG nor JPEG, which is what an export reads; convert it first")
    raise UserError(f"is {found.name}, and an export reads PNG and JPEG; {_here(path)}, or convert it to PNG")


def _here(path):
    return f"`python -m descargan_tf.main --mode=predict {shlex.quote(f'--input={path}')} ...` reads it by itself"
