"""Version folders: filled beside their place, renamed into it, or not there at all."""

import contextlib
import errno
import shutil
import signal
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

from descargan_tf.errors import UserError


def versions(base: Path) -> list[int]:
    """The version numbers that an export base holds, ascending."""
    if not base.is_dir():
        return []
    return sorted(int(path.name) for path in base.iterdir() if path.name.isdecimal())


def publish(base: Path, version: int, fill: Callable[[Path], None]) -> Path:
    """Let `fill` write into a new folder, then give it its version number.

    TensorFlow Serving polls the base and takes up whatever has a number for a name, so a number appears only by a
    rename of what is complete. If `fill` fails, or SIGINT or SIGTERM arrives, nothing is left.

    Args:
        base: holds the versions; made if need be.
        version: a free number, or 0 for the one after the highest there is.
        fill: called with the folder to write into, which exists and has no number for a name.

    Returns:
        The version's folder.

    Raises:
        UserError: the version exists, or the base cannot be written.
        SystemExit: 128 + the number of the signal.
    """
    refuse_version(base, version)
    partial = base / f".{uuid.uuid4().hex}.partial"
    try:
        with _stopped_by_signals(partial):
            partial.mkdir(parents=True)
            fill(partial)
            return _give_number(partial, base, version)
    except OSError as error:
        raise UserError(f"--export_dir={base} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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


@contextlib.contextmanager
def _stopped_by_signals(partial):
    """SIGINT and SIGTERM end the program by way of every `finally`."""
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()

    def stop(number, _):
        for each in numbers:  # the cleaning up is not to be stopped as well
            signal.signal(each, signal.SIG_IGN)
        print(f"{signal.Signals(number).name}: nothing was published", file=sys.stderr)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for number, handler in before.items():
            signal.signal(number, handler)
