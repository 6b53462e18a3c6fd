"""What names the data that a run or a report is of: the files that were read, each by its content.

The content is the decoded pixels', 64 bits of BLAKE2b: every file is read and decoded by the checks anyway, so that
it costs no second pass. Sizes say nothing (arrays of one shape have one size), and times of change are lost by
copying, restoring and version control. A picture that was only compressed or written again is the same one.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from descargan_tf.data.generation import MANIFEST
from descargan_tf.data.listing import File
from descargan_tf.data.reading import Facts
from descargan_tf.names import name_some, shown

_BYTES = 8  # of a content; a change is overlooked once in 2^64


def contents_of(facts: Iterable[Facts]) -> dict[str, str]:
    """From the name of each file that was read, relative to the data folder, to its content in hexadecimal."""
    found = {}
    for f in facts:
        found[f.file.name] = f.digest[:_BYTES].hex()
        if f.ground_truth:
            # One that lies in the image's own file has the image's name.
            name = f.ground_truth.name
            found[name if name != f.file.name else f"{name}#ground_truth"] = f.ground_truth.digest[:_BYTES].hex()
    return found


def of_contents(contents: Mapping[str, str]) -> str:
    """SHA-256, in hexadecimal, of names and contents."""
    return hashlib.sha256(json.dumps(sorted(contents.items())).encode()).hexdigest()


def of_manifest(data_dir: str | os.PathLike) -> str:
    """SHA-256, in hexadecimal, of the manifest of a generated data set, which names the content of every file."""
    return hashlib.sha256((Path(data_dir) / MANIFEST).read_bytes()).hexdigest()


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Say which files were added, removed and changed; empty where none was."""
    groups = {
        "added": now.keys() - before.keys(),
        "removed": before.keys() - now.keys(),
        "changed": {name for name in before.keys() & now.keys() if before[name] != now[name]},
    }
    return ", ".join(
        f"{len(names)} file{'s' if len(names) > 1 else ''} {how} ({name_some(map(shown, sorted(names)), 3)})"
        for how, names in groups.items()
        if names
    )


def by_older_versions(data_dir: str | os.PathLike, read: Collection[File]) -> set[str]:
    """What versions before 0.2 may have called the same data: its manifest, or names and sizes of all in the folder.

    Those counted files that nobody reads, so that one of them that came later made other data of it: the sum of the
    files that are read is here as well.
    """
    root = Path(data_dir)
    if (root / MANIFEST).exists():
        return {of_manifest(root)}
    truths = [file.ground_truth for file in read if file.ground_truth]
    # As it was: links to folders were not followed, and a folder with a point in its name counted.
    everything = [path for path in root.rglob("*.*") if path.exists()]
    found = set()
    for paths in (everything, [*(file.path for file in read), *truths]):
        sizes = sorted((str(path.relative_to(root)), path.stat().st_size) for path in paths)
        found.add(hashlib.sha256(json.dumps(sizes).encode()).hexdigest())
    return found
