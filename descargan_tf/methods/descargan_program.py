"""DeScarGAN by the rules of the authors' program (JuliaWolleb/DeScarGAN at cf5ffd6) where they are not the paper's.

Beside `descargan.py`, whose letters and names it has. Reference: D4.1 to D4.7, D4.12, D3.3, D3.9, without the program's
defects. Where the two differ in a number alone, it is a flag: `configs/synthetic_reference.flags`.
"""

from keras import ops

from descargan_tf import losses
from descargan_tf.methods.descargan import DeScarGAN, _halves, _one_hot
from descargan_tf.models.discriminator import CLASSIFIER_UNITS
from descargan_tf.types import DISEASED, HEALTHY

_NOISE = 0.05  # uniform, up to this (D4.1)


class ProgramDeScarGAN(DeScarGAN):
    """Translations into both classes are criticised, one target class to a pass; noise on all that critics see.

    One target to a pass makes its label planes constant, and a pass into one class holds both: the program has one kind
    of pass too, but for the cycle's, which are of one class each.
    """

    critic_padding = 1  # a border that is the bias alone: 10x10 answers (D3.9)

    def _planes(self, count, label):
        """The target class."""
        return _one_hot(count, label)

    def _into(self, label, images, noise):
        """G_c of some images, with the inputs' noise on top (D4.1)."""
        features = self._trunk(images, self._planes(ops.shape(images)[0], label), training=True)
        return self._branch(label, features, images, training=True) + noise

    def weights(self, phase):
        """The two classes' means are added, not averaged (D4.3, D4.4); it matters to gradient clipping."""
        weights = super().weights(phase)
        return weights if phase.trains == "discriminator" else {name: 2 * value for name, value in weights.items()}

    def draws(self, phase, batch_size):
        """The generator's update classifies two translations of each image; noise."""
        size = self.settings.image_size
        shapes = super().draws(phase, batch_size)
        if "dropout" in shapes and phase.trains == "generator":
            shapes["dropout"] = (batch_size, 2 * CLASSIFIER_UNITS)
        return {**shapes, "noise": (batch_size, size, size, 1)}

    def _discriminator_losses(self, batch, draws, input_gradient):
        noise = _NOISE * draws["noise"]
        r = ops.concatenate(batch) + noise
        # Fakes of all images into both classes (D4.2), penalised against reals of any class (D4.7).
        a = [ops.stop_gradient(self._into(label, r, noise)) for label in (HEALTHY, DISEASED)]
        x_hat = [losses.mix(r, fake, draws["t"]) for fake in a]
        return self._discriminator_terms(_halves(r), a, x_hat, draws, input_gradient, _sum)

    def _generator_losses(self, batch, draws):
        noise = _NOISE * draws["noise"]
        (n_h, n_p), r = _halves(noise), ops.concatenate(batch) + noise
        f_h, f_p = (self._into(label, r, noise) for label in (HEALTHY, DISEASED))
        # Same-class fakes are criticised and classified too (D4.3).
        count = ops.shape(r)[0]
        if "dropout" in draws:
            draws = {**draws, "dropout": ops.concatenate(ops.split(draws["dropout"], 2, axis=1))}
        s_h, s_p, *logits = self._criticise(f_h, f_p, self._keep(draws, 2 * count), classify=count)
        (i_h, a_h), (a_p, i_p) = _halves(f_h), _halves(f_p)
        cycled = self._into(HEALTHY, a_p, 0.0), self._into(DISEASED, a_h, 0.0)
        return self._generator_terms(batch, (s_h, s_p), logits, (i_h - n_h, i_p - n_p), cycled)

    def statistics_pass(self, batch):
        """Both classes into either, one after the other."""
        for label in (HEALTHY, DISEASED):
            self._into(label, ops.concatenate(batch), 0.0)


def _sum(score_map):
    """The gradient of the sum of the map is held to norm one (D4.6)."""
    return ops.sum(ops.cast(score_map, "float32"), axis=(1, 2, 3))
