"""Comma-separated tables as spreadsheets write them: read row by row, every row named by its line.

No message quotes a field, but for names of files: a column that was taken for another may hold who somebody is.
"""

import csv
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from descargan_tf.errors import UserError
from descargan_tf.files import reading
from descargan_tf.names import name_some

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_DELIMITERS = ",;\t"  # the second is a spreadsheet's where numbers have a decimal comma


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table; row[column] is "" where the table has no such column."""

    line: int  # as editors count
    values: dict[str, str]  # by the column's name in the header, without spaces around it
    problem: str = ""  # what is wrong with it; then there are no values

    def __getitem__(self, column):
        return self.values.get(column, "")


def read_table(path: Path, needed: Sequence[str] = (), known: Sequence[str] = ()) -> Iterator[Row]:
    """Yield the rows below the header that are not empty.

    Columns that are asked for are found in whatever case they are written: to pass over Patient would be to draw splits
    without patients. UTF-8 with or without its mark; lines that end in CRLF, LF or CR; commas, semicolons or tabs. A
    byte that is no UTF-8 stays what it is, as in names of files. Spaces around a field are no part of it.

    Args:
        path: of the table.
        needed: columns that must be there.
        known: further ones that are asked for.

    Raises:
        UserError: it cannot be read, is no text, or lacks a column; names the file.
    """
    with reading(path):
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise UserError(f"{path}: is no file; expected a table (CSV)")
        with open(path, "rb") as raw:
            if raw.read(2) in _UTF16:
                raise UserError(f"{path}: is UTF-16; save it as CSV in UTF-8")
        # Opened without translation of line ends, as a quoted field may hold some.
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield from _rows(path, file, needed, known)


def _rows(path, file, needed, known):
    first = file.readline(1 << 16)
    delimiter = max(_DELIMITERS, key=first.count)
    file.seek(0)
    lines = csv.reader(file, delimiter=delimiter, strict=True, skipinitialspace=True)
    header = None
    try:
        for fields in lines:
            if not any(field.strip() for field in fields):
                continue
            if header is None:
                header = _header(path, fields, needed, known)
            elif len(fields) != len(header):
                yield Row(lines.line_num, {}, f"{len(fields)} fields, but {len(header)} columns")
            else:
                yield Row(lines.line_num, dict(zip(header, (field.strip() for field in fields), strict=True)))
    except csv.Error as error:  # from here on nobody knows where a row begins
        raise UserError(
            f"{path}: line {lines.line_num}: wrong quoting, or no text: {error}. "
            "Quotes within a quoted field are doubled"
        ) from error
    if header is None:
        raise UserError(
            f"{path}: holds no header: the first line names the columns, such as {','.join(needed) or 'a,b'}"
        )


def _header(path, fields, needed, known):
    header = [field.strip() for field in fields]
    others = {name.casefold(): name for name in (*needed, *known) if name not in header}
    header = [others.get(name.casefold(), name) for name in header]
    missing = [name for name in needed if name not in header]
    if missing:
        plural = "s" if len(missing) > 1 else ""
        # Of a first line that names none of them nobody knows that it is a header: it may be about somebody.
        there = f"there are: {name_some(header, 30)}" if len(missing) < len(needed) else "is its first line a header?"
        raise UserError(f"{path}: column{plural} {', '.join(missing)} missing; {there}")
    doubled = sorted({name for name in header if name and header.count(name) > 1})
    if doubled:
        raise UserError(f"{path}: column {name_some(doubled)} is there twice")
    return header
