import dataclasses
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from toy_training import Normalising, Toy

from descargan_tf import methods
from descargan_tf.errors import UserError
from descargan_tf.training.engine import assign_state, state_arrays
from descargan_tf.training.step import Adam, TensorFlowEngine, TrainStep
from descargan_tf.types import Batch, Split

pytestmark = pytest.mark.usefixtures("graphs_as_traced", "shallow")

PROGRAM = {"rules": "program", "distance": "mse", "lambda_gp": 1.0}


def batch(count=4, seed=0):
    values = np.random.default_rng(seed).uniform(-1, 1, (2, count // 2, 64, 64, 1)).astype("f")
    return Batch(*values)


def build(settings, strategy=None, **kwargs):
    keras.utils.set_random_seed(0)
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        method = methods.build("descargan", dataclasses.asdict(settings))
        # A network for averages takes as long to build; without a decay it is not touched.
        other = methods.build("descargan", dataclasses.asdict(settings)) if "average_decay" in kwargs else method
        return TrainStep(method, other.networks["generator"], strategy, seed=7, **kwargs)


def weights(step):
    return {name: [np.asarray(w) for w in network.weights] for name, network in step.method.networks.items()}


def rounds(step, batches_of_rounds):
    logs = []
    for batches in batches_of_rounds:
        logs.append({k: float(v) for k, v in step.round(tuple(batches)).items()})
    return logs


DATA = [[batch(seed=i), batch(seed=9 + i)] for i in range(3)]


def state(step):
    return step.method, step.averaged_network, step.optimizers


@pytest.fixture(scope="module")
def clipped_rounds():
    """Makes a step, and what its rounds log."""

    @functools.cache
    def clipped_rounds(settings, count=3):
        step = build(settings, clip_norm=10.0)
        return step, rounds(step, DATA[:count])

    return clipped_rounds


@pytest.mark.parametrize(
    ("overrides", "rounds_done"),
    [
        ({}, {}),
        *(
            ({**changes, "critic_updates": 1}, {"count": 1})
            for changes in (PROGRAM, {"distance": "l2"}, {"precision": "bfloat16"})
        ),
    ],
    ids=["paper", "program, eager", "l2, eager", "bfloat16, eager"],
)
def test_a_round_is_finite_and_logs_every_term(tiny_settings, overrides, rounds_done, clipped_rounds):
    tf.config.run_functions_eagerly(bool(rounds_done))  # a single round: quicker than tracing
    try:
        step, (logs, *_) = clipped_rounds(dataclasses.replace(tiny_settings, **overrides), **rounds_done)
    finally:
        tf.config.run_functions_eagerly(False)
    assert set(logs) == {
        *(f"discriminator/{n}" for n in ("real", "fake", "gradient_penalty", "classification")),
        *(f"generator/{n}" for n in ("adversarial", "reconstruction", "identity", "classification")),
        *(f"{p}/{n}" for p in ("discriminator", "generator") for n in ("total", "gradient_norm")),
    }
    assert all(np.isfinite(v) for v in logs.values())
    s = step.method.settings
    total = (
        s.lambda_adv_d
        * (
            logs["discriminator/real"]
            + logs["discriminator/fake"]
            + s.lambda_gp * logs["discriminator/gradient_penalty"]
        )
        + s.lambda_cls_d * logs["discriminator/classification"]
    )
    assert logs["discriminator/total"] == pytest.approx(total, rel=1e-4)


def small_step(method, strategy=None, **kwargs):
    """A step of a toy's: what a round does around the losses is the same of every method."""
    keras.utils.set_random_seed(0)
    other = method if "average_decay" not in kwargs else type(method)()
    strategy = strategy or tf.distribute.get_strategy()
    return TrainStep(method, other.networks["generator"], strategy, seed=7, **kwargs)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("failing", [0, 1, 2])
def test_the_term_that_failed_first_is_the_one_that_is_not_finite(failing):
    class Failing(Toy):
        calls = 0

        def losses(self, phase, batch, draws, input_gradient):
            terms = super().losses(phase, batch, draws, input_gradient)
            terms = {"match": terms["match"], "penalty": terms["size"], "size": terms["size"]}
            self.calls += 1
            if self.calls == failing + 1:
                terms["penalty"] *= float("nan")
            return terms

        def weights(self, phase):
            return {"match": 1.0, "penalty": 1.0, "size": 0.5}

    method = Failing()
    method.phases = (dataclasses.replace(method.phases[0], updates=3), method.phases[1])
    step = small_step(method)
    logs = rounds(step, [[batch(), batch(seed=1), batch(seed=2)]])[0]
    assert method.calls == 4
    bad = [name for name in ("match", "penalty", "size") if not np.isfinite(logs[f"discriminator/{name}"])]
    assert bad == ["penalty"]
    assert next(name for name, value in logs.items() if not np.isfinite(value)) == "discriminator/penalty"
    assert not np.isfinite(logs["generator/match"])  # the weights are spoiled


def test_the_round_is_traced_once(tiny_settings, clipped_rounds):
    step, _ = clipped_rounds(tiny_settings)
    assert step.round.experimental_get_tracing_count() == 1


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("phase", [0, 1])
def test_a_phase_moves_its_own_weights_alone(tiny_settings, phase):
    step = build(tiny_settings)
    data = Batch(*map(tf.constant, batch()))
    own = step.method.phases[phase].trains
    before = {k: [np.asarray(v) for v in n.trainable_variables] for k, n in step.method.networks.items()}
    step._update(step.method.phases[phase], data, 0, 1.0)
    for name, network in step.method.networks.items():
        moved = [
            not np.array_equal(a, np.asarray(b)) for a, b in zip(before[name], network.trainable_variables, strict=True)
        ]
        if name == own:
            # A convolution's bias before a normalisation has no effect and no gradient; all else moves.
            still = [v.path for v, m in zip(network.trainable_variables, moved, strict=True) if not m]
            assert all("bias" in path for path in still)
            assert any(moved)
        else:
            assert not any(moved)


def shares(batches, strategy):
    """Each replica's part of batches, of two replicas."""

    def share(images):
        half = len(images) // 2
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(images[half * context.replica_id_in_sync_group :][:half])
        )

    return [Batch(*map(share, images)) for images in batches]


@pytest.mark.usefixtures("eager")
def test_two_replicas_equal_one_on_the_same_global_batch(tiny_settings, two_replicas):
    """By the program's rules; by the paper's, test_methods_conformance.py says it of every method."""
    # Adam's first step has the size of the rate whatever the gradient, also where that is rounding alone; so the rates
    # are tiny and the gradients themselves are compared, which Adam's momentum holds times 1 - beta_1.
    settings = dataclasses.replace(
        tiny_settings,
        image_size=32,
        critic_updates=1,
        classifier_dropout=0.5,
        generator_learning_rate=1e-7,
        discriminator_learning_rate=1e-7,
        **PROGRAM,
    )
    one, two = build(settings), build(settings, two_replicas)
    for name, network in one.method.networks.items():
        two.method.networks[name].set_weights(network.get_weights())
    data = [Batch(*(x[:, :32, :32] for x in batch(8, seed))) for seed in range(one.method.batches_per_round)]
    first = rounds(one, [data])[0]
    second = rounds(two, [shares(data, two_replicas)])[0]
    for name, value in first.items():
        if not name.endswith("gradient_norm"):
            assert second[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    for name, optimizer in one.optimizers.items():
        a, b = (
            np.concatenate([np.asarray(m).ravel() for m in o._momentums]) for o in (optimizer, two.optimizers[name])
        )
        # A change of 1e-6 in these white-noise images turns the generator's gradient by 3 % (maxima of the poolings
        # change places), so this is as close as rounding lets two orders of summation come.
        assert np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)) > 0.995
        assert np.linalg.norm(b) == pytest.approx(np.linalg.norm(a), rel=0.03)


def test_two_replicas_equal_one_in_a_graph(two_replicas):
    """Of a method that is traced quickly, and smooth: all that a round changes, after three."""
    steps = []
    for strategy in (tf.distribute.get_strategy(), two_replicas):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            method, other = Normalising(), Normalising()
            averaged = other.networks["generator"]
            steps.append(TrainStep(method, averaged, strategy, seed=7, average_decay=0.5, clip_norm=0.5))
    one, two = steps
    for number in range(3):
        data = [batch(8, seed) for seed in (number, 9 + number)]
        first, second = rounds(one, [data])[0], rounds(two, [shares(data, two_replicas)])[0]
        assert first == pytest.approx(second, rel=1e-4)
    assert [step.round.experimental_get_tracing_count() for step in steps] == [1, 1]
    found = [state_arrays(*state(step)) for step in steps]
    assert found[0].keys() == found[1].keys()
    for key, value in found[0].items():
        np.testing.assert_allclose(found[1][key], value, rtol=1e-3, atol=1e-5, err_msg=key)


def test_rounds_repeat_exactly(tiny_settings, clipped_rounds):
    """From what a step is built with, which is the same each time, and from nothing else."""
    step, logs = clipped_rounds(tiny_settings)
    start = state_arrays(*state(build(tiny_settings, clip_norm=10.0)))
    assign_state(*state(step), start, "another step")
    step.step.assign(0)
    assert rounds(step, DATA) == logs
    assert logs[0] != logs[1]


def test_draws_differ_between_steps_updates_and_names(tiny_settings):
    step = build(tiny_settings)
    phase = step.method.phases[0]

    def draw(number):
        return {k: np.asarray(v) for k, v in step.strategy.run(lambda: step._draws(phase, 4, number)).items()}

    first, update = draw(0), draw(1)
    step.step.assign_add(1)
    later = draw(0)
    for other in (update, later):
        assert not np.array_equal(first["t"], other["t"])
    assert first["t"].min() >= 0
    assert first["t"].max() < 1


def test_fused_adam_is_keras_adam():
    start = np.random.default_rng(0).normal(size=(3, 4)).astype("f")
    theirs, ours = (keras.Variable(start) for _ in range(2))
    keras_adam, fused = (c(1e-2, 0.5, 0.999, 1e-8) for c in (keras.optimizers.Adam, Adam))
    keras_adam.build([theirs])
    fused.build([ours])
    for seed in range(5):
        gradient = tf.constant(np.random.default_rng(seed).normal(size=(3, 4)).astype("f"))
        keras_adam.apply([gradient])
        fused.update(tf.distribute.get_strategy(), [gradient])
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-5)
    for a, b in zip(fused.variables, keras_adam.variables, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-4)


@pytest.mark.usefixtures("eager")
def test_average_follows_the_weights():
    step = small_step(Normalising(), average_decay=0.5)
    average = [np.asarray(w) for w in step.averaged_network.weights]
    for i in range(3):
        before = weights(step)["generator"]
        rounds(step, [[batch(seed=i), batch(seed=9 + i)]])
        decay = min(0.5, (i + 1) / (i + 11))
        live = weights(step)["generator"]
        # Statistics too; but a bias before a normalisation has no gradient.
        assert sum(not np.array_equal(*pair) for pair in zip(before, live, strict=True)) >= len(live) - 1
        average = [decay * a + (1 - decay) * w for a, w in zip(average, live, strict=True)]
    for a, b in zip(average, step.averaged_network.weights, strict=True):
        np.testing.assert_allclose(np.asarray(b), a, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("eager")
def test_clipping_bounds_what_is_applied():
    free, clipped = small_step(Normalising()), small_step(Normalising(), clip_norm=1e-3)
    data = [[batch(), batch(seed=1)]]
    a, b = rounds(free, data)[0], rounds(clipped, data)[0]
    # The norm that is logged is the one before clipping.
    assert a["discriminator/gradient_norm"] > 1e-3
    assert b["discriminator/gradient_norm"] > 1e-3
    # Adam's momentum holds what was applied: (1 - beta_1) times it, at most.
    for step, is_bounded in ((clipped, True), (free, False)):
        momentum = step.optimizers["generator"]._momentums
        norm = np.sqrt(sum(np.sum(np.square(m)) for m in map(np.asarray, momentum)))
        assert (norm <= 0.5e-3 * 1.001) == is_bounded


def compiled_or_not(jit_compile, strategy):
    """An engine whose rounds draw nothing: XLA would draw something else."""
    settings = {"image_size": 64, "discriminator_filters": 2, "classifier_dropout": 0.0}
    given = methods.entry("dcls").defaults | settings
    keras.utils.set_random_seed(0)
    split = Split(np.concatenate(batch(8)), np.repeat([0, 1], 4), None, list("abcdefgh"))
    return TensorFlowEngine(
        lambda: methods.build("dcls", given), strategy, split, batch_size=4, seed=0, jit_compile=jit_compile
    )


def test_a_round_that_xla_compiles_is_the_same(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")  # compiles in half the time; read once
    plain, compiled = (compiled_or_not(jit, tf.distribute.get_strategy()) for jit in (False, True))
    assert {k: v.tolist() for k, v in compiled.rounds([1.0, 1.0]).items()} == {
        k: pytest.approx(v, rel=1e-5) for k, v in plain.rounds([1.0, 1.0]).items()
    }
    weights = plain.arrays()
    assert max(np.abs(weights[name] - value).max() for name, value in compiled.arrays().items()) < 1e-5


def test_xla_compiles_for_one_device(two_replicas):
    with pytest.raises(UserError, match=r"--jit_compile .* there are 2: add --strategy=one_device"):
        compiled_or_not(True, two_replicas)
