"""From a model's answers for one split to the numbers of Tables 1 and 2.

Every number is one entry `{mean, ci95, var, num_images}`, all plain Python; where it cannot be known its mean is None
and `reason` says why, never 0 (a missing mask is not a score of zero).
"""

import numpy as np

from descargan_tf.errors import UserError
from descargan_tf.evaluation import decisions, metrics
from descargan_tf.evaluation.decisions import NO_DISEASED, NO_HEALTHY
from descargan_tf.measures import MEASURES, OF_GROUND_TRUTH, OF_IMAGES, OF_PROBABILITIES, PROTOCOLS
from descargan_tf.names import shown
from descargan_tf.types import DIFFERENCE, DISEASED, HEALTHY, MASK

NUM_RESAMPLES = 2000
LEVEL = 0.95

NO_GROUND_TRUTH = "not available: no ground truth"
NO_MAP = "not available: the method gives no anomaly map"
NO_HEALTHY_IMAGE = "not available: the method gives no healthy image"
NO_PROBABILITY = "not available: the method gives no class probabilities"
NO_SCORE = "not available: the method gives no anomaly score"
ONE_CLASS = "not available: the split holds one class only"
NO_IMAGE_UNITS = "not applicable: the map is a saliency, which has no image units"
ZERO_MAP_NAMES_NO_CLASS = "not available: a zero map names no class"
EMPTY_MASKS = "not available: the threshold leaves every ground-truth mask empty or full"
EMPTY_GROUND_TRUTH = "not available: every ground truth is 0 everywhere"
NO_OTSU = "not available: no ground truth has two different values"
NO_OTSU_OF_MAPS = "not available: every map is constant"
NOT_OF_MASKS = "not available: it was taken from signed differences"
NO_MAPS_YET = "not available: a threshold for masks needs the maps of the split"
MASKS = "not available: masks"  # of what needs sign and size
OTHER_KIND = (
    "not available: the ground truth of the {split} split are masks, that of this one signed differences; "
    "--ground_truth=mask takes both for masks"
)


def calibrate(validate_split, split_name="validate", data_checksum=None, prediction=None):
    """Take both protocols' thresholds from the validation ground truth, with where each comes from.

    `value` is the threshold of |GT| and, where the maps have its units, of |d|. Maps that have not, saliencies, have a
    `map_value` of their own. Masks are what they are: `value` is of |d| alone, and `otsu_value` another one.
    A split from which none can be had gives `value` None and a reason.

    Args:
        validate_split: a Split.
        split_name: its name.
        data_checksum: of the data, carried along.
        prediction: of numpy arrays for the split; masks and saliencies need it.
    """
    chosen, reason = judged(validate_split), _why_not_judged(validate_split)
    is_mask = validate_split.ground_truth_kind == MASK
    has_maps = prediction is not None and prediction.anomaly_map is not None
    is_saliency = has_maps and prediction.healthy_image is None
    thresholds = {}
    for protocol in PROTOCOLS:
        entry = {
            "value": None,
            "standard_deviation": None,
            "num_images": 0,
            "rule": _MASK_RULE if is_mask else _RULES[protocol],
            "split": split_name,
            "data_checksum": data_checksum,
        }
        if is_mask:
            entry |= {"ground_truth_kind": MASK, "otsu_value": None, "otsu_rule": _OTSU_RULE}
        elif is_saliency:
            entry |= {"map_value": None, "map_rule": _SALIENCY_RULE}
        if reason:
            entry["reason"] = reason.replace("every ground truth", f"every ground truth of the {split_name} split")
        elif is_mask and not has_maps:
            entry["reason"] = NO_MAPS_YET if prediction is None else NO_MAP
        else:
            maps = _maps_in(protocol, prediction, validate_split, chosen) if is_mask or is_saliency else None
            entry |= _threshold(protocol, validate_split, chosen, maps)
        thresholds[protocol] = entry
    return thresholds


def map_threshold(entry):
    """Of |d|, from a protocol's entry of `calibrate`: the maps' own, or that of |GT| where they have its units."""
    own = entry.get("map_value")
    return entry["value"] if own is None else own


def mask_threshold(maps, masks):
    """The threshold of |d| with the largest mean Dice against masks, both [N, H, W, 1]."""
    return metrics.best_dice_threshold(maps, masks, 0, _CANDIDATES)


# 12 % apart, up to the largest difference of two images.
_CANDIDATES = np.geomspace(0.001, 0.9, 60)
_CANDIDATES = np.concatenate([_CANDIDATES, 0.9 * (_CANDIDATES[1] / _CANDIDATES[0]) ** np.arange(1, 8)])
_SALIENCY_RULE = "threshold of the saliency maps with the largest mean Dice over the diseased images"
_MASK_RULE = "threshold of |d| with the largest mean Dice against the masks, over the diseased images"
_OTSU_RULE = "mean over the diseased images of Otsu's threshold of |d|"
_RULES = {
    "image_units": "mean over the diseased images of Otsu's threshold of |GT|, GT = healthy - diseased in image units",
    "authors": "mean over the diseased images of Otsu's threshold of |GT|, GT = difference of the images after each is "
    "min-max scaled to [-1, 1]",
}


def judged(split):
    """Which images [N] pixel measures are taken from: diseased ones with a ground truth, unless all of those are 0."""
    diseased = np.asarray(split.labels) == DISEASED
    return np.zeros_like(diseased) if _why_not_judged(split) else diseased & _known(split)


def _known(split):
    return np.ones(len(split.labels), bool) if split.has_ground_truth is None else np.asarray(split.has_ground_truth)


def _why_not_judged(split):
    """Why no image has pixel measures; None where one has."""
    diseased = np.asarray(split.labels) == DISEASED
    if split.ground_truth is None:
        return NO_GROUND_TRUTH
    if not diseased.any():
        return NO_DISEASED
    if not np.any(np.asarray(split.ground_truth)[diseased & _known(split)]):
        return EMPTY_GROUND_TRUTH
    return None


def _maps_in(protocol, prediction, split, chosen):
    """The maps of the chosen images in a protocol's units; a saliency has none and stays as it is."""
    maps = np.asarray(prediction.anomaly_map)[chosen]
    if prediction.healthy_image is None:
        return maps
    healthy = np.asarray(prediction.healthy_image)[chosen]
    return metrics.difference(protocol, np.asarray(split.images)[chosen], healthy, maps)


def _ground_truth_in(protocol, split, chosen):
    gt = np.asarray(split.ground_truth)[chosen]
    if split.ground_truth_kind == MASK:
        return gt
    return metrics.ground_truth_in(protocol, np.asarray(split.images)[chosen], gt)


def _threshold(protocol, split, chosen, maps):
    """What `calibrate` finds of the chosen images; `maps` where they have a threshold of their own."""
    gt = _ground_truth_in(protocol, split, chosen)
    if split.ground_truth_kind == MASK:
        otsu = metrics.otsu_thresholds(maps)
        found = {"value": mask_threshold(maps, gt), "num_images": len(gt)}
        return found | {"otsu_value": float(otsu.mean()) if otsu.size else None}
    values = metrics.otsu_thresholds(gt)
    if not values.size:
        return {"reason": NO_OTSU}
    value = float(values.mean())
    found = {"value": value, "standard_deviation": float(values.std()), "num_images": len(values)}
    if maps is not None:
        found["map_value"] = metrics.best_dice_threshold(maps, gt, value, _CANDIDATES)
    return found


def evaluate_split(prediction, split, thresholds, seed, split_name="test", operating_points=None):
    """Score a Prediction of numpy arrays [N, ...] for a Split; `thresholds` from `calibrate`, `seed` for the bootstrap.

    A map without a healthy image is a saliency; `thresholds` know of those, and of masks. `operating_points`, from
    `decisions.choose`, are left out where they are None.

    Returns `split`, `threshold`, `bootstrap`, `metrics` and `baseline_zero_map` (per protocol and name), `calibration`
    of the disease probability, `operating_points`, and `per_image`: rows whose `mse` is MSE(d, GT) for a diseased and
    MSE(r_h, a_h) for a healthy image; columns of the authors' protocol begin with "authors_", the others are in image
    units.
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
    if probability is None:
        result["calibration"] = {"bins": [], "expected_calibration_error": None, "reason": NO_PROBABILITY}
    else:
        result["calibration"] = decisions.calibration(probability, labels)
    if operating_points is not None:
        result["operating_points"] = decisions.at(operating_points, prediction, labels, LEVEL)
    return {
        "split": {
            "name": split_name,
            "num_images": len(labels),
            "num_healthy": int(np.sum(labels == HEALTHY)),
            "num_diseased": int(np.sum(labels == DISEASED)),
            "has_ground_truth": split.ground_truth is not None,
            "ground_truth_kind": None if split.ground_truth is None else split.ground_truth_kind,
            "num_ground_truths": 0 if split.ground_truth is None else int(np.sum((labels == DISEASED) & _known(split))),
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

    names = [name for name in OF_GROUND_TRUTH if MEASURES[name].of_kind in (None, DIFFERENCE, split.ground_truth_kind)]
    reason = _why_not_judged(split) if maps_known else NO_MAP
    if reason:
        return {**{name: _missing(reason) for name in names}, **entries}, columns

    chosen = judged(split)
    is_mask = split.ground_truth_kind == MASK
    d, gt = _maps_in(protocol, prediction, split, chosen), _ground_truth_in(protocol, split, chosen)
    if is_saliency:
        entries |= {name: _missing(NO_IMAGE_UNITS) for name in ("mse_d_gt", "ssim")}
    elif is_mask:
        entries |= {name: _missing(MASKS) for name in ("mse_d_gt", "ssim")}
    else:
        columns["mse"][chosen] = metrics.mse(d, gt)
        entries["mse_d_gt"] = _of_vector(columns["mse"][chosen], seed, metrics.pixel_variance(d, gt).mean())
        columns["ssim"][chosen] = metrics.ssim_in(protocol, d, gt)
        entries["ssim"] = _of_vector(columns["ssim"][chosen], seed)

    entries |= _entries_by_threshold(d, gt, is_mask, threshold, seed, columns, chosen)
    if chosen.sum() < diseased.sum():
        without, total = diseased.sum() - chosen.sum(), diseased.sum()
        left_out = f"{without} of {total} diseased images have no usable ground truth"
        for name in names:
            if entries[name]["mean"] is not None:
                entries[name]["note"] = "; ".join(filter(None, (left_out, entries[name].get("note"))))
    return {name: entries[name] for name in (*names, "mse_healthy")}, columns


def _entries_by_threshold(d, gt, is_mask, threshold, seed, columns, chosen):
    """Entries of what is said of pixels above a threshold, and the columns of the chosen images."""
    entries = {}
    # A mask needs no threshold of its own.
    reason = None if threshold["value"] is not None else _no_threshold(threshold["reason"])
    if not is_mask and threshold.get("ground_truth_kind") == MASK:
        reason = OTHER_KIND.format(split=threshold["split"])
    of_gt, of_map = 0 if is_mask else threshold["value"], map_threshold(threshold)
    if reason:
        entries |= {name: _missing(reason) for name in ("dice", "dice_pooled")}
    else:
        columns["dice"][chosen] = metrics.dice(d, gt, of_gt, of_map)
        entries["dice"] = _of_vector(columns["dice"][chosen], seed)
        entries["dice_pooled"] = _entry(metrics.dice_pooled(d, gt, of_gt, of_map), num_images=len(d))
    if reason and not is_mask:
        entries |= {name: _missing(reason) for name in ("auroc_pixel", "auroc_pixel_pooled")}
    else:
        columns["auroc"][chosen] = metrics.auroc_pixel(d, gt, of_gt)
        entries["auroc_pixel"] = _of_vector(columns["auroc"][chosen], seed)
        pooled = metrics.auroc_pixel_pooled(d, gt, of_gt)
        known = np.isfinite(pooled)
        entries["auroc_pixel_pooled"] = _entry(pooled, num_images=len(d)) if known else _missing(EMPTY_MASKS)
    if is_mask:
        otsu = threshold.get("otsu_value")
        of_maps = NO_OTSU_OF_MAPS if threshold.get("ground_truth_kind") == MASK else NOT_OF_MASKS
        entries["dice_otsu"] = (
            _missing(_no_threshold(threshold.get("reason", of_maps)))
            if otsu is None
            else _of_vector(metrics.dice(d, gt, 0, otsu), seed)
        )
    return entries


def _no_threshold(reason):
    return reason.replace("not available:", "not available: no threshold,")


def _image_entries(probability, score, labels, seed):
    entries = {}
    if probability is None:
        entries |= {name: _missing(NO_PROBABILITY) for name in OF_PROBABILITIES}
    else:
        intervals = metrics.bootstrap_image_level(probability, labels, seed, NUM_RESAMPLES, LEVEL)
        for name in OF_PROBABILITIES:
            value = getattr(metrics, name)(probability, labels)
            entries[name] = _missing(ONE_CLASS) if value is None else _entry(value, intervals[name], None, len(labels))
    if score is None:
        entries["auroc_score"] = _missing(NO_SCORE)
    else:
        value = metrics.auroc_image(score, labels)
        interval = metrics.bootstrap_image_level(score, labels, seed, NUM_RESAMPLES, LEVEL)["auroc_image"]
        entries["auroc_score"] = _missing(ONE_CLASS) if value is None else _entry(value, interval, None, len(labels))
    return entries
