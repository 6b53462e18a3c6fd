"""What tests of trainings share: a toy method, trainings that are scripted, what a run left."""

import dataclasses
import itertools
import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from descargan_tf.methods.base import Method
from descargan_tf.models.blocks import BatchNormalization
from descargan_tf.training import checkpoint
from descargan_tf.training.loop import LoopSettings, Trainer
from descargan_tf.training.step import TensorFlowEngine
from descargan_tf.types import DISEASED, HEALTHY, Batch, Phase, Prediction, Split, Validation

TERMS = {
    *(f"discriminator/{n}" for n in ("real", "fake", "gradient_penalty", "classification")),
    *(f"generator/{n}" for n in ("adversarial", "reconstruction", "identity", "classification")),
    *(f"{phase}/{n}" for phase in ("discriminator", "generator") for n in ("total", "gradient_norm")),
}
SCORES = {"critics/real", "critics/fake", "critics/generator", "critics/dead"}
TIMINGS = {"seconds_per_round", "images_per_second"}
AVERAGE_DECAY = 0.9
SETTINGS = LoopSettings(
    batch_size=4,
    seed=7,
    max_steps=5,
    decay_steps=2,
    log_every_steps=1,
    validate_every_steps=2,
    checkpoint_every_steps=2,
    keep_checkpoints=2,
)


class Toy(Method):
    """One 1x1 convolution against another."""

    averaged = "generator"

    def __init__(self):
        self.networks = {name: keras.layers.Conv2D(1, 1) for name in ("generator", "discriminator")}
        for network in self.networks.values():  # models take twice as long to make
            network.build((None, None, None, 1))
        self.phases = (
            Phase(name="discriminator", trains="discriminator", updates=2, learning_rate=1e-2),
            Phase(name="generator", trains="generator", updates=1, learning_rate=1e-2),
        )

    def weights(self, phase):
        return {"match": 1.0, "size": 0.5}

    def draws(self, phase, batch_size):
        return {"noise": (batch_size, 1, 1, 1)}

    def losses(self, phase, batch, draws, input_gradient):
        x = tf.concat([batch.healthy, batch.diseased], 0) + draws["noise"]
        fake = self.networks["generator"](x)
        score = self.networks["discriminator"](fake if phase.trains == "generator" else x)
        return {"match": tf.reduce_mean((score - 1) ** 2, (1, 2, 3)), "size": tf.reduce_mean(score**2, (1, 2, 3))}

    def predict(self, images):
        healthy = self.networks["generator"](images)
        d = healthy - images
        return Prediction(d, healthy, tf.reduce_mean(tf.abs(d), (1, 2, 3)), None)


class Normalising(Toy):
    """A Toy with statistics of batches, and with gradients within gradients; smooth, so that rounding stays small."""

    def __init__(self):
        super().__init__()
        layers = keras.layers.Conv2D(3, 1, activation="tanh"), BatchNormalization(), keras.layers.Conv2D(1, 1)
        self.networks["generator"] = keras.Sequential([keras.Input((None, None, 1)), *layers])

    def losses(self, phase, batch, draws, input_gradient):
        x = tf.concat([batch.healthy, batch.diseased], 0) + draws["noise"]
        x = x if phase.trains == "discriminator" else self.networks["generator"](x, training=True)
        gradient = input_gradient(lambda y: self.networks["discriminator"](y) ** 3, x)
        score = self.networks["discriminator"](x)
        return {"match": tf.reduce_mean((score - 1) ** 2, (1, 2, 3)), "size": tf.reduce_mean(gradient**2, (1, 2, 3))}

    def statistics_pass(self, batch):
        self.networks["generator"](tf.concat([batch.healthy, batch.diseased], 0), training=True)


def make_split(size, num_healthy=6, num_diseased=5):
    labels = np.repeat([HEALTHY, DISEASED], [num_healthy, num_diseased]).astype(np.int32)
    images = np.random.default_rng(0).uniform(-1, 1, (len(labels), size, size, 1)).astype(np.float32)
    return Split(images, labels, None, [f"{i}.npy" for i in range(len(labels))])


SMALL = make_split(8)


def watch(split):
    """A validation that asks the networks and shows two pictures."""

    def validate(predict, monitor, translate):
        prediction = predict(split.images[:2])
        monitored = {name: float(np.mean(value)) for name, value in monitor(Batch(*[split.images[:1]] * 2)).items()}
        score = float(np.mean(prediction.anomaly_score))
        pictures = {"input": split.images[:2] / 2 + 0.5, "colour": np.full((2, 8, 8, 3), 0.25, np.float32)}
        return Validation({"score": score, "unknown": None, **monitored}, score, pictures, ("look at this",))

    return validate


def scripted(*selections):
    """A validation that gives these selections, one after the other."""
    left = list(selections)
    return lambda *_: Validation({"calls_left": float(len(left))}, left.pop(0), {}, ())


def trainer(run_dir, validate=None, *, method=Toy, strategy=None, split=SMALL, traced=False, short=False, **changes):
    """A toy's rounds are run line by line unless they are to be `traced`: to trace one takes as long as eight.

    `short` rounds have no gradients and take a tenth of that.
    """
    run_dir.mkdir(exist_ok=True)
    settings = dataclasses.replace(SETTINGS, **changes)
    of_both = {"batch_size": settings.batch_size, "seed": settings.seed}
    engine = TensorFlowEngine(
        method, strategy or tf.distribute.get_strategy(), split, **of_both, average_decay=AVERAGE_DECAY
    )
    if not traced:
        engine.train_step.round = engine.train_step._round
    if short:
        _shorten(engine, split)
    return Trainer(run_dir, engine, settings, validate or watch(split))


def _shorten(engine, split):
    """All that a checkpoint holds is moved by itself, the batch, the step and the rate: what is not restored shows."""
    train_step = engine.train_step
    networks = *engine.method.networks.values(), train_step.averaged_network
    held = [variable for part in networks for variable in part.weights]
    held += [variable for optimizer in train_step.optimizers.values() for variable in optimizer.variables]
    names = [f"{phase.name}/{term}" for phase in engine.method.phases for term in ("match", "total")]

    def round_(batches, rate_factor):
        seen = sum(np.mean(part) for batch in batches for part in batch) + 0.1 * train_step.step.numpy()
        for variable in held:
            value = np.asarray(variable)
            variable.assign((0.9 * value + 0.1 * seen * float(rate_factor)).astype(value.dtype))
        train_step.step.assign_add(1)
        return dict.fromkeys(names, float(seen + np.mean(held[0])))

    def in_memory(start, mine=None):
        halves = [split.images[split.labels == label] for label in (HEALTHY, DISEASED)]
        for number in itertools.count(start):
            rng = np.random.default_rng([SETTINGS.seed, number])
            yield Batch(*(rng.choice(half, SETTINGS.batch_size // 2) for half in halves))

    train_step.round = round_
    if split is SMALL:  # a pipeline of TensorFlow's takes as long as ten of these rounds
        engine._dataset = in_memory


def on_round(training, number, act):
    """Call `act` just before round `number` (counted from 1 in this process)."""
    whole, count = training.engine.train_step.round, 0

    def counted(*args):
        nonlocal count
        count += 1
        if count == number:
            act()
        return whole(*args)

    training.engine.train_step.round = counted
    return training


def send(number):
    return lambda: os.kill(os.getpid(), number)


def fake_rounds(training, values=lambda step: {}):
    """Rounds that compute nothing: each loss is 1 but for what `values` says of a step."""
    train_step = training.engine.train_step
    names = [f"{phase.name}/{name}" for phase in training.engine.method.phases for name in ("match", "total")]

    def fake(batches, rate_factor):
        train_step.step.assign_add(1)
        return {**dict.fromkeys(names, 1.0), **values(training.engine.step)}

    train_step.round = fake
    if train_step.strategy.num_replicas_in_sync == 1:  # who has more looks at them
        training.engine._dataset = lambda *_: itertools.repeat(None)
    return training


def lines(run_dir, group=None):
    found = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if group in (None, line["group"])]


def assert_same_metrics(a, b, group=None):
    """Same lines in the same order; TensorFlow may add up a logged total in another order in another trace."""
    first, second = lines(a, group), lines(b, group)
    assert [(line["step"], line["group"]) for line in first] == [(line["step"], line["group"]) for line in second]
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - TIMINGS - {"step", "group"}:
            assert other[name] == (None if one[name] is None else pytest.approx(one[name], rel=1e-6)), name


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_same_checkpoint(a, b):
    (first, about), (second, other) = checkpoint.load(a), checkpoint.load(b)
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)
    clock = {"written": "", "trained_seconds": 0}
    assert {**about, **clock} == {**other, **clock}
