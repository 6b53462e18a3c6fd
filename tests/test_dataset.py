"""The data that a Config names."""

import numpy as np

from descargan_tf.config import Config
from descargan_tf.data.dataset import Dataset
from descargan_tf.data.images import Scaling


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
