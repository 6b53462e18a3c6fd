"""Where a run's numbers go: metrics.jsonl and TensorBoard, whatever the backend."""

import io
import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from PIL import Image
from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorboard.plugins.image.metadata import create_summary_metadata as image_metadata
from tensorboard.plugins.scalar.metadata import create_summary_metadata as scalar_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

_EVENTS = "events.out.tfevents."  # what the names of TensorBoard's files begin with
# Around an event: its length and the checksum of that; its own checksum.
_HEAD, _CHECKSUM = struct.Struct("<QI"), struct.Struct("<I")


class Writer:
    """Scalars and images of one run by step; a resumed run drops what is of later steps than it resumes from."""

    def __init__(self, run_dir: Path, step: int):
        self._path = run_dir / "metrics.jsonl"
        self._keep_until(step)
        self._file = self._path.open("a", buffering=1)
        self._boards = {name: _Board(run_dir / name, step) for name in ("train", "validate")}

    def _keep_until(self, step):
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text().splitlines(keepends=True):
            try:
                if line.endswith("\n") and json.loads(line)["step"] <= step:
                    kept.append(line)
            except (ValueError, KeyError):
                break  # a line that a crash cut short; nothing after it counts
        temporary = self._path.with_suffix(".partial")
        temporary.write_text("".join(kept))
        temporary.replace(self._path)

    def scalars(self, group: str, step: int, values: dict[str, float]) -> None:
        """Write numbers of `group` ("train" or "validate") to metrics.jsonl and TensorBoard."""
        self._file.write(json.dumps({"step": step, "group": group, **values}) + "\n")
        shown = [
            summary_pb2.Summary.Value(tag=name, tensor=_number(value), metadata=scalar_metadata(None, ""))
            for name, value in values.items()
            if value is not None
        ]
        self._boards[group].write(step, shown)

    def images(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """Show pictures [N, H, W, 1 or 3] in [0, 1] in TensorBoard."""
        shown = [
            summary_pb2.Summary.Value(tag=name, tensor=_pngs(value), metadata=image_metadata(None, ""))
            for name, value in pictures.items()
        ]
        self._boards["validate"].write(step, shown)

    def sync(self) -> None:
        """Have the lines on the disk, before the checkpoint from which a resumed run would not write them again."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and close everything."""
        self._file.close()
        for board in self._boards.values():
            board.close()


class SilentWriter:
    """Of a process whose numbers another one writes."""

    def scalars(self, group: str, step: int, values: dict[str, float]) -> None:
        """Nothing."""

    def images(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class _Board:
    """An event file of TensorBoard's. Its own writer would load TensorFlow wherever that is installed."""

    def __init__(self, folder, step):
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(f"{_EVENTS}*"):
            _keep_events_until(path, step)
        name = f"{_EVENTS}{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(folder / name, "xb")  # noqa: SIM115  closed by `close`
        self._records = RecordWriter(self._file)
        self._add(file_version="brain.Event:2")
        # Every start but the first has a TensorBoard that is open drop what it has read of these steps and later ones.
        self._add(step=step + 1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def write(self, step, values):
        self._add(step=step, summary=summary_pb2.Summary(value=values))

    def _add(self, **content):
        self._records.write(event_pb2.Event(wall_time=time.time(), **content).SerializeToString())
        self._file.flush()  # so that a running training can be watched

    def close(self):
        self._file.close()


def _keep_events_until(path, step):
    """Drop the events of later steps from a file of TensorBoard's, which else would show those steps twice."""
    if all(event.step <= step for _, event in _events(path)):
        return
    temporary = path.with_name(f".{path.name}.partial")
    with open(temporary, "wb") as file:
        file.writelines(record for record, event in _events(path) if event.step <= step)
    temporary.replace(path)


def _events(path) -> Iterator[tuple[bytes, event_pb2.Event]]:
    """Each record, as it stands in the file, with its event, up to one that a crash cut short."""
    with open(path, "rb") as file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            length, _ = _HEAD.unpack(head)
            rest = file.read(length + _CHECKSUM.size)
            if len(rest) < length + _CHECKSUM.size:
                return
            try:
                yield head + rest, event_pb2.Event.FromString(rest[:length])
            except DecodeError:  # no further than TensorBoard reads it
                return


def _number(value):
    shape = tensor_shape_pb2.TensorShapeProto()
    return tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, tensor_shape=shape, float_val=[value])


def _pngs(pictures):
    """As the plugin wants them: width, height, then a PNG for each."""
    pixels = np.round(np.clip(pictures, 0.0, 1.0) * 255).astype(np.uint8)
    strings = [str(side).encode() for side in (pixels.shape[2], pixels.shape[1])]
    for picture in pixels:
        file = io.BytesIO()
        Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(file, "PNG")
        strings.append(file.getvalue())
    dim = tensor_shape_pb2.TensorShapeProto.Dim(size=len(strings))
    shape = tensor_shape_pb2.TensorShapeProto(dim=[dim])
    return tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, tensor_shape=shape, string_val=strings)
