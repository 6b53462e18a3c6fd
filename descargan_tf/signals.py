"""How work is ended from outside: by which signals, how each kind of work takes them, what is said and returned.

Short work is left where it stands: `raised`. Work that ends in its own time, as after a round, has an `Ending`. What
takes seconds and must not be left half done is `held`. All of them leave alone what is ignored, as SIGHUP under nohup.
"""

from __future__ import annotations  # Python 3.9 reads this file too, for export.verify

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

# Ctrl-C, a request to end, a terminal that was closed; not every system has the last.
ENDINGS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
READER_GONE = 13  # SIGPIPE, which Python turns into an error of write()

# A terminal that closes sends SIGHUP twice, itself and by the shell; a hand that is in a hurry presses Ctrl-C twice.
_TOGETHER_SECONDS = 1.0


class Stopped(KeyboardInterrupt):
    """A signal ends the program, by way of every `finally`; `program.run` makes a line and an exit status of it.

    Attributes:
        number: of the signal.
        leaves: what there is now, or is not, in a few words; see `leaving`.
    """

    def __init__(self, number: int, leaves: str | None = None):
        super().__init__(number)
        self.number, self.leaves = number, leaves

    def __str__(self):
        return f"{name_of(self.number)}: stopped" + (f"; {self.leaves}" if self.leaves else "")

    @property
    def status(self) -> int:
        """As shells count it."""
        return 128 + self.number


class Ending:
    """Takes note of the first signal; only Ctrl-C pressed again, some time after it, raises Stopped.

    Args:
        says: what is done about it, written when it arrives; nothing by default.

    Attributes:
        number: of the first signal; None so far.
    """

    def __init__(self, says: str = ""):
        self._says, self._since = says, 0.0
        self.number: int | None = None

    def __call__(self, number: int, _frame=None) -> None:
        """As a signal handler."""
        if self.number is None:
            self.number, self._since = number, time.monotonic()
            if self._says:
                with contextlib.suppress(RuntimeError):  # it came amid another write, and those cannot be nested
                    tqdm.write(f"{name_of(number)}: {self._says}")
        elif number == signal.SIGINT and self._is_later():
            raise Stopped(number)

    def _is_later(self):
        return time.monotonic() - self._since > _TOGETHER_SECONDS


class _Raise(Ending):
    """Raises at the first, and at later ones too: where a destructor was at work the first raised nothing."""

    def __call__(self, number, _frame=None):
        if self.number is None or self._is_later():
            self.number, self._since = number, time.monotonic()
            raise Stopped(number)


def name_of(number: int) -> str:
    """As SIGINT."""
    return signal.Signals(number).name


def leave_at_once(descriptor: int) -> Callable[[int, object], None]:
    """A signal handler for a time in which nothing has been done yet and libraries load, which a raise may confuse.

    Args:
        descriptor: of the user's terminal.
    """

    def leave(number, _):
        with contextlib.suppress(OSError):  # the terminal is gone
            os.write(descriptor, f"{name_of(number)}: stopped before anything was done\n".encode())
        os._exit(128 + number)

    return leave


@contextlib.contextmanager
def caught(receive: Callable[[int, object], None]) -> Iterator[None]:
    """Have every ending signal handed to `receive`; afterwards the handlers are those of before.

    Python lets the main thread alone do so: in another one this does nothing.
    """
    before = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in ENDINGS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    before[number] = signal.signal(number, receive)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: another language's


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """A signal raises Stopped wherever the program is; one within another is the outer one."""
    if any(isinstance(signal.getsignal(number), _Raise) for number in ENDINGS):
        yield
        return
    with caught(_Raise()):
        yield


@contextlib.contextmanager
def held() -> Iterator[None]:
    """A signal waits until the block is through; then it does what it would have done."""
    ending = Ending()
    with caught(ending):
        yield
    if ending.number is not None:
        signal.raise_signal(ending.number)


@contextlib.contextmanager
def leaving(what: str | Callable[[], str]) -> Iterator[None]:
    """What a signal that ends the block leaves, for the line that is said of it; the innermost block knows best."""
    try:
        yield
    except Stopped as stop:
        if stop.leaves is None:
            stop.leaves = what() if callable(what) else what
        raise


def end_with_parent() -> None:
    """In a worker: end when the program that started it has ended, even by SIGKILL; signals are for that program.

    A worker that went on would write into the folder of the next run.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):  # what a terminal that closes, or `timeout`, sends to the whole group
        os.setpgrp()
    parent = multiprocessing.parent_process()

    def wait():
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
