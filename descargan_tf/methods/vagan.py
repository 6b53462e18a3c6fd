"""VAGAN (Baumgartner et al., CVPR 2018): a map that makes an image of a diseased subject look healthy.

x_p diseased, x_h healthy, M the map, y = tanh(x_p + M(x_p)). Numbers and rules are the authors' program's
(baumgach/vagan-code at b9f2483) where the DeScarGAN paper, which compares with it, gives none.
"""

import dataclasses

from keras import ops

from descargan_tf import losses
from descargan_tf.methods import monitoring
from descargan_tf.methods.base import Method, translation_prediction
from descargan_tf.models.blocks import InFloat32
from descargan_tf.models.vagan import build_critic, build_generator
from descargan_tf.types import Phase


@dataclasses.dataclass(frozen=True)
class VAGANSettings:
    """Defaults are the program's for its synthetic data, but for `critic_updates`; see VAGAN.

    The adversarial terms have weight one; `lambda_map` multiplies the mean of |y - x_p|, the change of diseased images:
    it is no identity loss, healthy images are never put in. Adam's betas are 0 and 0.9.
    """

    image_size: int = 256
    generator_filters: int = 16
    discriminator_filters: int = 16
    precision: str = "float32"
    batch_norm: str = "moving"
    critic_updates: int = 5
    generator_learning_rate: float = 1e-4
    discriminator_learning_rate: float = 1e-4
    lambda_gp: float = 10.0
    lambda_map: float = 100.0


class VAGAN(Method):
    """Translates diseased images to healthy ones; which an image is, it must be told and does not tell.

    `predict` treats every image as if it were diseased, so that MSE(r_h, a_h) exists, as in the DeScarGAN paper. Every
    pass of the generator is of one kind, diseased images to be changed, and the moving averages fit what inference asks
    of diseased images. Healthy ones are normalised as if they were diseased: no pass has ever shown them.

    Departs: five critic updates in every round; the program makes 100 in each of the first 25 and in every 100th, and a
    round here is one graph. The penalty is of the gradient of a whole image; the program takes the norm over one axis,
    so one for each column.
    """

    averaged = "generator"

    def __init__(self, settings: VAGANSettings):
        s = self.settings = settings
        self.networks = {
            "generator": build_generator(
                image_size=s.image_size,
                filters=s.generator_filters,
                precision=s.precision,
                inference_statistics=s.batch_norm,
            ),
            "discriminator": self._build_critic(s.precision),
        }
        self._in_float32 = InFloat32(self.networks["discriminator"], s.precision, self._build_critic)
        betas = {"beta_1": 0.0, "beta_2": 0.9}
        self.phases = (
            Phase(
                name="discriminator",
                trains="discriminator",
                updates=s.critic_updates,
                learning_rate=s.discriminator_learning_rate,
                **betas,
            ),
            Phase(name="generator", trains="generator", updates=1, learning_rate=s.generator_learning_rate, **betas),
        )

    def _build_critic(self, precision):
        s = self.settings
        return build_critic(image_size=s.image_size, filters=s.discriminator_filters, precision=precision)

    # --- training

    def weights(self, phase):
        """Of the two totals."""
        s = self.settings
        if phase.trains == "discriminator":
            return {"real": 1.0, "fake": 1.0, "gradient_penalty": s.lambda_gp}
        return {"adversarial": 1.0, "map": s.lambda_map}

    def draws(self, phase, batch_size):
        """Mixing factors of the penalty, of which the first half is used: one for each pair."""
        return {"t": (batch_size, 1, 1, 1)} if phase.trains == "discriminator" else {}

    def losses(self, phase, batch, draws, input_gradient):
        """Raw terms of the critic, or of the generator."""
        critic = self.networks["discriminator"]
        # Reference: the statistics of the batch in the critic's updates too.
        y = self.networks["generator"](batch.diseased, training=True)
        if phase.trains == "generator":
            return {
                "adversarial": losses.generator_adversarial(critic(y)),
                "map": losses.absolute_difference(batch.diseased, y),
            }
        y = ops.stop_gradient(y)
        real, fake = ops.split(critic(ops.concatenate([batch.healthy, y])), 2)
        t = ops.split(draws["t"], 2)[0]
        return {
            "real": losses.critic_real(real),
            "fake": losses.critic_fake(fake),
            "gradient_penalty": losses.gradient_penalty(
                input_gradient(lambda x: losses.score(self._in_float32(x)), losses.mix(batch.healthy, y, t))
            ),
        }

    def critic_scores(self, terms):
        """Of real images, of the critics' fakes and of the generator's."""
        return monitoring.critic_scores(terms)

    def statistics_pass(self, batch):
        """Diseased images, as in every update."""
        self.networks["generator"](batch.diseased, training=True)

    # --- inference

    def predict(self, images):
        """d = y - r; the score is its mean magnitude, though the method is not meant to tell classes apart."""
        return translation_prediction(images, self.networks["generator"](images, training=False))
