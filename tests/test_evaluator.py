"""The evaluator on a small set whose true answers are known, without a model."""

import json

import numpy as np
import pytest

from descargan_tf.errors import UserError
from descargan_tf.evaluation import evaluator
from descargan_tf.types import Prediction, Split

PROTOCOLS = ("image_units", "authors")
PIXELS = ("dice", "auroc_pixel", "mse_d_gt", "ssim")


def make_split(seed, num_per_class=8, size=64):
    """Healthy: a wide bump on waves; diseased: the same with a narrow bump."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    images, truths = [], []
    for index in range(2 * num_per_class):
        cx, cy = rng.uniform(0.35, 0.65, 2)
        waves = 0.2 * np.sin(rng.uniform(20, 40) * np.hypot(x - rng.uniform(), y - rng.uniform())) - 0.4
        squared = (x - cx) ** 2 + (y - cy) ** 2
        healthy, diseased = (waves + 0.9 * np.exp(-squared / (2 * width**2)) for width in (0.12, 0.05))
        images.append(healthy if index < num_per_class else diseased)
        truths.append(healthy - images[-1])
    names = [f"{'healthy' if i < num_per_class else 'diseased'}/{i:03d}.npy" for i in range(2 * num_per_class)]
    labels = np.repeat([0, 1], num_per_class).astype(np.int32)
    images, truths = (np.asarray(stack, np.float32)[..., None] for stack in (images, truths))
    return Split(images, labels, truths, names)


def predict_with(split, anomaly_map, probability=None):
    probability = np.linspace(0, 1, len(split.labels), dtype=np.float32) if probability is None else probability
    columns = np.stack([1 - probability, probability], axis=1)
    return Prediction(anomaly_map, split.images + anomaly_map, np.abs(anomaly_map).mean((1, 2, 3)), columns)


@pytest.fixture(scope="module")
def validate():
    return make_split(1)


@pytest.fixture(scope="module")
def test():
    return make_split(2)


@pytest.fixture(scope="module")
def thresholds(validate):
    return evaluator.calibrate(validate, data_checksum="sha256:abc")


@pytest.fixture(scope="module")
def noisy(test):
    noise = np.random.default_rng(3).normal(0, 0.08, test.images.shape).astype(np.float32)
    return predict_with(test, test.ground_truth + noise)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_perfect_healthy_counterpart_scores_perfectly(test, thresholds, protocol):
    scores = evaluator.evaluate_split(predict_with(test, test.ground_truth), test, thresholds, 0)["metrics"][protocol]
    assert scores["dice"]["mean"] == pytest.approx(1, abs=1e-3)
    assert scores["auroc_pixel"]["mean"] == pytest.approx(1, abs=1e-6)
    assert scores["mse_d_gt"]["mean"] == pytest.approx(0, abs=1e-10)
    assert scores["ssim"]["mean"] == pytest.approx(1, abs=1e-5)
    assert scores["mse_healthy"]["mean"] == 0
    assert scores["auroc_score"]["mean"] == scores["auroc_image"]["mean"] == scores["accuracy"]["mean"] == 1


def test_the_zero_map_baseline_is_what_a_zero_map_scores(test, thresholds):
    result = evaluator.evaluate_split(predict_with(test, 0 * test.images), test, thresholds, 0)
    for protocol in PROTOCOLS:
        scores, baseline = result["metrics"][protocol], result["baseline_zero_map"][protocol]
        assert scores["dice"]["mean"] == 0
        assert scores["auroc_pixel"]["mean"] == scores["auroc_pixel_pooled"]["mean"] == 0.5
        assert baseline.keys() == scores.keys()
        assert all(baseline[name] == scores[name] for name in (*PIXELS, "mse_healthy", "dice_pooled"))
        assert baseline["kappa"]["mean"] is None
        assert "zero map names no class" in baseline["kappa"]["reason"]
    diseased = np.float64(test.ground_truth[test.labels == 1])
    entry = result["baseline_zero_map"]["image_units"]["mse_d_gt"]
    assert entry["mean"] == pytest.approx(np.mean(diseased**2), rel=1e-12)
    assert entry["var"] == pytest.approx(np.mean(diseased.var(axis=(1, 2, 3))), rel=1e-12)


def test_opposite_signs_are_punished(test, thresholds):
    """D7.4: with the authors' signs a perfect generator scores a large MSE; here only a wrong one does."""
    scores = evaluator.evaluate_split(predict_with(test, -test.ground_truth), test, thresholds, 0)["metrics"]
    diseased = np.float64(test.ground_truth[test.labels == 1])
    assert scores["image_units"]["mse_d_gt"]["mean"] == pytest.approx(4 * np.mean(diseased**2))
    assert scores["image_units"]["dice"]["mean"] == pytest.approx(1)


def test_thresholds_come_from_validation_with_their_provenance(validate, thresholds):
    for protocol in PROTOCOLS:
        entry = thresholds[protocol]
        assert (entry["split"], entry["num_images"], entry["data_checksum"]) == ("validate", 8, "sha256:abc")
        assert "Otsu" in entry["rule"]
        assert 0 < entry["value"] < 2
    # min-max scaling stretches an image of width w by 2 / w, and these are about 1.3 wide.
    assert thresholds["authors"]["value"] > thresholds["image_units"]["value"]
    healthy_first = Split(*(np.asarray(field)[::-1] for field in validate[:4]))
    assert evaluator.calibrate(healthy_first)["image_units"]["value"] == pytest.approx(
        thresholds["image_units"]["value"], rel=1e-12
    )


def test_scores_do_not_depend_on_the_order_of_images(test, thresholds, noisy):
    order = np.random.default_rng(4).permutation(len(test.labels))
    shuffled = Split(*(np.asarray(field)[order] for field in test[:4]))
    here = evaluator.evaluate_split(noisy, test, thresholds, 0)
    there = evaluator.evaluate_split(Prediction(*(field[order] for field in noisy)), shuffled, thresholds, 0)
    for protocol in PROTOCOLS:
        for name, entry in here["metrics"][protocol].items():
            other = there["metrics"][protocol][name]
            assert other["mean"] == pytest.approx(entry["mean"], rel=1e-12)
            assert other["ci95"] == (None if entry["ci95"] is None else pytest.approx(entry["ci95"], rel=1e-12))
    rows = {row["name"]: row for row in there["per_image"]}
    assert all(rows[row["name"]] == row for row in here["per_image"])


def test_pixel_metrics_ignore_healthy_images(test, thresholds, noisy):
    """D7.7: spoiling the maps of healthy images moves mse_healthy alone."""
    spoilt = noisy.anomaly_map + 0.5 * (test.labels == 0).astype(np.float32)[:, None, None, None]
    before = evaluator.evaluate_split(noisy, test, thresholds, 0)["metrics"]["image_units"]
    after = evaluator.evaluate_split(predict_with(test, spoilt), test, thresholds, 0)["metrics"]["image_units"]
    assert all(before[name] == after[name] for name in PIXELS)
    assert after["mse_healthy"]["mean"] > before["mse_healthy"]["mean"] + 0.2


def test_per_image_rows_average_to_the_headline(test, thresholds, noisy):
    result = evaluator.evaluate_split(noisy, test, thresholds, 0)
    scores, rows = result["metrics"]["image_units"], result["per_image"]
    diseased = [row for row in rows if row["label"] == 1]
    healthy = [row for row in rows if row["label"] == 0]
    assert np.mean([row["dice"] for row in diseased]) == pytest.approx(scores["dice"]["mean"])
    assert np.mean([row["auroc"] for row in diseased]) == pytest.approx(scores["auroc_pixel"]["mean"])
    assert np.mean([row["mse"] for row in diseased]) == pytest.approx(scores["mse_d_gt"]["mean"])
    assert np.mean([row["mse"] for row in healthy]) == pytest.approx(scores["mse_healthy"]["mean"])
    assert [row["dice"] for row in healthy] == [None] * 8
    assert [row["name"] for row in rows] == test.names


def test_intervals_surround_their_means_and_repeat(test, thresholds, noisy):
    result = evaluator.evaluate_split(noisy, test, thresholds, 7)
    for name in (*PIXELS, "mse_healthy"):
        entry = result["metrics"]["authors"][name]
        assert entry["ci95"][0] <= entry["mean"] <= entry["ci95"][1]
    assert evaluator.evaluate_split(noisy, test, thresholds, 7) == result
    json.dumps(result, allow_nan=False)


def test_without_ground_truth_pixel_metrics_are_unavailable_never_zero(test, thresholds, noisy):
    unknown = test._replace(ground_truth=None)
    result = evaluator.evaluate_split(noisy, unknown, evaluator.calibrate(unknown), 0)
    assert result["threshold"]["authors"]["value"] is None
    for scores in (*result["metrics"].values(), *result["baseline_zero_map"].values()):
        for name in (*PIXELS, "dice_pooled", "auroc_pixel_pooled"):
            assert scores[name]["mean"] is None
            assert scores[name]["reason"] == "not available: no ground truth"
        assert scores["mse_healthy"]["mean"] is not None
    assert result["metrics"]["image_units"]["accuracy"]["mean"] == 1
    json.dumps(result, allow_nan=False)

    # Masks for the test split alone: what needs no threshold is still reported.
    scores = evaluator.evaluate_split(noisy, test, evaluator.calibrate(unknown), 0)["metrics"]["image_units"]
    assert scores["dice"]["reason"] == "not available: no threshold, no ground truth"
    assert scores["mse_d_gt"]["mean"] > 0


def test_a_method_without_class_probabilities_or_map(test, thresholds, noisy):
    scores = evaluator.evaluate_split(noisy._replace(class_probabilities=None), test, thresholds, 0)["metrics"]
    assert scores["authors"]["accuracy"]["reason"] == "not available: the method gives no class probabilities"
    assert scores["authors"]["auroc_score"]["mean"] is not None
    classifier = Prediction(None, None, None, noisy.class_probabilities)
    result = evaluator.evaluate_split(classifier, test, thresholds, 0)
    scores = result["metrics"]["image_units"]
    assert scores["dice"]["reason"] == "not available: the method gives no anomaly map"
    assert scores["mse_healthy"]["reason"] == "not available: the method gives no healthy image"
    assert scores["auroc_score"]["reason"] == "not available: the method gives no anomaly score"
    assert scores["accuracy"]["mean"] == 1
    assert result["baseline_zero_map"]["image_units"]["dice"]["mean"] == 0


def test_a_split_of_one_class(test, thresholds, noisy):
    healthy = Split(*(field[:8] for field in test[:4]))
    scores = evaluator.evaluate_split(Prediction(*(field[:8] for field in noisy)), healthy, thresholds, 0)["metrics"]
    assert scores["authors"]["dice"]["reason"] == "not available: no diseased images"
    assert scores["authors"]["kappa"]["reason"] == "not available: the split holds one class only"
    assert scores["authors"]["mse_healthy"]["num_images"] == 8
    assert evaluator.calibrate(healthy)["image_units"]["reason"] == "not available: no diseased images"


def test_an_empty_mask_is_left_out_and_said(test, thresholds, noisy):
    truth = test.ground_truth.copy()
    truth[8] *= 1e-3
    result = evaluator.evaluate_split(noisy, test._replace(ground_truth=truth), thresholds, 0)
    entry = result["metrics"]["image_units"]["auroc_pixel"]
    assert entry["num_images"] == 7
    assert entry["note"] == "1 of 8 images left out: mask empty or full"
    assert result["per_image"][8]["auroc"] is None


def test_wrong_answers_are_refused_by_name(test, thresholds, noisy):
    spoilt = noisy.anomaly_map.copy()
    spoilt[3, 0, 0, 0] = np.nan
    with pytest.raises(UserError, match=r"anomaly_map of healthy/003.npy is not finite"):
        evaluator.evaluate_split(noisy._replace(anomaly_map=spoilt), test, thresholds, 0)
    with pytest.raises(UserError, match=r"healthy_image has shape \(15, 64, 64, 1\)"):
        evaluator.evaluate_split(noisy._replace(healthy_image=noisy.healthy_image[:15]), test, thresholds, 0)
    with pytest.raises(UserError, match=r"found \[2\]"):
        evaluator.evaluate_split(noisy, test._replace(labels=test.labels * 2), thresholds, 0)
