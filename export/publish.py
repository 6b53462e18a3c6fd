"""Version folders: filled beside their place, renamed into it, or not there at all."""

import errno
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from descargan_tf import signals
from descargan_tf.errors import UserError
from descargan_tf.files import reason
from descargan_tf.names import as_text


def versions(base: Path) -> list[int]:
    """The version numbers that an export base holds, ascending."""
    if not base.is_dir():
        return []
    return sorted(int(path.name) for path in base.iterdir() if path.name.isdecimal())


def publish(base: Path, version: int, fill: Callable[[Path], None]) -> Path:
    """Let `fill` write into a new folder, then give it its version number.

    TensorFlow Serving polls the base and takes up whatever has a number for a name, so a number appears only by a
    rename of what is complete. If `fill` fails, or a signal ends the program, nothing is left.

    Args:
        base: holds the versions; made if need be.
        version: a free number, or 0 for the one after the highest there is.
        fill: called with the folder to write into, which exists and has no number for a name.

    Returns:
        The version's folder.

    Raises:
        UserError: the version exists, or the base cannot be written.
        signals.Stopped: a signal arrived.
    """
    refuse_version(base, version)
    partial = base / f".{uuid.uuid4().hex}.partial"
    try:
        with signals.raised():
            try:
                with signals.leaving("nothing was published"):
                    partial.mkdir(parents=True)
                    with as_text(base) as folder:
                        fill(folder / partial.name)
                return _give_number(partial, base, version)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UserError(f"--export_dir={base} cannot be written: {reason(error)}.") from error


def refuse_version(base: Path, version: int) -> None:
    """UserError if this version exists."""
    if version in versions(base):
        known = ", ".join(map(str, versions(base)))
        raise UserError(
            f"--export_version={version} exists in --export_dir={base} (there are {known}) and may be in use. "
            "Leave the flag away for the next free number."
        )


def _give_number(partial, base, version):
    while True:
        number = version or 1 + max(versions(base), default=0)
        try:
            return partial.rename(base / str(number))
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
        # Another export took the number meanwhile.
        refuse_version(base, version)
