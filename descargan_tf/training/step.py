"""One round of updates as a `tf.function`, on one device or many.

Gradients are computed in the replicas, added up and applied outside of them, so that a round can be unrolled in one
graph. Every reduction over examples and replicas is here and nowhere else.
"""

import itertools
import zlib

import keras
import tensorflow as tf

from descargan_tf.methods.base import Method
from descargan_tf.types import Batch


class Adam(keras.optimizers.Adam):
    """Keras' Adam with TensorFlow's fused kernel: the same numbers and slots, one operation per variable."""

    def apply(self, strategy, gradients):
        """Apply reduced gradients, in cross-replica context; one for each variable that `build` was given."""
        learning_rate = tf.cast(self.learning_rate, tf.float32)
        count = tf.cast(self.iterations.value + 1, tf.float32)
        powers = tf.pow(self.beta_1, count), tf.pow(self.beta_2, count)

        def update(variable, gradient, momentum, velocity):
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=momentum.handle,
                v=velocity.handle,
                beta1_power=powers[0],
                beta2_power=powers[1],
                lr=learning_rate,
                beta1=self.beta_1,
                beta2=self.beta_2,
                epsilon=self.epsilon,
                grad=gradient,
            )

        for variable, gradient, m, v in zip(
            self._trainable_variables, gradients, self._momentums, self._velocities, strict=True
        ):
            strategy.extended.update(variable.value, update, args=(gradient, m.value, v.value))
        self.iterations.assign_add(1)


class TrainStep:
    """The optimisers, the averaged weights and the round of one method.

    Must be built under `strategy.scope()`. The state of a training is `state()`; a round is a function of it, of the
    batches and of the seed.
    """

    def __init__(
        self, method: Method, averaged_network, strategy, seed, *, average_decay=0.0, clip_norm=0.0, schedule=None
    ):
        self.method = method
        self.strategy = strategy
        self.seed = seed
        self.average_decay = average_decay
        self.clip_norm = clip_norm
        self.averaged_network = averaged_network  # a copy of method.networks[method.averaged]
        self.averaged_network.set_weights(method.networks[method.averaged].get_weights())
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")  # rounds done
        # Expected rounds of this training by those that its schedules were made for; they go by step / length.
        self.length = tf.Variable(1.0, trainable=False, name="length")
        self.optimizers = {}
        for phase in method.phases:
            rate = schedule(phase, self.length) if schedule else phase.learning_rate
            optimizer = Adam(rate, phase.beta_1, phase.beta_2, epsilon=1e-8, name=f"adam_{phase.name}")
            optimizer.build(method.networks[phase.trains].trainable_variables)
            self.optimizers[phase.name] = optimizer

    @tf.function
    def round(self, batches: tuple[Batch, ...]):
        """Every phase once.

        Args:
            batches: `method.batches_per_round` distributed batches.

        Returns:
            Scalars by "<phase>/<term>": the raw terms, "total", "gradient_norm"; means over the phase's updates.
        """
        logs = {}
        for phase in self.method.phases:
            used = batches[-phase.updates * phase.batches :]
            joined = [used[i : i + phase.batches] for i in range(0, len(used), phase.batches)]
            parts = [self._update(phase, group, number) for number, group in enumerate(joined)]
            for name, value in _sum_up_to_a_failure(parts).items():
                logs[f"{phase.name}/{name}"] = value / len(parts)
        self._average()
        self.step.assign_add(1)
        return logs

    def _update(self, phase, batches, number):
        network, optimizer = self.method.networks[phase.trains], self.optimizers[phase.name]
        logs, gradients = self.strategy.run(self._gradients, args=(phase, network, batches, number))
        logs = {name: self.strategy.reduce("SUM", value, axis=None) for name, value in logs.items()}
        if self.strategy.num_replicas_in_sync > 1:
            values = list(zip(gradients, [v.value for v in network.trainable_variables], strict=True))
            gradients = self.strategy.extended.batch_reduce_to(tf.distribute.ReduceOp.SUM, values)
            gradients = [self.strategy.experimental_local_results(g)[0] for g in gradients]
        norm = tf.linalg.global_norm(gradients)
        if self.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self.clip_norm, use_norm=norm)
        optimizer.apply(self.strategy, gradients)
        return {**logs, "gradient_norm": norm}

    def _gradients(self, phase, network, batches, number):
        replicas = self.strategy.num_replicas_in_sync
        batch = Batch(*(tf.concat(images, axis=0) for images in zip(*batches, strict=True)))
        draws = self._draws(phase, 2 * batch.healthy.shape[0] * replicas, number)
        weights = self._weights(phase)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([v.value for v in network.trainable_variables])
            terms = self.method.losses(phase, batch, draws, input_gradient)
            # Means over this replica's examples; dividing by the replicas makes their sum the mean over the batch.
            terms = {name: tf.reduce_mean(value) / replicas for name, value in terms.items()}
            total = tf.add_n([weights[name] * value for name, value in terms.items()])
        gradients = tape.gradient(total, [v.value for v in network.trainable_variables])
        return {**terms, "total": total}, gradients

    def _weights(self, phase):
        weights = dict(self.method.weights(phase))
        if phase.delay:
            begun = tf.cast(self._scheduled_step() >= phase.delay, tf.float32)
            weights |= {name: begun * weights[name] for name in phase.delayed}
        return weights

    def _scheduled_step(self):
        return tf.cast(self.step, tf.float32) / self.length

    def _draws(self, phase, batch_size, number):
        """Uniform numbers from (seed, step, phase, update, name): every replica takes its part of one global draw."""
        shapes = self.method.draws(phase, batch_size)
        context = tf.distribute.get_replica_context()
        replica, replicas = context.replica_id_in_sync_group, context.num_replicas_in_sync
        draws = {"step": self._scheduled_step()}
        for name in sorted(shapes):
            stream = zlib.crc32(f"{phase.name}/{number}/{name}".encode()) & 0x7FFFFFFF
            seed = tf.stack([tf.cast(self.seed, tf.int64) * (1 << 31) + stream, self.step])
            values = tf.random.stateless_uniform(shapes[name], seed)
            if replicas > 1:
                # An array over joined balanced batches is healthy examples, batch by batch, then diseased ones; so is
                # each replica's part.
                count, *rest = shapes[name]
                halves = 2 * phase.batches
                parts = tf.reshape(values, (halves, replicas, count // (halves * replicas), *rest))
                values = tf.reshape(parts[:, replica], (count // replicas, *rest))
            draws[name] = values
        return draws

    def _average(self):
        if not self.average_decay:
            return
        live = self.method.networks[self.method.averaged].weights
        # Young averages forget the start faster.
        count = tf.cast(self.step + 1, tf.float32)
        decay = tf.minimum(self.average_decay, count / (count + 10.0))

        def update(average, value):
            average.assign_sub((1.0 - decay) * (average - value))

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
