"""A DeScarGAN whose normalisation tells translating passes from keeping ones: inference, `--batch_norm=two_kinds`.

For weights that were trained with passes of one kind each, into the opposite class or into an image's own: there the
statistics of a pass say what is to be done, and moving averages over both kinds are those of neither. So the generator
stands here twice, with equal weights, once with the statistics of each kind, and D_cls weighs the two answers.
"""

import dataclasses

import keras
from keras import ops

from descargan_tf.methods.base import translation_prediction
from descargan_tf.methods.descargan import DeScarGAN
from descargan_tf.types import CLASS_NAMES, HEALTHY

NAME = "two_kinds"  # of --batch_norm
KEEPING = "generator_keeping"  # "generator" has the statistics of translating passes


class TwoStatistics(DeScarGAN):
    """What a DeScarGAN predicts with two kinds of statistics; its maps are as good as its classifier."""

    def __init__(self, settings):
        super().__init__(dataclasses.replace(settings, batch_norm="moving"))
        self.networks[KEEPING] = keras.models.clone_model(self.networks["generator"], recursive=True)

    def _into(self, label, images, probabilities):
        """a = p G_translating(r) + (1 - p) G_keeping(r), with p the probability that r is of the other class."""
        target = ops.one_hot(ops.full((ops.shape(images)[0],), label, dtype="int32"), len(CLASS_NAMES))
        inputs, name = {"image": images, "target": target}, CLASS_NAMES[label]
        translated, kept = (self.networks[kind](inputs, training=False)[name] for kind in ("generator", KEEPING))
        p = ops.reshape(1.0 - probabilities[:, label], (-1, 1, 1, 1))
        return p * translated + (1.0 - p) * kept

    def translate(self, images):
        """G_h and G_p of each image, by itself."""
        probabilities = self._probabilities(images)
        return {name: self._into(label, images, probabilities) for label, name in enumerate(CLASS_NAMES)}

    def predict(self, images):
        """d = a_h - r = p d_translating + (1 - p) d_keeping, with p the probability of disease."""
        probabilities = self._probabilities(images)
        a_h = self._into(HEALTHY, images, probabilities)
        return translation_prediction(images, a_h, probabilities)


def of_one_kind(weights):
    """A generator's weights to train on from: the statistics of passes that are half of either kind.

    The passes of a training hold both classes in equal parts and both are translated and kept, so their moments lie
    between those of the two kinds: the means' mean, and the variances' with that of the means on top. They matter for
    the first few hundred rounds of validation; then they are the new passes' own.

    Args:
        weights: arrays by name (`pretrained.load`).
    """
    merged = {name: weight for name, weight in weights.items() if not name.startswith(f"{KEEPING}/")}
    for name in [name for name in merged if name.endswith("/moving_mean")]:
        variance = name.replace("moving_mean", "moving_variance")
        (m_1, v_1), (m_2, v_2) = (
            (weights[key], weights[key.replace("moving_mean", "moving_variance")])
            for key in (name, name.replace("generator/", f"{KEEPING}/", 1))
        )
        merged[name], merged[variance] = (m_1 + m_2) / 2, (v_1 + v_2) / 2 + ((m_1 - m_2) / 2) ** 2
    return merged
