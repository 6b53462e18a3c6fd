"""Flagfiles: text in UTF-8, a flag a line; a byte order mark, CRLF, empty lines and comments (#, //) are passed over.

One that a flagfile names is looked for beside it first, then in the working directory, so that a flagfile means the
same from wherever it is used; the flagfiles of a benchmark's rows likewise.
"""

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from descargan_tf.errors import UserError
from descargan_tf.files import reason


class Argument(NamedTuple):
    """A piece of a command line."""

    text: str
    source: Path | None  # the flagfile that it stands in; None: the command line itself


def expanded(arguments: Sequence[str]) -> list[Argument]:
    """Arguments, those of flagfiles in the place of --flagfile=<file>.

    Raises:
        UserError: a flagfile cannot be read, is no text in UTF-8, or names itself.
    """
    return list(_expanded([Argument(text, None) for text in arguments]))


def first_name(arguments: Sequence[str]) -> str:
    """The first flagfile's name without folder and ending, after which a run is called; empty where there is none."""
    for i, argument in enumerate(arguments):
        name, equals, value = argument.lstrip("-").partition("=")
        if name == "flagfile" and argument.startswith("-"):
            return Path(value if equals else arguments[i + 1]).stem
    return ""


def _expanded(arguments, within=()):
    left = iter(arguments)
    for argument in left:
        name, equals, value = argument.text.lstrip("-").partition("=")
        if not argument.text.startswith("-"):
            yield argument
        elif name == "flagfile":
            value = value if equals else next(left, Argument("", None)).text
            if not value:
                raise UserError("--flagfile names no file: --flagfile=<file>.")
            path = _flagfile(value, argument.source)
            if path.resolve() in within:
                raise UserError(f"--flagfile={path} names itself, by way of {argument.source}: take one of them out.")
            lines = [Argument(line, path) for line in _lines(path)]
            yield from _expanded(lines, (*within, path.resolve()))
        elif name == "benchmark_flagfiles" and equals and argument.source is not None:
            yield Argument(f"--{name}={_rows(value, argument.source)}", argument.source)
        else:
            yield argument


def _flagfile(value, source):
    path = Path(os.path.expanduser(value))
    if source is None:
        return path
    beside = source.parent / path
    if beside.exists() or path.is_absolute():
        return beside
    if path.exists():
        return path
    raise UserError(f"--flagfile={value} in {source} cannot be found: neither {beside} nor {path.absolute()} is there.")


def _rows(value, source):
    beside = source.parent / os.path.expanduser(value)
    return beside if glob.glob(glob.escape(str(beside)).replace("{}", "*")) else value


def _lines(path):
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"--flagfile={path} cannot be read: {reason(error)}.") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"--flagfile={path} is text in UTF-16: save it as UTF-8.")
    if b"\0" in content:
        raise UserError(f"--flagfile={path} is no text in UTF-8, or one in UTF-16: save it as UTF-8.")
    # Bytes that are no UTF-8 are kept as they are, as on a command line: file names are bytes.
    lines = map(str.strip, re.split(r"\r\n|\n|\r", content.decode("utf-8-sig", "surrogateescape")))
    return [line for line in lines if line and not line.startswith(("#", "//"))]
