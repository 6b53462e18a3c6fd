"""An exported model over an archive, by Apache Beam's direct runner."""

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import exports
import numpy as np
import pytest
import tensorflow as tf
from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.localfilesystem import LocalFileSystem
from apache_beam.runners.portability.prism_runner import PrismRunner

from descargan_tf.data.images import Scaling, read_image, write_png
from descargan_tf.export import pipeline as archive
from descargan_tf.export import saved_model
from descargan_tf.export.beam import main
from descargan_tf.prediction.files import predict_files
from descargan_tf.types import Prediction

pytestmark = pytest.mark.usefixtures("shallow", "graphs_as_traced")

SIZE = exports.SIZE
COLOUR = "is a colour image: its channels differ; expected gray, convert it to one gray channel"


@pytest.fixture(scope="module")
def export_dir(tmp_path_factory):
    base = tmp_path_factory.mktemp("export")
    method = exports.lively_method()
    saved_model.write_saved_model(base / "2", saved_model.Predictor(method, SIZE), exports.UINT8)
    (base / "1").mkdir()  # an older version, which must not be taken
    (base / "1" / "saved_model.pb").write_bytes(b"damaged")
    return base


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """Each pipeline loads its model, which takes seconds; of the same folder it is the same."""
    load, loaded = archive.ExportHandler.load_model, {}

    def load_once(handler):
        if handler._version not in loaded:
            loaded[handler._version] = load(handler)
        return loaded[handler._version]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive.ExportHandler, "load_model", load_once)
        yield


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    for i in range(5):
        write_png(folder / f"scan {i}.png", picture(i))
    write_png(folder / "Übung.png", picture(7))
    write_png(folder / os.fsdecode(b"\xff.png"), picture(8))  # a name that is no text
    (folder / "Übung.jpg").write_bytes(exports.encoded(picture(9), "JPEG"))
    return folder


@pytest.fixture
def archive_dir(scans, tmp_path):
    """Files that can be predicted, and some that cannot."""
    folder = tmp_path / "archive"
    shutil.copytree(scans, folder)
    write_png(folder / "colour.png", np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8))
    (folder / "cut.png").write_bytes((folder / "scan 1.png").read_bytes()[:900])
    (folder / "gone.png").symlink_to("nowhere")
    (folder / "a.npy").touch()
    return folder


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE)).astype(np.uint8)


def run(export_dir, source, output_dir, *options):
    return main([f"--export_dir={export_dir}", f"--input={source}", f"--output_dir={output_dir}", *options])


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def names(folder):
    return {path.name for path in folder.iterdir()} - {"failures.csv"}


def assert_same_answers(folder, expected):
    """But for rounding: Beam sizes its batches by the clock, and the size of a batch decides how floats are added."""
    assert names(folder) == names(expected)
    for name in names(expected):
        if name.endswith(".npy"):
            np.testing.assert_allclose(np.load(folder / name), np.load(expected / name), atol=1e-5)
        elif name.endswith(".png"):
            pixels = (read_image(f / name, takes_colour=True).pixels for f in (folder, expected))
            np.testing.assert_allclose(*(array.astype(int) for array in pixels), atol=1)
    (header, *rows), (expected_header, *expected_rows) = (rows_of(f / "predictions.csv") for f in (folder, expected))
    assert header == expected_header
    for row, expected_row in zip(rows, expected_rows, strict=True):
        assert (row[0], row[3]) == (expected_row[0], expected_row[3])
        np.testing.assert_allclose(*(np.array(r[1:3], float) for r in (row, expected_row)), atol=1e-5)


def test_an_archive_gives_what_predict_gives(export_dir, archive_dir, scans, tmp_path, capsys, monkeypatch):
    fetching = []
    monkeypatch.setattr(PrismRunner, "run_pipeline", lambda *_: fetching.append("a program from the network"))
    out, expected = tmp_path / "out", tmp_path / "expected"
    assert run(export_dir, archive_dir, out) == 1
    assert not fetching
    printed = capsys.readouterr()
    assert printed.out == f"8 of 11 images done: {out / 'predictions.csv'}\n"
    messages = {
        "colour.png": COLOUR,
        "cut.png": "cannot be read: damaged or cut off; expected a whole PNG or JPEG file, save or copy it again",
        "gone.png": "cannot be read: No such file or directory: it is a link to nowhere",
    }
    passed_over, *lines = printed.err.splitlines()
    assert passed_over.startswith(f"passed over in {archive_dir}: 1 npy; `python -m descargan_tf.main --mode=predict ")
    assert lines == [f"not done: {archive_dir / name}: {words}" for name, words in messages.items()]
    assert rows_of(out / "failures.csv") == [
        ["file", "message"],
        *([str(archive_dir / name), words] for name, words in messages.items()),
    ]

    loaded = tf.saved_model.load(export_dir / "2")

    def predict(images):
        answers = loaded.signatures["serving_default"](image=tf.constant(images))
        diseased = answers["disease_probability"]
        classes = tf.stack([1 - diseased, diseased], axis=1)
        return Prediction(answers["anomaly_map"], answers["healthy_image"], answers["anomaly_score"], classes)

    files = archive.find_inputs([scans])
    assert predict_files(predict, files, expected, SIZE, Scaling(0, 255), "uint8", 4) == []
    assert_same_answers(out, expected)
    assert {"Übung_png_map.npy", "Übung_jpg_map.npy", os.fsdecode(b"\xff_overlay.png")} <= names(out)

    for name in ("cut.png", "a.npy"):
        (archive_dir / name).unlink()
    (out / "scan 0_map.npy").write_bytes(b"of another time")
    assert run(export_dir, archive_dir.rename(tmp_path / os.fsdecode(b"\xff")), out) == 1
    assert_same_answers(out, expected)
    assert [Path(row[0]).name for row in rows_of(out / "failures.csv")[1:]] == ["colour.png", "gone.png"]


def test_a_file_that_is_refused_leaves_its_batch_alone(export_dir):
    """Nor does the end of a string: what is behind an image's last byte may be zeros."""
    handler = archive.ExportHandler(str(export_dir / "2"))
    model = handler.load_model()
    good = [exports.encoded(picture(i)) for i in range(3)]
    alone = [handler.run_inference([content], model)[0].inference for content in good]
    batch = [good[0], exports.encoded(np.zeros((9, 9), np.uint8))[:40], good[1], b"GIF89a", good[2] + bytes(3)]
    first, cut, second, gif, third = (result.inference for result in handler.run_inference(batch, model))
    assert cut.startswith("cannot be read: damaged or cut off")
    assert gif.startswith("is neither PNG nor JPEG")
    for found, expected in zip((first, second, third), alone, strict=True):
        np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, atol=1e-5)
        np.testing.assert_allclose(found[2:4], expected[2:4], atol=1e-5)


class Far(LocalFileSystem):
    """far://name/... is a folder of this machine, with HDFS's manners: it renames to no name that is taken."""

    root = Path()

    @classmethod
    def scheme(cls):
        return "far"

    def _here(self, url):
        return str(self.root / url.removeprefix("far://"))

    def split(self, url):
        return tuple(url.rsplit("/", 1))

    def exists(self, url):
        return super().exists(self._here(url))

    def metadata(self, url):
        return FileMetadata(url, 0)

    def _list(self, url):
        for found in super()._list(self._here(url)):
            yield FileMetadata("far://" + os.path.relpath(found.path, self.root), 0)

    def open(self, url, *_):
        return super().open(self._here(url))

    def create(self, url, *_):
        return super().create(self._here(url))

    def delete(self, urls):
        super().delete(list(map(self._here, urls)))

    def rename(self, sources, destinations):
        assert not any(map(self.exists, destinations))
        super().rename(list(map(self._here, sources)), list(map(self._here, destinations)))


def test_an_archive_elsewhere_gives_what_one_here_gives(export_dir, scans, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Far, "root", tmp_path)
    for folder, name in ((export_dir, "export"), (scans, "scans")):
        shutil.copytree(folder, tmp_path / name)
    (tmp_path / "scans" / os.fsdecode(b"\xff.png")).unlink()  # such a name is no URL
    (tmp_path / "scans" / "notes.txt").touch()
    (tmp_path / "scans" / "b.png").write_bytes(b"II*\0")
    for _ in range(2):
        assert run("far://export/2", "far://scans/", "far://out") == 1
        assert capsys.readouterr() == (
            "7 of 8 images done: far://out/predictions.csv\n",
            "not done: far://scans/b.png: is TIFF, and an export reads PNG and JPEG; `python -m descargan_tf.main "
            "--mode=predict --input=far://scans/b.png ...` reads it by itself, or convert it to PNG\n",
        )
    assert run(export_dir, tmp_path / "scans" / "*.[jp]*", tmp_path / "here") == 1
    here, there = tmp_path / "here", tmp_path / "out"
    assert rows_of(here / "failures.csv") != rows_of(there / "failures.csv")  # which name the file by its whole path
    assert_same_answers(here, there)


def test_files_of_one_name_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(Far, "root", tmp_path)
    for folder in "ab":
        (tmp_path / "sites" / folder).mkdir(parents=True)
        (tmp_path / "sites" / folder / "scan.png").touch()
    for there in ("far://sites", f"{tmp_path}/sites"):
        for pattern in ("**.png", "*/scan.*"):
            found = archive.list_files(f"{there}/{pattern}")
            assert [file.path for file in found] == [f"{there}/a/scan.png", f"{there}/b/scan.png"]
            assert [file.label for file in found] == [file.path for file in found]
            assert [file.stem for file in found] == ["a_scan", "b_scan"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--export_dir={tmp}"], "--export_dir={tmp} holds no saved_model.pb, nor a numbered folder with one"),
        (["--export_dir={export}/1"], "{export}/1 is not an export of this program: "),
        (["--export_dir=nowhere://x"], "--export_dir=nowhere://x: Unable to get filesystem from specified path"),
        (["--input={tmp}/none"], "--input={tmp}/none leads to no file: name a file, a folder (a URL ends in /)"),
        (["--input={tmp}"], "{tmp} holds no image file that an export reads: .png, .jpg, .jpeg"),
        (["--input={scans}/scan*", "--output_dir={scans}"], "--output_dir={scans} is the folder of the input {scans}/"),
        (["--output_dir={export}/1/saved_model.pb"], "cannot be written: File exists"),
        (["--output_dir={full}"], "{full}/scan 3_map.npy: cannot be written: Is a directory\n"),
        (["--runner=Nobody"], "--runner=Nobody: Unexpected pipeline runner: Nobody. Valid values are DataflowRunner"),
    ],
)
def test_what_the_user_can_mend_is_one_line(options, words, export_dir, scans, tmp_path, capsys):
    places = {"export": export_dir, "scans": scans, "tmp": tmp_path / "empty", "full": tmp_path / "full"}
    places["tmp"].mkdir()
    (places["full"] / "scan 3_map.npy").mkdir(parents=True)
    options = [option.format(**places) for option in options]
    assert run(export_dir, scans, tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words.format(**places) in error


def test_without_beam_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert run("none", "none", "none") == 2
    assert capsys.readouterr().err == "error: apache-beam is not installed: pip install -r requirements-beam.txt\n"


def test_a_signal_ends_it(export_dir, scans, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(archive.ExportHandler, "run_inference", lambda *_: signal.raise_signal(signal.SIGTERM))
    assert run(export_dir, scans, tmp_path / "out") == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "SIGTERM: stopped; the tables were not written\n"


def test_who_starts_it_needs_no_tensorflow():
    code = "import sys, descargan_tf.export.beam, descargan_tf.export.pipeline; "
    code += "print(sorted(name for name in sys.modules if name.startswith(('tensorflow', 'keras', 'descargan_tf.t'))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['descargan_tf.types']\n"
