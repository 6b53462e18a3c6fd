"""What a disease probability is worth to who has to decide: whether it is one, and where to draw the line.

A threshold that reaches a sensitivity is chosen on the validation split, by its diseased images alone, and what it
gives is measured on another: on the images that it was chosen by it would reach it by definition.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from descargan_tf.evaluation import metrics
from descargan_tf.types import DISEASED, HEALTHY, Prediction

SENSITIVITIES = (0.90, 0.95)
NUM_BINS = 10
NO_DISEASED = "not available: no diseased images"
NO_HEALTHY = "not available: no healthy images"
NO_SCORE = "not available: the method gives neither class probabilities nor an anomaly score"
NO_VALIDATION = (
    "not available: the data have no validation split, and a threshold chosen on other images says nothing of these"
)
NO_DISEASED_TO_CHOOSE = "not available: the {split} split holds no diseased images"
_RULE = "the largest {score} that this share of the diseased images has or exceeds"


def score_of(prediction: Prediction) -> tuple[str, np.ndarray | None]:
    """By what images are told apart, and its name: the disease probability, else the anomaly score."""
    if prediction.class_probabilities is not None:
        return "disease probability", np.asarray(prediction.class_probabilities)[:, DISEASED]
    return "anomaly score", None if prediction.anomaly_score is None else np.asarray(prediction.anomaly_score)


def choose(prediction: Prediction, labels: Any, split_name: str = "validate", data_checksum: str | None = None) -> dict:
    """Thresholds that reach `SENSITIVITIES` on a split, and where they come from; without points a reason."""
    labels = np.asarray(labels)
    name, score = score_of(prediction)
    chosen = {
        "score": name,
        "rule": _RULE.format(score=name),
        "split": split_name,
        "data_checksum": data_checksum,
        "num_healthy": int(np.sum(labels == HEALTHY)),
        "num_diseased": int(np.sum(labels == DISEASED)),
        "points": [],
    }
    if score is None:
        return {**chosen, "reason": NO_SCORE}
    if not chosen["num_diseased"]:
        return {**chosen, "reason": NO_DISEASED_TO_CHOOSE.format(split=split_name)}
    for sensitivity in SENSITIVITIES:
        threshold = metrics.threshold_at_sensitivity(score, labels, sensitivity)
        reached = {
            name: right / total if total else None for name, (right, total) in _rates(score, labels, threshold).items()
        }
        chosen["points"].append({"target_sensitivity": sensitivity, "threshold": threshold, "chosen_on": reached})
    return chosen


def unchosen(reason: str) -> dict:
    """In place of what `choose` gives, where there is nothing to choose from."""
    return {"score": None, "rule": None, "split": None, "data_checksum": None, "points": [], "reason": reason}


def at(chosen: Mapping[str, Any], prediction: Prediction, labels: Any, level: float) -> dict:
    """What `choose` gave, with sensitivity and specificity on other images: entries {mean, ci95, num_images}."""
    _, score = score_of(prediction)
    points = []
    for point in chosen["points"]:
        found = {}
        for name, (right, total) in _rates(score, labels, point["threshold"]).items():
            if total:
                interval = metrics.proportion_interval(right, total, level)
                found[name] = {"mean": right / total, "ci95": list(interval), "num_images": total}
            else:
                why = NO_DISEASED if name == "sensitivity" else NO_HEALTHY
                found[name] = {"mean": None, "ci95": None, "num_images": 0, "reason": why}
        points.append({**point, **found})
    return {**chosen, "interval": f"{100 * level:g} % score intervals (Wilson's)", "points": points}


def calibration(probability: Any, labels: Any) -> dict:
    """Bins of the reliability diagram and the expected calibration error."""
    bins = metrics.reliability(probability, labels, NUM_BINS)
    return {
        "num_bins": NUM_BINS,
        "expected_calibration_error": metrics.expected_calibration_error(bins),
        "bins": [
            {
                "low": float(bins["low"][i]),
                "high": float(bins["high"][i]),
                "num_images": int(bins["num_images"][i]),
                "num_diseased": int(bins["num_diseased"][i]),
                "mean_probability": float(bins["mean_probability"][i]) if bins["num_images"][i] else None,
            }
            for i in range(NUM_BINS)
        ],
    }


def _rates(score, labels, threshold):
    right = metrics.called_right(score, labels, threshold)
    return {"sensitivity": right[DISEASED], "specificity": right[HEALTHY]}
