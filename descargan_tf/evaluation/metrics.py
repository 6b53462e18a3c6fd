"""Metrics of one split: numpy in, one number per image out; no model.

Maps and images are [N, H, W, 1] or [N, H, W]. A map d is healthy - input. The ground truth GT is healthy - diseased,
signed as well, or a mask, 0 or 1, which only Dice and AUROC can be taken against. Pixel metrics are asked of diseased
images only (D7.7). Two protocols say in which units d and GT are compared; a mask has none and stays as it is:

`image_units`, the headline. d is the method's own map, GT as stored, the threshold from the validation GT in the same
    units, SSIM with the width of [-1, 1] as data range. Departs: D7.3, D7.5, D7.9 use three scales for these.
`authors`, close to what the authors' program does. Reference: both images are min-max scaled to [-1, 1] before the
    difference (D7.3), SSIM follows a separate min-max of signed d and GT to [0, 1] (D7.9), MSE(r_h, a_h) is taken
    between min-max scaled images (D7.10). Departs: the signs agree (D7.4, a perfect method would score MSE 0.22), GT
    is min-max(r + GT) - min-max(r) and the threshold its mean Otsu value, so both have one scale (D7.5, D7.6).

"(var)" of Table 1 is the mean over images of the pixel variance of the difference (D7.10). Departs from D7.11, which
takes it after a third normalisation. D7.n numbers the rules of the authors' evaluation program.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy  # whose parts load when they are asked for, as do skimage's: to predict or to serve needs none
import skimage

from descargan_tf.errors import UserError
from descargan_tf.measures import HEADLINE, OF_PROBABILITIES, PROTOCOLS
from descargan_tf.processes import num_cores
from descargan_tf.types import DECISION, DISEASED, HEALTHY

SSIM_WINDOW = 11
_CHUNK_DRAWS = 1_000_000  # keeps a bootstrap of a large split in a few megabytes


def minmax(images, low=-1.0, high=1.0):
    """Scale each image to [low, high] by its own extremes; a constant image becomes the middle of the range."""
    scaled = np.empty(np.shape(images), np.float32)

    def scale(index):
        image = np.asarray(images[index], np.float64)
        smallest = image.min()
        width = image.max() - smallest
        scaled[index] = low + (high - low) * ((image - smallest) / width) if width > 0 else (low + high) / 2

    _for_each(scale, range(len(scaled)))
    return scaled


def difference(protocol, images, healthy_images, anomaly_map):
    """Give d in a protocol's units (see the module): `anomaly_map` itself, or the min-max scaled difference."""
    if _checked(protocol) == HEADLINE:
        return np.asarray(anomaly_map, np.float32)
    return minmax(healthy_images) - minmax(images)


def ground_truth_in(protocol, images, ground_truth):
    """Give GT in a protocol's units; the healthy counterpart of a diseased image r is r + GT."""
    if _checked(protocol) == HEADLINE:
        return np.asarray(ground_truth, np.float32)
    return minmax(np.asarray(images, np.float64) + ground_truth) - minmax(images)


def ssim_in(protocol, anomaly_map, ground_truth):
    """Give SSIM per image [N] of maps that are already in a protocol's units."""
    if _checked(protocol) == HEADLINE:
        return ssim(anomaly_map, ground_truth, data_range=2)
    return ssim(minmax(anomaly_map, 0, 1), minmax(ground_truth, 0, 1), data_range=1)


def healthy_pair_in(protocol, images, healthy_images):
    """Give r_h and a_h in a protocol's units."""
    if _checked(protocol) == HEADLINE:
        return images, healthy_images
    return minmax(images), minmax(healthy_images)


def otsu_thresholds(maps):
    """Otsu's threshold of |GT|, or |d|, of each diseased image; one without contrast has none and is left out.

    Their mean is the paper's threshold (sect. 4.1; D7.1: never a literal).
    """
    found = _for_each(_otsu, maps)
    return np.array([threshold for threshold in found if threshold is not None])


def _otsu(each):
    values = np.abs(np.asarray(each, np.float64))
    low, high = values.min(), values.max()
    if not low < high:
        return None
    # Of two values every threshold between them is as good; the library gives the lowest, which is next to nothing.
    if np.all((values == low) | (values == high)):
        return (low + high) / 2
    return skimage.filters.threshold_otsu(values)


def dice(anomaly_map, ground_truth, threshold, map_threshold=None):
    """Dice per image [N] of |d| > `map_threshold` against |GT| > `threshold`; 1 where both are empty.

    Without a `map_threshold` of its own, d is in the units of GT.
    """
    found, wanted, both = _overlap(anomaly_map, ground_truth, threshold, map_threshold)
    total = found + wanted
    return np.where(total > 0, 2 * both / np.maximum(total, 1), 1.0)


def dice_pooled(anomaly_map, ground_truth, threshold, map_threshold=None):
    """Dice of all pixels of all images as one picture."""
    found, wanted, both = (counts.sum() for counts in _overlap(anomaly_map, ground_truth, threshold, map_threshold))
    return float(2 * both / (found + wanted)) if found + wanted else 1.0


def best_dice_threshold(anomaly_map, ground_truth, threshold, candidates):
    """The candidate t for which |d| > t has the largest mean Dice [N] against |GT| > threshold; the first of equals.

    For maps that are not in the units of GT, so that its threshold says nothing of them. Candidates rise.
    """
    _check_same_shape(anomaly_map, ground_truth)

    def overlaps(d, gt):
        # One pass for all candidates: how many of them lie below each pixel.
        below = np.searchsorted(candidates, np.abs(np.asarray(d, np.float64)).ravel(), side="left")
        wanted = (np.abs(gt) > threshold).ravel()
        found, both = (_more_than(below[chosen], len(candidates)) for chosen in (slice(None), wanted))
        sizes = found + wanted.sum()
        return np.where(sizes > 0, 2 * both / np.maximum(sizes, 1), 1.0)

    total = np.sum(_for_each(overlaps, anomaly_map, ground_truth), axis=0)
    return float(candidates[int(np.argmax(total))])


def auroc_pixel(anomaly_map, ground_truth, threshold):
    """Exact AUROC per image [N] of the score |d| for the mask |GT| > threshold; NaN if one-sided (D7.8)."""

    def one(d, gt):
        return _auroc(np.abs(d).ravel(), (np.abs(gt) > threshold).ravel())

    return _per_image(one, anomaly_map, ground_truth)


def auroc_pixel_pooled(anomaly_map, ground_truth, threshold, num_bins=65536):
    """AUROC over all pixels of all images, streamed image by image through a histogram of |d|; NaN for an empty mask.

    Scores that share a bin of width max|d| / num_bins count as ties, so memory stays flat and the value is in [0, 1].
    """
    _check_same_shape(anomaly_map, ground_truth)
    largest = max(float(np.abs(d).max()) for d in anomaly_map)
    inside = np.zeros(num_bins, np.int64)
    outside = np.zeros(num_bins, np.int64)
    to_bin = num_bins / largest if largest > 0 else 0.0
    for d, gt in zip(anomaly_map, ground_truth, strict=True):
        bins = np.minimum((np.abs(d).ravel() * to_bin).astype(np.int64), num_bins - 1)
        mask = (np.abs(gt) > threshold).ravel()
        inside += np.bincount(bins[mask], minlength=num_bins)
        outside += np.bincount(bins[~mask], minlength=num_bins)
    return float(_auroc_of_counts(inside, outside))


def mse(anomaly_map, ground_truth):
    """Mean squared error per image [N]."""
    return _per_image(lambda d, gt: np.mean((d - gt) ** 2), anomaly_map, ground_truth)


def mse_healthy(images, healthy_images):
    """MSE(r_h, a_h) per image [N]: what a method changes in an image that is already healthy."""
    return mse(images, healthy_images)


def pixel_variance(a, b):
    """Variance over the pixels of a - b per image [N]; its mean is the "(var)" of Tables 1 and 2 (D7.10)."""
    return _per_image(lambda x, y: np.var(x - y), a, b)


def ssim(anomaly_map, ground_truth, data_range=2):
    """SSIM per image [N]: 11x11 Gaussian window of 1.5, valid positions only, as tf.image.ssim and pytorch_msssim.

    `data_range` is the width of the value range. Raises UserError for images smaller than the window.
    """

    def one(d, gt):
        d, gt = (x[..., 0] if x.ndim == 3 else x for x in (d, gt))
        if min(d.shape) < SSIM_WINDOW:
            raise UserError(f"SSIM needs images of at least {SSIM_WINDOW} pixels a side, got {d.shape[0]}x{d.shape[1]}")
        # The mean that scikit-image returns is over positions with a whole window, which is the valid crop.
        return skimage.metrics.structural_similarity(
            d,
            gt,
            win_size=SSIM_WINDOW,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=data_range,
        )

    return _per_image(one, anomaly_map, ground_truth)


def accuracy(probability, labels):
    """Share of images [N] whose predicted class (disease probability > 0.5) is the label; None without labels."""
    return float(_image_level(probability, labels)["accuracy"]) if len(labels) else None


def kappa(probability, labels):
    """Cohen's kappa at probability 0.5; None where the labels hold one class only."""
    return float(_image_level(probability, labels)["kappa"]) if _both_classes(labels) else None


def auroc_image(score, labels):
    """AUROC of an image-level score, larger is more diseased; None where the labels hold one class only.

    Departs from D8.2: ranked by the disease probability, not by the raw logit of class 1.
    """
    return float(_image_level(score, labels)["auroc_image"]) if _both_classes(labels) else None


def brier(probability, labels):
    """Mean square of disease probability minus label (Brier 1950); None without labels."""
    return float(_image_level(probability, labels)["brier"]) if len(labels) else None


def reliability(probability, labels, num_bins=10):
    """How often disease was there where it was said to be so likely: bins of equal width, an upper edge in its bin.

    Returns:
        Arrays [num_bins]: `low`, `high`, `num_images`, `num_diseased` and `mean_probability`, NaN in an empty bin.
    """
    probability, labels = np.asarray(probability, np.float64), np.asarray(labels)
    edges = np.linspace(0, 1, num_bins + 1)
    bins = np.searchsorted(edges[1:-1], probability)
    counts, diseased, total = (
        np.bincount(bins, weights, num_bins) for weights in (None, labels == DISEASED, probability)
    )
    mean = np.divide(total, counts, out=np.full(num_bins, np.nan), where=counts > 0)
    return {
        "low": edges[:-1],
        "high": edges[1:],
        "num_images": counts,
        "num_diseased": diseased.astype(np.int64),
        "mean_probability": mean,
    }


def expected_calibration_error(bins):
    """Of the bins of `reliability`: mean over the images of |share of diseased - mean probability| of their bin."""
    counts = bins["num_images"]
    used = counts > 0
    gap = np.abs(bins["num_diseased"] - counts * bins["mean_probability"])
    return float(gap[used].sum() / counts.sum())


def threshold_at_sensitivity(score, labels, sensitivity):
    """The largest score s for which at least that share of diseased images [N] has a score >= s."""
    falling = np.sort(np.asarray(score, np.float64)[np.asarray(labels) == DISEASED])[::-1]
    return float(falling[np.argmax(np.arange(1, falling.size + 1) / falling.size >= sensitivity)])


def called_right(score, labels, threshold):
    """By class: (images called right, all images), where one is called diseased if its score >= `threshold`."""
    called, labels = np.asarray(score, np.float64) >= threshold, np.asarray(labels)
    return {
        label: (int(np.sum(called[labels == label] == label)), int(np.sum(labels == label)))
        for label in (HEALTHY, DISEASED)
    }


def proportion_interval(count, total, level=0.95):
    """Wilson's score interval (low, high) of a share; a bootstrap of images that all are right has no width."""
    low, high = scipy.stats.binomtest(count, total).proportion_ci(level, method="wilson")
    return float(low), float(high)


def image_level(score, labels, weights):
    """`OF_PROBABILITIES`, each [R], of images [N] that count as often as rows of `weights` [R, N] say.

    NaN where a row holds one class only, but for shares and means of all images.
    """
    score, labels, weights = np.asarray(score, np.float64), np.asarray(labels), np.asarray(weights, np.float64)
    order = np.argsort(score, kind="stable")
    distinct, first = np.unique(score[order], return_index=True)
    counts = [np.add.reduceat((weights * (labels == label))[:, order], first, axis=1) for label in (HEALTHY, DISEASED)]
    return _image_level_of_counts(*counts, distinct)


def bootstrap_interval(values, seed, num_resamples=2000, level=0.95):
    """Percentile bootstrap interval (low, high) of the mean over images; None for fewer than two values.

    Values are sorted first, so the interval does not depend on the order of the images.
    """
    values = np.sort(np.asarray(values, np.float64))
    if values.size < 2:
        return None
    rng = np.random.default_rng(seed)
    means = [values[draws].mean(axis=1) for draws in _draws(rng, values.size, num_resamples)]
    return _interval(np.concatenate(means), level)


def bootstrap_image_level(score, labels, seed, num_resamples=2000, level=0.95):
    """Intervals of `OF_PROBABILITIES` by one stratified bootstrap: images are drawn within their class.

    A score stays with its label. All are None where a class has fewer than two images.
    """
    labels = np.asarray(labels)
    score = np.asarray(score, np.float64)
    classes = [np.sort(score[labels == label]) for label in (0, 1)]
    if min(len(values) for values in classes) < 2:
        return dict.fromkeys(OF_PROBABILITIES)
    distinct, rank = np.unique(np.concatenate(classes), return_inverse=True)
    ranks = np.split(rank, [len(classes[0])])
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK_DRAWS // len(labels))
    tables = {name: [] for name in OF_PROBABILITIES}
    for start in range(0, num_resamples, rows):
        size = min(rows, num_resamples - start)
        healthy, diseased = (_resampled_counts(rng, r, len(distinct), size) for r in ranks)
        for name, values in _image_level_of_counts(healthy, diseased, distinct).items():
            tables[name].append(values)
    return {name: _interval(np.concatenate(parts), level) for name, parts in tables.items()}


def _checked(protocol):
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; known: {', '.join(PROTOCOLS)}")
    return protocol


def _check_same_shape(a, b):
    if np.shape(a) != np.shape(b):
        raise ValueError(f"shapes differ: {np.shape(a)} and {np.shape(b)}; broadcasting here would be a silent error")


def _per_image(function, a, b):
    _check_same_shape(a, b)
    values = _for_each(lambda x, y: function(np.asarray(x, np.float64), np.asarray(y, np.float64)), a, b)
    return np.array(values, np.float64)


def _for_each(function, *stacks):
    """What it says of each image, a list; in a thread for each core, as numpy computes outside Python's lock."""
    with ThreadPoolExecutor(num_cores()) as pool:
        return list(pool.map(function, *stacks))


def _overlap(anomaly_map, ground_truth, threshold, map_threshold):
    _check_same_shape(anomaly_map, ground_truth)
    map_threshold = threshold if map_threshold is None else map_threshold

    def count(d, gt):
        found, wanted = np.abs(d) > map_threshold, np.abs(gt) > threshold
        return found.sum(), wanted.sum(), (found & wanted).sum()

    return np.array(_for_each(count, anomaly_map, ground_truth), np.int64).reshape(-1, 3).T


def _more_than(values, count):
    """For each of 0, 1, ..., count - 1: how many of the whole numbers `values`, at most `count`, are larger."""
    return np.cumsum(np.bincount(values, minlength=count + 1)[::-1])[::-1][1:]


def _auroc(score, positive):
    """AUROC of scores [U]: P(positive > negative) + P(equal) / 2; NaN without a pair."""
    inside, outside = score[positive], np.sort(score[~positive])
    if not inside.size or not outside.size:
        return np.nan
    # Whole numbers, whose sum is exact. Rising scores, as each search then begins where the last one ended.
    inside.sort()
    below, not_above = (int(np.searchsorted(outside, inside, side).sum()) for side in ("left", "right"))
    return (below + not_above) / 2 / (inside.size * outside.size)


def _image_level(score, labels):
    found = image_level(score, labels, np.ones((1, len(labels))))
    return {name: values[0] for name, values in found.items()}


def _image_level_of_counts(healthy, diseased, scores):
    """Of counts [R, U] of the images of each class that have each of the rising `scores` [U]."""
    num_healthy, num_diseased = healthy.sum(axis=1), diseased.sum(axis=1)
    num_images = num_healthy + num_diseased
    first_diseased = np.searchsorted(scores, DECISION, side="right")  # the first score above it
    true_healthy = healthy[:, :first_diseased].sum(axis=1)
    true_diseased = diseased[:, first_diseased:].sum(axis=1)
    observed = (true_healthy + true_diseased) / num_images
    said_diseased = true_diseased + num_healthy - true_healthy
    chance = (num_diseased * said_diseased + num_healthy * (num_images - said_diseased)) / num_images**2
    has_both = (num_healthy > 0) & (num_diseased > 0)
    kappa = np.where(has_both, (observed - chance) / np.where(has_both, 1 - chance, 1), np.nan)
    brier = (healthy @ scores**2 + diseased @ (1 - scores) ** 2) / num_images
    return {"accuracy": observed, "kappa": kappa, "auroc_image": _auroc_of_counts(diseased, healthy), "brier": brier}


def _auroc_of_counts(positive, negative):
    """AUROC of counts per rising score [..., U]: P(positive > negative) + P(equal) / 2; NaN without a pair."""
    below = np.cumsum(negative, axis=-1) - negative
    won = np.sum(positive * (below + 0.5 * negative), axis=-1)
    pairs = positive.sum(axis=-1) * negative.sum(axis=-1)
    return np.where(pairs > 0, won / np.maximum(pairs, 1), np.nan)


def _both_classes(labels):
    return len(np.unique(np.asarray(labels))) == 2


def _draws(rng, num_values, num_resamples):
    rows = max(1, _CHUNK_DRAWS // num_values)
    for start in range(0, num_resamples, rows):
        yield rng.integers(0, num_values, (min(rows, num_resamples - start), num_values))


def _resampled_counts(rng, ranks, num_distinct, size):
    """Draw len(ranks) images `size` times; count [size, num_distinct] how often each rank came."""
    drawn = ranks[rng.integers(0, len(ranks), (size, len(ranks)))]
    flat = drawn + num_distinct * np.arange(size)[:, None]
    return np.bincount(flat.ravel(), minlength=size * num_distinct).reshape(size, num_distinct)


def _interval(statistics, level):
    low, high = np.quantile(statistics, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
