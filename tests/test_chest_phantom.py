"""The chest phantom: what is drawn, and that its files are CheXpert's layout which its source reads."""

import copy
import csv
import hashlib

import numpy as np
import pytest

from descargan_tf.commands.generate import generate
from descargan_tf.config import Config
from descargan_tf.data import chest_phantom, phantom_files
from descargan_tf.data.dicom_files import read_dicom
from descargan_tf.data.synthetic import SyntheticSettings
from descargan_tf.errors import UserError
from descargan_tf.preparation import chexpert
from descargan_tf.preparation.sources import Options
from descargan_tf.types import DISEASED

SETTINGS = SyntheticSettings(3, 64, 8, 2, 2)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantom") / "data"
    return root, phantom_files.generate(root, SETTINGS, num_workers=1)


def digests(root):
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and path.suffix != ".csv"
    }


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_processes_and_another_one_others(
    drawn, tmp_path, kept_processes
):
    root, manifest = drawn
    told = []
    again = phantom_files.generate(tmp_path / "again", SETTINGS, 2, lambda done, total: told.append((done, total)))
    assert again == manifest
    assert told[-1] == (24, 24)
    assert digests(tmp_path / "again") == digests(root)
    assert not (tmp_path / "again.partial").exists()
    phantom_files.generate(tmp_path / "other", SyntheticSettings(4, 64, 8, 2, 2), num_workers=1)
    assert digests(tmp_path / "other") != digests(root)


def test_each_picture_is_handed_the_random_numbers_as_the_one_before_leaves_them(tmp_path):
    views = phantom_files._plan("data", SETTINGS)[0]
    assert {view.kind for view in views} == {"frontal", "lateral"}
    assert {view.label for view in views} == {-1, 0, 1}
    assert {view.device for view in views} == {*chest_phantom.DEVICES}
    for view in views:
        passed_over = copy.deepcopy(view.rng)
        phantom_files._pass_over(view, passed_over)
        phantom_files._write_view(tmp_path, view)
        assert view.rng.bit_generator.state == passed_over.bit_generator.state


def test_nothing_is_written_over(drawn):
    with pytest.raises(UserError, match="already holds something"):
        phantom_files.generate(drawn[0], SETTINGS)


def test_the_source_of_chexpert_reads_it_with_masks(drawn):
    root, manifest = drawn
    listing = chexpert.list(root, Options())
    assert listing.problems == []
    labels = [image.label for image in listing.images]
    assert labels.count(0) == labels.count(DISEASED) == 12
    patients = [image.patient for image in listing.images]
    assert len(set(patients)) < len(patients)  # some come several times
    for image in listing.images:
        pixels = chexpert.read(image, Options())
        assert min(pixels.values.shape) == 64
        assert pixels.low <= pixels.values.min() < pixels.values.max() <= pixels.high
        assert (image.ground_truth is not None) == (image.label == DISEASED)
        if image.ground_truth:
            mask = chexpert.read_ground_truth(image, Options())
            assert mask.shape == pixels.values.shape
            assert 0.001 < mask.mean() < 0.3
    with open(root / "train.csv", newline="") as file:
        rows = [*csv.DictReader(file)]
    uncertain = [row for row in rows if row["Pleural Effusion"] == "-1.0" and row["Frontal/Lateral"] == "Frontal"]
    assert len(uncertain) == manifest["frontal"]["uncertain"]
    assert sum(row["Frontal/Lateral"] == "Lateral" for row in rows) <= manifest["lateral"]


@pytest.mark.parametrize("device", chest_phantom.DEVICES, ids=lambda device: device.model)
def test_what_a_device_stores_is_shown_as_it_was_drawn(device, tmp_path):
    image = np.random.default_rng(0).random((40, 40))
    values, window = chest_phantom.store(image, device, np.random.default_rng(1))
    path = tmp_path / "a.dcm"
    phantom_files._data_set(values, window, device, "train/a/b/c", "frontal", 1).save_as(path, enforce_file_format=True)
    found = read_dicom(path)
    np.testing.assert_allclose(found.values / found.high, image, atol=1e-3)


def test_fluid_is_where_the_mask_says_and_nothing_else_changes():
    for seed in range(6):
        rng = np.random.default_rng(seed)
        chest, effusion = chest_phantom.sample_chest(rng), chest_phantom.sample_effusion(rng)
        diseased, mask = chest_phantom.draw_frontal(chest, effusion, 96, 96, np.random.default_rng(9))
        healthy, nothing = chest_phantom.draw_frontal(chest, None, 96, 96, np.random.default_rng(9))
        assert not nothing.any()
        difference = diseased - healthy
        assert difference[mask].min() > 0.02  # denser; noise is of the same draw
        assert np.abs(difference[~mask]).max() < 0.06
        columns = np.nonzero(mask)[1] - 47.5
        assert (np.sign(columns) == effusion.side).mean() > 0.95
        assert np.nonzero(mask)[0].min() > 30  # it lies below, not at the apex


def test_generate_draws_it_and_other_modes_say_where_it_goes(tmp_path, capsys):
    flags = {"dataset": "chest_phantom", "data_dir": str(tmp_path / "raw"), "image_size": 64}
    assert generate(Config(mode="generate", num_train=2, num_validate=1, num_test=1, **flags)) == 0
    out = capsys.readouterr().out
    assert "frontal views: 4 healthy, 4 diseased" in out
    assert "--mode=prepare --source=chexpert" in out
    assert (tmp_path / "raw" / "train.csv").exists()
    with pytest.raises(UserError, match="--mode=train takes what --mode=prepare"):
        Config(mode="train", run_dir=str(tmp_path / "run"), **flags)
