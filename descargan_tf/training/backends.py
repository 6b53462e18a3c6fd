"""What computes, TensorFlow or JAX: each is imported where it is asked for, as the other may not be there."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from descargan_tf.config import Config
from descargan_tf.hardware import leave_activations_unfused
from descargan_tf.methods.base import Method
from descargan_tf.training.engine import Engine
from descargan_tf.types import DISEASED, HEALTHY, Split

_COMPILED_CODE = Path(".cache") / "descargan_tf" / "jax"  # in the home folder
_TIMED_ROUNDS = 3


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

    if config.threads_per_op:  # must come before TensorFlow's first operation
        tf.config.threading.set_intra_op_parallelism_threads(config.threads_per_op)
    leave_activations_unfused()
    strategy = step.all_devices()
    step.refuse_uneven_shares(config.batch_size, strategy)
    return lambda own, split: step.TensorFlowEngine(lambda: make_method(own), strategy, split, **_engine_settings(own))


def _engine_settings(config):
    return {name: getattr(config, name) for name in ("batch_size", "seed", "average_decay", "clip_norm", "flips")}


def seed_initial_weights(config: Config) -> None:
    """All that is random before the first round."""
    if config.backend == "tensorflow":
        keras.utils.set_random_seed(config.seed)
    else:  # Keras' own function would load TensorFlow where it is installed; its initialisers ask Python
        random.seed(config.seed)


def compiled_predict(config: Config, method: Method) -> Callable:
    """`Method.predict`, compiled."""
    if config.backend == "jax":
        from descargan_tf.training.jax_step import predictor

        return predictor(method)
    import tensorflow as tf

    return tf.function(method.predict)


def input_gradient(config: Config) -> Callable:
    """What `Method.losses` is handed to differentiate with."""
    if config.backend == "jax":
        from descargan_tf.training import jax_step as step
    else:
        from descargan_tf.training import step
    return step.input_gradient


def time_rounds(config: Config, make_engine: Callable[[Config, Split], Engine]) -> tuple[Method, float]:
    """A new method, and the seconds that a round of it takes."""
    half = config.batch_size // 2
    shape = (config.batch_size, config.image_size, config.image_size, 1)
    images = np.random.default_rng(config.seed).uniform(-1, 1, shape).astype("float32")
    labels = np.repeat([HEALTHY, DISEASED], half)
    engine = make_engine(config, Split(images, labels, None, list(map(str, range(config.batch_size)))))
    for rounds in (1, _TIMED_ROUNDS):  # the first is compilation
        started = time.perf_counter()
        engine.rounds([1.0] * rounds)
    return engine.method, (time.perf_counter() - started) / _TIMED_ROUNDS
