"""The contract between the training loop and what computes the rounds, whichever backend that is."""

import abc
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from descargan_tf.methods.base import Method
from descargan_tf.training import checkpoint
from descargan_tf.training.workers import ALONE, Workers

STATISTICS_PASSES = 32  # batches from which a normalisation's averages are estimated anew


class Engine(abc.ABC):
    """A training's state on its devices: networks, averaged weights, optimisers, the number of rounds done.

    Batches and random numbers of a round are functions of the seed and of its number alone.

    Attributes:
        method: with the live weights.
        chunk: rounds that one call of `rounds` does best.
        workers: the processes that train together, each with an engine; their state is the same.
    """

    method: Method
    chunk: int = 1
    workers: Workers = ALONE

    @property
    @abc.abstractmethod
    def step(self) -> int:
        """Rounds done."""

    @abc.abstractmethod
    def rounds(self, factors: Sequence[float]) -> dict[str, np.ndarray]:
        """Some rounds, one after the other.

        Args:
            factors: what the learning rates are multiplied by in each.

        Returns:
            "<phase>/<term>" -> one value a round, the mean over a phase's updates: raw terms, "total", "gradient_norm".
        """

    def shares(self, seconds: float) -> dict[str, float]:
        """What a round that takes so long uses of the devices, by name of a metric; none where it is not known."""
        return {}

    def sum_over_processes(self, values: Sequence[float]) -> list[float]:
        """Of each value over all workers, each of which must call it as often: how they agree, or hear the chief."""
        return list(values)

    @abc.abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """Copies of all that is trained, named as in a checkpoint: networks/, averaged/, optimizers/."""

    @abc.abstractmethod
    def assign(self, arrays: dict[str, np.ndarray], step: int, source: Path | str) -> None:
        """Put back what `arrays` gave, after so many rounds.

        Raises:
            UserError: other networks wrote it; names `source`.
        """

    @abc.abstractmethod
    def estimate_and_fix_statistics(self) -> None:
        """Go on from the averaged weights, with their normalisation's averages estimated anew and from now on fixed."""

    @abc.abstractmethod
    def fix_statistics(self) -> None:
        """Normalise with the averages that there are, in training too, from now on."""

    @abc.abstractmethod
    def refresh(self) -> None:
        """Let the next three answer with the weights as they are now: averaged ones where weights are averaged."""

    @abc.abstractmethod
    def predict(self, images):
        """`Method.predict` of numpy images [B, H, W, 1]."""

    @abc.abstractmethod
    def monitor(self, batch):
        """`Method.monitor` of a Batch of numpy images."""

    @abc.abstractmethod
    def translate(self, images):
        """`Method.translate` of numpy images [B, H, W, 1]."""


def state_arrays(method, averaged_network, optimizers) -> dict[str, np.ndarray]:
    """A checkpoint's arrays of Keras networks and optimisers."""
    arrays = {}
    for name, network in method.networks.items():
        arrays |= checkpoint.network_arrays(f"networks/{name}", network)
    arrays |= checkpoint.network_arrays("averaged", averaged_network)
    for name, optimizer in optimizers.items():
        arrays |= checkpoint.optimizer_arrays(f"optimizers/{name}", optimizer)
    return arrays


def assign_state(method, averaged_network, optimizers, arrays, source) -> None:
    """The other way round.

    Raises:
        UserError: the arrays are of other networks.
    """
    for name, network in method.networks.items():
        checkpoint.assign(f"networks/{name}", network.weights, arrays, source)
    checkpoint.assign("averaged", averaged_network.weights, arrays, source)
    for name, optimizer in optimizers.items():
        checkpoint.assign(f"optimizers/{name}", optimizer.variables, arrays, source)
