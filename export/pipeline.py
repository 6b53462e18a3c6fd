"""Prediction over an archive as an Apache Beam pipeline: what `export.beam` runs, and what its workers import.

    folder or pattern -> its files -> their bytes -> the export's `serving_bytes` -> results by file -> two tables

Paths are of any file system that Beam knows: a local one or a URL (gs://, s3://, hdfs://). A worker needs this package
and TensorFlow; of training it imports nothing. Beam may do any part twice, and leaves what it had done: a file is whole
or not there, and the same name has the same content.
"""

import contextlib
import csv
import io
import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.ml.inference.base import KeyedModelHandler, ModelHandler, PredictionResult, RunInference

from descargan_tf import surroundings
from descargan_tf.data.formats import SERVED_SUFFIXES
from descargan_tf.errors import UserError
from descargan_tf.files import reason, write_atomically
from descargan_tf.names import as_text, one_line, shown
from descargan_tf.prediction.splits import BATCH_SIZE
from descargan_tf.prediction.table import COLUMNS, TABLE, labels, output_names, table_bytes
from descargan_tf.types import CLASS_NAMES

from .answers import SIGNATURE, Answer, check_content, find_inputs, read_image
from .publish import versions
from .refusals import plain, why_image_refused

FAILURES = "failures.csv"

_COLUMNS = {TABLE: COLUMNS, FAILURES: ("file", "message")}
_SAVED_MODEL = "saved_model.pb"
_PARTS = (_SAVED_MODEL, "variables/variables.index", "variables/variables.data-00000-of-00001")
_READERS = {
    "anomaly_map": lambda array: array[..., 0],
    "healthy_image": lambda array: array[..., 0],
    "disease_probability": float,
    "anomaly_score": float,
    "predicted_class": CLASS_NAMES.__getitem__,
    "overlay_png_bytes": bytes,
}


class File(NamedTuple):
    """One of the archive's."""

    index: int  # among all of them, by which the tables are sorted
    path: str
    stem: str  # of its results' names
    label: str  # in the table


class Outcome(NamedTuple):
    """A row of one of the two tables."""

    index: int
    table: str
    row: Sequence[str]


class ExportHandler(ModelHandler[bytes, PredictionResult, object]):
    """Has Beam's RunInference call an export: files' bytes to Answer, or to words about a file that it refuses.

    Beam's own handlers for TensorFlow load by Keras, which no longer loads SavedModels, and import tensorflow_hub.

    Args:
        version: the folder of an exported version.
    """

    def __init__(self, version: str):
        super().__init__(max_batch_size=BATCH_SIZE)
        self._version = version

    def load_model(self) -> object:
        """The SavedModel; UserError where it cannot be loaded."""
        surroundings.settle()
        with surroundings.loading(own_process=False):
            import tensorflow as tf
        try:
            with _local(self._version) as folder:
                loaded = tf.saved_model.load(folder)
            loaded.signatures[SIGNATURE]
        except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
            raise UserError(f"{self._version} is not an export of this program: {one_line(error)}") from error
        return loaded

    def run_inference(self, batch: Sequence[bytes], model: object, inference_args=None) -> list[PredictionResult]:
        """Answers in the order of the batch; one file that is refused does not take the others with it."""
        import tensorflow as tf

        try:
            outputs = model.signatures[SIGNATURE](image_bytes=tf.constant(list(batch)))
        except tf.errors.InvalidArgumentError as error:
            if len(batch) == 1:
                words = plain(error.message)
                return [PredictionResult(batch[0], why_image_refused(words) or words)]
            return [result for content in batch for result in self.run_inference([content], model)]
        arrays = {name: outputs[name].numpy() for name in _READERS if name in outputs}
        return [PredictionResult(content, _answer(arrays, i)) for i, content in enumerate(batch)]

    def get_num_bytes(self, batch: Sequence[bytes]) -> int:
        """For Beam's metrics."""
        return sum(map(len, batch))


def predict_archive(pipeline: beam.Pipeline, source: str, version: str, output_dir: str) -> None:
    """Add to a pipeline what reads an archive and writes what the client writes, and FAILURES.

    Args:
        pipeline: to be run by any runner.
        source: see `list_files`; it is listed by a worker, as a list of millions does not fit into a job's description.
        version: the folder of an exported version.
        output_dir: files of the same names are replaced.
    """
    contents = (
        pipeline
        | "begin" >> beam.Impulse()
        | "list" >> beam.FlatMap(lambda _: list_files(source))
        | "share out" >> beam.Reshuffle()
        | "read" >> beam.FlatMap(_read).with_outputs(FAILURES, main="contents")
    )
    written = (
        contents["contents"]
        | "predict" >> RunInference(KeyedModelHandler(ExportHandler(version)))
        | "write" >> beam.Map(_write, output_dir)
    )
    _ = (
        (written, contents[FAILURES])
        | "all files" >> beam.Flatten()
        | "gather" >> beam.combiners.ToList()
        | "write tables" >> beam.Map(_write_tables, output_dir)
    )


def list_files(source: str) -> list[File]:
    """What an archive holds.

    Args:
        source: a file; a local folder, or a URL that ends in /, of which PNG and JPEG files directly in it are taken;
            or a pattern, whose * does not pass a / and whose ** does, of which all files are taken.

    Raises:
        UserError: there is nothing.
    """
    if is_local(source) and os.path.lexists(source):
        paths = list(map(str, find_inputs([source])))
    else:
        with _words_about(f"--input={source}"):
            paths = sorted(found.path for found in FileSystems.match([source])[0].metadata_list)
        if source.endswith("/"):
            names = {path: FileSystems.split(path)[1] for path in paths}
            paths = [p for p, name in names.items() if name.lower().endswith(SERVED_SUFFIXES) and name[0] != "."]
    if not paths:
        raise UserError(f"--input={source} leads to no file: name a file, a folder (a URL ends in /) or a pattern.")
    files = {Path(path): path for path in paths}  # a URL is no path, but has its parts
    stems, called = output_names(list(files)), labels(list(files))
    return [
        File(index, path, stems[key], called[key] if called[key] == shown(key.name) else shown(path))
        for index, (key, path) in enumerate(files.items())
    ]


def find_version(export_dir: str) -> str:
    """The folder itself, or its newest version; UserError where there is no SavedModel."""
    with _words_about(f"--export_dir={export_dir}"):
        if FileSystems.exists(FileSystems.join(export_dir, _SAVED_MODEL)):
            return export_dir
    numbers = versions(Path(export_dir)) if is_local(export_dir) else []
    folders = [os.path.join(export_dir, str(number)) for number in reversed(numbers)]
    for folder in folders:
        if os.path.exists(os.path.join(folder, _SAVED_MODEL)):
            return folder
    raise UserError(
        f"--export_dir={export_dir} holds no {_SAVED_MODEL}, nor a numbered folder with one: name what --mode=export "
        "wrote; at a URL, the folder of a version."
    )


def read_table(output_dir: str, table: str) -> list[list[str]]:
    """The rows of TABLE or FAILURES without the header."""
    return list(csv.reader(io.StringIO(_content(FileSystems.join(output_dir, table)).decode(), newline="")))[1:]


def is_local(path: str) -> bool:
    """Whether it is no URL."""
    return FileSystems.get_scheme(path) is None


def _read(file):
    try:
        if is_local(file.path):
            content = read_image(Path(file.path))
        else:
            content = _content(file.path)
            check_content(content, file.path)
    except UserError as error:
        yield beam.pvalue.TaggedOutput(FAILURES, _failure(file, error))
    else:
        yield file, content


def _answer(arrays, i):
    found = {name.removesuffix("_bytes"): _READERS[name](array[i]) for name, array in arrays.items()}
    return Answer(**dict.fromkeys(Answer._fields) | found)


def _write(predicted, output_dir):
    file, result = predicted
    if isinstance(result.inference, str):
        return _failure(file, result.inference)
    for name, content in result.inference.files(file.stem).items():
        _write_file(FileSystems.join(output_dir, name), content)
    return Outcome(file.index, TABLE, result.inference.row(file.label))


def _failure(file, message):
    return Outcome(file.index, FAILURES, (shown(file.path), str(message)))


def _write_tables(outcomes, output_dir):
    outcomes = sorted(outcomes)
    for table, columns in _COLUMNS.items():
        rows = (outcome.row for outcome in outcomes if outcome.table == table)
        _write_file(FileSystems.join(output_dir, table), table_bytes(rows, columns))


def _write_file(path, content):
    if is_local(path):
        write_atomically(path, content)
        return
    with _words_about(path):
        has_folders = FileSystems.get_filesystem(path).has_dirs()
        # What is written to an object store is there when it is closed, and whole.
        written = FileSystems.join(FileSystems.split(path)[0], f".{uuid.uuid4().hex}.partial") if has_folders else path
        with FileSystems.create(written) as file:
            file.write(content)
        if has_folders:
            if FileSystems.exists(path):  # HDFS renames to no name that is taken
                FileSystems.delete([path])
            FileSystems.rename([written], [path])


def _content(path):
    with _words_about(path), FileSystems.open(path) as file:
        return file.read()


@contextlib.contextmanager
def _local(version) -> Iterator[str]:
    """A folder that TensorFlow can load."""
    if is_local(version):
        with as_text(version) as folder:
            yield str(folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        for part in _PARTS:
            path = Path(folder, part)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(_content(FileSystems.join(version, part)))
        yield folder


@contextlib.contextmanager
def _words_about(path):
    try:
        yield
    except (OSError, ValueError) as error:  # the latter of a URL whose file system is not installed
        words = reason(error) if isinstance(error, OSError) else error
        raise UserError(f"{path}: {one_line(words)}") from error
