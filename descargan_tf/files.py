"""Files that are either whole or not there."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from descargan_tf.errors import UserError


def write_atomically(path: str | os.PathLike, content: bytes | Callable[[BinaryIO], None]) -> Path:
    """Write bytes, or what a function writes, under a temporary name and rename.

    Raises:
        UserError: the folder or the disk refuses it; what stood there before still does.
    """
    path = Path(path)
    # In the same folder, as a rename cannot cross file systems; not by tempfile, whose files only their owner can read.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        try:
            with open(partial, "xb") as file:
                if callable(content):
                    content(file)
                else:
                    file.write(content)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path
