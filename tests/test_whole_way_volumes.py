"""From NIfTI volumes to NIfTI maps through the program: prepared, learned, evaluated against masks, predicted."""

import csv
import json
from collections import Counter

import nibabel
import numpy as np
import pytest
from nifti_volumes import ORIENTATIONS, write_volume

import descargan_tf
from descargan_tf.data import prepared
from descargan_tf.data.nifti_files import Volume
from descargan_tf.main import main
from descargan_tf.types import CLASS_NAMES, SPLITS

pytestmark = pytest.mark.usefixtures("one_replica", "shallow", "eager_rounds", "graphs_as_traced", "no_pictures")
SHAPE, SPACING = (36, 40, 20), (1.0, 1.2, 2.5)
LESION = slice(8, 12)  # its axial slices
METHOD = ("--method=vae", "--batch_size=4", "--generator_filters=2", "--latent_units=4")
ROUNDS = ("--validate_every_steps=2", "--checkpoint_every_steps=1")


def head(seed):
    rng = np.random.default_rng(seed)
    places = np.moveaxis(np.indices(SHAPE), 0, -1) / SHAPE - 0.5
    inside = (places**2).sum(-1) < 0.2
    return np.where(inside, 600 - 500 * (places**2).sum(-1) + rng.normal(0, 20, SHAPE), 0).clip(0).astype(np.int16)


def write_volumes(root):
    """Two patients for each class and split, every file in an order of voxels of its own."""
    number = 0
    for split in SPLITS:
        for name in CLASS_NAMES:
            for _ in range(2):
                array, mask = head(number), np.zeros(SHAPE, np.uint8)
                mask[14:22, 15 + number : 24 + number, LESION] = 1
                folder = root / split / name
                if name == "diseased":
                    array[mask > 0] = 900
                    write_volume(
                        folder / f"sub-{number:02d}_mask.nii.gz", mask, ORIENTATIONS[(5 * number + 1) % 48], SPACING
                    )
                suffix = ".nii.gz" if number % 2 else ".nii"
                write_volume(folder / f"sub-{number:02d}{suffix}", array, ORIENTATIONS[(7 * number) % 48], SPACING)
                number += 1


@pytest.fixture(scope="module")
def way(tmp_path_factory, one_replica, shallow, eager_rounds, graphs_as_traced, no_pictures):
    """A folder with raw/, data/, other/ of fewer slices, run/ and found/: every step ended with 0."""
    root = tmp_path_factory.mktemp("volumes")
    write_volumes(root / "raw")

    def step(mode, *flags):
        assert main(["main", f"--mode={mode}", *flags]) == 0, mode

    asked = ("--source=nifti", f"--input={root / 'raw'}", "--nifti_range=0,1000", "--image_size=64")
    with pytest.MonkeyPatch.context() as patch:  # processes take longer to start than all of the work does
        patch.setattr("descargan_tf.processes.num_cores", lambda: 1)
        step("prepare", *asked, "--slices=0.3:0.7", f"--data_dir={root / 'data'}")
        step("prepare", *asked, "--slices=0.3:0.6", f"--data_dir={root / 'other'}")
    data = ("--dataset=prepared", "--image_size=64", f"--data_dir={root / 'data'}")
    for rounds in (1, 2):  # the second takes up the first
        step("train", *METHOD, *ROUNDS, f"--max_steps={rounds}", *data, f"--run_dir={root / 'run'}")
    step("evaluate", f"--run_dir={root / 'run'}")
    volumes = root / "raw" / "test" / "diseased"
    step(
        "predict",
        f"--run_dir={root / 'run'}",
        f"--input={volumes}",
        "--slices=0.3:0.7",
        f"--output_dir={root / 'found'}",
    )
    return root


def volumes_of_the_test(way):
    found = [path for path in sorted((way / "raw/test/diseased").iterdir()) if "_mask" not in path.name]
    assert len(found) == 2
    return found


def test_slices_are_in_the_splits_of_their_patients_with_their_masks(way):
    opened = prepared.open_prepared(way / "data")
    patients = {split: {row["patient"] for row in opened.rows(split)} for split in SPLITS}
    assert [len(patients[split]) for split in SPLITS] == [4, 4, 4]
    assert len(set().union(*patients.values())) == 12
    for split in SPLITS:
        rows, truth = opened.rows(split), opened.ground_truth(split)
        slices = LESION.stop - LESION.start
        # Slices of a diseased volume that are not marked are dropped; 8 of 20 are asked for.
        assert Counter(row["label"] for row in rows) == {"healthy": 2 * 8, "diseased": 2 * slices}
        assert {int(row["source"].rpartition("=")[2]) for row in rows if row["label"] == "diseased"} == {*range(8, 12)}
        for position, row in enumerate(rows):
            marked = truth[position][..., 0] > 0
            bright = opened.images(split)[position][..., 0] > 0.5
            assert marked.any() == (row["label"] == "diseased")
            # Where the picture is bright, but for a pixel's rim, however the two files keep their voxels.
            assert (marked ^ bright).sum() <= 0.3 * marked.sum()


def test_pixels_are_measured_against_the_masks(way):
    report = json.loads((way / "run" / "report.json").read_text())
    scores = report["metrics"]["image_units"]
    assert 0 <= scores["dice"]["mean"] <= 1
    assert 0 <= scores["auroc_pixel"]["mean"] <= 1
    assert scores["ssim"]["reason"] == "not available: masks"
    assert scores["mse_d_gt"]["mean"] is None  # masks have no sign
    assert (report["split"]["num_healthy"], report["split"]["num_diseased"]) == (16, 8)


def test_a_run_is_taken_up_where_it_was_and_not_on_other_data(way, capsys):
    assert "resuming at step 1" in (way / "run" / "train.log").read_text()
    lines = map(json.loads, (way / "run" / "metrics.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if line["group"] == "validate"] == [1, 2]
    flags = (*METHOD, *ROUNDS, "--max_steps=3", "--dataset=prepared", "--image_size=64", f"--run_dir={way / 'run'}")
    assert main(["main", *flags, f"--data_dir={way / 'other'}"]) == 2
    assert f"was trained on other data than --data_dir={way / 'other'} holds" in capsys.readouterr().err


def test_a_map_is_a_volume_that_lies_on_its_source(way):
    model = descargan_tf.load(way / "run")
    opened = prepared.open_prepared(way / "data")
    for path in volumes_of_the_test(way):
        stem = path.name.partition(".")[0]
        source, written = nibabel.load(path), nibabel.load(way / "found" / f"{stem}_map.nii.gz")
        np.testing.assert_array_equal(written.affine, source.affine)
        assert written.shape == source.shape
        volume, found = Volume(path), Volume(way / "found" / f"{stem}_map.nii.gz")
        healthy = Volume(way / "found" / f"{stem}_healthy.nii.gz")
        for index in range(SHAPE[2]):
            values = found.plane("axial", index)
            assert values.any() == (index in range(6, 14))  # 0.3 to 0.7 of 20
            shown = healthy.plane("axial", index) - volume.plane("axial", index)
            np.testing.assert_allclose(shown, values * 500, atol=1e-2)
        # The map of a slice, brought back to the voxels, is on average what the model says of the stored one.
        rows = opened.rows("test")
        for position, row in enumerate(rows):
            if row["source"].endswith(f"{path.name}#slice=9"):
                stored = np.rint((opened.images("test")[position][..., 0] + 1) / 2 * prepared.WHITE).astype(np.uint16)
                said = model.predict(stored)["anomaly_map"][0]
                inner = said[:, (64 - 48) // 2 : (64 + 48) // 2]  # 40 rows 1.2 mm apart are 48: what was padded is off
                assert found.plane("axial", 9).mean() == pytest.approx(inner.mean(), abs=0.02)
                assert np.ptp(said) > 1e-3


def test_the_tables_name_volumes_and_slices(way):
    with open(way / "found" / "predictions.csv", newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == [path.name for path in volumes_of_the_test(way)]
    for path in volumes_of_the_test(way):
        with open(way / "found" / f"{path.name.partition('.')[0]}_slices.csv", newline="") as file:
            assert [int(row["slice"]) for row in csv.DictReader(file)] == [*range(6, 14)]
