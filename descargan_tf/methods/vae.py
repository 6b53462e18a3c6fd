"""A variational autoencoder of healthy images (Chen & Konukoglu 2018 in spirit): what it cannot rebuild is anomalous.

x a healthy image, z its code, q(z | x) = N(mean, sigma^2) the encoder's, x_hat the decoder's image of z.
"""

import dataclasses

from keras import ops

from descargan_tf import losses
from descargan_tf.methods.base import Method, translation_prediction
from descargan_tf.models.vae import build_vae
from descargan_tf.types import CLASS_NAMES, HEALTHY, Phase


@dataclasses.dataclass(frozen=True)
class VAESettings:
    """Networks are the published program's, the learning rate what the DeScarGAN authors later gave for it."""

    image_size: int = 256
    generator_filters: int = 16
    latent_units: int = 128
    precision: str = "float32"
    batch_norm: str = "moving"
    generator_learning_rate: float = 1e-4
    lambda_kl: float = 1.0


class VAE(Method):
    """Trained on the healthy half of every batch alone; knows no class and names none.

    Every pass is of one kind, healthy images, and inference normalises all images as if they were: a diseased one is
    then as far from what was seen as it should be. The decoder's averages are of drawn codes; inference uses mean ones.

    Departs: the published program regularises its code with a critic and has no variance; this is the variational
    autoencoder that the paper names: squared error of an image plus the divergence of its code.
    """

    averaged = "autoencoder"
    sees = (CLASS_NAMES[HEALTHY],)

    def __init__(self, settings: VAESettings):
        s = self.settings = settings
        self.networks = {
            "autoencoder": build_vae(
                image_size=s.image_size,
                filters=s.generator_filters,
                latent_units=s.latent_units,
                precision=s.precision,
                inference_statistics=s.batch_norm,
            )
        }
        self.phases = (
            Phase(name="autoencoder", trains="autoencoder", updates=1, learning_rate=s.generator_learning_rate),
        )

    # --- training

    def weights(self, phase):
        """The negative evidence bound with a decoder of fixed variance, up to a constant."""
        return {"reconstruction": 1.0, "divergence": self.settings.lambda_kl}

    def draws(self, phase, batch_size):
        """What becomes the noise of the codes; the healthy half's is used."""
        return {"code": (batch_size, self.settings.latent_units)}

    def losses(self, phase, batch, draws, input_gradient):
        """Squared error of x_hat and divergence of q(z | x) from N(0, 1), of healthy images."""
        x = batch.healthy
        encoder, decoder = (self.networks["autoencoder"].get_layer(name) for name in ("encoder", "decoder"))
        code = encoder(x, training=True)
        noise = _standard_normal(ops.split(draws["code"], 2)[0])
        z = code["mean"] + ops.exp(code["log_sigma"]) * noise
        return {
            "reconstruction": losses.squared_error(x, decoder(z, training=True)),
            "divergence": losses.divergence_from_standard_normal(code["mean"], code["log_sigma"]),
        }

    def statistics_pass(self, batch):
        """Healthy images, as in every update; of the decoder, their mean codes."""
        self.networks["autoencoder"](batch.healthy, training=True)

    # --- inference

    def predict(self, images):
        """d = x_hat - r with the mean code and x_hat cut to the range of images; the score is its mean magnitude."""
        a_h = ops.clip(self.networks["autoencoder"](images, training=False), -1.0, 1.0)
        return translation_prediction(images, a_h)


def _standard_normal(uniform):
    # Multiples of 2^-23 in [0, 1) moved into their middles: the inverse has no value at 0.
    return 2.0**0.5 * ops.erfinv(2.0 * (uniform + 2.0**-24) - 1.0)
