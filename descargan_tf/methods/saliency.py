"""Maps of where a classifier sees disease, for methods that have none of their own.

All are made from the log-odds of disease, F(x) = logit_diseased - logit_healthy: what is added to both logits, the
probabilities do not see, and it does not change F. A map says how much a pixel speaks for disease. It has no sign (what
speaks against disease counts as nothing) and no unit: each map is divided by its own largest value and multiplied by
the disease probability, so it lies in [0, 1], and an image that is called healthy has a dark one. Its own extremes
alone would make a healthy image look as sick as a diseased one.

Nothing here is random, and each image is explained by itself.
"""

import copy

import numpy as np
from keras import ops

from descargan_tf.methods.classifier import Classifier
from descargan_tf.types import DISEASED, HEALTHY

_BLACK = -1.0
_PATH_STEPS = 50
_PATCHES_ASIDE = 8  # an occluding patch is this part of the image's side,
_STRIDES_A_PATCH = 2  # and moves by this part of its own


def explained(classifier: Classifier, kind: str, input_gradient) -> Classifier:
    """The classifier with a map in what it predicts.

    Args:
        classifier: a method that only classifies; stays as it is.
        kind: a key of `MAPS`.
        input_gradient: (fn, x) -> gradient of sum(fn(x)) with respect to x; the backend's, handed in.
    """
    explaining = copy.copy(classifier)
    explaining.explain = lambda own, images: MAPS[kind](own, images, input_gradient)
    return explaining


def grad_cam(classifier, images, input_gradient):
    """Grad-CAM (Selvaraju et al., ICCV 2017): the last feature map, its channels weighed by their mean gradient.

    As coarse as that map, H/32, and then interpolated. [B, H, W, 1] twice, not negative.
    """
    features = classifier.features(images)
    gradient = input_gradient(lambda a: _log_odds(classifier.logits(a)), features)
    weights = ops.mean(ops.cast(gradient, "float32"), axis=(1, 2), keepdims=True)
    coarse = ops.relu(ops.sum(weights * ops.cast(features, "float32"), axis=-1, keepdims=True))
    return ops.image.resize(coarse, images.shape[1:3], interpolation="bilinear")


def integrated_gradients(classifier, images, input_gradient):
    """Integrated gradients (Sundararajan et al., ICML 2017) from a black image, at the middles of 50 steps.

    Their sum is F(x) - F(black), but for the error of the steps. [B, H, W, 1] twice, signed.
    """
    difference = images - _BLACK

    def add(step, total):
        x = _BLACK + (ops.cast(step, "float32") + 0.5) / _PATH_STEPS * difference
        return total + input_gradient(lambda x: _log_odds(classifier.logits(classifier.features(x))), x)

    return difference * ops.fori_loop(0, _PATH_STEPS, add, ops.zeros_like(images)) / _PATH_STEPS


def occlusion(classifier, images, input_gradient):
    """Occlusion (Zeiler & Fergus, ECCV 2014): how much F falls when a patch is covered with the image's mean.

    Patches of an eighth of the side, half overlapping; a pixel has the mean of the patches that cover it.
    [B, H, W, 1] twice, signed.
    """
    del input_gradient
    bands = ops.convert_to_tensor(_bands(images.shape[1]))  # a patch is where two of them cross
    count = bands.shape[0]
    mean = ops.mean(images, axis=(1, 2, 3), keepdims=True)
    whole = _log_odds(classifier.logits(classifier.features(images)))

    def add(index, total):
        cover = ops.reshape(bands[index // count], (1, -1, 1, 1)) * ops.reshape(bands[index % count], (1, 1, -1, 1))
        covered = _log_odds(classifier.logits(classifier.features(images * (1.0 - cover) + mean * cover)))
        return total + ops.reshape(whole - covered, (-1, 1, 1, 1)) * cover

    total = ops.fori_loop(0, count**2, add, ops.zeros_like(images))
    times = ops.sum(bands, axis=0)
    return total / (ops.reshape(times, (1, -1, 1, 1)) * ops.reshape(times, (1, 1, -1, 1)))


MAPS = {"gradcam": grad_cam, "integrated_gradients": integrated_gradients, "occlusion": occlusion}


def _log_odds(logits):
    return logits[:, DISEASED] - logits[:, HEALTHY]


def _bands(size):
    """[P, size]: 1 where a patch lies along one axis, a row per position."""
    side = size // _PATCHES_ASIDE
    starts = range(0, size - side + 1, side // _STRIDES_A_PATCH)
    pixels = np.arange(size)
    return np.array([(pixels >= start) & (pixels < start + side) for start in starts], np.float32)
