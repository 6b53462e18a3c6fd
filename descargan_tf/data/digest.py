"""What names the data that a run or a report is of."""

import hashlib
import json
import os
from pathlib import Path

from descargan_tf.data.generation import MANIFEST


def data_digest(data_dir: str | os.PathLike) -> str:
    """SHA-256, in hexadecimal: of the manifest's bytes, or of names and sizes of the files."""
    manifest = Path(data_dir) / MANIFEST
    if manifest.exists():
        return hashlib.sha256(manifest.read_bytes()).hexdigest()
    names = sorted((str(p.relative_to(data_dir)), p.stat().st_size) for p in Path(data_dir).rglob("*.*"))
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()
