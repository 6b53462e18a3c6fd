"""StarGAN (Choi et al., CVPR 2018) with two classes: one generator, told the target class.

x real, c its class, c' the target class. Numbers and rules are the authors' program's (yunjey/stargan at 94dd002) where
the DeScarGAN paper, which compares with it, gives none.
"""

import dataclasses

from keras import ops

from descargan_tf import losses
from descargan_tf.methods import monitoring
from descargan_tf.methods.base import Method, translation_prediction
from descargan_tf.models.blocks import InFloat32
from descargan_tf.models.stargan import build_discriminator, build_generator
from descargan_tf.types import CLASS_NAMES, DISEASED, HEALTHY, Phase


@dataclasses.dataclass(frozen=True)
class StarGANSettings:
    """Defaults are the program's. Its weights do not mean what DeScarGAN's of the same name do.

    The adversarial terms have weight one on either side, so `lambda_gp` is the penalty's whole weight; it holds the
    gradient of the sum of the critic's map. `lambda_rec` multiplies the mean of |x - G(G(x, c'), c)|, where DeScarGAN's
    multiplies a norm or a mean square.
    """

    image_size: int = 256
    generator_filters: int = 64
    discriminator_filters: int = 64
    precision: str = "float32"
    critic_updates: int = 5
    generator_learning_rate: float = 1e-4
    discriminator_learning_rate: float = 1e-4
    discriminator_initializer: str = "pytorch_uniform"
    lambda_gp: float = 10.0
    lambda_cls_d: float = 1.0
    lambda_cls_g: float = 1.0
    lambda_rec: float = 10.0


class StarGAN(Method):
    """Translation by target label, cycle consistency, a critic with a classifier.

    Its generator normalises each image by its own statistics, in training and after it: no pass has a kind.

    Departs: the learning rates are constant. The program means to lower them to zero over its second half and, by a
    slip, lowers them by 1e-9 at a time; `decay_steps` does what it meant.
    """

    averaged = "generator"

    def __init__(self, settings: StarGANSettings):
        s = self.settings = settings
        self.networks = {
            "generator": self._build_generator(),
            "discriminator": self._build_discriminator(s.precision),
        }
        self._in_float32 = InFloat32(self.networks["discriminator"], s.precision, self._build_discriminator)
        self.phases = (
            Phase(
                name="discriminator",
                trains="discriminator",
                updates=s.critic_updates,
                learning_rate=s.discriminator_learning_rate,
            ),
            Phase(name="generator", trains="generator", updates=1, learning_rate=s.generator_learning_rate),
        )

    # --- the networks, and how they are told and tell a class

    def _build_generator(self):
        s = self.settings
        return build_generator(image_size=s.image_size, filters=s.generator_filters, precision=s.precision)

    def _build_discriminator(self, precision):
        s = self.settings
        return build_discriminator(
            image_size=s.image_size,
            filters=s.discriminator_filters,
            precision=precision,
            initializer=s.discriminator_initializer,
        )

    def _code(self, labels):
        """[B] to what the generator is told: one plane per class."""
        return ops.one_hot(labels, len(CLASS_NAMES))

    def _cross_entropy(self, logits, labels):
        """[B, K] and [B] to [B]."""
        return ops.categorical_crossentropy(ops.one_hot(labels, len(CLASS_NAMES)), logits, from_logits=True)

    def _probabilities(self, images):
        return ops.softmax(self._criticise(images)[1], axis=-1)

    def _translate(self, images, labels):
        return self.networks["generator"]({"image": images, "target": self._code(labels)})

    def _criticise(self, images):
        """Score maps and logits."""
        outputs = self.networks["discriminator"](images)
        return outputs["critic"], outputs["logits"]

    def _penalised(self, images):
        return self._in_float32(self._in_float32(images, "trunk"), "critic")

    # --- training

    def weights(self, phase):
        """Of the two totals."""
        s = self.settings
        if phase.trains == "discriminator":
            return losses.discriminator_weights(1.0, s.lambda_gp, s.lambda_cls_d)
        return {"adversarial": 1.0, "classification": s.lambda_cls_g, "reconstruction": s.lambda_rec}

    def draws(self, phase, batch_size):
        """Target classes; mixing factors of the penalty."""
        shapes = {"target": (batch_size,)}
        if phase.trains == "discriminator":
            shapes["t"] = (batch_size, 1, 1, 1)
        return shapes

    def _target(self, labels, draws):
        """Departs: drawn for each image by itself; the program shuffles the labels of the batch, over all devices."""
        del labels
        return ops.cast(draws["target"] < 0.5, "int32")

    def losses(self, phase, batch, draws, input_gradient):
        """Raw terms of the critic with its classifier, or of the generator."""
        x = ops.concatenate(batch)
        half = ops.shape(batch.healthy)[0]
        c = ops.concatenate([_full(half, HEALTHY), _full(half, DISEASED)])
        target = self._target(c, draws)
        if phase.trains == "discriminator":
            return self._discriminator_losses(x, c, target, draws["t"], input_gradient)
        return self._generator_losses(x, c, target)

    def _discriminator_losses(self, x, c, target, t, input_gradient):
        a = ops.stop_gradient(self._translate(x, target))
        discriminator = self.networks["discriminator"]
        features = discriminator.get_layer("trunk")(ops.concatenate([x, a]))
        real, fake = ops.split(discriminator.get_layer("critic")(features), 2)
        logits = discriminator.get_layer("classifier")(ops.split(features, 2)[0])
        gradient = input_gradient(self._penalised, losses.mix(x, a, t))
        return {
            "real": losses.critic_real(real),
            "fake": losses.critic_fake(fake),
            "gradient_penalty": losses.gradient_penalty(gradient),
            "classification": self._cross_entropy(logits, c),
        }

    def _generator_losses(self, x, c, target):
        a = self._translate(x, target)
        score_map, logits = self._criticise(a)
        return {
            "adversarial": losses.generator_adversarial(score_map),
            "classification": self._cross_entropy(logits, target),
            "reconstruction": losses.absolute_difference(x, self._translate(a, c)),
        }

    def critic_scores(self, terms):
        """Of real images, of the critics' fakes and of the generator's."""
        return monitoring.critic_scores(terms)

    # --- inference

    def translate(self, images):
        """Each image into both classes."""
        n = ops.shape(images)[0]
        return {name: self._translate(images, _full(n, label)) for label, name in enumerate(CLASS_NAMES)}

    def predict(self, images):
        """d = a_h - r; the score is its mean magnitude."""
        a_h = self._translate(images, _full(ops.shape(images)[0], HEALTHY))
        return translation_prediction(images, a_h, self._probabilities(images))

    def monitor(self, batch):
        """Translation success and effect of the label."""
        return monitoring.translation(batch, self.translate, self._probabilities)


def _full(count, label):
    return ops.full((count,), label, dtype="int32")
