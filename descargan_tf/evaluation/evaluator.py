"""From a model's answers for one split to the numbers of Tables 1 and 2.

Every number is one entry `{mean, ci95, var, num_images}`, all plain Python; where it cannot be known its mean is None
and `reason` says why, never 0 (a missing mask is not a score of zero).
"""

import numpy as np

from descargan_tf.errors import UserError
from descargan_tf.evaluation import metrics
from descargan_tf.measures import OF_GROUND_TRUTH, OF_IMAGES, PROTOCOLS
from descargan_tf.names import shown
from descargan_tf.types import DISEASED, HEALTHY

NUM_RESAMPLES = 2000
LEVEL = 0.95

NO_GROUND_TRUTH = "not available: no ground truth"
NO_DISEASED = "not available: no diseased images"
NO_HEALTHY = "not available: no healthy images"
NO_MAP = "not available: the method gives no anomaly map"
NO_HEALTHY_IMAGE = "not available: the method gives no healthy image"
NO_PROBABILITY = "not available: the method gives no class probabilities"
NO_SCORE = "not available: the method gives no anomaly score"
ONE_CLASS = "not available: the split holds one class only"
NO_IMAGE_UNITS = "not applicable: the map is a saliency, which has no image units"
ZERO_MAP_NAMES_NO_CLASS = "not available: a zero map names no class"
EMPTY_MASKS = "not available: the threshold leaves every ground-truth mask empty or full"


def calibrate(validate_split, split_name="validate", data_checksum=None):
    """Take both protocols' thresholds from the validation ground truth, with where each comes from.

    A split without ground truth or diseased images gives `value` None and a reason.
    """
    diseased = np.asarray(validate_split.labels) == DISEASED
    thresholds = {}
    for protocol in PROTOCOLS:
        entry = {
            "value": None,
            "standard_deviation": None,
            "num_images": 0,
            "rule": _RULES[protocol],
            "split": split_name,
            "data_checksum": data_checksum,
        }
        if validate_split.ground_truth is None:
            entry["reason"] = NO_GROUND_TRUTH
        elif not diseased.any():
            entry["reason"] = NO_DISEASED
        else:
            images = np.asarray(validate_split.images)[diseased]
            gt = metrics.ground_truth_in(protocol, images, np.asarray(validate_split.ground_truth)[diseased])
            values = metrics.otsu_thresholds(gt)
            entry["value"] = metrics.mean_otsu_threshold(gt)
            entry["standard_deviation"] = float(values.std())
            entry["num_images"] = len(values)
        thresholds[protocol] = entry
    return thresholds


def calibrate_saliency(thresholds, prediction, validate_split):
    """Add the saliency maps' own threshold, `map_value`, to each protocol's threshold of |GT|.

    Saliency maps have no image units: |GT|'s threshold says nothing of them. Theirs is the one with the best mean Dice
    on the validation split, which is where |GT|'s comes from.

    Args:
        thresholds: of `calibrate`.
        prediction: of numpy arrays, for the validation split.
        validate_split: the split that both are of.
    """
    diseased = np.asarray(validate_split.labels) == DISEASED
    calibrated = {}
    for protocol, entry in thresholds.items():
        calibrated[protocol] = entry = {**entry, "map_value": None, "map_rule": _SALIENCY_RULE}
        if entry["value"] is not None:
            images, gt = np.asarray(validate_split.images)[diseased], np.asarray(validate_split.ground_truth)[diseased]
            gt = metrics.ground_truth_in(protocol, images, gt)
            maps = np.asarray(prediction.anomaly_map)[diseased]
            entry["map_value"] = metrics.best_dice_threshold(maps, gt, entry["value"], _SALIENCY_CANDIDATES)
    return calibrated


_SALIENCY_CANDIDATES = np.geomspace(0.001, 0.9, 60)
_SALIENCY_RULE = "threshold of the saliency maps with the largest mean Dice over the diseased images"
_RULES = {
    "image_units": "mean over the diseased images of Otsu's threshold of |GT|, GT = healthy - diseased in image units",
    "authors": "mean over the diseased images of Otsu's threshold of |GT|, GT = difference of the images after each is "
    "min-max scaled to [-1, 1]",
}


def evaluate_split(prediction, split, thresholds, seed, split_name="test"):
    """Score a Prediction of numpy arrays [N, ...] for a Split; `thresholds` from `calibrate`, `seed` for the bootstrap.

    A map without a healthy image is a saliency, and `thresholds` those of `calibrate_saliency`.

    Returns `split`, `threshold`, `bootstrap`, `metrics` and `baseline_zero_map` (per protocol and name), and
    `per_image`: rows whose `mse` is MSE(d, GT) for a diseased and MSE(r_h, a_h) for a healthy image; columns of the
    authors' protocol begin with "authors_", the others are in image units.
    Raises UserError where the two do not fit or an answer is not finite.
    """
    labels = np.asarray(split.labels)
    images = np.asarray(split.images)
    _check(prediction, split)
    probability = None
    if prediction.class_probabilities is not None:
        probability = np.asarray(prediction.class_probabilities)[:, DISEASED]
    image_level = _image_entries(probability, prediction.anomaly_score, labels, seed)
    no_class = {name: _missing(ZERO_MAP_NAMES_NO_CLASS) for name in OF_IMAGES}

    result = {"metrics": {}, "baseline_zero_map": {}}
    per_image = {}
    zero_map = prediction._replace(anomaly_map=np.zeros_like(images), healthy_image=images)
    for protocol in PROTOCOLS:
        threshold = thresholds[protocol]
        pixel, per_image[protocol] = _pixel_entries(protocol, prediction, split, threshold, seed)
        result["metrics"][protocol] = {**pixel, **image_level}
        pixel, _ = _pixel_entries(protocol, zero_map, split, threshold, seed)
        result["baseline_zero_map"][protocol] = {**pixel, **no_class}

    rows = []
    for index, name in enumerate(split.names):
        row = {"name": shown(name), "label": int(labels[index])}
        row["probability"] = None if probability is None else float(probability[index])
        row["score"] = None if prediction.anomaly_score is None else float(prediction.anomaly_score[index])
        for protocol, (_, prefix) in PROTOCOLS.items():
            row |= {prefix + key: _plain(values[index]) for key, values in per_image[protocol].items()}
        rows.append(row)
    return {
        "split": {
            "name": split_name,
            "num_images": len(labels),
            "num_healthy": int(np.sum(labels == HEALTHY)),
            "num_diseased": int(np.sum(labels == DISEASED)),
            "has_ground_truth": split.ground_truth is not None,
        },
        **result,
        "threshold": thresholds,
        "bootstrap": {"num_resamples": NUM_RESAMPLES, "level": LEVEL, "seed": int(seed), "unit": "image"},
        "per_image": rows,
    }


def _check(prediction, split):
    num_images = len(split.images)
    for name, array in prediction._asdict().items():
        if array is None:
            continue
        expected = np.shape(split.images) if name in ("anomaly_map", "healthy_image") else (num_images,)
        if np.shape(array)[: len(expected)] != expected:
            raise UserError(
                f"{name} has shape {np.shape(array)}, but the split holds images {np.shape(split.images)}; "
                "predict the same split that is evaluated"
            )
        for index, values in enumerate(array):
            if not np.all(np.isfinite(values)):
                raise UserError(
                    f"{name} of {split.names[index]} is not finite: the weights have diverged; "
                    "evaluate an earlier checkpoint"
                )
    unknown = sorted(set(np.unique(split.labels).tolist()) - {HEALTHY, DISEASED})
    if unknown:
        raise UserError(f"labels are {HEALTHY} (healthy) or {DISEASED} (diseased), found {unknown}")


def _entry(mean, ci95=None, var=None, num_images=0):
    ci95 = None if ci95 is None else [float(value) for value in ci95]
    return {
        "mean": float(mean),
        "ci95": ci95,
        "var": None if var is None else float(var),
        "num_images": int(num_images),
    }


def _missing(reason):
    return {"mean": None, "ci95": None, "var": None, "num_images": 0, "reason": reason}


def _plain(value):
    return float(value) if np.isfinite(value) else None


def _of_vector(values, seed, var=None):
    """Mean over the images that have a value (an empty mask has no AUROC, D7.8); says how many had none."""
    known = values[np.isfinite(values)]
    if not known.size:
        return _missing(EMPTY_MASKS)
    interval = metrics.bootstrap_interval(known, seed, NUM_RESAMPLES, LEVEL)
    entry = _entry(known.mean(), interval, var, known.size)
    if known.size < values.size:
        entry["note"] = f"{values.size - known.size} of {values.size} images left out: mask empty or full"
    return entry


def _pixel_entries(protocol, prediction, split, threshold, seed):
    """Entries of all pixel metrics and of mse_healthy, and the per-image columns [N] (NaN where undefined)."""
    labels = np.asarray(split.labels)
    images = np.asarray(split.images)
    diseased, healthy = labels == DISEASED, labels == HEALTHY
    columns = {name: np.full(len(labels), np.nan) for name in ("dice", "auroc", "mse", "ssim")}
    maps_known = prediction.anomaly_map is not None
    is_saliency = maps_known and prediction.healthy_image is None

    entries = {}
    if prediction.healthy_image is None:
        entries["mse_healthy"] = _missing(NO_HEALTHY_IMAGE)
    elif not healthy.any():
        entries["mse_healthy"] = _missing(NO_HEALTHY)
    else:
        r, a = metrics.healthy_pair_in(protocol, images[healthy], np.asarray(prediction.healthy_image)[healthy])
        columns["mse"][healthy] = metrics.mse_healthy(r, a)
        var = metrics.pixel_variance(r, a).mean()
        entries["mse_healthy"] = _of_vector(columns["mse"][healthy], seed, var)

    if split.ground_truth is None or not maps_known or not diseased.any():
        reason = NO_MAP if not maps_known else NO_GROUND_TRUTH if split.ground_truth is None else NO_DISEASED
        return {**{name: _missing(reason) for name in OF_GROUND_TRUTH}, **entries}, columns

    r, d, value = images[diseased], np.asarray(prediction.anomaly_map)[diseased], threshold["value"]
    gt = metrics.ground_truth_in(protocol, r, np.asarray(split.ground_truth)[diseased])
    if is_saliency:
        entries |= {name: _missing(NO_IMAGE_UNITS) for name in ("mse_d_gt", "ssim")}
        if value is not None:
            d = d * (value / threshold["map_value"])  # its own threshold is where |GT|'s is
    else:
        d = metrics.difference(protocol, r, np.asarray(prediction.healthy_image)[diseased], d)
        columns["mse"][diseased] = metrics.mse(d, gt)
        entries["mse_d_gt"] = _of_vector(columns["mse"][diseased], seed, metrics.pixel_variance(d, gt).mean())
        columns["ssim"][diseased] = metrics.ssim_in(protocol, d, gt)
        entries["ssim"] = _of_vector(columns["ssim"][diseased], seed)

    if value is None:
        reason = threshold["reason"].replace("not available:", "not available: no threshold,")
        masked = ("dice", "auroc_pixel", "dice_pooled", "auroc_pixel_pooled")
        return {name: _missing(reason) for name in masked} | entries, columns
    columns["dice"][diseased] = metrics.dice(d, gt, value)
    columns["auroc"][diseased] = metrics.auroc_pixel(d, gt, value)
    entries["dice"] = _of_vector(columns["dice"][diseased], seed)
    entries["auroc_pixel"] = _of_vector(columns["auroc"][diseased], seed)
    entries["dice_pooled"] = _entry(metrics.dice_pooled(d, gt, value), num_images=len(d))
    pooled = metrics.auroc_pixel_pooled(d, gt, value)
    entries["auroc_pixel_pooled"] = _entry(pooled, num_images=len(d)) if np.isfinite(pooled) else _missing(EMPTY_MASKS)
    return entries, columns


def _image_entries(probability, score, labels, seed):
    entries = {}
    if probability is None:
        entries |= {name: _missing(NO_PROBABILITY) for name in ("accuracy", "kappa", "auroc_image")}
    else:
        intervals = metrics.bootstrap_image_level(probability, labels, seed, NUM_RESAMPLES, LEVEL)
        for name in ("accuracy", "kappa", "auroc_image"):
            value = getattr(metrics, name)(probability, labels)
            entries[name] = _missing(ONE_CLASS) if value is None else _entry(value, intervals[name], None, len(labels))
    if score is None:
        entries["auroc_score"] = _missing(NO_SCORE)
    else:
        value = metrics.auroc_image(score, labels)
        interval = metrics.bootstrap_image_level(score, labels, seed, NUM_RESAMPLES, LEVEL)["auroc_image"]
        entries["auroc_score"] = _missing(ONE_CLASS) if value is None else _entry(value, interval, None, len(labels))
    return entries
