"""What computes, TensorFlow or JAX: each is imported where it is asked for, as the other may not be there."""

import dataclasses
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from descargan_tf.config import Config
from descargan_tf.hardware import (
    give_each_operation,
    has_accelerator,
    has_avx512,
    leave_activations_unfused,
    leave_graphs_as_written,
)
from descargan_tf.methods.base import Method
from descargan_tf.training.engine import Engine
from descargan_tf.training.workers import workers_of
from descargan_tf.types import DISEASED, HEALTHY, Prediction, Split

_COMPILED_CODE = Path(".cache") / "descargan_tf" / "jax"  # in the home folder
_TIMED_ROUNDS, _TIMED_SECONDS = 3, 2.0  # whichever is reached first
_SMALLEST_SIZE, _LARGEST_TIMED_BATCH = 64, 4


def engine_maker(config: Config, make_method: Callable[[Config], Method]) -> Callable[[Config, Split], Engine]:
    """Get a backend ready, before anything is written.

    Returns:
        From a Config of this backend and training images to an engine.

    Raises:
        UserError: the batch does not divide over the devices.
    """
    if config.backend == "jax":
        from descargan_tf.training.jax_step import JaxEngine, keep_compiled_code

        keep_compiled_code(str(Path.home() / _COMPILED_CODE))
        return lambda own, split: JaxEngine(
            lambda: make_method(own), split, precision=own.precision, **_engine_settings(own)
        )
    import tensorflow as tf

    from descargan_tf.training import step

    give_each_operation(config.threads_per_op)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    leave_activations_unfused()
    workers = workers_of(config.strategy)
    strategy = step.strategy_of(config.strategy, workers)
    step.refuse_uneven_shares(config.batch_size, strategy)
    return lambda own, split: step.TensorFlowEngine(
        lambda: make_method(own),
        strategy,
        split,
        jit_compile=own.jit_compile,
        workers=workers,
        **_engine_settings(own),
    )


def _engine_settings(config):
    return {name: getattr(config, name) for name in ("batch_size", "seed", "average_decay", "clip_norm", "flips")}


def forget_gone_variables(config: Config) -> None:
    """Let go of what TensorFlow keeps of each variable that there ever was.

    It keeps a kernel for every operation with other attributes, and a variable's name is one: measured, 40 KB for each,
    30 MB for an export of a small network. Kernels that are still of use are made again.
    """
    if config.backend == "tensorflow":
        from tensorflow.python.eager import context  # no public name leads there; Keras' clear_session does the same

        context.context().clear_kernel_cache()


def seed_initial_weights(config: Config) -> None:
    """All that is random before the first round."""
    if config.backend == "tensorflow":
        keras.utils.set_random_seed(config.seed)
    else:  # Keras' own function would load TensorFlow where it is installed; its initialisers ask Python
        random.seed(config.seed)


def compiled_predict(
    config: Config, method: Method, without_maps: bool = False, weights_stay: bool = False
) -> Callable:
    """`Method.predict`, compiled.

    Args:
        config: names the backend.
        method: whose weights it takes.
        without_maps: give class probabilities alone, or anomaly scores where there are none. What only the other
            answers need is not computed.
        weights_stay: they change no more, and many images follow: seconds go into a graph that takes less time for
            each (`inference.networks`). Measured on CPUs with TensorFlow; elsewhere the graph stays as it is. Without
            AVX-512 TensorFlow's graph optimiser is left out from then on, of all graphs of the process.
    """
    is_for_inference = weights_stay and config.backend == "tensorflow" and not has_accelerator()
    if is_for_inference:
        from descargan_tf.inference.networks import for_inference, image_by_image

        method = for_inference(method)

    def predict(images):
        answer = method.predict(images)
        if not without_maps:
            return answer
        score = answer.anomaly_score if answer.class_probabilities is None else None
        return Prediction(None, None, score, answer.class_probabilities)

    if is_for_inference and not has_avx512():  # where multiplications are quicker neither was measured
        leave_graphs_as_written()
        predict = image_by_image(predict)
    if config.backend == "jax":
        from descargan_tf.training.jax_step import predictor

        return predictor(method, predict)
    from descargan_tf.training.step import graph

    return graph(predict)


def input_gradient(config: Config) -> Callable:
    """What `Method.losses` is handed to differentiate with."""
    if config.backend == "jax":
        from descargan_tf.training import jax_step as step
    else:
        from descargan_tf.training import step
    return step.input_gradient


class Pace(NamedTuple):
    """What a round takes."""

    seconds: float
    timed: str  # what was timed in its place, empty where it was a round itself

    def __str__(self):
        """In words."""
        seconds = f"{self.seconds:.3f}" if self.seconds < 1 else f"{self.seconds:.1f}"
        return f"about {seconds} s a round, an estimate from {self.timed}" if self.timed else f"{seconds} s a round"


def time_rounds(config: Config, method: Method, make_engine: Callable[[Config, Split], Engine]) -> Pace:
    """What a round of a method takes, from a few of them.

    Where rounds are long, on a CPU and of larger images than the smallest, others are timed, of fewer updates and
    smaller images, and multiplications are counted: minutes of tracing and computing less. Small images leave more time
    beside the multiplications: measured at 256x256, the estimate is a third to a half above what a round takes.
    """
    small = config
    if config.image_size > _SMALLEST_SIZE and not has_accelerator(config.backend):
        size, batch_size = _SMALLEST_SIZE, min(config.batch_size, _LARGEST_TIMED_BATCH)
        one = {"critic_updates": 1} if config.critic_updates else {}
        small = dataclasses.replace(config, image_size=size, batch_size=batch_size, **one)
    shape = (small.batch_size, small.image_size, small.image_size, 1)
    images = np.random.default_rng(config.seed).uniform(-1, 1, shape).astype("float32")
    labels = np.repeat([HEALTHY, DISEASED], small.batch_size // 2)
    engine = make_engine(small, Split(images, labels, None, list(map(str, range(small.batch_size)))))
    engine.rounds([1.0])  # which is compilation
    started, rounds = time.perf_counter(), 0
    while rounds < _TIMED_ROUNDS and (not rounds or time.perf_counter() - started < _TIMED_SECONDS):
        engine.rounds([1.0])
        rounds += 1
    seconds = (time.perf_counter() - started) / rounds
    if small is config:
        return Pace(seconds, "")
    work = [
        _multiplications(made) * own.batch_size * sum(phase.updates for phase in made.phases)
        for made, own in ((method, config), (engine.method, small))
    ]
    updates = sum(phase.updates for phase in engine.method.phases)
    timed = f"rounds of {updates} updates with {small.batch_size} images of {small.image_size}x{small.image_size}"
    return Pace(seconds * work[0] / work[1], timed)


def _multiplications(method):
    """Of one image in one pass through each network: what their ratio between two sizes is taken from."""
    return sum(
        math.prod(weight.shape) * math.prod(layer.output.shape[1:-1])
        for network in method.networks.values()
        for layer in _leaves(network)
        for weight in layer.weights
        if len(weight.shape) > 1
    )


def _leaves(network):
    for layer in network.layers:
        yield from _leaves(layer) if isinstance(layer, keras.Model) else [layer]
