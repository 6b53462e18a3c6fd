"""DenseNet-169 (Huang et al., CVPR 2017) as a classifier of whole images, which the paper compares with in Table 2."""

import dataclasses

from keras import ops

from descargan_tf.methods.classifier import Classifier
from descargan_tf.models.densenet import build_densenet


@dataclasses.dataclass(frozen=True)
class DenseNet169Settings:
    """Width and depth are the publication's. The paper says nothing of its training: the rate is DeScarGAN's.

    `discriminator_filters` is the width of the first layer, twice what each further layer adds.
    """

    image_size: int = 256
    discriminator_filters: int = 64
    dense_blocks: str = "6,12,32,32"
    precision: str = "float32"
    batch_norm: str = "moving"
    discriminator_learning_rate: float = 1e-4


class DenseNet169(Classifier):
    """Random weights at the start, as every other method here."""

    def __init__(self, settings: DenseNet169Settings):
        s = self.settings = settings
        blocks = tuple(map(int, s.dense_blocks.split(",")))
        self.networks = {
            "classifier": build_densenet(
                image_size=s.image_size,
                filters=s.discriminator_filters,
                blocks=blocks,
                precision=s.precision,
                inference_statistics=s.batch_norm,
            )
        }

    def _training_logits(self, images, draws):
        return self.networks["classifier"](images, training=True)

    def statistics_pass(self, batch):
        """Both classes, as in every update."""
        self.networks["classifier"](ops.concatenate(batch), training=True)

    def features(self, images):
        """The last map, H/32 wide."""
        return self.networks["classifier"].get_layer("trunk")(images, training=False)

    def logits(self, features):
        """Mean over the map, one dense layer."""
        return self.networks["classifier"].get_layer("head")(features, training=False)
