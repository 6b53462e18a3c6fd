"""One process at work in a folder: a lock that dies with the process, so that none is ever left behind."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from descargan_tf.errors import UserError
from descargan_tf.files import reason

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None

LOCK = "lock"  # the file's name; it stays when nobody holds it
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


@contextlib.contextmanager
def alone_in(folder: Path, refusal: str) -> Iterator[tuple[int, ...]]:
    """Hold the folder's lock; where there can be none (Windows, some network file systems) that is said.

    Args:
        folder: exists.
        refusal: what is said where another process holds it; `{holder}` becomes the name of that process.

    Yields:
        Descriptors that child processes are to inherit where they are part of what holds it.

    Raises:
        UserError: another process holds it, or the folder cannot be written.
    """
    try:
        file = open(folder / LOCK, "a+")  # noqa: SIM115  not emptied before it is ours
    except OSError as error:
        raise UserError(f"{folder / LOCK} cannot be written: {reason(error)}.") from error
    with file:
        missing = _take(file, refusal)
        if missing:
            print(f"{folder} cannot be locked ({missing}): see to it that no other process works there", flush=True)
            yield ()
            return
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield (file.fileno(),)


def refuse_if_held(folder: Path, refusal: str) -> None:
    """As `alone_in` would; nothing is written, and the folder need not exist.

    Raises:
        UserError: another process holds the lock.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError), open(folder / LOCK) as file:
        _take(file, refusal)


def _take(file, refusal):
    """Lock it; what keeps the system from locking."""
    if fcntl is None:
        return "not on this system"
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _HELD:
            return reason(error)
        file.seek(0)
        raise UserError(refusal.replace("{holder}", file.read().strip() or "another process")) from None
    return None
