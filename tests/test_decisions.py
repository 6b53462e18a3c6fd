"""Calibration and operating points against numbers made by hand, and where a report has them from."""

import json

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from descargan_tf.evaluation import decisions, evaluator, figures, metrics, report
from descargan_tf.types import MASK, Prediction, Split


def answer(probability=None, score=None):
    columns = None if probability is None else np.stack([1 - np.asarray(probability), probability], 1)
    return Prediction(None, None, score, columns)


# ---- by hand


def test_hand_computed_bins_and_calibration_error():
    bins = metrics.reliability([0, 0.05, 0.1, 0.15, 0.95, 1], [0, 0, 1, 0, 1, 1])
    assert bins["num_images"].tolist() == [3, 1, 0, 0, 0, 0, 0, 0, 0, 2]  # 0.1 is in the first, 0 and 1 are in some
    assert bins["num_diseased"].tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    np.testing.assert_allclose(bins["mean_probability"][[0, 1, 2, 9]], [0.05, 0.15, np.nan, 0.975])
    # 3 |1/3 - 0.05| + 1 |0 - 0.15| + 2 |1 - 0.975| of 6 images
    assert metrics.expected_calibration_error(bins) == pytest.approx(0.175)


def test_bins_agree_with_sklearn():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    probability = np.round(np.clip(rng.normal(0.3 + 0.4 * labels, 0.25), 0, 1), 2)
    bins = metrics.reliability(probability, labels)
    share, mean = calibration_curve(labels, probability, n_bins=10)
    used = bins["num_images"] > 0
    np.testing.assert_allclose((bins["num_diseased"] / np.maximum(bins["num_images"], 1))[used], share)
    np.testing.assert_allclose(bins["mean_probability"][used], mean)
    assert bins["num_images"].sum() == 300


def test_probabilities_that_are_what_they_say_have_no_calibration_error():
    bins = metrics.reliability(np.repeat([0.25, 0.75], 4), [0, 0, 0, 1, 0, 1, 1, 1])
    assert metrics.expected_calibration_error(bins) == 0


@pytest.mark.parametrize(
    ("diseased", "sensitivity", "threshold"),
    [
        (np.arange(1, 21) / 100, 0.90, 0.03),  # 18 of 20 reach it
        (np.arange(1, 21) / 100, 0.95, 0.02),  # 19 of 20
        (np.arange(1, 11) / 100, 0.95, 0.01),  # 9 of 10 are too few
        ([0.9, 0.5, 0.5], 0.60, 0.5),  # 2 of 3 would do; the third has the same score
        ([1.0, 1.0, 1.0], 0.90, 1.0),
    ],
)
def test_hand_computed_thresholds(diseased, sensitivity, threshold):
    for healthy in ([], [0.0, 0.02, 0.99]):
        labels = np.repeat([1, 0], [len(diseased), len(healthy)])
        score = np.concatenate([diseased, healthy])
        assert metrics.threshold_at_sensitivity(score, labels, sensitivity) == threshold
        order = np.random.default_rng(0).permutation(len(score))
        assert metrics.threshold_at_sensitivity(score[order], labels[order], sensitivity) == threshold


def test_an_image_at_the_threshold_is_called_diseased():
    assert metrics.called_right([0.4, 0.5, 0.6, 0.4, 0.5], [0, 0, 0, 1, 1], 0.5) == {0: (1, 3), 1: (1, 2)}


def test_intervals_of_shares_are_wilsons():
    # 18 of 20: (0.9 + z^2 / 40 -+ z sqrt(0.09 / 20 + z^2 / 1600)) / (1 + z^2 / 20), z = 1.959964
    assert metrics.proportion_interval(18, 20) == pytest.approx((0.698966, 0.972134), abs=1e-6)
    assert metrics.proportion_interval(10, 10) == pytest.approx((0.722467, 1), abs=1e-6)  # 10 / (10 + z^2)
    assert metrics.proportion_interval(0, 10) == pytest.approx((0, 1 - 0.722467), abs=1e-6)


# ---- chosen on one split, measured on another


def test_operating_points_are_chosen_on_validation_and_measured_on_test():
    labels = np.repeat([0, 1], [10, 20])
    validate = np.concatenate([np.arange(10) * 0.005 + 0.001, np.arange(1, 21) / 100])
    chosen = decisions.choose(answer(validate), labels, data_checksum="feed")
    assert [point["target_sensitivity"] for point in chosen["points"]] == [0.9, 0.95]
    assert [point["threshold"] for point in chosen["points"]] == [0.03, 0.02]
    # Healthy: 0.001, 0.006, ..., 0.046, of which six are below 0.03 and four below 0.02.
    assert chosen["points"][0]["chosen_on"] == {"sensitivity": 0.9, "specificity": 0.6}
    assert chosen["points"][1]["chosen_on"] == {"sensitivity": 0.95, "specificity": 0.4}
    assert (chosen["split"], chosen["data_checksum"], chosen["num_diseased"]) == ("validate", "feed", 20)
    assert chosen["score"] == "disease probability"

    test = np.array([0.01, 0.025, 0.5, 0.01, 0.02, 0.03, 0.9])
    found = decisions.at(chosen, answer(test), np.array([0, 0, 0, 1, 1, 1, 1]), 0.95)
    first, second = found["points"]
    assert (first["specificity"]["mean"], first["sensitivity"]["mean"]) == (2 / 3, 0.5)
    assert (second["specificity"]["mean"], second["sensitivity"]["mean"]) == (1 / 3, 0.75)
    assert first["sensitivity"]["ci95"] == pytest.approx([0.150039, 0.849961], abs=1e-6)  # Wilson's of 2 of 4
    assert (first["sensitivity"]["num_images"], first["specificity"]["num_images"]) == (4, 3)
    assert [point["threshold"] for point in found["points"]] == [0.03, 0.02]


def test_a_method_without_probabilities_is_judged_by_its_anomaly_score():
    chosen = decisions.choose(answer(score=np.array([3.0, 5, 4, 6])), [0, 0, 1, 1])
    assert (chosen["score"], chosen["points"][0]["threshold"]) == ("anomaly score", 4)
    assert "anomaly score" in chosen["rule"]
    assert chosen["points"][0]["chosen_on"] == {"sensitivity": 1, "specificity": 0.5}
    nothing = decisions.choose(answer(), [0, 1])
    assert nothing["points"] == []
    assert nothing["reason"] == "not available: the method gives neither class probabilities nor an anomaly score"


def test_splits_of_one_class():
    healthy = decisions.choose(answer([0.1, 0.2]), [0, 0])
    assert healthy["reason"] == "not available: the validate split holds no diseased images"
    diseased = decisions.choose(answer([0.1, 0.2]), [1, 1])
    assert diseased["points"][0]["chosen_on"] == {"sensitivity": 1, "specificity": None}
    found = decisions.at(diseased, answer([0.1, 0.2]), [1, 1], 0.95)["points"][0]
    assert found["specificity"] == {
        "mean": None,
        "ci95": None,
        "num_images": 0,
        "reason": "not available: no healthy images",
    }


# ---- in a report, of images without ground truth


@pytest.fixture(scope="module")
def without_masks():
    rng = np.random.default_rng(0)
    images = rng.uniform(-0.8, 0, (40, 32, 32, 1)).astype(np.float32)
    labels = np.repeat([0, 1], 20).astype(np.int32)
    d = np.where(labels[:, None, None, None] == 1, np.float32(0.3), np.float32(0.02)) * np.ones_like(images)
    probability = np.clip(rng.normal(0.3 + 0.4 * labels, 0.2), 0, 1).astype(np.float32)
    split = Split(images, labels, None, [f"{index}.png" for index in range(40)])
    return split, Prediction(d, images + d, np.abs(d).mean((1, 2, 3)), np.stack([1 - probability, probability], 1))


def evaluated(split, prediction, points):
    return evaluator.evaluate_split(prediction, split, evaluator.calibrate(split), 0, operating_points=points)


def test_table_2_of_images_without_masks(without_masks, tmp_path):
    split, prediction = without_masks
    points = decisions.choose(prediction, split.labels, data_checksum="feed")
    result = evaluated(split, prediction, points)
    scores = result["metrics"]["image_units"]
    for name in ("accuracy", "kappa", "auroc_image", "brier", "mse_healthy"):
        low, high = scores[name]["ci95"]
        assert low <= scores[name]["mean"] <= high, name
    assert scores["mse_healthy"]["mean"] == pytest.approx(0.02**2)
    probability = prediction.class_probabilities[:, 1].astype(np.float64)
    assert scores["brier"]["mean"] == pytest.approx(np.mean((probability - split.labels) ** 2))
    for name in ("dice", "auroc_pixel", "mse_d_gt", "ssim", "dice_pooled", "auroc_pixel_pooled"):
        assert scores[name]["reason"] == "not available: no ground truth"

    drawn = figures.draw_all(tmp_path / "figures", prediction, split, None)
    report.write_report(tmp_path, result, drawn, {})
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["operating_points"] == result["operating_points"]
    assert written["calibration"] == result["calibration"]
    assert len(written["calibration"]["bins"]) == 10
    assert sum(each["num_images"] for each in written["calibration"]["bins"]) == 40
    first = result["operating_points"]["points"][0]
    row = (
        f"Sensitivity 90 % on validate | {first['threshold']:.9g} | {first['sensitivity']['mean']:.3f} "
        "[{:.3f}, {:.3f}]".format(*first["sensitivity"]["ci95"])
    )
    assert row in (tmp_path / "report.md").read_text()
    for text in (report.format_table(result), (tmp_path / "report.html").read_text()):
        assert f"{first['threshold']:.9g}" in text
        assert "Sensitivity 90 % on validate" in text
        assert "Brier score" in text
    for text in ((tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()):
        assert "over 20 diseased images of the validate split, data checksum feed" in text
        assert f"the expected calibration error is {result['calibration']['expected_calibration_error']:.3f}" in text


def test_reasons_are_in_the_report(without_masks, tmp_path):
    split, prediction = without_masks
    prediction = prediction._replace(class_probabilities=None)
    result = evaluated(split, prediction, decisions.unchosen(decisions.NO_VALIDATION))
    assert result["calibration"]["reason"] == "not available: the method gives no class probabilities"
    assert figures.figure_calibration(tmp_path / "none.png", prediction, split) is None
    text = report.format_table(result)
    assert f"Operating points: {decisions.NO_VALIDATION}" in text
    assert "Calibration: not available: the method gives no class probabilities" in text
    assert "Brier score: not available: the method gives no class probabilities" in text
    assert "Operating point " not in text


# ---- methods side by side


@pytest.fixture(scope="module")
def samples(without_masks):
    """Three images of each class, as a report keeps a few: each is a row of panels."""
    split, prediction = without_masks
    few = [0, 1, 2, 20, 21, 22]
    names = [split.names[index] for index in few]
    split = split._replace(images=split.images[few], labels=split.labels[few], names=names)
    return split, Prediction(*(value[few] for value in prediction))


@pytest.fixture
def titles(monkeypatch):
    """Of the panels of each figure that would be saved, which takes longer than all else."""
    found = {}

    def kept(figure, path, *words):
        axes = [axis for axis in figure.axes if axis.images]
        found[path.name] = [(axis.get_title(), axis.get_ylabel()) for axis in axes]
        return figures.FigureFile(path, *words)

    monkeypatch.setattr(figures, "_save", kept)
    return found


def test_panels_as_the_papers_figure_6(samples, tmp_path, titles):
    split, prediction = samples
    saliency = prediction._replace(healthy_image=None)
    methods = {"DeScarGAN": prediction, "VAE": prediction, "DenseNet-169": saliency}
    drawn = {figure.path.name: figure for figure in figures.draw_comparison(tmp_path, methods, split)}
    assert "as Figure 6 of the paper" in drawn["panels.png"].caption
    panels = titles["panels.png"]
    assert [title for title, _ in panels] == 2 * ["Input $r_p$", "Output $a_h$", "Difference $|d|$"] + 6 * [""]
    assert [name for _, name in panels if name] == ["DeScarGAN", "VAE"]
    assert "panels.png" not in {
        figure.path.name for figure in figures.draw_comparison(tmp_path / "saliency", {"DenseNet-169": saliency}, split)
    }


def test_panels_of_images_with_ground_truth_are_the_papers_figure_5(samples, tmp_path, titles):
    split, prediction = samples
    truth = np.zeros_like(split.images)
    truth[3:, 8:16, 8:16] = 1
    for kind, title in ((MASK, "Ground truth"), ("difference", "$|GT|$")):
        known = split._replace(ground_truth=truth, ground_truth_kind=kind)
        drawn = {figure.path.name: figure for figure in figures.draw_comparison(tmp_path, {"VAE": prediction}, known)}
        assert "as Figure 5 of the paper" in drawn["panels.png"].caption
        expected = ["Input $r_p$", "Output $a_h$", title, "Difference $|d|$"]
        assert [name for name, _ in titles["panels.png"]] == 2 * expected
