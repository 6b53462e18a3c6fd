"""The JAX step held to TensorFlow's, number for number; each backend needs a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import step_cases
import tensorflow as tf
from step_cases import (
    AVERAGE_DECAY,
    CASES,
    CLIP_NORM,
    COMPILED_QUICKLY,
    DRAWS,
    ENGINE,
    FACTOR,
    FACTORS,
    FEW_PASSES,
    PARTS,
    ROUNDS,
    SEED,
    STEP,
)

from descargan_tf.training.engine import state_arrays
from descargan_tf.training.step import TensorFlowEngine, TrainStep, _sum_up_to_a_failure, input_gradient
from descargan_tf.types import Batch

pytestmark = pytest.mark.usefixtures("shallower")

ENDLESS = 300  # seconds after which a process is taken to hang
ROOT = Path(__file__).resolve().parent.parent


def start_jax(folder):
    """JAX's side in a process under Keras' JAX backend."""
    code = "import pathlib, sys; from descargan_tf import surroundings\n"
    code += "with surroundings.unsearched(): surroundings.load_alone('jax')\n"
    code += "import step_cases; step_cases.answer(pathlib.Path(sys.argv[1]))"
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        env={**os.environ, "PYTHONPATH": path, "KERAS_BACKEND": "jax", **COMPILED_QUICKLY},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process):
    """Its standard output, once it has ended well."""
    out, err = process.communicate(timeout=ENDLESS)
    assert process.returncode == 0, err[-4000:]
    return out


def prepared(name, rng):
    """A TensorFlow step whose weights and slots are good to compare at."""
    keras.utils.set_random_seed(0)
    method, predictor = step_cases.build(name), step_cases.build(name)
    averaged = predictor.networks[method.averaged]
    strategy = tf.distribute.get_strategy()
    step = TrainStep(method, averaged, strategy, SEED, clip_norm=CLIP_NORM, average_decay=AVERAGE_DECAY)
    step.step.assign(STEP)
    for variable in [v for network in method.networks.values() for v in network.weights]:
        # Normalised values that stay off the rectifiers' kinks, where rounding alone would turn gradients.
        if variable.path.endswith("gamma"):
            variable.assign(rng.uniform(0.2, 0.4, variable.shape))
        elif variable.path.endswith("beta"):
            variable.assign(rng.uniform(1.5, 2.5, variable.shape))
    for optimizer in step.optimizers.values():
        optimizer.iterations.assign(5)
        for m, v in zip(optimizer._momentums, optimizer._velocities, strict=True):
            # Not Adam's first update: it has the size of the rate also where a gradient is rounding alone.
            m.assign(rng.normal(0, 0.1, m.shape))
            v.assign(rng.uniform(0.1, 1.0, v.shape))
    return step


def arrays_of(steps):
    return {
        f"{name}/{key}": array
        for name, step in steps.items()
        for key, array in state_arrays(step.method, step.averaged_network, step.optimizers).items()
    }


@pytest.fixture(scope="module")
def shallower(shallow):
    with pytest.MonkeyPatch.context() as patch:
        step_cases.leave_more_layers_out(patch.setattr)
        yield


@pytest.fixture(scope="module")
def both(tmp_path_factory, shallower):
    """Arrays of all cases: before a round, after it in TensorFlow, and in JAX; with what the rounds logged."""
    folder = tmp_path_factory.mktemp("steps")
    rng = np.random.default_rng(1)
    steps = {name: prepared(name, rng) for name in CASES}
    given, found = arrays_of(steps), {}
    np.savez(folder / "given.npz", **given)
    jax_side = start_jax(folder)
    tf.config.run_functions_eagerly(True)  # quicker than tracing what runs once
    for name, step in ((name, steps[name]) for name in ROUNDS):
        batches = zip(*step_cases.batches(step.method.batches_per_round), strict=True)
        logs = step.round(tuple(Batch(*map(tf.constant, images)) for images in batches), tf.constant(FACTOR))
        found |= {f"{name}/logs/{term}": np.array(value) for term, value in logs.items()}
    tf.config.run_functions_eagerly(False)
    found |= arrays_of(steps)
    end(jax_side)
    return given, found, dict(np.load(folder / "jax.npz"))


def parts(arrays, prefix):
    return {key: value for key, value in arrays.items() if key.startswith(prefix + "/")}


@pytest.mark.parametrize("name", ROUNDS)
@pytest.mark.parametrize("what", ["logs", "networks", "averaged", "optimizers"])
def test_a_round_in_jax_is_one_in_tensorflow(both, name, what):
    _, ours, theirs = both
    ours, theirs = (parts(arrays, f"{name}/{what}") for arrays in (ours, theirs))
    assert ours.keys() == theirs.keys()
    assert what != "logs" or list(ours) == list(theirs)  # of terms that are not finite the first is named
    for key, value in ours.items():
        np.testing.assert_allclose(theirs[key], value, rtol=1e-4, atol=1e-4, err_msg=key)


@pytest.mark.parametrize("name", ROUNDS)
def test_gradients_in_jax_are_those_of_tensorflow(both, name):
    """Of phases of one update, out of Adam's momentum: m = beta_1 m + (1 - beta_1) g."""
    given, *found = both
    method = step_cases.build(name)
    phases = [phase for phase in method.phases if phase.updates == 1]
    assert phases
    for phase in phases:
        prefix = f"{name}/optimizers/{phase.name}"
        momenta = [key for key in parts(given, prefix) if given[key].ndim][::2]
        assert len(momenta) == len(method.networks[phase.trains].trainable_variables)
        for key in momenta:
            ours, theirs = ((after[key] - phase.beta_1 * given[key]) / (1 - phase.beta_1) for after in found)
            np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4, err_msg=key)


def test_what_is_compared_moves(both):
    """The bounds above would hold of steps that do nothing."""
    given, ours, _ = both
    for name in ROUNDS:
        for what in ("networks", "averaged", "optimizers"):
            moved = [np.abs(ours[key] - value).max() for key, value in parts(given, f"{name}/{what}").items()]
            assert max(moved) > 5e-4, (name, what)


def tensorflow_engine(name, given):
    engine = TensorFlowEngine(
        lambda: step_cases.build(name), tf.distribute.get_strategy(), step_cases.split(), **ENGINE
    )
    engine.assign({key.removeprefix(f"{name}/"): array for key, array in parts(given, name).items()}, STEP, "given")
    return engine


def test_the_engines_see_the_same_batches_and_answer_alike(both):
    given, _, theirs = both
    engine = tensorflow_engine("dcls", given)
    logs = engine.rounds(FACTORS)
    found = {f"logs/{term}": values for term, values in logs.items()} | engine.arrays()
    engine.refresh()
    found["probabilities"] = engine.predict(step_cases.split().images).class_probabilities
    theirs = {key.removeprefix("engine/"): array for key, array in parts(theirs, "engine").items()}
    assert found.keys() == theirs.keys()
    for key, value in found.items():
        np.testing.assert_allclose(theirs[key], value, rtol=1e-4, atol=1e-4, err_msg=key)
        assert theirs[key].dtype == np.asarray(value).dtype or key.startswith("logs/")
    assert np.ptp(logs["classifier/classification"]) > 1e-6


def test_the_engines_estimate_the_same_statistics(both, monkeypatch):
    given, _, theirs = both
    monkeypatch.setattr("descargan_tf.training.step.STATISTICS_PASSES", FEW_PASSES)
    engine = tensorflow_engine("vagan", given)
    engine.estimate_and_fix_statistics()
    engine.refresh()
    found = engine.arrays() | {"maps": engine.predict(step_cases.split().images).anomaly_map}
    theirs = {key.removeprefix("statistics/"): array for key, array in parts(theirs, "statistics").items()}
    assert found.keys() == theirs.keys()
    for key, value in found.items():
        np.testing.assert_allclose(theirs[key], value, rtol=1e-4, atol=1e-4, err_msg=key)
    means = [i for i, w in enumerate(engine.method.networks["generator"].weights) if w.path.endswith("moving_mean")]
    assert np.abs(found[f"averaged/{means[0]:03d}"]).max() > 1e-2  # zeros before


def test_a_critic_in_bfloat16_has_its_penalty_in_float32_in_both(both):
    given, _, theirs = both
    found = step_cases.critic_in_bfloat16(given, input_gradient)
    theirs = {key.removeprefix("bfloat16/"): array for key, array in parts(theirs, "bfloat16").items()}
    np.testing.assert_allclose(theirs["penalty"], found["penalty"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(theirs["scores"], found["scores"], rtol=0.02, atol=0.02)
    assert np.ptp(found["penalty"]) > 1e-3


def test_the_numbers_drawn_are_tensorflows_to_the_last_bit(both):
    for i, (seed, step, shape) in enumerate(DRAWS):
        expected = tf.random.stateless_uniform(shape, tf.constant([seed, step], tf.int64))
        np.testing.assert_array_equal(both[2][f"draws/{i}"], expected)


def test_terms_after_the_first_failure_are_left_out_in_both(both):
    updates = [dict(zip(PARTS, map(tf.constant, values), strict=True)) for values in zip(*PARTS.values(), strict=True)]
    expected = {name: float(value) for name, value in _sum_up_to_a_failure(updates).items()}
    np.testing.assert_equal({name: float(both[2][f"sums/{name}"]) for name in PARTS}, expected)
    np.testing.assert_equal(expected, {"a": np.nan, "b": 3.0})


def test_operations_are_counted(both):
    of_one = 2 * (2 * 4 * 4 * 5) * (3 * 3 * 3)
    # The gradient to the input of a convolution of stride two has no more products than the convolution.
    assert both[2]["flops"] == 3 * of_one + 2 * (2 * 7) * 80 + of_one
