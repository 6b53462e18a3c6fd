"""Raw files to a prepared data set: what is stored, what is said, how it goes on after a kill."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from nifti_volumes import noise, write_volume
from PIL import Image
from raw_files import chexpert, class_folders, picture, table

from descargan_tf.commands.predict import raw_reader
from descargan_tf.config import Config
from descargan_tf.data import dicom_files, prepared
from descargan_tf.data.dataset import dataset_of
from descargan_tf.data.images import write_npy
from descargan_tf.errors import UserError
from descargan_tf.main import main
from descargan_tf.preparation.fitting import fit
from descargan_tf.preparation.prepare import FAILED, WORK, Settings, prepare
from descargan_tf.preparation.sources import Options, pseudonym
from descargan_tf.types import CLASS_NAMES, DISEASED, HEALTHY

SIZE = 64
ASKED = {"source": "folder", "fit": "pad", "num_validate": 1, "num_test": 1, "data_seed": 0}


def run(root, data_dir, options=None, num_workers=1, **settings):
    """Prepare; the result and the lines that were said of failures."""
    failed = []
    result = prepare(
        root,
        data_dir,
        options or Options(image_size=SIZE),
        Settings(**ASKED | settings),
        num_workers,
        said=lambda line: None,
        failed=failed.append,
    )
    assert failed == result.failures
    return result


def refusal(*arguments, **settings):
    with pytest.raises(UserError) as caught:
        run(*arguments, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def everything(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def typed(row):
    """A row of the manifest, its numbers as numbers."""
    numbers = {name: int(row[name]) for name in ("height", "width")}
    numbers |= {name: float(row[name]) for name in ("minimum", "maximum")}
    return types.SimpleNamespace(**{**row} | numbers | {"label": CLASS_NAMES.index(row["label"])})


def rows_by_source(data_dir):
    """Of all splits: the row of the manifest, and the image in [0, 1], by the name of the raw file."""
    opened = prepared.open_prepared(data_dir)
    found = {}
    for split in ("train", "validate", "test"):
        images = opened.images(split)
        for position, row in enumerate(map(typed, opened.rows(split))):
            found[row.source] = row, (images[position][..., 0] + 1) / 2
    return found


def test_pictures_of_all_kinds_become_one_kind(tmp_path):
    raw = class_folders(tmp_path / "raw", 3)
    colour = picture(raw / "healthy/colour.png", 7, (SIZE, SIZE), "RGB")
    deep = picture(raw / "diseased/deep.png", 8, (SIZE, SIZE), "I;16")
    write_npy(raw / "diseased/float.npy", np.linspace(0, 1, 2 * SIZE * SIZE, dtype=np.float32).reshape(SIZE, -1))
    jpeg = picture(raw / "diseased/wide.jpg", 9, (32, 128))
    result = run(raw, tmp_path / "data")
    assert not result.failures
    found = rows_by_source(tmp_path / "data")
    assert len(found) == 10
    assert sum(result.counts.values()) == 10
    row, image = found["healthy/colour.png"]
    assert np.abs(image * 255 - colour @ np.array([0.299, 0.587, 0.114])).max() < 0.52
    assert (row.label, row.dtype, row.height, row.fit) == (HEALTHY, "uint8", SIZE, "pad")
    row, image = found["diseased/deep.png"]
    np.testing.assert_allclose(image * 65535, deep, atol=0.02)  # every bit of 16
    assert (row.minimum, row.maximum) == (deep.min(), deep.max())
    assert row.label == DISEASED
    row, image = found["diseased/wide.jpg"]
    assert (row.height, row.width) == (32, 128)
    decoded = np.asarray(Image.open(raw / "diseased/wide.jpg"))
    np.testing.assert_allclose(image, fit(decoded, SIZE, "pad") / 255, atol=1e-4)
    assert jpeg.shape == decoded.shape
    assert not (tmp_path / "data" / WORK).exists()
    decisions = json.loads((tmp_path / "data/dataset.json").read_text())
    text = json.dumps(decisions)
    assert all(f'"{name}"' in text for name in ("fit", "source", "data_seed", "num_test", "image_size", "value_range"))


def test_masks_go_with_their_images(tmp_path):
    raw = class_folders(tmp_path / "raw", 4)
    for path in (raw / "diseased").iterdir():
        mask = np.zeros(np.asarray(Image.open(path)).shape, np.uint8)
        mask[10:20, 5:25] = 255
        (raw / "ground_truth").mkdir(exist_ok=True)
        Image.fromarray(mask).save(raw / "ground_truth" / path.name)
    (raw / "ground_truth/003.png").unlink()
    run(raw, tmp_path / "data", fit="stretch", num_validate=0)
    opened = prepared.open_prepared(tmp_path / "data")
    marked = []
    for split in ("train", "test"):
        truth = opened.ground_truth(split)
        for position, row in enumerate(map(typed, opened.rows(split))):
            has_one = row.label == DISEASED and row.source != "diseased/003.png"
            assert row.ground_truth == ("mask" if has_one else "none")
            if truth is not None:
                marked.append(float(np.abs(truth[position]).mean()) if has_one else 0.0)
                expected = 10 * 20 / (row.height * row.width) if has_one else 0
                assert marked[-1] == pytest.approx(expected, rel=0.2)
    assert sum(value > 0 for value in marked) >= 2


def test_masks_of_which_nothing_is_left_are_counted_and_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("descargan_tf.processes.num_cores", lambda: 1)
    raw = tmp_path / "raw"
    for split in ("train", "validate", "test"):
        class_folders(raw / split, 3)
        (raw / split / "ground_truth").mkdir()
    for number, side in enumerate((1, 5)):  # in pictures that become 3 times smaller
        picture(raw / f"train/diseased/{number:03d}.png", number, (192, 192))
        mask = np.zeros((192, 192), np.uint8)
        mask[100 : 100 + side, 100 : 100 + side] = 255
        Image.fromarray(mask).save(raw / f"train/ground_truth/{number:03d}.png")
    Image.fromarray(np.zeros(np.asarray(Image.open(raw / "train/diseased/002.png")).shape, np.uint8)).save(
        raw / "train/ground_truth/002.png"
    )  # marks nothing from the beginning
    (raw / "test/healthy/000.png").write_bytes(b"x")
    command = ["main", "--mode=prepare", f"--input={raw}", "--image_size=64"]
    assert main([*command, f"--data_dir={tmp_path / 'strict'}", "--strict"]) == 2
    capsys.readouterr()
    assert main([*command, f"--data_dir={tmp_path / 'strict'}"]) == 1  # goes on where that one ended
    said = capsys.readouterr().out
    assert (
        "warning: nothing is left of 1 of the masks, as they mark less than half of every pixel: "
        "train/diseased/000.png; a larger --image_size keeps smaller lesions"
    ) in said
    assert f"{tmp_path / 'strict'} test: 2 healthy (1 failed), 3 diseased\n" in said
    assert f"{tmp_path / 'strict'} validate: 3 healthy, 3 diseased\n" in said
    opened = prepared.open_prepared(tmp_path / "strict")
    assert (opened.decisions["lost_masks"], opened.decisions["failed"]) == (1, 1)
    marked = {
        row["source"]: bool(truth.any())
        for row, truth in zip(opened.rows("train"), opened.ground_truth("train"), strict=True)
    }
    assert [name for name, is_marked in marked.items() if is_marked] == ["train/diseased/001.png"]
    data = dataset_of(Config(mode="check_data", dataset="prepared", data_dir=str(tmp_path / "strict"), image_size=64))
    assert "1 masks became empty when the data were prepared" in data.check().warnings


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("folder", {"value_range"}),
        ("csv", {"value_range", "labels_csv"}),
        ("chexpert", {"finding", "uncertain", "view"}),
    ],
)
def test_what_a_source_does_not_listen_to_is_no_decision(tmp_path, source, told):
    raw = class_folders(tmp_path / "raw", 3)
    rows = [(f"{name}/{number:03d}.png", name) for name in CLASS_NAMES for number in range(3)]
    labels = str(table(tmp_path / "labels.csv", rows))
    options = Options(image_size=SIZE, labels_csv=labels if "labels_csv" in told else "")
    if source == "chexpert":
        frontal, labels = ("Frontal", "PA"), (("1.0", "", "", ""), ("", "", "1.0", ""))
        patients = [("train", number, 1, "view1_frontal", *frontal, *labels[number % 2]) for number in range(6)]
        raw = chexpert(tmp_path / "raw", patients)
    run(raw, tmp_path / "data", options, source=source)
    decisions = json.loads((tmp_path / "data/dataset.json").read_text())
    asked = {"image_size", *(field.name for field in dataclasses.fields(Settings))} - {"strict"}
    assert decisions.keys() == asked | told | {"version", "notes", "left_out", "failed", "lost_masks"}


@pytest.mark.parametrize(
    ("source", "flag", "others"),
    [
        ("folder", "labels_csv", "csv or --source=dicom or --source=nifti"),
        ("chexpert", "value_range", "folder or --source=csv or --source=dicom"),
    ],
)
def test_what_a_source_does_not_listen_to_is_refused(tmp_path, source, flag, others):
    options = dataclasses.replace(Options(image_size=SIZE), **{flag: "0,1"})
    with pytest.raises(UserError) as caught:
        run(class_folders(tmp_path / "raw", 3), tmp_path / "data", options, source=source)
    said = f"--{flag}=0,1 says nothing to --source={source}: leave it out, or give --source={others}."
    assert str(caught.value) == said
    assert not (tmp_path / "data").exists()


def test_any_number_of_workers_gives_the_same_bytes(tmp_path, kept_processes):
    raw = class_folders(tmp_path / "raw", 10)
    (raw / "healthy/004.png").write_bytes(b"no picture")
    one = run(raw, tmp_path / "one", num_workers=1)
    two = run(raw, tmp_path / "two", num_workers=2)
    assert sorted(one.failures) == sorted(two.failures)
    assert everything(tmp_path / "one") == everything(tmp_path / "two")


def test_a_mask_of_another_size_is_a_line(tmp_path):
    raw = class_folders(tmp_path / "raw", 4)
    (raw / "ground_truth").mkdir()
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(raw / "ground_truth/001.png")
    assert run(raw, tmp_path / "data").failures == [
        "diseased/001.png: [31, 39] pixels, but [5, 5] in its ground truth 001.png"
    ]


def test_values_outside_the_range_are_a_line_with_the_way_out(tmp_path):
    raw = class_folders(tmp_path / "raw", 4)
    write_npy(raw / "healthy/ct.npy", np.linspace(-1000, 1000, 100, dtype=np.float32).reshape(10, 10))
    assert run(raw, tmp_path / "data").failures == [
        "healthy/ct.npy: values from -1000 to 1000, expected 0 to 1; pass the range of all files as "
        "--value_range=low,high"
    ]


def test_patients_of_a_table_are_pseudonyms_and_the_key_is_forgotten(tmp_path):
    raw = class_folders(tmp_path / "raw", 4)
    rows = [
        (f"{name}/{number:03d}.png", name, f"Anna-{name}-{number}")
        for name in ("healthy", "diseased")
        for number in range(4)
    ]
    labels = table(tmp_path / "labels.csv", rows, ("path", "label", "patient"))
    options = Options(image_size=SIZE, labels_csv=str(labels))
    run(raw, tmp_path / "random", options, source="csv")
    run(raw, tmp_path / "keyed", Options(image_size=SIZE, labels_csv=str(labels), key=b"secret"), source="csv")
    for folder in ("random", "keyed"):
        for content in everything(tmp_path / folder).values():
            assert b"Anna" not in content
            assert b"secret" not in content
    random, keyed = rows_by_source(tmp_path / "random"), rows_by_source(tmp_path / "keyed")
    assert keyed["healthy/002.png"][0].patient == pseudonym("Anna-healthy-2", b"secret")
    assert random["healthy/002.png"][0].patient != keyed["healthy/002.png"][0].patient
    assert {source: row.split for source, (row, _) in random.items()} == {
        source: row.split for source, (row, _) in keyed.items()
    }


# ---- what is there already


def test_nothing_is_written_over(tmp_path):
    raw = class_folders(tmp_path / "raw", 4)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("x")
    assert "already holds something, and nothing is written over" in refusal(raw, tmp_path / "mine")
    assert everything(tmp_path / "mine") == {Path("file"): b"x"}
    run(raw, tmp_path / "data")
    before = everything(tmp_path / "data")
    assert "holds a prepared data set, and nothing is written over" in refusal(raw, tmp_path / "data")
    assert everything(tmp_path / "data") == before


def test_what_is_refused_before_it_begins_leaves_no_trace(tmp_path):
    assert refusal(tmp_path / "raw", tmp_path / "data") == (
        f"--input={tmp_path}/raw does not exist: name the folder of the raw files."
    )
    raw = class_folders(tmp_path / "raw", 4)
    assert "too few are healthy: 4 images" in refusal(raw, tmp_path / "data", num_test=5)
    assert not (tmp_path / "data").exists()


def test_other_settings_do_not_go_on_with_what_is_there(tmp_path):
    raw = class_folders(tmp_path / "raw", 4)
    (raw / "healthy/bad.png").write_bytes(b"")
    assert "(--strict; what is prepared stays" in refusal(raw, tmp_path / "data", strict=True)
    assert refusal(raw, tmp_path / "data", fit="crop", data_seed=3) == (
        f"--data_dir={tmp_path}/data holds the beginning of another preparation: --fit was pad and is crop; "
        "--data_seed was 0 and is 3. Give the same flags to go on, or name another folder."
    )
    picture(raw / "healthy/new.png")
    assert "what lies in --input has changed since" in refusal(raw, tmp_path / "data")
    (raw / "healthy/new.png").unlink()
    assert run(raw, tmp_path / "data").failures == [f"{raw}/healthy/bad.png: the file is empty"]


def test_a_range_that_is_none_is_refused_once_and_before_anything_is_read(tmp_path):
    raw = class_folders(tmp_path / "raw", 3)
    assert "--value_range=5,1 is not" in refusal(raw, tmp_path / "data", Options(image_size=SIZE, value_range="5,1"))
    assert not (tmp_path / "data").exists()


def test_what_all_slices_of_a_volume_say_is_one_line(tmp_path):
    raw = tmp_path / "raw"
    for split in ("train", "validate", "test"):
        for name in CLASS_NAMES:
            write_volume(raw / split / name / f"{split}{name}.nii", noise((8, 8, 4)))
    array = np.zeros((8, 8, 4), np.uint8)
    array[2:4] = 1  # so that no percentile differs from another
    write_volume(raw / "train/healthy/two values.nii", array)
    result = run(raw, tmp_path / "data", source="nifti")
    (line,) = result.failures
    assert "two values.nii: percentiles 0.5%,99.5% of its voxels are both 1" in line
    assert result.missing["train", HEALTHY] == 4
    assert (tmp_path / "data" / FAILED).read_text() == f"{line}\n"


def test_too_few_images_name_a_file_that_failed_before(tmp_path):
    """As it says why they are too few: here a table is in another case than its files."""
    raw = class_folders(tmp_path / "raw", 2)
    rows = [(f"{name}/{number:03d}.png", name) for name in CLASS_NAMES for number in range(2)]
    rows += [(f"Healthy/{number:03d}.png", "healthy") for number in range(2, 9)]
    options = Options(image_size=SIZE, labels_csv=str(table(tmp_path / "labels.csv", rows)))
    with pytest.raises(UserError) as caught:
        run(raw, tmp_path / "data", options, source="csv")
    few = "no image of class healthy is in split train; --num_validate=1 --num_test=1 of each class left none"
    first = f"7 files failed before, as this one: labels.csv, line 6: Healthy/002.png: missing in {raw}"
    assert str(caught.value) == f"{few}: there must be one at least. {first}"


def test_a_class_of_which_nothing_is_left_stops_it(tmp_path):
    raw = class_folders(tmp_path / "raw", 3)
    for path in (raw / "healthy").iterdir():
        path.write_bytes(b"")
    assert "every image of class healthy in split" in refusal(raw, tmp_path / "data")
    assert not prepared.is_complete(tmp_path / "data")


PROGRAM = """
import sys
import time
from pathlib import Path
from descargan_tf.data import prepared
from descargan_tf.preparation.prepare import Settings, prepare
from descargan_tf.preparation.sources import Options

prepared.images_per_shard = lambda image_size: 16
write = prepared.write_shard

def write_shard(folder, split, label, number, *others):
    if split == "train" and (label, number) != (0, 0) and Path(sys.argv[0]).with_name("held").exists():
        time.sleep(600)
    write(folder, split, label, number, *others)

prepared.write_shard = write_shard
if __name__ == "__main__":
    root, data, workers = sys.argv[1:]
    settings = Settings("folder", "pad", 1, 1, 0)
    prepare(Path(root), Path(data), Options(image_size=64, key=b"k"), settings, int(workers))
"""


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # ended, and nobody has asked how


@pytest.mark.skipif(sys.platform != "linux", reason="finds child processes in /proc")
def test_a_killed_preparation_goes_on_where_it_was(tmp_path, monkeypatch):
    raw = tmp_path / "raw"
    for name in ("healthy", "diseased"):
        (raw / name).mkdir(parents=True)
        first = raw / name / "00000.png"
        picture(first, len(name), (300, 350))
        for number in range(1, 22):
            os.link(first, raw / name / f"{number:05d}.png")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    (tmp_path / "held").touch()  # workers stand still where they would write other shards than the first
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, str(program), str(raw), str(tmp_path / "data")]
    process = subprocess.Popen([*command, "2"], env=environment, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "data" / WORK).glob("train-*.json")):  # a shard is done, and others are begun
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(workers) >= 2
    with pytest.raises(UserError, match=rf"process {process.pid} on .* is preparing"):
        run(raw, tmp_path / "data", Options(image_size=SIZE, key=b"k"))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers go on without their program"
        time.sleep(0.05)
    assert not prepared.is_complete(tmp_path / "data")
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "data" / WORK).glob("train-*.json")}
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "data/shards").glob("*.npy")}
    (tmp_path / "held").unlink()
    again = subprocess.run([*command, "1"], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    assert "goes on: " in again.stdout
    assert prepared.is_complete(tmp_path / "data")
    kept = [path for path in shards if f"{path.stem}.json" in done]
    assert kept
    assert all(path.stat().st_mtime_ns == shards[path] for path in kept)  # what was done was not done again
    monkeypatch.setattr(prepared, "images_per_shard", lambda image_size: 16)
    run(raw, tmp_path / "whole", Options(image_size=SIZE, key=b"k"))
    assert everything(tmp_path / "data") == everything(tmp_path / "whole")


# ---- files that are hostile


def test_every_hostile_file_is_a_line_and_the_rest_goes_on(tmp_path):
    raw = tmp_path / "raw"
    for split in ("train", "validate", "test"):
        class_folders(raw / split, 2)
    healthy = raw / "train/healthy"
    whole = (healthy / "000.png").read_bytes()
    bad = {
        "truncated.png": whole[: len(whole) // 2],
        "zero.png": b"",
        "text.jpg": b"this is no picture",
        "absurd.png": whole[:16] + (2**31 - 1).to_bytes(4, "big") * 2 + whole[24:],
        "name\nwith a line.png": b"x",
        "ünïcode 图.png": b"x",
        os.fsdecode(b"latin-\xfc.png"): b"x",
    }
    for name, content in bad.items():
        (healthy / name).write_bytes(content)
    values = np.zeros((8, 8), np.float32)
    values[3, 3] = np.nan
    write_npy(healthy / "nan.npy", values)
    write_npy(healthy / "many.npy", np.zeros((3, 4, 5, 6), np.float32))
    (healthy / "huge.npy").write_bytes(
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (100000, 100000), }".ljust(128)
    )
    os.symlink("loop.png", healthy / "loop.png")
    os.symlink("nowhere.png", healthy / "gone.png")
    os.mkfifo(healthy / "pipe.png")
    (healthy / "wrong_suffix.jpg").write_bytes(whole)  # a PNG, and read as what it is
    picture(healthy / "fine ü\n.png")
    result = run(raw, tmp_path / "data")
    assert len(result.failures) == len(bad) + 6
    assert sum(result.counts.values()) == 12 + 2
    for line in result.failures:
        assert "\n" not in line
        assert line.startswith((str(healthy), "train/healthy/"))
    listed = (tmp_path / "data" / FAILED).read_bytes()
    assert listed.count(b"\n") == len(result.failures)
    assert b"latin-\xfc.png" in listed
    assert json.loads((tmp_path / "data/dataset.json").read_text())
    found = rows_by_source(tmp_path / "data")
    assert "train/healthy/wrong_suffix.jpg" in found


@pytest.mark.usefixtures("unprivileged")
def test_what_may_not_be_read_is_a_line(tmp_path):
    raw = class_folders(tmp_path / "raw", 6)
    (raw / "healthy/000.png").chmod(0)
    (raw / "diseased/closed").mkdir(mode=0)
    assert sorted(run(raw, tmp_path / "data").failures) == [
        f"{raw}/healthy/000.png: cannot be read: Permission denied",
        "diseased/closed: cannot be read: Permission denied",
    ]


@pytest.mark.parametrize("how", ["pad", "crop", "stretch"])
def test_what_predict_reads_is_what_was_prepared(tmp_path, monkeypatch, how):
    monkeypatch.setattr("descargan_tf.processes.num_cores", lambda: 1)
    raw = tmp_path / "raw"
    rng = np.random.default_rng(4)
    for split in ("train", "validate", "test"):
        for name in CLASS_NAMES:
            (raw / split / name).mkdir(parents=True)
            Image.fromarray(rng.integers(0, 256, (70, 91), np.uint8)).save(raw / split / name / f"{split}.png")
    arguments = [f"--input={raw}", f"--data_dir={tmp_path / 'd'}", "--image_size=64", f"--fit={how}"]
    assert main(["main", "--mode=prepare", *arguments]) == 0
    data = dataset_of(Config(mode="check_data", dataset="prepared", data_dir=str(tmp_path / "d"), image_size=64))
    split = data.load("test", data.check().scaling)
    read = raw_reader(64, {"preparation": {"fit": how}})
    for image, name in zip(split.images, split.names, strict=True):
        np.testing.assert_allclose(read(raw / name.split("/", 2)[2]), image[..., 0], atol=1e-6)
    assert raw_reader(64, {"scaling": [0, 1]}) is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_predict_refuses_what_is_no_number_as_preparing_does(tmp_path, monkeypatch, value):
    values = np.full((8, 8), 0.5, np.float32)
    values[3, 3] = value
    monkeypatch.setattr(dicom_files, "read_dicom", lambda path, scaling: dicom_files.Shown(values, 0, 1))
    read = raw_reader(64, {"preparation": {"fit": "pad"}})
    with pytest.raises(UserError) as caught:
        read(tmp_path / "a.dcm")
    assert str(caught.value) == f"{tmp_path}/a.dcm: values that are NaN or infinite"


def test_predict_reads_dicom_without_a_suffix(tmp_path, monkeypatch):
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")
    values = np.full((8, 8), 0.5, np.float32)
    monkeypatch.setattr(dicom_files, "read_dicom", lambda path, scaling: dicom_files.Shown(values, 0, 1))
    assert raw_reader(64, {"preparation": {"fit": "pad"}})(tmp_path / "IM0001").shape == (64, 64)
