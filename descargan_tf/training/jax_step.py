"""Rounds of updates as one compiled JAX function, state in, state out, and the engine that JAX is.

What a round is, `step.py` says; weights, draws, batches and so the numbers are the same here, but for rounding. Keras'
variables stand for the state's arrays while a method's functions are traced (`keras.StatelessScope`); at rest they hold
what was last put in from outside.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import keras
import numpy as np

from descargan_tf.data.order import Order
from descargan_tf.data.prepared import StoredImages, select
from descargan_tf.methods.base import Method
from descargan_tf.models.blocks import estimate_statistics, fix_statistics
from descargan_tf.training import checkpoint
from descargan_tf.training.draws import seed_of
from descargan_tf.training.engine import STATISTICS_PASSES, Engine
from descargan_tf.training.jax_random import uniform
from descargan_tf.types import CLASS_NAMES, DISEASED, HEALTHY, Batch, Split

_LARGEST_CHUNK = 64  # rounds in one call; what a call is given and gives has so many rows, used or not
_CALL_SECONDS = 1.0  # how long a call should take: a signal, a log line and the end of the time wait for it
_RESIDENT_SHARE = 0.4  # of the device's free memory that the training images may take for good
_WINDOW_BYTES = 256 << 20  # of images that are sent with a call where they may not
_MEASURE_SECONDS = 0.2


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
        networks = {name: _values(variables) for name, variables in self._variables.items()}
        optimizers = {name: _values(adam.variables) for name, adam in self.adams.items()}
        return _copy(State(networks, networks[self.method.averaged], optimizers))

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
                return self._update(phase, *carry, *given, factor)

            # A loop, so that an update is compiled once however many there are in a round.
            (networks, optimizers[phase.name]), parts = jax.lax.scan(
                update, (networks, optimizers[phase.name]), (used, draws)
            )
            for name, value in _sum_up_to_a_failure(parts).items():
                logs[f"{phase.name}/{name}"] = value / phase.updates
        averaged = self._average(state.averaged, networks[self.method.averaged], step)
        return State(networks, averaged, optimizers), logs

    def _update(self, phase, networks, slots, batch, draws, factor):
        values, terms, gradients = self.gradients(phase, networks, batch, draws)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in gradients))
        if self._clip_norm:
            scale = self._clip_norm / jnp.maximum(norm, self._clip_norm)
            gradients = [g * scale for g in gradients]
        adam = self.adams[phase.name]
        trained, slots = adam.apply(values[phase.trains], slots, gradients, factor)
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
            with standing_for(self.method, standing) as scope:
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
        draws, rounds = {}, (step.astype(jnp.uint32), jnp.uint32(0))
        for name, shape in self.method.draws(phase, batch_size).items():
            seeds = [seed_of(self._seed, phase.name, number, name) for number in range(phase.updates)]
            words = np.array([(seed & 0xFFFFFFFF, seed >> 32) for seed in seeds], np.uint32)
            # All at once, so that the generator is traced and compiled once however many updates there are.
            draws[name] = jax.vmap(lambda pair, shape=shape: uniform((*pair, *rounds), shape))(words)
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
        # Never applied: it tells which variables there are, and in which order.
        optimizer = keras.optimizers.Adam(phase.learning_rate, *self._betas, epsilon=self._epsilon)
        optimizer.build(network.trainable_variables)
        self.variables = optimizer.variables
        positions = {id(variable): i for i, variable in enumerate(self.variables)}
        self._count = positions[id(optimizer.iterations)]
        self._rate = positions[id(optimizer._learning_rate)]
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

    def apply(self, weights, slots, gradients, rate_factor):
        """Weights and slots after an update."""
        slots = list(slots)
        (beta_1, beta_2), count = self._betas, slots[self._count] + 1
        slots[self._count] = count
        count = count.astype(jnp.float32)
        rate = slots[self._rate] * rate_factor * jnp.sqrt(1.0 - beta_2**count) / (1.0 - beta_1**count)
        trained = []
        for weight, gradient, (i, j) in zip(self.trained(weights), gradients, self._slots, strict=True):
            m = slots[i] + (gradient - slots[i]) * (1.0 - beta_1)
            v = slots[j] + (jnp.square(gradient) - slots[j]) * (1.0 - beta_2)
            slots[i], slots[j] = m, v
            trained.append(weight - m * rate / (jnp.sqrt(v) + self._epsilon))
        return self.put(weights, trained), slots


def _values(variables):
    return [variable.value for variable in variables]


@jax.jit
def _copy(arrays):
    """One program for all of them; `jnp.copy` by itself is one for each shape."""
    return jax.tree.map(jnp.copy, arrays)


def _sum_up_to_a_failure(parts):
    """Sums of the terms over updates; none after one that was not finite, whose weights spoil every later term.

    Args:
        parts: terms [updates] by name.
    """
    finite = jnp.all(jnp.isfinite(jnp.stack(list(parts.values()))), axis=0)
    sound = jnp.concatenate([jnp.array([True]), jnp.cumprod(finite)[:-1].astype(bool)])
    return OrderedDict((name, jnp.sum(jnp.where(sound, value, 0.0))) for name, value in parts.items())


def standing_for(method: Method, networks):
    """The scope in which the variables of a method's networks have the values of these arrays, by network."""
    pairs = [pair for name, n in method.networks.items() for pair in zip(n.weights, networks[name], strict=True)]
    return keras.StatelessScope(pairs)


def compiled(method: Method, fn: Callable) -> Callable:
    """One of a method's functions without state, compiled; called with arrays by network and its own arguments."""

    def under(networks, *args):
        with standing_for(method, networks):
            found = fn(*args)
        # JAX sorts a plain dict's keys.
        return OrderedDict(found) if isinstance(found, dict) else found

    return jax.jit(under)


def predictor(method: Method, predict: Callable) -> Callable:
    """A function of images that asks the method's networks, with the weights that they have now, compiled."""
    networks = {name: _values(network.weights) for name, network in method.networks.items()}
    run = compiled(method, predict)
    return lambda images: run(networks, images)


def input_gradient(fn, x):
    """Gradient of sum(fn(x)) with respect to x, as `Method.losses` wants it."""
    return jax.grad(lambda x: jnp.sum(fn(x)))(x)


def gather(images, chosen, mirrored):
    """The images that `data.order.Order` chose, from arrays on the device.

    Args:
        images: [N, H, W, 1] of each class.
        chosen: [..., K, B/2] int32; None where the images are those already.
        mirrored: [..., K, B/2, 2] bool.

    Returns:
        Batch([..., B/2, H, W, 1], [..., B/2, H, W, 1]).
    """

    def of_class(label):
        batch = images[label] if chosen is None else images[label][chosen[..., label, :]]
        rows, columns = (mirrored[..., label, :, axis][..., None, None, None] for axis in (0, 1))
        batch = jnp.where(rows, jnp.flip(batch, -3), batch)
        return jnp.where(columns, jnp.flip(batch, -2), batch)

    return Batch(of_class(HEALTHY), of_class(DISEASED))


class JaxEngine(Engine):
    """Some rounds in one call on one device; images, where they fit, and everything else stay there.

    A call's compiled code takes any number of rounds up to a fixed one. It is looked up in JAX's cache of compiled code
    when a training starts (`keep_compiled_code`).

    Args:
        build_method: makes the method.
        split: the training images.
        batch_size: images of both classes.
        seed: of batches and draws.
        average_decay: of the averaged weights, a round; 0: none.
        clip_norm: largest global norm of a gradient; 0: any.
        flips: mirror the images at random.
        precision: of the convolutions, for `shares`.
        resident: whether all images are kept on the device; by default, where they take a modest part of its memory.
    """

    def __init__(
        self,
        build_method: Callable[[], Method],
        split: Split,
        *,
        batch_size: int,
        seed: int,
        average_decay: float = 0.0,
        clip_norm: float = 0.0,
        flips: bool = True,
        precision: str = "float32",
        resident: bool | None = None,
    ):
        self.method = build_method()
        self._half, self._averages = batch_size // 2, bool(average_decay)
        self._train_step = JaxStep(self.method, seed, average_decay=average_decay, clip_norm=clip_norm)
        self._state, self._done = self._train_step.state(), 0
        # In float32, as in files: half the size would be other images than those of the other step.
        self._images = [select(split.images, np.asarray(split.labels) == c) for c in (HEALTHY, DISEASED)]
        if not isinstance(split.images, StoredImages):
            self._images = [np.ascontiguousarray(part, np.float32) for part in self._images]
        self._order = Order([len(part) for part in self._images], seed, flips=flips)
        self._largest_chunk = _LARGEST_CHUNK
        self._resident = _fits(self._images) if resident is None else resident
        if self._resident:
            self._images = [jnp.asarray(part) for part in self._images]
        else:
            per_round = self.method.batches_per_round * batch_size * self._images[0][0].nbytes
            self._largest_chunk = min(max(_WINDOW_BYTES // per_round, 1), _LARGEST_CHUNK)
        self._precision, self._ceiling = precision, None
        self._names, self._flops, self._seconds = (), None, None
        self._answering = None
        self._functions = {
            name: compiled(self.method, getattr(self.method, name)) for name in ("predict", "monitor", "translate")
        }
        self._call = None

    @property
    def step(self):
        """Rounds done."""
        return self._done

    @property
    def chunk(self):
        """As many as take about a second."""
        if self._seconds is None:
            return 1
        return min(max(int(_CALL_SECONDS / self._seconds), 1), self._largest_chunk)

    # --- rounds

    def rounds(self, factors):
        """One call, or some where there are more than its code can take."""
        if len(factors) > self._largest_chunk:
            parts = [self.rounds(factors[: self._largest_chunk]), self.rounds(factors[self._largest_chunk :])]
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        count = len(factors)
        given = *self._batches(count), _rows(np.asarray(factors, np.float32), self._largest_chunk)
        arguments = self._state, *given, np.int32(self._done), np.int32(count)
        started = None
        if self._call is None:
            self._compile(arguments)
        else:
            started = time.perf_counter()
        self._state = None  # its memory becomes that of the next one
        self._state, logs = self._call(*arguments)
        logs = np.asarray(logs)[:count]
        if started is not None:  # a first call may still be loading code
            self._seconds = (time.perf_counter() - started) / count
        self._done += count
        return dict(zip(self._names, logs.T, strict=True))

    def _batches(self, count):
        """Images to gather from, which ones, mirrored how."""
        per_round = self.method.batches_per_round
        chosen, mirrored = self._order.batches(self._done * per_round, count * per_round, self._half)
        images = self._images
        if not self._resident:
            size = self._largest_chunk * per_round * self._half
            images = [_rows(images[c][chosen[:, c].ravel()], size) for c in (HEALTHY, DISEASED)]
            numbers = np.arange(count * per_round * self._half, dtype=np.int32).reshape(-1, 1, self._half)
            chosen = np.repeat(numbers, len(CLASS_NAMES), axis=1)
        return images, *(
            _rows(part.reshape(count, per_round, *part.shape[1:]), self._largest_chunk) for part in (chosen, mirrored)
        )

    def _compile(self, arguments):
        # The state's memory is used again for the state after.
        traced = jax.jit(self._rounds_of, donate_argnums=0).trace(*arguments)
        self._flops = _flops(traced.jaxpr.jaxpr)
        self._call = traced.lower().compile()

    def _rounds_of(self, state, images, chosen, mirrored, factors, done, count):
        """`count` rounds; a row of terms for each.

        A loop of as many iterations as asked for, not a scan: one compiled code for the rounds up to any log line.
        """
        train_round = jax.jit(self._train_step.round)  # traced once, for its shapes and in the loop

        def arguments(i):
            return done + i, factors[i], gather(images, chosen[i], mirrored[i])

        _, terms = jax.eval_shape(train_round, state, *jax.eval_shape(arguments, 0))
        self._names = tuple(terms)

        def body(i, carry):
            state, logs = carry
            state, terms = train_round(state, *arguments(i))
            return state, logs.at[i].set(jnp.stack(list(terms.values())))

        return jax.lax.fori_loop(0, count, body, (state, jnp.zeros((len(factors), len(terms)))))

    def shares(self, seconds):
        """Convolutions and matrix products against a large matrix product on the same device, measured once."""
        if self._flops is None:
            return {}
        if self._ceiling is None:
            self._ceiling = measure_matrix_product(self._precision)
        return {"share_of_matrix_product_speed": self._flops / seconds / self._ceiling}

    # --- state

    def _networks(self, state):
        """The arrays to answer with."""
        return {**state.networks, self.method.averaged: self._averaged(state)}

    def _averaged(self, state):
        return state.averaged if self._averages else state.networks[self.method.averaged]

    def arrays(self):
        """Named and typed as TensorFlow's are, whose counters have 64 bits."""
        groups = {f"networks/{name}": self._state.networks[name] for name in self.method.networks}
        groups["averaged"] = self._averaged(self._state)
        groups |= {f"optimizers/{phase.name}": self._state.optimizers[phase.name] for phase in self.method.phases}
        named = {f"{name}/{i:03d}": np.array(a) for name, group in groups.items() for i, a in enumerate(group)}
        return {name: a.astype(np.int64) if a.dtype == np.int32 else a for name, a in named.items()}

    def assign(self, arrays, step, source):
        """By way of the Keras variables, which know what fits."""
        network = self.method.networks[self.method.averaged]
        checkpoint.assign("averaged", network.weights, arrays, source)
        averaged = _copy(_values(network.weights))
        for name, network in self.method.networks.items():
            checkpoint.assign(f"networks/{name}", network.weights, arrays, source)
        for name, adam in self._train_step.adams.items():
            checkpoint.assign(f"optimizers/{name}", adam.variables, arrays, source)
        self._state, self._done = self._train_step.state()._replace(averaged=averaged), step

    def estimate_and_fix_statistics(self):
        """From the first training batches, so that nothing depends on when it is done."""
        name, live = self.method.averaged, self.method.networks[self.method.averaged]
        networks = self._networks(self._state)
        moving = [i for i, weight in enumerate(live.weights) if not weight.trainable]

        @jax.jit
        def after_a_pass(networks, batch):
            with standing_for(self.method, networks) as scope:
                estimate_statistics(live, lambda: self.method.statistics_pass(batch))
                return [scope.get_current_value(live.weights[i]) for i in moving]

        chosen, mirrored = self._order.batches(0, STATISTICS_PASSES, self._half)
        found = []
        for number in range(STATISTICS_PASSES):
            batch = gather(
                [jnp.asarray(self._images[c][i]) for c, i in enumerate(chosen[number])], None, mirrored[number]
            )
            found.append(after_a_pass(networks, batch))
        weights = _copy(networks[name])
        for i, values in zip(moving, zip(*found, strict=True), strict=True):
            weights[i] = sum(values) / STATISTICS_PASSES
        state = self._state
        self._state = State({**state.networks, name: weights}, _copy(weights), state.optimizers)
        self.fix_statistics()

    def fix_statistics(self):
        """In the network with averaged weights, whose moving averages they are."""
        fix_statistics(self.method.networks[self.method.averaged])
        self._call = None

    # --- answers

    def refresh(self):
        """Copies, as the next round's state takes the memory of this one's."""
        self._answering = _copy(self._networks(self._state))

    def predict(self, images):
        """Compiled for each size of batch."""
        return self._functions["predict"](self._answering, images)

    def monitor(self, batch):
        """Compiled for each size of batch."""
        return self._functions["monitor"](self._answering, batch)

    def translate(self, images):
        """Compiled for each size of batch."""
        return self._functions["translate"](self._answering, images)


def keep_compiled_code(folder: str) -> None:
    """Have JAX find and leave compiled code in a folder, unless JAX_COMPILATION_CACHE_DIR names another."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", folder)
        # The initialisation of each shape of weights too; by default only what takes a second.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def measure_matrix_product(precision: str) -> float:
    """Operations a second of a large matrix product on the first device: what a training can at most come near to."""
    size = 1024 if jax.default_backend() == "cpu" else 8192
    a = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(precision))
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    best, started = math.inf, time.perf_counter()
    while time.perf_counter() - started < _MEASURE_SECONDS:
        before = time.perf_counter()
        for _ in range(4):
            last = product(a, a)
        last.block_until_ready()
        best = min(best, (time.perf_counter() - before) / 4)
    return 2 * size**3 / best


def _flops(jaxpr):
    """Multiplications and additions of a program's convolutions and matrix products; of an open loop, one iteration."""
    total = 0
    for equation in jaxpr.eqns:
        name, out = equation.primitive.name, equation.outvars[0].aval
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += 2 * out.size * math.prod(equation.invars[0].aval.shape[i] for i in contracted)
        elif name == "conv_general_dilated":
            kernel, spec = equation.invars[1].aval, equation.params["dimension_numbers"].rhs_spec
            # The zeros between a dilated input's values are not computed with.
            of_one = kernel.size // kernel.shape[spec[0]] / math.prod(equation.params["lhs_dilation"])
            total += 2 * out.size * of_one
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                times = equation.params["length"] if name == "scan" else 1
                total += times * _flops(getattr(inner, "jaxpr", inner))
    return total


def _is_jaxpr(value):
    return hasattr(value, "eqns")


def _fits(images):
    stats = jax.local_devices()[0].memory_stats()
    if not stats or "bytes_limit" not in stats:  # a CPU, whose memory they are in already, or are not to be
        return not any(isinstance(part, StoredImages) for part in images)
    free = stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return sum(part.nbytes for part in images) <= _RESIDENT_SHARE * free


def _rows(array, count):
    """With zeros to so many rows, so that shapes stay the same."""
    return np.concatenate([array, np.zeros((count - len(array), *array.shape[1:]), array.dtype)])
