"""Names of files are bytes that people chose; text is not. How they are shown, compared and printed.

Python hands a byte that is no UTF-8 on as a surrogate, which opens the file and which no text file can hold.
"""

from __future__ import annotations  # Python 3.9 reads this file too

import codecs
import contextlib
import re
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path

# Of a text stream, errors=: a name goes out, and comes in, as the bytes that it is, so that it can be pasted.
OWN_BYTES = "own_bytes"

_MAX_NAMED = 5  # files named in a message
_SURROGATES = "\udc80-\udcff"
_CONTROLS = "\x00-\x1f\x7f\x85\u2028\u2029"  # what ends a line, moves a cursor or cannot be seen
_NO_TEXT = re.compile(f"[{_SURROGATES}{_CONTROLS}]")
_LIKE_AN_ESCAPE = re.compile(r"\\x[0-9a-f]{2}")


def shown(name: str | PathLike) -> str:
    r"""A name as text in tables, pages and figures: itself, or as `printf` takes it where it is no text.

    A byte that is no UTF-8 and a control character become `\xfc`; in such a name, and in one that holds `\xfc` itself,
    a backslash is doubled. So different names stay different.
    """
    text = str(name)
    if not (_NO_TEXT.search(text) or _LIKE_AN_ESCAPE.search(text)):
        return text
    return _NO_TEXT.sub(_escaped, text.replace("\\", "\\\\"))


@contextlib.contextmanager
def as_text(path: str | PathLike) -> Iterator[Path]:
    """The path itself or, where it is no text, a link to it that is: for TensorFlow, which takes names in UTF-8 alone.

    Raises:
        OSError: no temporary folder can be made.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / "link"
            link.symlink_to(Path(path).absolute())
            yield link
    else:
        yield Path(path)


def one_line(message: object) -> str:
    r"""A message whose names can no longer break its line or steer the terminal."""
    return re.sub(f"[{_CONTROLS}]", _escaped, str(message))


def normal_form(name: str) -> str:
    """What names have in common that differ in their Unicode form alone, as two systems write an umlaut."""
    return unicodedata.normalize("NFC", name)


def name_some(names: Iterable[str], limit: int = _MAX_NAMED) -> str:
    """The first names of many, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _escaped(match):
    return "".join(f"\\x{byte:02x}" for byte in match[0].encode("utf-8", "surrogateescape"))


def _own_bytes(error):
    if isinstance(error, UnicodeDecodeError):  # of who reads what was printed, such as a test
        return codecs.lookup_error("surrogateescape")(error)
    found = bytearray()
    for character in error.object[error.start : error.end]:
        is_byte = "\udc80" <= character <= "\udcff"
        found += character.encode("utf-8", "surrogateescape") if is_byte else ascii(character)[1:-1].encode()
    return bytes(found), error.end


codecs.register_error(OWN_BYTES, _own_bytes)
