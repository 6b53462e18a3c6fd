"""What the methods that only tell classes apart have in common."""

import abc

from keras import ops

from descargan_tf import losses
from descargan_tf.methods.base import Method
from descargan_tf.types import DISEASED, HEALTHY, Phase, Prediction

_SMALLEST = 1e-20  # a map of zeros stays one


class Classifier(Method):
    """One network, trained by cross-entropy; no map by itself, see `saliency.explained`.

    A subclass sets `settings` and `networks["classifier"]` and says where its last feature map is.

    Attributes:
        explain: from a classifier and images [B, H, W, 1] to how much each pixel speaks for disease, of any scale and
            sign; None for no map.
    """

    averaged = "classifier"
    only_classifies = True
    explain = None

    @property
    def phases(self):
        """The one update of a round."""
        return (
            Phase(
                name="classifier",
                trains="classifier",
                updates=1,
                learning_rate=self.settings.discriminator_learning_rate,
            ),
        )

    @abc.abstractmethod
    def features(self, images):
        """The last feature map [B, h, w, F] of images [B, H, W, 1], at inference."""

    @abc.abstractmethod
    def logits(self, features):
        """[B, K] of what `features` gave, at inference."""

    @abc.abstractmethod
    def _training_logits(self, images, draws):
        """[B, K] of images [B, H, W, 1] in training."""

    def weights(self, phase):
        """Of the one term."""
        return {"classification": 1.0}

    def draws(self, phase, batch_size):
        """None."""
        return {}

    def losses(self, phase, batch, draws, input_gradient):
        """Cross-entropy of both classes."""
        healthy, diseased = ops.split(self._training_logits(ops.concatenate(batch), draws), 2)
        terms = [losses.classification(healthy, HEALTHY), losses.classification(diseased, DISEASED)]
        return {"classification": ops.concatenate(terms)}

    def predict(self, images):
        """Class probabilities; with `explain`, a map in [0, 1], the largest value of which is that of disease."""
        probabilities = ops.softmax(self.logits(self.features(images)), axis=-1)
        if self.explain is None:
            return Prediction(None, None, None, probabilities)
        evidence = ops.relu(ops.cast(self.explain(self, images), "float32"))
        largest = ops.max(evidence, axis=(1, 2, 3), keepdims=True)
        scale = ops.reshape(probabilities[:, DISEASED], (-1, 1, 1, 1)) / ops.maximum(largest, _SMALLEST)
        return Prediction(scale * evidence, None, None, probabilities)
