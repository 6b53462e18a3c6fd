"""A prepared data set on disk: what is written is what is read, in whatever order, and damage is named."""

import csv
import os
import tracemalloc

import numpy as np
import pytest

from descargan_tf.config import Config
from descargan_tf.data import prepared
from descargan_tf.data.dataset import dataset_of
from descargan_tf.data.pipeline import training_batches
from descargan_tf.errors import UserError
from descargan_tf.types import CLASS_NAMES, DISEASED, HEALTHY, SPLITS, Split

SIZE = 64


def rows_for(split, label, first, count):
    common = {"study": "", "view": "", "device": "", "height": 90, "width": 70, "dtype": "uint8", "fit": "pad"}
    return [
        {
            **common,
            "source": f"{CLASS_NAMES[label]}/{split}{first + i}.png",
            "patient": f"p{first + i}",
            "label": CLASS_NAMES[label],
            "split": split,
            "sha256": f"{first + i:064x}",
            "minimum": 0.0,
            "maximum": 255.0,
            "ground_truth": "mask" if label == DISEASED else "none",
        }
        for i in range(count)
    ]


def write(folder, counts=(5, 4), size=SIZE, seed=0, per_shard=3):
    """A data set of noise; returns its images and masks by (split, label)."""
    rng, written = np.random.default_rng(seed), {}
    for split in SPLITS:
        for label in (HEALTHY, DISEASED):
            count = counts[label]
            images = rng.integers(0, 65536, (count, size, size), dtype=np.uint16)
            images[:, 0, 0], images[:, 0, 1] = 0, 65535
            masks = (rng.random(images.shape) < 0.2).astype(np.uint8) if label == DISEASED else None
            written[split, label] = images, masks
            for number, start in enumerate(range(0, count, per_shard)):
                part = slice(start, start + per_shard)
                rows = rows_for(split, label, start, len(images[part]))
                prepared.write_shard(
                    folder, split, label, number, images[part], None if masks is None else masks[part], rows
                )
    prepared.finish(folder, {"source": "test"})
    return written


@pytest.fixture
def written(tmp_path):
    return tmp_path / "d", write(tmp_path / "d")


def config_of(folder, **settings):
    return Config(mode="check_data", dataset="prepared", data_dir=str(folder), image_size=SIZE, **settings)


def test_what_is_read_is_what_was_written(written):
    folder, arrays = written
    data = prepared.open_prepared(folder)
    assert data.decisions["source"] == "test"
    for split in SPLITS:
        images = data.images(split)
        stored = np.concatenate([arrays[split, label][0] for label in (HEALTHY, DISEASED)])
        expected = (stored[..., None].astype(np.float64) / 65535 * 2 - 1).astype(np.float32)
        assert (len(images), images.shape, images.dtype) == (9, (9, SIZE, SIZE, 1), np.float32)
        np.testing.assert_allclose(np.asarray(images), expected, atol=1e-6)
        assert (np.asarray(images).min(), np.asarray(images).max()) == (-1, 1)
        whole = np.asarray(images)
        for key in (3, slice(2, 7), np.array([8, 0, 5, 5]), np.arange(9) > 6, -1):
            np.testing.assert_array_equal(images[key], whole[key])
        np.testing.assert_array_equal(images[0, ..., 0], whole[0, ..., 0])
        np.testing.assert_array_equal(data.labels(split), [0] * 5 + [1] * 4)
        chosen = data.labels(split) == DISEASED
        np.testing.assert_array_equal(np.asarray(prepared.select(images, chosen)), whole[chosen])
        masks = np.asarray(data.ground_truth(split))
        assert not masks[:5].any()
        np.testing.assert_array_equal(masks[5:, ..., 0], arrays[split, DISEASED][1])


def test_an_index_out_of_range_is_an_error(written):
    images = prepared.open_prepared(written[0]).images("test")
    with pytest.raises(IndexError):
        images[9]


@pytest.mark.parametrize("flips", [False, True])
def test_batches_are_those_of_the_same_images_in_memory(written, flips):
    data = dataset_of(config_of(written[0]))
    stored = data.load("train", data.check().scaling)
    in_memory = Split(np.asarray(stored.images), stored.labels, None, stored.names)
    streams = (training_batches(split, 4, seed=3, flips=flips, start=2).take(5) for split in (stored, in_memory))
    for own, other in zip(*streams, strict=True):
        for mine, theirs in zip(own, other, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    def peak(count):
        folder = tmp_path / str(count)
        write(folder, counts=(count, count), per_shard=64)
        data = dataset_of(config_of(folder))
        split = data.load("train", data.check().scaling)
        tracemalloc.start()
        for start in range(0, len(split.images), 16):
            split.images[start : start + 16].sum()
        for _ in training_batches(split, 4, seed=0).take(8):
            pass
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak(16), peak(128)
    further = 2 * (128 - 16) * SIZE**2 * 4
    assert large < small + further / 8, (small, large)


def test_the_manifest_takes_little_memory(tmp_path):
    count = 1500
    rows = [
        {**row, "patient": f"{number % 1000:016x}", "study": f"{number // 2:016x}"}
        for number, row in enumerate(rows_for("train", HEALTHY, 0, count))
    ]
    prepared.write_shard(tmp_path / "d", "train", HEALTHY, 0, np.zeros((count, 1, 1), np.uint16), None, rows)
    prepared.finish(tmp_path / "d", {})
    prepared.open_prepared(tmp_path / "d")  # loads what is loaded once
    tracemalloc.start()
    try:
        data = prepared.open_prepared(tmp_path / "d")
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert {**data.rows("train")[7]} == {
        name: str(value) for name, value in {**rows[7], "path": "shards/train-healthy-00000.npy", "row": 7}.items()
    }
    assert held / count < 700  # dicts of strings of their own: 1700
    assert peak < 1.5 * held  # the table is read a line at a time


def test_a_shard_is_written_without_a_copy_of_it(tmp_path):
    images = np.zeros((100, 512, 512), np.uint16)
    tracemalloc.start()
    try:
        prepared.write_shard(tmp_path / "d", "train", HEALTHY, 0, images, None, rows_for("train", HEALTHY, 0, 100))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < images.nbytes / 2
    np.testing.assert_array_equal(np.load(tmp_path / "d/shards/train-healthy-00000.npy"), images)


def test_what_is_there_is_said(written, capsys):
    data = dataset_of(config_of(written[0]))
    summary = data.check()
    assert (summary.count("train", HEALTHY), summary.count("test", DISEASED)) == (5, 4)
    assert data.counts("validate") == (5, 4)
    assert data.has_split("test")
    out = capsys.readouterr().out
    assert "4 mask" in out
    assert "n=5     0..65535  uint16" in out, "values of the stored pixels, not 0..255 of the raw files"
    split = data.load("test", summary.scaling)
    assert split.names[0] == "test/healthy/healthy/test0.png"
    assert split.has_ground_truth.all()


def test_the_digest_is_of_what_was_read(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b")
    write(tmp_path / "c", counts=(5, 5))
    digests = []
    for name in "abc":
        data = dataset_of(config_of(tmp_path / name))
        data.check()
        digests.append(data.digest("train"))
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"value_range": "0,1"}, "--value_range=0,1: the range was settled when the data were prepared"),
        ({"ground_truth": "difference"}, "--ground_truth=difference: a prepared data set holds masks"),
    ],
)
def test_what_was_settled_before_cannot_be_asked_for(written, settings, message):
    with pytest.raises(UserError, match=message):
        dataset_of(config_of(written[0], **settings)).check()


def test_another_size_is_refused(written):
    config = Config(mode="check_data", dataset="prepared", data_dir=str(written[0]), image_size=128)
    with pytest.raises(UserError, match=r"was prepared at --image_size=64, and --image_size=128 is asked for"):
        dataset_of(config).check()


SHARD = "shards/test-healthy-00001.npy"


def drop(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def other(path):
    np.save(path, np.zeros((2, SIZE, SIZE), np.uint8))


def pickled(path):
    np.save(path, np.array([object()]), allow_pickle=True)


@pytest.mark.parametrize("name", [SHARD, "shards/test-diseased-00000-masks.npy"])
@pytest.mark.parametrize("harm", [drop, cut, empty, pickled])
def test_a_damaged_file_is_named(written, name, harm):
    harm(written[0] / name)
    with pytest.raises(UserError, match=f"{name}.*prepare it again"):
        prepared.open_prepared(written[0])


def test_another_type_is_named(written):
    other(written[0] / SHARD)
    with pytest.raises(UserError, match=rf"{SHARD}: holds uint8 .*expected uint16 of at least 2 images of 64x64"):
        prepared.open_prepared(written[0])


@pytest.mark.parametrize("harm", [drop, cut, empty])
def test_a_damaged_table_is_named(written, harm):
    harm(written[0] / "manifest.csv")
    with pytest.raises(UserError, match=r"manifest\.csv"):
        prepared.open_prepared(written[0])


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 99, "image_size": 64}'])
def test_damaged_decisions_are_named(written, content):
    (written[0] / "dataset.json").write_bytes(content)
    with pytest.raises(UserError, match=r"dataset\.json is damaged or of another version"):
        prepared.open_prepared(written[0])


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("path", "../../etc/passwd.npy", "names no shard of this data set"),
        ("path", "/etc/passwd.npy", "names no shard of this data set"),
        ("path", "shards/../train-healthy-00000.npy", "names no shard of this data set"),
        ("path", "shards/train-healthy-00000-masks.npy", "names no shard of this data set"),
        ("label", "diseased", "says train diseased, but its path is shards/train-healthy-00000.npy"),
        ("row", "-1", "row '-1' is no number"),
        ("row", "7", "at least 8 images"),
    ],
)
def test_a_manifest_leads_nowhere_else(written, column, value, message):
    path = written[0] / "manifest.csv"
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    next(row for row in rows if row["path"].startswith("shards/train-healthy"))[column] = value
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, prepared.COLUMNS)
        table.writeheader()
        table.writerows(rows)
    with pytest.raises(UserError, match=message):
        prepared.open_prepared(written[0])


def test_a_link_out_of_the_data_set_is_refused(written, tmp_path):
    shard = written[0] / SHARD
    shard.rename(tmp_path / "elsewhere.npy")
    shard.symlink_to(tmp_path / "elsewhere.npy")
    with pytest.raises(UserError, match=f"{shard}: a link leads out of the data set, to {tmp_path}/elsewhere.npy"):
        prepared.open_prepared(written[0])
    (tmp_path / "link").symlink_to(written[0])  # to all of it
    shard.unlink()
    (tmp_path / "elsewhere.npy").rename(shard)
    prepared.open_prepared(tmp_path / "link")


def test_what_is_not_finished_is_not_taken(written, tmp_path):
    (written[0] / "dataset.json").unlink()
    assert not prepared.is_complete(written[0])
    with pytest.raises(UserError, match="its preparation was ended early, give the same command again"):
        prepared.open_prepared(written[0])
    with pytest.raises(UserError, match="make one of raw files with --mode=prepare"):
        prepared.open_prepared(tmp_path / "none")


def test_a_write_that_fails_leaves_the_shard_that_was_there(written, monkeypatch):
    before = (written[0] / SHARD).read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="No space left on device"):
        prepared.write_shard(
            written[0], "test", HEALTHY, 1, np.zeros((2, SIZE, SIZE), np.uint16), None, rows_for("test", HEALTHY, 0, 2)
        )
    assert (written[0] / SHARD).read_bytes() == before
    assert not list((written[0] / "shards").glob(".*"))
