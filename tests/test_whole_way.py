"""From raw files to maps, as a user goes: the chest phantom's DICOM files drawn, prepared, checked, learned, served."""

import csv
import json
from collections import Counter

import numpy as np
import pytest

import descargan_tf
from descargan_tf.data import prepared
from descargan_tf.data.dicom_files import read_dicom
from descargan_tf.export.verify import verify
from descargan_tf.main import main
from descargan_tf.measures import TABLE_1, TABLE_2
from descargan_tf.types import CLASS_NAMES, DECISION, SPLITS

pytestmark = pytest.mark.usefixtures("one_replica", "shallow", "eager_rounds", "graphs_as_traced", "no_pictures")
COUNTS = {"train": 6, "validate": 4, "test": 4}  # images of each class
NUMBERS = [f"--num_{split}={count}" for split, count in COUNTS.items()]
TINY = (
    "--dataset=prepared",
    "--image_size=64",
    "--batch_size=4",
    "--generator_filters=2",
    "--discriminator_filters=2",
    "--critic_updates=1",
    "--noflips",
    "--validate_every_steps=2",
    "--checkpoint_every_steps=2",
    "--max_steps=2",
    # So fast that two rounds give maps that are not nothing, and probabilities away from 1/2.
    "--generator_learning_rate=1e-2",
    "--discriminator_learning_rate=5e-2",
    "--lambda_cls_d=100",
)


@pytest.fixture(scope="module")
def way(tmp_path_factory, one_replica, shallow, eager_rounds, graphs_as_traced, no_pictures):
    """A folder with raw/, data/, run/, exports/ and found/: every step ended with 0."""
    root = tmp_path_factory.mktemp("way")

    def step(mode, *flags):
        assert main(["main", f"--mode={mode}", *flags]) == 0, mode

    folders = (f"--input={root / 'raw'}", f"--data_dir={root / 'data'}")
    with pytest.MonkeyPatch.context() as patch:  # processes take longer to start than all of the work does
        patch.setattr("descargan_tf.processes.num_cores", lambda: 1)
        step("generate", "--dataset=chest_phantom", "--image_size=128", *NUMBERS, f"--data_dir={root / 'raw'}")
        step("prepare", "--source=chexpert", "--image_size=64", *NUMBERS[1:], *folders)
    step("check_data", "--dataset=prepared", "--image_size=64", f"--data_dir={root / 'data'}")
    step("train", *TINY, f"--data_dir={root / 'data'}", f"--run_dir={root / 'run'}")
    step("evaluate", f"--run_dir={root / 'run'}")
    with pytest.MonkeyPatch.context() as patch:  # its process of its own takes as long as the rest of an export
        patch.setattr("descargan_tf.export.exporter.verify_apart", verify)
        step("export", f"--run_dir={root / 'run'}", f"--export_dir={root / 'exports'}")
    files = root / "files"
    files.mkdir()
    for source in sources(root, "test"):
        (files / source.replace("/", "_")).write_bytes((root / "raw" / source).read_bytes())
    step("predict", f"--run_dir={root / 'run'}", f"--input={files}", f"--output_dir={root / 'found'}")
    return root


def sources(root, split):
    return [row["source"] for row in prepared.open_prepared(root / "data").rows(split)]


def test_what_was_drawn_is_in_the_splits_that_were_asked_for_and_no_patient_in_two(way):
    drawn = json.loads((way / "raw" / "manifest.json").read_text())
    assert drawn["frontal"]["healthy"] == drawn["frontal"]["diseased"] == sum(COUNTS.values())
    opened = prepared.open_prepared(way / "data")
    patients = {}
    for split in SPLITS:
        rows = opened.rows(split)
        patients[split] = {row["patient"] for row in rows}
        if split != "train":  # which lacks what of the others' patients went beyond the numbers
            assert Counter(row["label"] for row in rows) == dict.fromkeys(("healthy", "diseased"), COUNTS[split])
        assert all((row["ground_truth"] == "mask") == (row["label"] == "diseased") for row in rows)
        assert all(row["view"].startswith("frontal") for row in rows)
    total = sum(len(opened.rows(split)) for split in SPLITS)
    assert total + opened.decisions["left_out"] == 2 * sum(COUNTS.values())
    assert opened.decisions["failed"] == 0
    assert not (patients["train"] & patients["validate"] | patients["train"] & patients["test"])
    assert not patients["validate"] & patients["test"]
    assert all(patients.values())


def test_what_is_stored_is_what_the_files_show(way):
    opened = prepared.open_prepared(way / "data")
    images = opened.images("test")
    truth = opened.ground_truth("test")
    for position, row in enumerate(opened.rows("test")):
        values, low, high = read_dicom(way / "raw" / row["source"])
        share = (values.astype(float) - low) / (high - low)
        stored = (images[position][..., 0] + 1) / 2
        rows, columns = np.flatnonzero(stored.any(1)), np.flatnonzero(stored.any(0))  # without its bars
        assert max(len(rows), len(columns)) == 64
        inner = stored[np.ix_(rows, columns)]
        assert inner.shape[0] / inner.shape[1] == pytest.approx(values.shape[0] / values.shape[1], abs=0.05)
        assert inner.mean() == pytest.approx(share.mean(), abs=0.01)  # MONOCHROME1 and windows included
        assert truth[position].any() == (row["label"] == "diseased")


def test_the_report_has_table_2_and_pixel_measures_against_the_masks(way):
    report = json.loads((way / "run" / "report.json").read_text())
    scores = report["metrics"]["image_units"]
    for name in TABLE_2:
        assert np.isfinite(scores[name]["mean"]), name
        assert scores[name]["ci95"][0] <= scores[name]["mean"] <= scores[name]["ci95"][1]
    for name in ("dice", "auroc_pixel"):
        assert 0 <= scores[name]["mean"] <= 1
        assert scores[name].get("num_images", COUNTS["test"]) == COUNTS["test"]
    for name in set(TABLE_1) - {"dice", "auroc_pixel"}:
        if scores[name]["mean"] is None:
            assert scores[name]["reason"] == "not available: masks"
    assert report["split"]["num_healthy"] == report["split"]["num_diseased"] == COUNTS["test"]
    page = (way / "run" / "report.html").read_text()
    assert "Table 2" in page
    with open(way / "run" / "per_image.csv", newline="") as file:
        assert len([*csv.DictReader(file)]) == 2 * COUNTS["test"]


def test_the_export_is_described_by_the_evaluation(way):
    """In another precision: test_main.py."""
    report = json.loads((way / "run" / "report.json").read_text())
    facts = json.loads((way / "exports" / "1" / "assets.extra" / "model.json").read_text())
    assert (facts["metrics"], facts["thresholds"]) == (report["metrics"], report["threshold"])
    assert (facts["precision"], facts["other_precision"], facts["method"]) == ("float32", None, "descargan")
    assert (facts["data_digest"], facts["checkpoint"]) == (report["data_digest"], report["checkpoint"])


def test_a_raw_file_has_the_map_of_its_stored_image_from_the_run_and_from_the_export(way):
    opened = prepared.open_prepared(way / "data")
    images = np.rint((opened.images("test")[:][..., 0].astype(np.float64) + 1) / 2 * prepared.WHITE).astype(np.uint16)
    exported = descargan_tf.load(way / "exports").predict(images)
    of_run = descargan_tf.load(way / "run").predict(images)
    with open(way / "found" / "predictions.csv", newline="") as file:
        table = {row["file"]: row for row in csv.DictReader(file)}
    assert len(table) == len(images)
    for position, source in enumerate(sources(way, "test")):
        name = source.replace("/", "_")
        found = np.load(way / "found" / f"{name.removesuffix('.dcm')}_map.npy")
        assert np.ptp(found) > 1e-3  # or all maps would be the same
        np.testing.assert_allclose(found, of_run["anomaly_map"][position], atol=1e-5)
        np.testing.assert_allclose(found, exported["anomaly_map"][position], atol=1e-4)
        probability = float(table[name]["disease_probability"])
        assert probability == pytest.approx(float(exported["disease_probability"][position]), abs=2e-5)
        assert table[name]["predicted_class"] == CLASS_NAMES[probability > DECISION]
    assert np.ptp(of_run["anomaly_map"], axis=0).max() > 1e-3
    assert np.ptp(of_run["disease_probability"]) > 1e-4
