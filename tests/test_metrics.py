"""Metrics against hand-computed numbers, scikit-learn, scikit-image, SciPy and TensorFlow as judges."""

import numpy as np
import pytest
from scipy.signal import correlate2d
from skimage.filters import threshold_otsu
from sklearn.metrics import brier_score_loss, cohen_kappa_score, roc_auc_score

from descargan_tf.errors import UserError
from descargan_tf.evaluation import metrics

# 4x4 by hand, threshold 0.5: |GT| marks 4 pixels, |d| marks 3, both 2. Outside the mask |d| is 0.9 once, 0.2 once.
GT_4X4 = np.array([[[0, 0, 0, 0], [0, 1, -1, 0], [0, 1, -1, 0], [0, 0, 0, 0]]], float)
D_4X4 = np.array([[[0, 0, 0, 0.9], [0, 0.8, -0.7, 0], [0, 0.1, -0.4, 0], [0, 0, 0, 0.2]]], float)


@pytest.fixture
def maps():
    rng = np.random.default_rng(0)
    gt = rng.normal(size=(3, 24, 24, 1)).astype(np.float32)
    return (gt + rng.normal(size=gt.shape)).astype(np.float32), gt


def test_hand_computed_dice():
    np.testing.assert_allclose(metrics.dice(D_4X4, GT_4X4, 0.5), [2 * 2 / (3 + 4)])
    np.testing.assert_allclose(metrics.dice(-D_4X4, GT_4X4, 0.5), [4 / 7])


def test_dice_of_two_empty_masks_is_one_and_of_one_empty_mask_zero():
    np.testing.assert_array_equal(metrics.dice(np.zeros((1, 4, 4)), np.zeros((1, 4, 4)), 0.5), [1])
    np.testing.assert_array_equal(metrics.dice(np.zeros((1, 4, 4)), GT_4X4, 0.5), [0])
    assert metrics.dice_pooled(np.zeros((1, 4, 4)), np.zeros((1, 4, 4)), 0.5) == 1


def test_the_threshold_itself_is_not_anomalous():
    edge = np.full((1, 4, 4), 0.5)
    np.testing.assert_array_equal(metrics.dice(edge, GT_4X4, 0.5), [0])


def test_hand_computed_auroc():
    # 4 positives (0.8, 0.7, 0.1, 0.4) against 12 negatives (0.9, 0.2, ten 0):
    # wins 11 + 11 + 10 + 11 of 48.
    np.testing.assert_allclose(metrics.auroc_pixel(D_4X4, GT_4X4, 0.5), [43 / 48])


def test_hand_computed_mse_and_variance():
    # d - GT is 0.9, -0.2, 0.3, -0.9, 0.6, 0.2 and ten zeros: sum 0.9, sum of squares 2.15.
    np.testing.assert_allclose(metrics.mse(D_4X4, GT_4X4), [2.15 / 16])
    np.testing.assert_allclose(metrics.pixel_variance(D_4X4, GT_4X4), [2.15 / 16 - (0.9 / 16) ** 2])


def test_hand_computed_image_level():
    probability, labels = [0.1, 0.6, 0.5, 0.7, 0.9, 0.4], [0, 0, 0, 1, 1, 1]  # 0.5 is not above 0.5: healthy
    assert metrics.accuracy(probability, labels) == pytest.approx(4 / 6)
    assert metrics.kappa(probability, labels) == pytest.approx((4 / 6 - 0.5) / 0.5)
    assert metrics.auroc_image(probability, labels) == pytest.approx((3 + 3 + 1) / 9)
    assert metrics.brier(probability, labels) == pytest.approx(0.18)  # 0.01 + 0.36 + 0.25 + 0.09 + 0.01 + 0.36 of 6
    assert metrics.brier(probability, labels) == pytest.approx(brier_score_loss(labels, probability))


def test_image_level_of_one_class_is_not_available():
    assert metrics.kappa([0.2, 0.9], [1, 1]) is None
    assert metrics.auroc_image([0.2, 0.9], [1, 1]) is None
    assert metrics.accuracy([0.2, 0.9], [1, 1]) == 0.5
    assert metrics.brier([0.2, 0.9], [1, 1]) == pytest.approx(0.325)


def test_auroc_pixel_agrees_with_sklearn_and_has_no_value_for_an_empty_or_full_mask(maps):
    d, gt = maps
    judged = [roc_auc_score(np.abs(g).ravel() > 0.7, np.abs(x).ravel()) for x, g in zip(d, gt, strict=True)]
    np.testing.assert_allclose(metrics.auroc_pixel(d, gt, 0.7), judged)
    assert np.isnan(metrics.auroc_pixel(d, gt, 100)).all()
    assert np.isnan(metrics.auroc_pixel(d, gt, -1)).all()
    assert np.isnan(metrics.auroc_pixel_pooled(d, gt, 100))


def test_pooled_metrics_agree_with_one_large_picture(maps):
    d, gt = maps
    judged = roc_auc_score(np.abs(gt).ravel() > 0.7, np.abs(d).ravel())
    assert metrics.auroc_pixel_pooled(d, gt, 0.7) == pytest.approx(judged, abs=1e-4)
    whole = metrics.dice(d.reshape(1, -1), gt.reshape(1, -1), 0.7)
    assert metrics.dice_pooled(d, gt, 0.7) == pytest.approx(whole[0])
    assert metrics.auroc_pixel_pooled(0 * d, gt, 0.7) == 0.5


def _ssim_by_hand(x, y, data_range):
    offsets = np.arange(11) - 5
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(line, line) / np.sum(np.outer(line, line))

    def mean(image):
        return correlate2d(image, window, mode="valid")

    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    return np.mean((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))


@pytest.mark.parametrize("data_range", [1, 2])
def test_ssim_is_the_valid_gaussian_window_of_the_paper(maps, data_range):
    tf = pytest.importorskip("tensorflow")
    d, gt = (np.clip(stack, -1, 1) for stack in maps)
    ours = metrics.ssim(d, gt, data_range)
    by_hand = [_ssim_by_hand(x[..., 0], y[..., 0], data_range) for x, y in zip(*map(np.float64, (d, gt)), strict=True)]
    np.testing.assert_allclose(ours, by_hand, rtol=1e-9)
    np.testing.assert_allclose(ours, tf.image.ssim(d, gt, data_range).numpy(), atol=2e-5)


def test_ssim_of_a_small_image_says_what_is_wrong():
    with pytest.raises(UserError, match=r"at least 11 pixels a side, got 4x4"):
        metrics.ssim(D_4X4, GT_4X4)


def test_threshold_is_the_mean_of_otsu_and_scales_with_the_maps(maps):
    _, gt = maps
    threshold = metrics.otsu_thresholds(gt).mean()
    assert threshold == pytest.approx(np.mean([threshold_otsu(np.abs(np.float64(g))) for g in gt]))
    assert metrics.otsu_thresholds(-2 * gt).mean() == pytest.approx(2 * threshold, rel=1e-6)
    two_levels = np.where(np.arange(16).reshape(1, 4, 4) < 5, 0.8, 0.0)
    np.testing.assert_allclose(metrics.otsu_thresholds(two_levels), 0.4)
    assert metrics.otsu_thresholds(np.zeros((2, 4, 4, 1))).size == 0


def test_minmax_scales_each_image_by_itself():
    images = np.array([[[0.0, 1.0]], [[-0.5, 0.0]], [[0.3, 0.3]]])
    np.testing.assert_array_equal(metrics.minmax(images), [[[-1, 1]], [[-1, 1]], [[0, 0]]])
    np.testing.assert_array_equal(metrics.minmax(images, 0, 1), [[[0, 1]], [[0, 1]], [[0.5, 0.5]]])


def test_protocols_by_hand():
    r, a = np.array([[[0.0, 0.5], [0.25, 0.0]]]), np.array([[[0.0, 0.5], [0.5, 1.0]]])
    # min-max of r: -1 1 0 -1; of a: -1 0 0 1.
    np.testing.assert_allclose(metrics.difference("authors", r, a, None), [[[0, -1], [0, 2]]], atol=1e-6)
    np.testing.assert_allclose(metrics.ground_truth_in("authors", r, a - r), [[[0, -1], [0, 2]]], atol=1e-6)
    np.testing.assert_allclose(metrics.difference("image_units", r, a, a - r), a - r, atol=1e-6)
    with pytest.raises(ValueError, match="unknown protocol 'paper'; known: image_units, authors"):
        metrics.difference("paper", r, a, a - r)


def test_shapes_are_never_broadcast():
    with pytest.raises(ValueError, match="shapes differ"):
        metrics.mse(np.zeros((2, 4, 4, 1)), np.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match="shapes differ"):
        metrics.dice(np.zeros((2, 4, 4, 1)), np.zeros((2, 4, 4)), 0.5)


def test_bootstrap_interval_covers_shrinks_and_repeats():
    values = np.random.default_rng(1).normal(3, 2, 400)
    low, high = metrics.bootstrap_interval(values, seed=5)
    assert low < values.mean() < high
    assert metrics.bootstrap_interval(values, seed=5) == (low, high)
    assert metrics.bootstrap_interval(values[::-1], seed=5) == (low, high)
    assert metrics.bootstrap_interval(values, seed=6) != (low, high)
    # The normal approximation of the same interval: +- 1.96 sd / sqrt(n).
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    few_low, few_high = metrics.bootstrap_interval(values[:25], seed=5)
    assert few_high - few_low > 2 * (high - low)
    assert metrics.bootstrap_interval([1.0], seed=0) is None


def _image_level_by_hand(score, labels):
    said, diseased = score > 0.5, labels == 1
    observed = np.mean(said == diseased)
    chance = said.mean() * diseased.mean() + (1 - said.mean()) * (1 - diseased.mean())
    pairs = np.subtract.outer(score[diseased], score[~diseased])
    return {
        "accuracy": observed,
        "kappa": (observed - chance) / (1 - chance),
        "auroc_image": np.mean((np.sign(pairs) + 1) / 2),
        "brier": np.mean((score - labels) ** 2),
    }


def test_stratified_bootstrap_agrees_with_a_loop():
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], [30, 20])
    score = np.round(np.clip(rng.normal(0.4 + 0.25 * labels, 0.25), 0, 1), 1)  # rounded: ties, some at 0.5
    judged = {
        "kappa": cohen_kappa_score(labels, score > 0.5),
        "auroc_image": roc_auc_score(labels, score),
        "brier": brier_score_loss(labels, score),
    }
    assert {name: _image_level_by_hand(score, labels)[name] for name in judged} == pytest.approx(judged)
    ours = metrics.bootstrap_image_level(score, labels, seed=3)
    drawn = []
    for _ in range(500):
        rows = np.concatenate([rng.integers(0, 30, 30), 30 + rng.integers(0, 20, 20)])
        drawn.append(_image_level_by_hand(score[rows], labels[rows]))
    drawn = {name: [each[name] for each in drawn] for name in drawn[0]}
    assert ours.keys() == drawn.keys()
    for name, values in drawn.items():
        np.testing.assert_allclose(ours[name], np.quantile(values, [0.025, 0.975]), atol=0.05, err_msg=name)
        assert ours[name][0] <= getattr(metrics, name)(score, labels) <= ours[name][1]
    order = rng.permutation(50)
    assert metrics.bootstrap_image_level(score[order], labels[order], seed=3) == ours


def test_stratified_bootstrap_of_perfect_scores_is_a_point():
    ours = metrics.bootstrap_image_level([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], seed=0)
    assert {name: ours[name] for name in ("accuracy", "kappa", "auroc_image")} == {
        "accuracy": (1, 1),
        "kappa": (1, 1),
        "auroc_image": (1, 1),
    }
    assert ours["brier"] == pytest.approx((0.01, 0.04))
    assert metrics.bootstrap_image_level([0.1, 0.9], [0, 1], seed=0)["kappa"] is None


def test_image_level_counts_images_as_often_as_it_is_told():
    score, labels = np.array([0.1, 0.6, 0.7, 0.4]), np.array([0, 0, 1, 1])
    found = metrics.image_level(score, labels, [[1, 1, 1, 1], [2, 0, 1, 0], [1, 1, 0, 0]])
    np.testing.assert_allclose(found["accuracy"], [0.5, 1, 0.5])
    np.testing.assert_allclose(found["kappa"], [0, 1, np.nan])
    np.testing.assert_allclose(found["auroc_image"], [0.75, 1, np.nan])
    np.testing.assert_allclose(found["brier"], [0.82 / 4, 0.11 / 3, 0.37 / 2])
