"""Prediction of a part of the files, so that several processes or machines do all of them (`--shard`)."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from descargan_tf.data.nifti_files import is_volume
from descargan_tf.errors import UserError
from descargan_tf.prediction.table import COLUMNS, TABLE, labels, write_table


class Shard(NamedTuple):
    """Every `count`-th file from number `index` on: unlike parts of a list cut in pieces, these take as long."""

    index: int
    count: int

    def of(self, files: Sequence[Path]) -> list[Path]:
        """Those that are this shard's."""
        return list(files[self.index :: self.count])

    @property
    def table(self) -> str:
        """The name of its table."""
        if self.count == 1:
            return TABLE
        return f"{Path(TABLE).stem}-{self.index:05d}-of-{self.count:05d}{Path(TABLE).suffix}"


WHOLE = Shard(0, 1)


def parse(text: str) -> Shard:
    """Read --shard, "" for all.

    Raises:
        UserError: it is not i/n with 0 <= i < n.
    """
    if not text:
        return WHOLE
    found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text)
    if not found or int(found[1]) >= int(found[2]):
        raise UserError(f"--shard={text}: expected i/n, the number of a part and how many there are: 0/8, 1/8 to 7/8.")
    return Shard(int(found[1]), int(found[2]))


def join(folder: Path, files: Sequence[Path], shard: Shard) -> list[Shard]:
    """Make one table of those of all shards, where all are there: the one that a single process would write.

    Args:
        folder: holds the tables.
        files: of all shards.
        shard: any of them.

    Returns:
        The shards whose tables are not there yet; none where the table is written.

    Raises:
        UserError: a table is of other files.
    """
    shards = [Shard(index, shard.count) for index in range(shard.count)]
    missing = [one for one in shards if not (folder / one.table).is_file()]
    if missing:
        return missing
    called, rows = labels(files), {}
    for one in shards:
        with open(folder / one.table, newline="", encoding="utf-8") as file:
            header, *found = csv.reader(file)
        unknown = {row[0] for row in found} - {called[file] for file in one.of(files)}
        if tuple(header) != COLUMNS or unknown:
            raise UserError(
                f"{folder / one.table} is of other files than this shard found: start all shards with the same "
                "--input, or name another --output_dir."
            )
        rows |= {row[0]: row for row in found}
    write_table(folder, [rows[called[file]] for file in sorted(files, key=is_volume) if called[file] in rows])
    return []
