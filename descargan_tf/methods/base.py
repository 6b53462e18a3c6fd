"""The contract between a method and everything else: trainer, evaluator, exporter."""

import abc
import math

from keras import ops

from descargan_tf.types import CLASS_NAMES, Batch, Phase, Prediction


def translation_prediction(images, healthy_image, class_probabilities=None) -> Prediction:
    """What follows from a translation a_h of images r, both [B, H, W, 1]: d = a_h - r, and its mean magnitude as score.

    It is the DeScarGAN paper's map for every method.
    """
    anomaly_map = healthy_image - images
    score = ops.mean(ops.abs(anomaly_map), axis=(1, 2, 3))
    return Prediction(anomaly_map, healthy_image, score, class_probabilities)


class Method(abc.ABC):
    """Networks, phases, losses, prediction; no flag, file, log, strategy or optimiser.

    Attributes:
        networks: name -> functional Keras model; all that a checkpoint holds of the method.
        averaged: name of the network that prediction uses with averaged weights.
        phases: the updates of one round, in order.
        sees: the classes whose images the updates use; the others' half of a batch is left alone.
        training_only: beginnings of the names of weights that prediction does without (`pretrained.named_weights`).
        only_classifies: whether it has no map of its own; `saliency.explained` gives it one.
        classifying: beginnings of those that only class probabilities come from, and that rounding harms less.
    """

    networks: dict
    averaged: str
    phases: tuple[Phase, ...]
    sees: tuple[str, ...] = CLASS_NAMES
    training_only: tuple[str, ...] = ()
    only_classifies: bool = False
    classifying: tuple[str, ...] = ()

    @property
    def num_parameters(self) -> dict[str, int]:
        """Trainable parameters of each network."""
        return {
            name: sum(math.prod(variable.shape) for variable in network.trainable_variables)
            for name, network in self.networks.items()
        }

    @property
    def batches_per_round(self) -> int:
        """A generator-like phase of one update reuses the last batch of the phase before it (reference: trap D5.3)."""
        return max(phase.updates for phase in self.phases)

    def images_per_round(self, batch_size: int) -> int:
        """Training images that pass through updates in a round, each batch counted once however many phases use it."""
        return self.batches_per_round * batch_size * len(self.sees) // len(CLASS_NAMES)

    @abc.abstractmethod
    def weights(self, phase: Phase) -> dict[str, float]:
        """What each term of `losses` is multiplied by in the total."""

    @abc.abstractmethod
    def draws(self, phase: Phase, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the uniform [0, 1) numbers that `losses` wants; the first axis counts examples."""

    @abc.abstractmethod
    def losses(self, phase: Phase, batch: Batch, draws: dict, input_gradient) -> dict:
        """Raw terms of one update by name, each one value per example.

        Args:
            phase: one of `phases`.
            batch: this replica's images.
            draws: this replica's numbers, shaped as `draws` asked.
            input_gradient: (fn, x) -> gradient of sum(fn(x)) with respect to x; the backend's, handed in.
        """

    def statistics_pass(self, batch: Batch) -> None:  # noqa: B027
        """Passes in training of the kind that inference's statistics should come from, over one batch.

        For a method that normalises over a batch; it may be run to estimate its moving averages anew.
        """

    def critic_scores(self, terms: dict) -> dict[str, float]:
        """Mean scores by "real", "fake" (critics' own update) and "generator" (its update), of a round's raw terms.

        Args:
            terms: "<phase>/<term>" -> mean over a round.

        Returns:
            Larger is more real; empty for a method without critics.
        """
        return {}

    @abc.abstractmethod
    def predict(self, images) -> Prediction:
        """What the method says of images [B, H, W, 1], each by itself."""

    def translate(self, images) -> dict:
        """Images by target class, to look at; those of class "healthy" alone by default."""
        return {"healthy": self.predict(images).healthy_image}

    def monitor(self, batch: Batch) -> dict:
        """Values per example that tell how training goes beyond its losses; none by default.

        A translating method gives "translation_success" (1 where its classifier calls the healthy translation of a
        diseased image healthy) and "label_effect" (mean |G_p(r) - G_h(r)|); validation watches both.
        """
        return {}
