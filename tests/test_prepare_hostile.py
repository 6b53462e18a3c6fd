"""--mode=prepare among hostile DICOM files and tables: a line each, the rest goes on, exit status 1; --strict stops."""

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from dicom_writing import SENTINEL, radiograph, write
from pydicom import uid
from pydicom.encaps import encapsulate
from raw_files import class_folders, picture, table

from descargan_tf import processes
from descargan_tf.main import main
from descargan_tf.names import one_line
from descargan_tf.preparation import prepare as preparation

PIXELS = np.arange(40 * 36, dtype=np.uint16).reshape(40, 36)


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """As processes take longer to begin than the files here take."""
    monkeypatch.setattr(processes, "num_cores", lambda: 1)


def prepare(root, data_dir, *flags):
    return main(["main", "--mode=prepare", f"--input={root}", f"--data_dir={data_dir}", "--image_size=64", *flags])


def sound_export(root, per_class=2):
    for split in ("train", "validate", "test"):
        for name in ("healthy", "diseased"):
            for number in range(per_class):
                patient = f"{split}{name}{number}"
                write(root / split / name / f"{number}.dcm", radiograph(PIXELS, PatientID=patient))
    return root


def bomb():
    """A JPEG 2000 stream that claims to be as large as a wall."""
    dataset = radiograph(PIXELS)
    dataset.compress(uid.JPEG2000Lossless)
    content = bytearray(dataset.PixelData)
    start = content.index(b"\xff\x51") + 6
    content[start : start + 8] = (30000).to_bytes(4, "big") * 2
    dataset.PixelData = bytes(content)
    return dataset


def several_streams():
    dataset = radiograph(PIXELS)
    dataset.compress(uid.RLELossless)
    dataset.PixelData = encapsulate([dataset.PixelData[16:]] * 3)
    dataset["PixelData"].is_undefined_length = True
    return dataset


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")  # of the writer
def test_every_hostile_dicom_file_is_a_line_and_the_rest_goes_on(tmp_path, capfd):
    healthy = sound_export(tmp_path / "raw") / "train/healthy"
    whole = (healthy / "0.dcm").read_bytes()
    bad = {
        "truncated.dcm": whole[: len(whole) - 99],
        "cut_in_a_tag": whole[:400],
        "zero.dcm": b"",
        "picture.dcm": b"\x89PNG\r\n\x1a\n" + bytes(200),
        "name\nwith a line.dcm": b"x",
        "ünïcode 图.dcm": b"x",
        os.fsdecode(b"latin-\xfc.dcm"): b"x",
    }
    for name, content in bad.items():
        (healthy / name).write_bytes(content)
    odd = {
        "absurd.dcm": {"Rows": 65535, "Columns": 65535},
        "missing.dcm": {"BitsStored": None, "HighBit": None},
        "nan.dcm": {"WindowCenter": "nan", "WindowWidth": "10"},
        "slope.dcm": {"RescaleSlope": "1e308", "RescaleIntercept": "0"},
        "film.dcm": {"NumberOfFrames": 40},
        "colour.dcm": {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"},
    }
    for name, tags in odd.items():
        write(healthy / name, radiograph(PIXELS, **tags))
    write(healthy / "bomb.dcm", bomb())
    write(healthy / "streams.dcm", several_streams())
    os.symlink("loop.dcm", healthy / "loop.dcm")
    os.symlink("nowhere.dcm", healthy / "gone.dcm")
    os.symlink(healthy, healthy / "again")
    os.symlink(tmp_path / "raw", healthy / "all")
    os.mkfifo(healthy / "pipe.dcm")
    write(healthy / "wrong_suffix.jpg", radiograph(PIXELS))  # DICOM, and read as what it is
    write(healthy / "fine ü\n.dcm", radiograph(PIXELS))
    places = [*bad, *odd, "bomb.dcm", "streams.dcm", "loop.dcm", "gone.dcm", "again", "all", "pipe.dcm"]
    assert prepare(tmp_path / "raw", tmp_path / "data", "--source=dicom") == 1
    out, err = capfd.readouterr()
    said = [line for line in out.splitlines() if line.startswith("failed: ")]
    assert len(said) == len(places)
    for name in places:
        (line,) = [line for line in said if f"train/healthy/{one_line(name)}: " in line]
        assert SENTINEL not in line
    assert f"{len(places)} failed; they are named in {tmp_path}/data/{preparation.FAILED}" in out
    assert "panicked" not in err
    decisions = json.loads((tmp_path / "data/dataset.json").read_text())
    assert str(decisions).count(f"'failed': {len(places)}") == 1
    listed = (tmp_path / "data" / preparation.FAILED).read_bytes()
    assert listed.count(b"\n") == len(places)
    assert b"latin-\xfc.dcm" in listed
    manifest = (tmp_path / "data/manifest.csv").read_text()
    assert manifest.count("wrong_suffix.jpg") == 1
    assert f"{tmp_path}/data train: 4 healthy (4 failed), 2 diseased" in out  # what headers tell is not listed
    for path in (tmp_path / "data").rglob("*"):
        assert path.is_dir() or SENTINEL.encode() not in path.read_bytes()


def test_strict_stops_at_the_first_one_with_status_2(tmp_path, capfd):
    healthy = sound_export(tmp_path / "raw") / "train/healthy"
    write(healthy / "bomb.dcm", bomb())
    assert prepare(tmp_path / "raw", tmp_path / "data", "--source=dicom", "--strict") == 2
    _, err = capfd.readouterr()
    (line,) = [line for line in err.splitlines() if "bomb.dcm" in line]
    assert "its compressed pixels are 30000x30000, and its header says 40x36 (--strict" in line
    assert not (tmp_path / "data/manifest.csv").exists()
    (healthy / "bomb.dcm").write_bytes(b"")  # seen when files are listed
    shutil.rmtree(tmp_path / "data")
    assert prepare(tmp_path / "raw", tmp_path / "data", "--source=dicom", "--strict") == 2
    assert not (tmp_path / "data").exists()


TABLES = {
    "quoted.csv": (b'accession,label\r\n"A1,0\r\nA2,1\r\n', 2, "wrong quoting"),
    "inner.csv": (b'accession,label\r\n"A"1,0\r\n', 2, "wrong quoting"),
    "utf16.csv": ("accession,label\r\nA1,0\r\n".encode("utf-16"), 2, "is UTF-16"),
    "binary.csv": (bytes(range(256)), 2, "binary.csv: "),
    "empty.csv": (b"", 2, "holds no header"),
    "swapped.csv": (b"label,accession\r\nA1,0\r\nA2,1\r\n", 2, "no image that can be used"),
    "crlf.csv": (b"accession,label\r\nA1,0\r\nA2,1\r\nA3,0\r\nA4,1\r\nA5,0\r\nA6,1\r\n", 0, ""),
    "semicolons.csv": (b"\xef\xbb\xbfaccession;label\rA1;0\rA2;1\rA3;0\rA4;1\rA5;0\rA6;1\r", 0, ""),
    "one_row.csv": (
        b"accession,label\r\nA1,0,9\r\nA2,1\r\nA3,0\r\nA4,1\r\nA5,0\r\nA6,1\r\nA7,0\r\n",
        1,
        "line 2: 3 fields",
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_labels_with_wrong_quotes_and_line_ends(tmp_path, capfd, name):
    for number in range(1, 8):
        tags = {"AccessionNumber": f"A{number}", "PatientID": f"P{number}"}
        write(tmp_path / f"raw/{number}.dcm", radiograph(PIXELS, **tags))
    content, status, said = TABLES[name]
    (tmp_path / name).write_bytes(content)
    flags = ["--source=dicom", f"--labels_csv={tmp_path / name}", "--num_validate=1", "--num_test=1"]
    assert prepare(tmp_path / "raw", tmp_path / "data", *flags) == status
    out, err = capfd.readouterr()
    lines = [line for line in (out + err).splitlines() if name in line and (line.startswith("failed") or status == 2)]
    assert len(lines) >= (status > 0)
    assert said in "".join(lines)
    assert not any(f"A{number}" in line for line in lines for number in range(1, 8))


@contextlib.contextmanager
def another_user():
    """A folder of somebody who may not read everything; root may, and becomes nobody for it."""
    with tempfile.TemporaryDirectory() as folder:
        if os.geteuid():
            yield Path(folder)
            return
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="the system has no such rights")
@pytest.mark.parametrize("source", ["folder", "dicom"])
def test_what_may_not_be_read_is_a_line(source, capfd):
    with another_user() as place:
        raw = place / "raw"
        for split in ("train", "validate", "test"):
            class_folders(raw / split, 2)
            picture(raw / split / "healthy/more.png")
        if source == "dicom":
            for number, path in enumerate(sorted(raw.rglob("*.png"))):
                write(path.with_suffix(".dcm"), radiograph(PIXELS, PatientID=f"P{number}"))
                path.unlink()
        suffix = {"folder": ".png", "dicom": ".dcm"}[source]
        (raw / f"train/healthy/000{suffix}").chmod(0)
        (raw / "train/diseased/closed").mkdir(mode=0)
        status = prepare(raw, place / "data", f"--source={source}")
        out, _ = capfd.readouterr()
        (raw / "train/diseased/closed").rmdir()
    assert status == 1
    lines = sorted(line.rpartition("train/")[2] for line in out.splitlines() if line.startswith("failed: "))
    assert lines == [
        "diseased/closed: cannot be read: Permission denied",
        f"healthy/000{suffix}: cannot be read: Permission denied",
    ]


def test_a_table_of_images_that_may_not_be_believed(tmp_path, capfd):
    class_folders(tmp_path / "raw", 4)
    rows = [(f"{name}/{number:03d}.png", name) for name in ("healthy", "diseased") for number in range(4)]
    rows += [("healthy/../../secret.png", "healthy"), ("/etc/passwd", "healthy"), ("healthy/none.png", "healthy")]
    labels = table(tmp_path / "labels.csv", rows)
    flags = ["--source=csv", f"--labels_csv={labels}", "--num_validate=1", "--num_test=1"]
    assert prepare(tmp_path / "raw", tmp_path / "data", *flags) == 1
    out, _ = capfd.readouterr()
    assert [line[:28] for line in out.splitlines() if line.startswith("failed: ")] == [
        f"failed: labels.csv, line {line}: "[:28] for line in (10, 11, 12)
    ]
    assert "3 failed; they are named in" in out
