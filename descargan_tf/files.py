"""Files that are either whole or not there, and what the system says where it refuses one."""

import contextlib
import errno
import os
import uuid
from collections.abc import Callable, Iterator
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
    # Without the file's own name in it, which may be as long as a name can be.
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
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
        raise UserError(f"{path}: cannot be written: {reason(error)}") from error
    return path


def is_within(path: str | os.PathLike, folder: str | os.PathLike) -> bool:
    """Whether a path leads into a folder, links followed on both sides; neither need be there."""
    inner, outer = os.path.realpath(path), os.path.realpath(folder)
    return os.path.commonpath((inner, outer)) == outer


def is_partial(name: str) -> bool:
    """Whether a file is what a `write_atomically` that was killed has left."""
    return name.startswith(".") and name.endswith(".partial")


def sync(path: str | os.PathLike) -> None:
    """Have a file's content, or the names in a folder, on the disk."""
    if os.name != "posix" and os.path.isdir(path):  # elsewhere folders cannot be opened
        return
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reason(error: OSError) -> str:
    """The system's words, and what it does not say: that a name is a link to what is not there."""
    words = error.strerror or str(error)
    name = error.filename
    with contextlib.suppress(OSError, TypeError):
        if error.errno in (errno.ENOENT, errno.ELOOP) and os.path.islink(name):
            return f"{words}: it is a link to {os.readlink(name)}"
    return words


@contextlib.contextmanager
def reading(name: str | os.PathLike) -> Iterator[None]:
    """Where the system refuses to read what is named, say so in one line.

    Raises:
        UserError: in place of any OSError.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {reason(error)}") from error
