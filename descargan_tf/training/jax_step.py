"""Rounds of updates as one compiled JAX function: state in, state out; the second step beside TensorFlow's.

What a round is, `step.py` says; weights, draws, batches and so the numbers are the same here, but for rounding. Keras'
variables stand for the state's arrays while a method's functions are traced (`keras.StatelessScope`); at rest they hold
what training began with.
"""

from collections import OrderedDict
from typing import NamedTuple

import jax
import jax.numpy as jnp
import keras
import numpy as np

from descargan_tf.methods.base import Method
from descargan_tf.training.draws import seed_of
from descargan_tf.training.jax_random import uniform
from descargan_tf.types import DISEASED, HEALTHY, Batch


class State(NamedTuple):
    """All that changes in training but the number of rounds; arrays in Keras' order, as in a checkpoint."""

    networks: dict[str, list]
    averaged: list  # a copy of networks[method.averaged] that follows it
    optimizers: dict[str, list]  # by phase


class JaxStep:
    """The round of one method as a pure function of state, round number, rate factor and batches.

    Args:
        method: built under Keras' JAX backend.
        seed: of the draws.
        average_decay: of the averaged weights, a round; 0: they are not followed.
        clip_norm: largest global norm of a gradient; 0: no clipping.
    """

    def __init__(self, method: Method, seed: int, *, average_decay=0.0, clip_norm=0.0):
        self.method, self._seed = method, seed
        self._average_decay, self._clip_norm = average_decay, clip_norm
        self._variables = {name: network.weights for name, network in method.networks.items()}
        self.adams = {phase.name: _Adam(phase, method.networks[phase.trains]) for phase in method.phases}

    def state(self) -> State:
        """A copy of what the Keras variables hold, averaged weights as the live ones."""
        networks = {name: _copies(variables) for name, variables in self._variables.items()}
        optimizers = {name: _copies(adam.variables) for name, adam in self.adams.items()}
        return State(networks, _copies(self._variables[self.method.averaged]), optimizers)

    def standing_for(self, networks):
        """The scope in which the method's variables have the values of these arrays."""
        pairs = [
            pair for name, variables in self._variables.items() for pair in zip(variables, networks[name], strict=True)
        ]
        return keras.StatelessScope(pairs)

    def round(self, state: State, step, factor, batches: Batch):
        """Every phase once.

        Args:
            state: before.
            step: rounds done, an int32 scalar.
            factor: what the learning rates are multiplied by, a float32 scalar.
            batches: [batches_per_round, B/2, H, W, 1] of each class.

        Returns:
            The state after, and scalars by "<phase>/<term>" in order: the raw terms, "total", "gradient_norm"; means
            over the phase's updates.
        """
        networks, optimizers, logs = state.networks, dict(state.optimizers), OrderedDict()
        for phase in self.method.phases:
            used = Batch(*(images[-phase.updates :] for images in batches))
            draws = self._draws(phase, 2 * used.healthy.shape[1], step)

            def update(carry, given, phase=phase):
                return self._update(phase, *carry, *given, phase.learning_rate * factor)

            # A loop, so that an update is compiled once however many there are in a round.
            (networks, optimizers[phase.name]), parts = jax.lax.scan(
                update, (networks, optimizers[phase.name]), (used, draws)
            )
            for name, value in _sum_up_to_a_failure(parts).items():
                logs[f"{phase.name}/{name}"] = value / phase.updates
        averaged = self._average(state.averaged, networks[self.method.averaged], step)
        return State(networks, averaged, optimizers), logs

    def _update(self, phase, networks, slots, batch, draws, rate):
        values, terms, gradients = self.gradients(phase, networks, batch, draws)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in gradients))
        if self._clip_norm:
            scale = self._clip_norm / jnp.maximum(norm, self._clip_norm)
            gradients = [g * scale for g in gradients]
        adam = self.adams[phase.name]
        trained, slots = adam.apply(values[phase.trains], slots, gradients, rate)
        terms["gradient_norm"] = norm
        return ({**values, phase.trains: trained}, slots), terms

    def gradients(self, phase, networks, batch, draws):
        """One update's passes.

        Returns:
            The networks' arrays after them (moving averages change), the terms and "total" as means over the batch,
            and the gradients of the total with respect to what the phase trains.
        """
        adam, weights = self.adams[phase.name], self.method.weights(phase)

        def total(trained):
            standing = {**networks, phase.trains: adam.put(networks[phase.trains], trained)}
            with self.standing_for(standing) as scope:
                terms = self.method.losses(phase, batch, draws, input_gradient)
                values = {
                    name: [scope.get_current_value(variable) for variable in variables]
                    for name, variables in self._variables.items()
                }
            terms = OrderedDict((name, jnp.mean(value)) for name, value in terms.items())
            terms["total"] = sum(weights[name] * value for name, value in terms.items())
            return terms["total"], (values, terms)

        gradients, (values, terms) = jax.grad(total, has_aux=True)(adam.trained(networks[phase.trains]))
        return values, terms, gradients

    def _draws(self, phase, batch_size, step):
        """Of all updates of the phase: [updates, ...] by name."""
        draws = {}
        for name, shape in self.method.draws(phase, batch_size).items():
            seeds = [seed_of(self._seed, phase.name, number, name) for number in range(phase.updates)]
            words = np.array([(seed & 0xFFFFFFFF, seed >> 32) for seed in seeds], np.uint32)
            rounds = step.astype(jnp.uint32), jnp.uint32(0)
            draws[name] = jnp.stack([uniform((*pair, *rounds), shape) for pair in words])
        return draws

    def _average(self, averaged, live, step):
        if not self._average_decay:
            return averaged
        count = jnp.asarray(step, jnp.float32) + 1.0
        decay = jnp.minimum(self._average_decay, count / (count + 10.0))
        return [average - (1.0 - decay) * (average - value) for average, value in zip(averaged, live, strict=True)]


class _Adam:
    """Keras' Adam for the trainable weights of one network, on arrays in the order of its variables."""

    def __init__(self, phase, network):
        self._betas, self._epsilon = (phase.beta_1, phase.beta_2), 1e-8
        positions = {id(variable): i for i, variable in enumerate(network.weights)}
        self._trained = [positions[id(variable)] for variable in network.trainable_variables]
        optimizer = keras.optimizers.Adam(phase.learning_rate, *self._betas, epsilon=self._epsilon)
        optimizer.build(network.trainable_variables)
        self.variables = optimizer.variables
        positions = {id(variable): i for i, variable in enumerate(self.variables)}
        self._count = positions[id(optimizer.iterations)]
        self._slots = [
            (positions[id(m)], positions[id(v)])
            for m, v in zip(optimizer._momentums, optimizer._velocities, strict=True)
        ]

    def trained(self, weights):
        """Those of a network's weights that are trained."""
        return [weights[i] for i in self._trained]

    def put(self, weights, trained):
        """A network's weights with these as the trained ones."""
        weights = list(weights)
        for i, value in zip(self._trained, trained, strict=True):
            weights[i] = value
        return weights

    def apply(self, weights, slots, gradients, rate):
        """Weights and slots after an update at this rate."""
        slots = list(slots)
        (beta_1, beta_2), count = self._betas, slots[self._count] + 1
        slots[self._count] = count
        count = count.astype(jnp.float32)
        rate = rate * jnp.sqrt(1.0 - beta_2**count) / (1.0 - beta_1**count)
        trained = []
        for weight, gradient, (i, j) in zip(self.trained(weights), gradients, self._slots, strict=True):
            m = slots[i] + (gradient - slots[i]) * (1.0 - beta_1)
            v = slots[j] + (jnp.square(gradient) - slots[j]) * (1.0 - beta_2)
            slots[i], slots[j] = m, v
            trained.append(weight - m * rate / (jnp.sqrt(v) + self._epsilon))
        return self.put(weights, trained), slots


def _copies(variables):
    return [jnp.array(variable.value) for variable in variables]


def _sum_up_to_a_failure(parts):
    """Sums of the terms over updates; none after one that was not finite, whose weights spoil every later term.

    Args:
        parts: terms [updates] by name.
    """
    finite = jnp.all(jnp.isfinite(jnp.stack(list(parts.values()))), axis=0)
    sound = jnp.concatenate([jnp.array([True]), jnp.cumprod(finite)[:-1].astype(bool)])
    return OrderedDict((name, jnp.sum(jnp.where(sound, value, 0.0))) for name, value in parts.items())


def input_gradient(fn, x):
    """Gradient of sum(fn(x)) with respect to x, as `Method.losses` wants it."""
    return jax.grad(lambda x: jnp.sum(fn(x)))(x)


def gather(images, chosen, mirrored):
    """The images that `data.order.Order` chose, from arrays on the device.

    Args:
        images: [N, H, W, 1] of each class.
        chosen: [..., K, B/2] int32.
        mirrored: [..., K, B/2, 2] bool.

    Returns:
        Batch([..., B/2, H, W, 1], [..., B/2, H, W, 1]).
    """

    def of_class(label):
        batch = images[label][chosen[..., label, :]]
        rows, columns = (mirrored[..., label, :, axis][..., None, None, None] for axis in (0, 1))
        batch = jnp.where(rows, jnp.flip(batch, -3), batch)
        return jnp.where(columns, jnp.flip(batch, -2), batch)

    return Batch(of_class(HEALTHY), of_class(DISEASED))
