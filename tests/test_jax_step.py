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
from step_cases import AVERAGE_DECAY, CASES, CLIP_NORM, SEED, STEP

from descargan_tf.training.step import TrainStep
from descargan_tf.types import Batch

ROOT = Path(__file__).resolve().parent.parent


def run_jax(*arguments, **environment):
    """A process under Keras' JAX backend; its standard output. Compiled quickly, to run slowly."""
    quick = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "jax", **quick, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What TensorFlow and JAX make of the same weights, slots, batches and draws, by case."""
    folder = tmp_path_factory.mktemp("steps")
    given, found = {}, {}
    rng = np.random.default_rng(1)
    strategy = tf.distribute.get_strategy()
    for name in CASES:
        keras.utils.set_random_seed(0)
        method, predictor = step_cases.build(name), step_cases.build(name)
        averaged = predictor.networks[method.averaged]
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

        def arrays(name=name, method=method, averaged=averaged, step=step):
            groups = {f"networks/{n}": network.weights for n, network in method.networks.items()}
            groups |= {"averaged": averaged.weights}
            groups |= {f"optimizers/{n}": optimizer.variables for n, optimizer in step.optimizers.items()}
            return {f"{name}/{n}/{i:03d}": np.array(v) for n, group in groups.items() for i, v in enumerate(group)}

        given |= arrays()
        data = step_cases.batches(method.batches_per_round)
        separate = [Batch(*(tf.constant(images[i]) for images in data)) for i in range(method.batches_per_round)]
        logs = step.round(tuple(separate))
        found |= {f"{name}/logs/{n}": np.array(value) for n, value in logs.items()}
        found |= arrays()
    np.savez(folder / "given.npz", **given)
    run_jax(ROOT / "tests" / "step_cases.py", folder)
    return given, found, dict(np.load(folder / "jax.npz"))


def parts(arrays, prefix):
    return {key: value for key, value in arrays.items() if key.startswith(prefix + "/")}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("what", ["logs", "networks", "averaged", "optimizers"])
def test_a_round_in_jax_is_one_in_tensorflow(both, name, what):
    _, ours, theirs = both
    ours, theirs = (parts(arrays, f"{name}/{what}") for arrays in (ours, theirs))
    assert list(ours) == list(theirs)  # the terms in their order too: the first that is not finite is named
    for key, value in ours.items():
        np.testing.assert_allclose(theirs[key], value, rtol=1e-4, atol=1e-4, err_msg=key)


@pytest.mark.parametrize("name", CASES)
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
        assert np.linalg.norm([np.linalg.norm(ours) for key in momenta]) > 0


def test_what_is_compared_moves(both):
    """The bounds above would hold of steps that do nothing."""
    given, ours, _ = both
    for name in CASES:
        for what in ("networks", "averaged", "optimizers"):
            moved = [np.abs(ours[key] - value).max() for key, value in parts(given, f"{name}/{what}").items()]
            assert max(moved) > 1e-3, (name, what)
