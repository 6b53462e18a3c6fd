"""Where a run's numbers go: metrics.jsonl, TensorBoard, and the log."""

import contextlib
import json
from pathlib import Path

import numpy as np
import tensorflow as tf


class Writer:
    """Scalars and images of one run by step; a resumed run drops the lines after the step it resumes from."""

    def __init__(self, run_dir: Path, step: int):
        self._path = run_dir / "metrics.jsonl"
        self._keep_until(step)
        self._file = self._path.open("a", buffering=1)
        self._boards = {name: tf.summary.create_file_writer(str(run_dir / name)) for name in ("train", "validate")}

    def _keep_until(self, step):
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text().splitlines(keepends=True):
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (ValueError, KeyError):
                break  # a line that a crash cut short; nothing after it counts
        temporary = self._path.with_suffix(".partial")
        temporary.write_text("".join(kept))
        temporary.replace(self._path)

    def scalars(self, group: str, step: int, values: dict[str, float]) -> None:
        """Write numbers of `group` ("train" or "validate") to metrics.jsonl and TensorBoard."""
        self._file.write(json.dumps({"step": step, "group": group, **values}) + "\n")
        with _as_os_error(), self._boards[group].as_default(step):
            for name, value in values.items():
                if value is not None:
                    tf.summary.scalar(name, value)

    def images(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """Show pictures [N, H, W, 1 or 3] in [0, 1] in TensorBoard."""
        with _as_os_error(), self._boards["validate"].as_default(step):
            for name, value in pictures.items():
                tf.summary.image(name, value, max_outputs=len(value))

    def close(self) -> None:
        """Flush and close everything."""
        self._file.close()
        with _as_os_error():
            for board in self._boards.values():
                board.close()


@contextlib.contextmanager
def _as_os_error():
    """TensorBoard's writers report a full disk in TensorFlow's own terms."""
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(error.message) from error
