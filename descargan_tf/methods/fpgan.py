"""Fixed-Point GAN (Rahman Siddiquee et al., ICCV 2019): StarGAN that makes a change, and is taught to change nothing.

x real, c its class, c' the other one. Numbers and rules are the authors' program's (mahfuzmohammad/Fixed-Point-GAN at
352d495) where the DeScarGAN paper, which compares with it, gives none. That program is licensed for non-commercial use
and its authors have applied for a patent on the method.
"""

import dataclasses

from keras import ops

from descargan_tf import losses
from descargan_tf.methods.stargan import StarGAN, StarGANSettings
from descargan_tf.models.stargan import build_discriminator, build_generator


@dataclasses.dataclass(frozen=True)
class FPGANSettings(StarGANSettings):
    """As StarGAN's, where the weights are explained; `lambda_id` multiplies the mean of |x - G(x, c)|.

    10 is the program's default and what the DeScarGAN paper's first author used later; its brain example has 0.1.
    """

    lambda_id: float = 10.0


class FPGAN(StarGAN):
    """Differs from StarGAN in what the generator makes, tanh(x + delta), and in its losses on c' = c.

    One label plane and one logit, as the program has for two classes in its brain example. As with StarGAN, each image
    is normalised by itself: no pass has a kind.
    """

    def _build_generator(self):
        s = self.settings
        return build_generator(
            image_size=s.image_size,
            filters=s.generator_filters,
            precision=s.precision,
            label_planes=1,
            additive=True,
        )

    def _build_discriminator(self, precision):
        s = self.settings
        return build_discriminator(
            image_size=s.image_size,
            filters=s.discriminator_filters,
            precision=precision,
            num_logits=1,
            initializer=s.discriminator_initializer,
        )

    def _code(self, labels):
        return ops.cast(labels[:, None], "float32")

    def _cross_entropy(self, logits, labels):
        return ops.binary_crossentropy(self._code(labels), logits, from_logits=True)[:, 0]

    def _probabilities(self, images):
        diseased = ops.sigmoid(self._criticise(images)[1])
        return ops.concatenate([1.0 - diseased, diseased], axis=-1)

    def weights(self, phase):
        """Of the two totals; same-class translations have the same weights as those into the other class."""
        weights = super().weights(phase)
        if phase.trains == "discriminator":
            return weights
        same_class = {f"{name}_same_class": weight for name, weight in weights.items()}
        return {**weights, **same_class, "identity": self.settings.lambda_id}

    def draws(self, phase, batch_size):
        """Mixing factors of the penalty."""
        return {"t": (batch_size, 1, 1, 1)} if phase.trains == "discriminator" else {}

    def _target(self, labels, draws):
        """The other class: translation into the same one has terms of its own, and the critic is not shown it."""
        del draws
        return 1 - labels

    def _generator_losses(self, x, c, target):
        both, labels = ops.concatenate([x, x]), ops.concatenate([target, c])
        translated = self._translate(both, labels)
        score_map, logits = self._criticise(translated)
        cycled = self._translate(translated, ops.concatenate([c, c]))
        terms = {
            "adversarial": losses.generator_adversarial(score_map),
            "classification": self._cross_entropy(logits, labels),
            "reconstruction": losses.absolute_difference(both, cycled),
        }
        halves = {name: ops.split(value, 2) for name, value in terms.items()}
        return {
            **{name: other for name, (other, _) in halves.items()},
            **{f"{name}_same_class": same for name, (_, same) in halves.items()},
            "identity": losses.absolute_difference(x, ops.split(translated, 2)[1]),
        }
