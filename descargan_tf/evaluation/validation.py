"""What is measured while training, and the rule by which the best checkpoint is chosen.

The rule uses image labels alone, as a user without ground truth has them: the product of

* the translation success, the share of diseased validation images whose healthy translation D_cls calls healthy,
* Cohen's kappa of D_cls on the images themselves, at least 0: what a classifier says is worth what it knows, and to one
  that calls everything healthy every translation is a success, and
* the contrast of the maps, the mean square of d on diseased images over that on healthy ones: a good generator changes
  diseased images much and healthy ones little.

A factor that a method does not have counts as one; a method without maps is chosen by its image AUROC. Where ground
truth is known, Dice and the like are written down beside it, for information; they choose nothing.

A first rule, success alone below 0.9 and contrast above, took the last step of a run, which had less than half the Dice
of the validation before: success falls for a while when the classifier gets sharper, as it did from 0.85 to 0.74 while
Dice on the validation split rose from 0.10 to 0.16 and contrast from 1.4 to 3.3. A second one, without kappa, took the
one validation of a run at which the classifier had collapsed: accuracy 0.50, success 1.00.
"""

import numpy as np

from descargan_tf.data.prepared import select
from descargan_tf.evaluation import evaluator, metrics
from descargan_tf.prediction.overlay import SCALE, overlay
from descargan_tf.prediction.splits import predict_split
from descargan_tf.types import DISEASED, HEALTHY, MASK, Batch, Split, Validation

_MIN_LABEL_EFFECT = 0.005  # mean |G_p - G_h| in image units below which the label is ignored
_MIN_ACCURACY = 0.7  # of the classifier, before its opinion of translations counts
_NUM_PICTURES = 4


def validate(predict, monitor, translate, split: Split, threshold: float | None, batch_size: int) -> Validation:
    """Score the averaged networks on the validation split.

    Args:
        predict: images [B, H, W, 1] to Prediction.
        monitor: Batch to values per example (Method.monitor).
        translate: images to images by target class (Method.translate).
        split: the validation split.
        threshold: of |GT| and |d| for Dice; None where it is not known. Against masks it is found anew at each
            validation, by the rule of the evaluation.
        batch_size: images at a time.
    """
    prediction = predict_split(predict, split.images, batch_size)
    diseased, healthy = split.labels == DISEASED, split.labels == HEALTHY
    scalars: dict[str, float | None] = {}
    if prediction.class_probabilities is not None:
        probability = prediction.class_probabilities[:, DISEASED]
        scalars["accuracy"] = metrics.accuracy(probability, split.labels)
        scalars["auroc_image"] = metrics.auroc_image(probability, split.labels)
    selection = scalars.get("auroc_image", 0.0)
    if prediction.anomaly_map is not None:
        square = np.mean(np.square(prediction.anomaly_map), axis=(1, 2, 3))
        scalars["mse_healthy"] = float(square[healthy].mean())
        scalars["map_contrast"] = float(square[diseased].mean() / max(square[healthy].mean(), 1e-12))
        scalars |= _monitored(monitor, split, batch_size)
        knows = 1.0
        if prediction.class_probabilities is not None:
            knows = max(metrics.kappa(probability, split.labels) or 0.0, 0.0)
        selection = scalars.get("translation_success", 1.0) * knows * scalars["map_contrast"]
        scalars |= _against_ground_truth(prediction.anomaly_map, split, threshold)
    return Validation(scalars, float(selection), _pictures(translate, split), _warnings(scalars))


def _against_ground_truth(maps, split, threshold):
    chosen = evaluator.judged(split)
    is_mask = split.ground_truth_kind == MASK
    if not chosen.any() or (threshold is None and not is_mask):
        return {}
    d, gt = maps[chosen], split.ground_truth[chosen]
    of_gt, of_map = (0, evaluator.mask_threshold(d, gt)) if is_mask else (threshold, threshold)
    auroc = metrics.auroc_pixel(d, gt, of_gt)
    scalars = {
        "dice": float(np.mean(metrics.dice(d, gt, of_gt, of_map))),
        "auroc_pixel": float(np.nanmean(auroc)) if np.isfinite(auroc).any() else None,
    }
    return scalars if is_mask else scalars | {"mse_d_gt": float(np.mean(metrics.mse(d, gt)))}


def _monitored(monitor, split, batch_size):
    """Means of what the method watches, over as many images of each class as the smaller one has, at most 100."""
    parts = [select(split.images, split.labels == label) for label in (HEALTHY, DISEASED)]
    count = min(len(parts[0]), len(parts[1]), 100)
    half = max(batch_size // 2, 1)
    found: dict[str, list] = {}
    for start in range(0, count, half):
        chosen = np.minimum(np.arange(start, start + half), count - 1)  # one shape of batch: the last image again
        num_real = min(half, count - start)
        for name, value in monitor(Batch(*(part[chosen] for part in parts))).items():
            value = np.asarray(value)
            # One value per pair, or per image of both halves: what repeats an image is cut off either.
            found.setdefault(name, []).append(value.reshape(-1, half)[:, :num_real].ravel())
    return {name: float(np.concatenate(values).mean()) for name, values in found.items()}


def _pictures(translate, split):
    """The first diseased images of the split, always the same ones."""
    images = select(split.images, split.labels == DISEASED)[:_NUM_PICTURES]
    pictures = {"1_input": _gray(images)}
    translated = {name: np.asarray(value) for name, value in translate(images).items() if value is not None}
    if "healthy" not in translated:
        return pictures
    pictures |= {f"{i}_{name}_translation": _gray(value) for i, (name, value) in enumerate(translated.items(), 2)}
    d = translated["healthy"] - images
    middle_gray = np.zeros_like(images[0, ..., 0])
    pictures["4_signed_difference"] = np.stack([overlay(middle_gray, x[..., 0], SCALE) for x in d]) / np.float32(255)
    pictures["5_overlay"] = np.stack(
        [overlay(r[..., 0], x[..., 0], SCALE) for r, x in zip(images, d, strict=True)]
    ) / np.float32(255)
    return pictures


def _gray(images):
    return np.clip((images + 1) / 2, 0, 1)


def _warnings(scalars):
    found = []
    effect = scalars.get("label_effect")
    if effect is not None and effect < _MIN_LABEL_EFFECT:
        found.append(
            f"the generator ignores its label: mean |G_p - G_h| is {effect:.5f}. If this lasts, raise --lambda_adv_g "
            "or lower --lambda_id and --lambda_rec."
        )
    success = scalars.get("translation_success")
    if success is not None and success < 0.5 and scalars.get("accuracy", 0.0) >= _MIN_ACCURACY:
        found.append(
            f"only {success:.0%} of the diseased validation images are called healthy after translation. Early in a "
            "training that is normal; if it lasts, the critics or --lambda_adv_g are too weak."
        )
    return tuple(found)
