"""One round of updates as a `tf.function`, on one device or many, and the engine that TensorFlow is.

Gradients are computed in the replicas, added up and applied outside of them, so that a round can be unrolled in one
graph. Every reduction over examples and replicas is here and nowhere else.
"""

import contextlib
import functools
import itertools
import re

import keras
import numpy as np
import tensorflow as tf

from descargan_tf.data.pipeline import Share, training_batches
from descargan_tf.errors import UserError
from descargan_tf.methods.base import Method
from descargan_tf.models.blocks import estimate_statistics, fix_statistics, training_on_processors
from descargan_tf.training.draws import seed_of
from descargan_tf.training.engine import STATISTICS_PASSES, Engine, assign_state, state_arrays
from descargan_tf.training.workers import ALONE, Workers
from descargan_tf.types import Batch, Split

# No Python branch here or in a method hangs on a tensor, which JAX could not follow either. So AutoGraph, which takes a
# sixth of the time of tracing a round to rewrite all of Keras, would find nothing.
graph = functools.partial(tf.function, autograph=False)


# What the loss of another process looks like; an error of one's own, as of memory, is none of these.
_OTHERS_ARE_GONE = (
    tf.errors.UnavailableError,
    tf.errors.InternalError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
)


@functools.cache
def all_devices():
    """One strategy over every device of this machine, the same for the whole process.

    Each strategy of TensorFlow's counts its collective operations from the same number. A second one in a process can
    meet what is left of the first one's: "Shape mismatch in the collective instance".
    """
    return tf.distribute.MirroredStrategy()


@functools.cache
def all_workers():
    """One strategy over every device of all processes that TF_CONFIG names; waits until they are there."""
    return tf.distribute.MultiWorkerMirroredStrategy()


def strategy_of(name: str, workers: Workers = ALONE) -> tf.distribute.Strategy:
    """What --strategy names; must come before TensorFlow's first operation where there are several workers."""
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy("GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0")
    return all_workers() if workers.count > 1 else all_devices()


class Adam(keras.optimizers.Adam):
    """Keras' Adam with TensorFlow's fused kernel: the same numbers and slots, one operation per variable."""

    def update(self, strategy, gradients, rate_factor=1.0):
        """Apply reduced gradients, in cross-replica context; one for each variable that `build` was given."""
        learning_rate = tf.cast(self.learning_rate, tf.float32) * rate_factor
        count = tf.cast(self.iterations.value + 1, tf.float32)
        shared = {  # by all variables: as numbers they would be constants of each
            "beta1_power": tf.pow(self.beta_1, count),
            "beta2_power": tf.pow(self.beta_2, count),
            "lr": learning_rate,
            "beta1": tf.constant(self.beta_1),
            "beta2": tf.constant(self.beta_2),
            "epsilon": tf.constant(self.epsilon),
        }

        def update_one(variable, gradient, momentum, velocity):
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle, m=momentum.handle, v=velocity.handle, grad=gradient, **shared
            )

        for variable, gradient, m, v in zip(
            self._trainable_variables, gradients, self._momentums, self._velocities, strict=True
        ):
            strategy.extended.update(variable.value, update_one, args=(gradient, m.value, v.value))
        self.iterations.assign_add(1)


class TrainStep:
    """The optimisers, the averaged weights and the round of one method.

    Must be built under `strategy.scope()`. A round is a function of its variables, of the batches and of the seed.
    """

    def __init__(
        self, method: Method, averaged_network, strategy, seed, *, average_decay=0.0, clip_norm=0.0, jit_compile=False
    ):
        self.method = method
        self.strategy = strategy
        self.seed = seed
        self.average_decay = average_decay
        self.clip_norm = clip_norm
        self.jit_compile = jit_compile
        self.averaged_network = averaged_network  # a copy of method.networks[method.averaged]
        self.averaged_network.set_weights(method.networks[method.averaged].get_weights())
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")  # rounds done
        self.optimizers = {}
        for phase in method.phases:
            rates = phase.learning_rate, phase.beta_1, phase.beta_2
            optimizer = Adam(*rates, epsilon=1e-8, name=f"adam_{phase.name}")
            optimizer.build(method.networks[phase.trains].trainable_variables)
            self.optimizers[phase.name] = optimizer
        self.trace_anew()

    def trace_anew(self):
        """The next round is traced again: the method's networks compute otherwise than before."""
        self.round = graph(self._round, jit_compile=self.jit_compile)

    def _round(self, batches: tuple[Batch, ...], rate_factor=1.0):
        """Every phase once; `round` is its graph.

        Args:
            batches: `method.batches_per_round` distributed batches.
            rate_factor: a scalar that multiplies every learning rate.

        Returns:
            Scalars by "<phase>/<term>": the raw terms, "total", "gradient_norm"; means over the phase's updates.
        """
        logs = {}
        for phase in self.method.phases:
            used = batches[-phase.updates :]
            parts = [self._update(phase, batch, number, rate_factor) for number, batch in enumerate(used)]
            for name, value in _sum_up_to_a_failure(parts).items():
                logs[f"{phase.name}/{name}"] = value / len(parts)
        self._average()
        self.step.assign_add(1)
        return logs

    def _update(self, phase, batch, number, rate_factor):
        network, optimizer = self.method.networks[phase.trains], self.optimizers[phase.name]
        logs, gradients = self.strategy.run(self._gradients, args=(phase, network, batch, number))
        logs = {name: self.strategy.reduce("SUM", value, axis=None) for name, value in logs.items()}
        if self.strategy.num_replicas_in_sync > 1:
            values = list(zip(gradients, [v.value for v in network.trainable_variables], strict=True))
            gradients = self.strategy.extended.batch_reduce_to(tf.distribute.ReduceOp.SUM, values)
            gradients = [self.strategy.experimental_local_results(g)[0] for g in gradients]
        norm = tf.linalg.global_norm(gradients)
        if self.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self.clip_norm, use_norm=norm)
        optimizer.update(self.strategy, gradients, rate_factor)
        return {**logs, "gradient_norm": norm}

    def _gradients(self, phase, network, batch, number):
        replicas = self.strategy.num_replicas_in_sync
        draws = self._draws(phase, 2 * batch.healthy.shape[0] * replicas, number)
        weights = self.method.weights(phase)
        # XLA chooses by itself how to convolve, and so does what drives a GPU.
        on_processors = not self.jit_compile and not tf.config.get_visible_devices("GPU")
        quicker = training_on_processors() if on_processors else contextlib.nullcontext()
        with quicker, tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([v.value for v in network.trainable_variables])
            terms = self.method.losses(phase, batch, draws, input_gradient)
            # Means over this replica's examples; dividing by the replicas makes their sum the mean over the batch.
            terms = {name: tf.reduce_mean(value) / replicas for name, value in terms.items()}
            # Not `add_n`: it begins with an operand that nobody else reads any more, by chance where terms are logged.
            total = tf.reduce_sum(tf.stack([weights[name] * value for name, value in terms.items()]))
        gradients = tape.gradient(total, [v.value for v in network.trainable_variables])
        return {**terms, "total": total}, gradients

    def _draws(self, phase, batch_size, number):
        """Uniform numbers from (seed, step, phase, update, name): every replica takes its part of one global draw."""
        shapes = self.method.draws(phase, batch_size)
        context = tf.distribute.get_replica_context()
        replica, replicas = context.replica_id_in_sync_group, context.num_replicas_in_sync
        draws = {}
        for name in sorted(shapes):
            seed = tf.stack([tf.constant(seed_of(self.seed, phase.name, number, name), tf.int64), self.step])
            values = tf.random.stateless_uniform(shapes[name], seed)
            if replicas > 1:
                # An array over a balanced batch is healthy examples, then diseased ones; so is each replica's part.
                count, *rest = shapes[name]
                parts = tf.reshape(values, (2, replicas, count // (2 * replicas), *rest))
                values = tf.reshape(parts[:, replica], (count // replicas, *rest))
            draws[name] = values
        return draws

    def _average(self):
        if not self.average_decay:
            return
        live = self.method.networks[self.method.averaged].weights
        # Young averages forget the start faster.
        count = tf.cast(self.step + 1, tf.float32)
        rest = 1.0 - tf.minimum(self.average_decay, count / (count + 10.0))

        def update(average, value):
            average.assign_sub(rest * (average - value))

        for average, value in zip(self.averaged_network.weights, live, strict=True):
            self.strategy.extended.update(average.value, update, args=(value.value,))


def _sum_up_to_a_failure(parts):
    """Sums of the terms over updates; none after one that was not finite, whose weights spoil every later term."""
    total, sound = dict(parts[0]), True
    for before, part in itertools.pairwise(parts):
        sound = tf.logical_and(sound, tf.reduce_all(tf.math.is_finite(tf.stack(list(before.values())))))
        for name, value in part.items():
            total[name] += tf.where(sound, value, 0.0)
    return total


def input_gradient(fn, x):
    """Gradient of sum(fn(x)) with respect to x, as `Method.losses` wants it."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        y = fn(x)
    return tape.gradient(y, x)


def refuse_uneven_shares(batch_size: int, strategy: tf.distribute.Strategy) -> None:
    """UserError where the batch does not divide over the replicas."""
    replicas = strategy.num_replicas_in_sync
    if batch_size % (2 * replicas):
        raise UserError(
            f"--batch_size={batch_size} cannot be split over {replicas} devices with as many healthy as diseased "
            f"images on each: use a multiple of {2 * replicas}."
        )


@contextlib.contextmanager
def _in_our_words():
    """Raise a UserError of where batches are read again: it arrives as the text of an error of tf.data's."""
    try:
        yield
    except tf.errors.UnknownError as error:
        if said := re.search(r"\bUserError: (.+)$", error.message, re.MULTILINE):
            raise UserError(said[1]) from error
        raise


class TensorFlowEngine(Engine):
    """Rounds as TensorFlow graphs under a strategy.

    Args:
        build_method: makes the method; called twice under the strategy, for training and for prediction.
        strategy: a tf.distribute strategy; the batch is split evenly over its replicas.
        split: the training images.
        batch_size: over all replicas.
        seed: of batches and draws.
        average_decay: of the averaged weights, a round; 0: none.
        clip_norm: largest global norm of a gradient; 0: any.
        flips: mirror the images at random.
        jit_compile: rounds by XLA's compiler, on one device alone; it draws other random numbers from a seed.
        workers: the processes that train together; the strategy is over the devices of all of them.

    Raises:
        UserError: the batch does not divide over the replicas; several are to be compiled for.
    """

    def __init__(
        self,
        build_method,
        strategy,
        split: Split,
        *,
        batch_size,
        seed,
        average_decay=0.0,
        clip_norm=0.0,
        flips=True,
        jit_compile=False,
        workers: Workers = ALONE,
    ):
        refuse_uneven_shares(batch_size, strategy)
        if jit_compile and strategy.num_replicas_in_sync > 1:
            raise UserError(
                f"--jit_compile compiles rounds for one device, and there are {strategy.num_replicas_in_sync}: add "
                "--strategy=one_device, or leave it out."
            )
        self.strategy, self.average_decay, self.workers = strategy, average_decay, workers
        replicas = strategy.num_replicas_in_sync

        def batches(start, mine=None):
            return training_batches(split, batch_size // replicas, seed, flips=flips, start=start * replicas, mine=mine)

        self._dataset = batches
        with strategy.scope():
            self.method = build_method()
            self.predictor = build_method()
            averaged = self.predictor.networks[self.method.averaged]
            self.train_step = TrainStep(
                self.method,
                averaged,
                strategy,
                seed,
                average_decay=average_decay,
                clip_norm=clip_norm,
                jit_compile=jit_compile,
            )
        self._batches = None
        self._sum = graph(self._sum_of_replicas)
        self._predict = graph(self.predictor.predict)
        self._monitor = graph(self.predictor.monitor)
        self._translate = graph(self.predictor.translate)

    @property
    def step(self):
        """Rounds done."""
        return int(self.train_step.step.numpy())

    def rounds(self, factors):
        """One graph after the other."""
        per_round = self.method.batches_per_round
        if self._batches is None:
            first = self.step * per_round
            replicas = self.strategy.num_replicas_in_sync

            def own_batches(context):
                own = replicas // context.num_input_pipelines
                return self._dataset(first, Share(context.input_pipeline_id * own, own, replicas))

            self._batches = iter(self.strategy.distribute_datasets_from_function(own_batches))
        with self._others_there(), _in_our_words():
            found = [
                self.train_step.round(tuple(next(self._batches) for _ in range(per_round)), tf.constant(f, tf.float32))
                for f in factors
            ]
            return {name: np.array([float(logs[name]) for logs in found]) for name in found[0]}

    @contextlib.contextmanager
    def _others_there(self):
        try:
            yield
        except _OTHERS_ARE_GONE as error:
            if self.workers.count == 1:
                raise
            raise UserError(
                "another process of this training is gone. Start all of them again by the same commands: they go on "
                "from the latest checkpoint."
            ) from error

    def sum_over_processes(self, values):
        """A collective operation."""
        if self.workers.count == 1:
            return list(values)
        with self._others_there():
            return self._sum(tf.constant(values, tf.float64)).numpy().tolist()

    def _sum_of_replicas(self, values):
        own = self.strategy.num_replicas_in_sync // self.workers.count
        return self.strategy.reduce("SUM", self.strategy.run(lambda: values / own), axis=None)

    def _state(self):
        return self.method, self.predictor.networks[self.method.averaged], self.train_step.optimizers

    def arrays(self):
        """Copies of all variables."""
        self.refresh()
        return state_arrays(*self._state())

    def assign(self, arrays, step, source):
        """Batches go on from there."""
        assign_state(*self._state(), arrays, source)
        self.train_step.step.assign(step)
        self._batches = None

    def estimate_and_fix_statistics(self):
        """From the first training batches, so that nothing depends on when it is done."""
        live, averaged = self.method.networks[self.method.averaged], self.predictor.networks[self.method.averaged]
        if self.average_decay:
            live.set_weights(averaged.get_weights())

        def passes():
            for batch in self._dataset(0).take(STATISTICS_PASSES):
                self.method.statistics_pass(batch)

        with self.strategy.scope():
            estimate_statistics(live, passes)
        averaged.set_weights(live.get_weights())
        self.fix_statistics()

    def fix_statistics(self):
        """In the network with averaged weights, whose moving averages they are."""
        fix_statistics(self.method.networks[self.method.averaged])
        self.train_step.trace_anew()

    def refresh(self):
        """Copy what is not averaged."""
        for name, network in self.method.networks.items():
            if name != self.method.averaged or not self.average_decay:
                self.predictor.networks[name].set_weights(network.get_weights())

    def predict(self, images):
        """A graph."""
        return self._predict(images)

    def monitor(self, batch):
        """A graph."""
        return self._monitor(batch)

    def translate(self, images):
        """A graph."""
        return self._translate(images)
