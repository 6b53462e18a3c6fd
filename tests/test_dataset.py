"""The data that a Config names."""

import numpy as np

from descargan_tf.config import Config
from descargan_tf.data import dataset, leaks, prepared
from descargan_tf.data.dataset import Dataset, dataset_of
from descargan_tf.data.images import Scaling
from descargan_tf.types import CLASS_NAMES


def test_own_data_are_scaled_as_the_run_was(tmp_path):
    for split in ("validate", "test"):
        for number, name in enumerate(("healthy", "diseased")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            np.save(folder / "0.npy", np.random.default_rng(number).uniform(0, 1, (64, 64)).astype("f"))
    config = Config(mode="check_data", dataset="folders", data_dir=str(tmp_path), image_size=64)
    splits = ("validate", "test")
    assert Dataset(config).check(splits).scaling == (0, 1)
    assert Dataset(config).check(splits, Scaling(-1.0, 1.0)).scaling == (-1, 1)


def test_an_empty_folder_is_generated_into(tmp_path):
    (tmp_path / "d").mkdir()
    counts = {"num_train": 2, "num_validate": 2, "num_test": 2}
    config = Config(mode="check_data", dataset="synthetic", data_dir=str(tmp_path / "d"), image_size=64, **counts)
    assert Dataset(config).check().scaling == (-1, 1)
    assert (tmp_path / "d" / "manifest.json").exists()


def test_training_says_of_a_sample_what_all_images_say(tmp_path, monkeypatch):
    """Of those that are looked at first, the diseased are brighter two times of three; of all they are not."""
    count, sample, rng = 480, 120, np.random.default_rng(0)
    first = np.linspace(0, count - 1, sample).astype(int)
    for label, name in enumerate(CLASS_NAMES):
        tells = np.arange(count) % 2 == 0
        tells[first] = np.arange(sample) % 3 < 2
        images = rng.integers(20000, 20500, (count, 64, 64)) + 3000 * np.where(tells, label, 1 - label)[:, None, None]
        images[:, 0, 0], images[:, 0, 1] = 0, 65535
        same = dict.fromkeys(prepared.COLUMNS, "") | {"ground_truth": prepared.NONE}
        rows = [{**same, "source": f"{name}{number}", "sha256": f"{name}{number}"} for number in range(count)]
        prepared.write_shard(tmp_path / "p", "train", label, 0, images.astype(np.uint16), None, rows)
    prepared.finish(tmp_path / "p", {})
    monkeypatch.setattr(dataset, "_SAMPLE", sample)
    data = dataset_of(Config(mode="check_data", dataset="prepared", data_dir=str(tmp_path / "p"), image_size=64))
    assert data.check(("train",)).findings == data.check(("train",), every_image=True).findings == ()
    monkeypatch.setattr(leaks, "is_undecided", lambda *_: False)
    assert "the mean of an image alone tells its class" in data.check(("train",)).findings[0]
