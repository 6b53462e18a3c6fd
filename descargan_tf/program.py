"""A command line from its start to its exit status: one treatment of errors, of signals, and of readers who leave."""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator

from descargan_tf import signals
from descargan_tf.errors import UserError
from descargan_tf.files import reason
from descargan_tf.names import OWN_BYTES, one_line

_WANT_OF_MEMORY = (
    "there is not enough memory (`ulimit -a` shows what this process may use). What has been saved is whole; with more "
    "memory the same command goes on, and smaller batches, images or networks need less"
)
_WORDS_OF_MEMORY = (
    "ResourceExhaustedError",
    "XlaRuntimeError: RESOURCE_EXHAUSTED",
    "JaxRuntimeError: RESOURCE_EXHAUSTED",
    "RuntimeError: can't start new thread",  # whose stack has no place
)
_LONGEST = 200  # letters of a library's own words


def run(program: Callable[[], int]) -> int:
    """Run it; what ends it early becomes one line on standard error, but for a reader of its output who left.

    Returns:
        Its exit status; 2 after a UserError, and where the system refuses a file or memory; 128 + n after signal n,
        which is 141 (SIGPIPE) where output goes nowhere.
    """
    with _standard_streams(), signals.raised():
        try:
            try:
                return program()
            finally:
                sys.stdout.flush()  # which finds out whether somebody reads
        except UserError as error:
            go_on_unheard()
            print(f"error: {one_line(error)}", file=sys.stderr)
            return 2
        except OSError as error:
            if error.filename is None:  # not about a file of the user's
                raise
            go_on_unheard()
            print(f"error: {one_line(error.filename)}: {reason(error)}", file=sys.stderr)
            return 2
        except Exception as error:
            if not _is_for_want_of_memory(error):
                raise
            go_on_unheard()
            print(f"error: {_WANT_OF_MEMORY}: {one_line(error)[:_LONGEST]}", file=sys.stderr)
            return 2
        except KeyboardInterrupt as raised:
            # Not a signal's: a library's, or of who runs this within a program of their own.
            stop = raised if isinstance(raised, signals.Stopped) else signals.Stopped(signal.SIGINT)
            go_on_unheard()
            if stop.number != signals.READER_GONE:
                print(stop, file=sys.stderr)
            return stop.status


def _is_for_want_of_memory(error):
    """Also as the backends say it, which are not loaded here: TensorFlow by its class, JAX by a word."""
    words = f"{type(error).__name__}: {error}"
    return isinstance(error, MemoryError) or words.startswith(_WORDS_OF_MEMORY)


def go_on_unheard() -> None:
    """From here on, work is worth more than its messages: that nobody can read them any more is passed over."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, _Stream):
            stream.is_needed = False


class _Stream:
    """A standard stream; what cannot be written any more goes nowhere, once that has been told by what is raised."""

    def __init__(self, stream):
        self._stream = stream
        self.is_needed = True
        if hasattr(stream, "reconfigure"):
            # `| tee` and `| head` see a line when it is written; file names go out as the bytes that they are.
            stream.reconfigure(line_buffering=True, errors=OWN_BYTES)

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        """As of a text stream."""
        self._try(self._stream.write, text)
        return len(text)

    def flush(self):
        """As of a text stream."""
        self._try(self._stream.flush)

    def _try(self, do, *arguments):
        try:
            do(*arguments)
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)  # takes what is still in buffers, too
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            if not self.is_needed or error.errno == errno.EIO:  # the terminal is gone: the user sent it away
                return
            if error.errno == errno.EPIPE:
                raise signals.Stopped(signals.READER_GONE) from None
            raise UserError(f"what is printed cannot be written: {reason(error)}.") from error


@contextlib.contextmanager
def _standard_streams() -> Iterator[None]:
    for descriptor in range(3):  # the next file that is opened would stand in for one that is closed
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as opened:
        there = [stream or opened.enter_context(open(os.devnull, "w")) for stream in before]
        sys.stdout, sys.stderr = map(_Stream, there)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before
