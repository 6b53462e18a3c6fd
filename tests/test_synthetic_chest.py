import dataclasses
import json

import numpy as np
import pytest

from descargan_tf.config import Config
from descargan_tf.data import generation, synthetic_chest
from descargan_tf.data.dataset import dataset_of
from descargan_tf.data.synthetic import SyntheticSettings
from descargan_tf.errors import UserError
from descargan_tf.types import DISEASED, HEALTHY

SIZE = 64


@pytest.fixture(scope="module")
def examples():
    return [synthetic_chest.draw_example(3, "train", index, SIZE) for index in range(20)]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    counts = {"num_train": 100, "num_validate": 1, "num_test": 1}
    folder = str(tmp_path_factory.mktemp("chest") / "data")
    return Config(mode="check_data", dataset="synthetic_chest", data_dir=folder, image_size=SIZE, **counts)


@pytest.fixture(scope="module")
def data(config):
    found = dataset_of(config)
    with pytest.MonkeyPatch.context() as patch:  # processes take as long to start as a third of the work
        patch.setattr("descargan_tf.processes.num_cores", lambda: 1)
        return found, found.check(every_image=True)


def test_images_and_labels_are_as_the_pipeline_takes_them(examples):
    assert [label for _, label, _ in examples[:4]] == [HEALTHY, DISEASED] * 2
    for image, label, truth in examples:
        assert image.shape == truth.shape == (SIZE, SIZE)
        assert image.dtype == truth.dtype == np.float32
        assert np.abs(image).max() <= 1
        assert (label == DISEASED) == bool(truth.any())


def test_the_ground_truth_is_dark_and_in_one_lung_alone(examples):
    """Fluid whitens what air has made dark; all else is the same image."""
    for _, label, truth in examples:
        if label == DISEASED:
            assert truth.max() < 0.01
            assert truth.min() < -0.2
            assert np.mean(np.abs(truth) > 0.05) < 0.2
            sides = np.abs(truth[:, : SIZE // 2]).sum(), np.abs(truth[:, SIZE // 2 :]).sum()
            assert min(sides) < 0.05 * max(sides)


def test_the_projects_own_check_finds_no_way_to_tell_the_classes_but_the_disease(data):
    """A shortcut in the borders, the noise or the range would make the maps of a training mean nothing."""
    _, summary = data
    assert summary.findings == ()


def test_an_example_depends_on_its_own_arguments_alone():
    first = synthetic_chest.draw_example(0, "train", 5, SIZE)
    np.testing.assert_array_equal(first[0], synthetic_chest.draw_example(0, "train", 5, SIZE)[0])
    for other in ((1, "train", 5), (0, "test", 5), (0, "train", 7)):
        assert not np.array_equal(first[0], synthetic_chest.draw_example(*other, SIZE)[0])


def test_any_size_shows_the_same_kind_of_picture():
    for size in (128, 192):
        image, _, truth = synthetic_chest.draw_example(0, "train", 1, size)
        assert image.shape == (size, size)
        assert truth.min() < -0.2


def test_it_is_drawn_where_it_is_missing_and_read_back(data, config):
    found, summary = data
    split = found.load("train", summary.scaling)
    assert split.labels.tolist() == [HEALTHY] * 100 + [DISEASED] * 100
    image, _, truth = synthetic_chest.draw_example(0, "train", 1, SIZE)
    np.testing.assert_array_equal(split.images[100, ..., 0], image)
    np.testing.assert_array_equal(split.ground_truth[100, ..., 0], truth)
    with pytest.raises(UserError, match="--dataset is synthetic_chest there and synthetic here"):
        dataset_of(dataclasses.replace(config, dataset="synthetic")).check()


def test_a_manifest_of_before_there_were_two_kinds_is_of_the_papers(tmp_path):
    settings = SyntheticSettings(0, 64, 1, 1, 1)
    generation.generate(tmp_path / "d", settings, num_workers=1)
    path = tmp_path / "d" / generation.MANIFEST
    manifest = json.loads(path.read_text())
    del manifest["dataset"]
    path.write_text(json.dumps(manifest))
    generation.check_settings(tmp_path / "d", generation.read_manifest(tmp_path / "d"), settings)
