"""D_cls: the classifier of DeScarGAN's discriminator, trained alone (paper sect. 4.2, "without the GAN mechanism")."""

import dataclasses

from keras import ops

from descargan_tf.methods.classifier import Classifier
from descargan_tf.models.discriminator import CLASSIFIER_UNITS, build_discriminator


@dataclasses.dataclass(frozen=True)
class DClsSettings:
    """Defaults are those of DeScarGAN's discriminator."""

    image_size: int = 256
    discriminator_filters: int = 32
    precision: str = "float32"
    discriminator_learning_rate: float = 1e-4
    discriminator_initializer: str = "glorot_normal"
    discriminator_activation: str = "relu"
    discriminator_max_filters: int = 0
    discriminator_poolings: int = 5
    classifier_dropout: float = 0.1


class DCls(Classifier):
    """Trunk and classifier of the discriminator, without its critics."""

    def __init__(self, settings: DClsSettings):
        s = self.settings = settings
        self.networks = {
            "classifier": build_discriminator(
                image_size=s.image_size,
                filters=s.discriminator_filters,
                precision=s.precision,
                initializer=s.discriminator_initializer,
                activation=s.discriminator_activation,
                max_filters=s.discriminator_max_filters,
                poolings=s.discriminator_poolings,
                critics=(),
            )
        }

    def draws(self, phase, batch_size):
        """Dropout."""
        return {"dropout": (batch_size, CLASSIFIER_UNITS)}

    def _training_logits(self, images, draws):
        rate = self.settings.classifier_dropout
        keep = ops.cast(draws["dropout"] >= rate, "float32") / (1.0 - rate)
        return self.networks["classifier"]({"image": images, "keep": keep})["logits"]

    def features(self, images):
        """The trunk's map, H/32 wide."""
        return self.networks["classifier"].get_layer("trunk")(images)

    def logits(self, features):
        """Two more convolutions and two dense layers."""
        keep = ops.ones((ops.shape(features)[0], CLASSIFIER_UNITS))
        return self.networks["classifier"].get_layer("classifier")([features, keep])
