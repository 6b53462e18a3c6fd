"""One kind of pass: what DeScarGAN's normalisation sees does not say what is to be made of an image."""

import itertools
import math
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from toy_training import Normalising, scripted, trainer

from descargan_tf import losses
from descargan_tf.evaluation import metrics
from descargan_tf.methods.descargan import DeScarGAN, DeScarGANSettings, _halves, _one_hot
from descargan_tf.models import generator
from descargan_tf.models.blocks import estimate_statistics, normalisations
from descargan_tf.training import checkpoint
from descargan_tf.training import step as step_module
from descargan_tf.training.loop import LoopSettings, Trainer
from descargan_tf.training.step import TensorFlowEngine, TrainStep, input_gradient
from descargan_tf.types import DISEASED, HEALTHY, Batch, Split, Validation

pytestmark = pytest.mark.usefixtures("shallow")


def batch(count=4, seed=0):
    healthy, diseased = np.random.default_rng(seed).uniform(-1, 1, (2, count // 2, 64, 64, 1)).astype("f")
    return Batch(tf.constant(healthy), tf.constant(0.5 * diseased + 0.3))


def draws(method, phase, count=4):
    rng = np.random.default_rng(1)
    return {
        name: tf.constant(rng.uniform(size=shape).astype("f")) for name, shape in method.draws(phase, count).items()
    }


@pytest.fixture
def method(tiny_settings):
    keras.utils.set_random_seed(0)
    return DeScarGAN(tiny_settings)


@pytest.fixture
def passes(method, monkeypatch):
    """The images and planes of every pass through the trunk, as they come."""
    seen = []
    trunk = method._trunk

    def spy(images, planes, training):
        seen.append((np.asarray(images), np.asarray(planes), training))
        return trunk(images, planes, training)

    monkeypatch.setattr(method, "_trunk", spy)
    return seen


@pytest.mark.parametrize(("phase", "count"), [(0, 1), (1, 2)])
def test_passes_through_the_trunk_are_as_few_as_they_can_be(method, passes, phase, count):
    method.losses(method.phases[phase], batch(), draws(method, method.phases[phase]), input_gradient)
    assert [len(images) for images, _, _ in passes] == [4] * count
    assert all(training is True for _, _, training in passes)
    np.testing.assert_array_equal(passes[0][0], np.concatenate(batch()))
    assert not any(planes.any() for _, planes, _ in passes)  # they say nothing of the class


def test_the_cycle_passes_as_many_healthy_looking_as_diseased_looking_images(method, passes):
    method.losses(method.phases[1], batch(), draws(method, method.phases[1]), input_gradient)
    g_h, g_p = method._both(tf.concat(batch(), 0))
    a_p, a_h = g_p[:2], g_h[2:]  # of the healthy ones and of the diseased
    np.testing.assert_allclose(passes[1][0], np.concatenate([a_p, a_h]), atol=1e-5)


def test_averages_leave_the_cycles_pass_out(method):
    """It is over translated images, which inference never sees."""
    layers = normalisations(method.networks["generator"])
    for layer in layers:
        layer.momentum = 0.0  # so that the last pass that counts is all that is left
    found = []
    for run in (
        lambda: method.losses(method.phases[1], batch(), draws(method, method.phases[1]), input_gradient),
        lambda: method._both(tf.concat(batch(), 0)),
    ):
        run()
        found.append([np.asarray(v) for layer in layers for v in (layer.moving_mean, layer.moving_variance)])
    for of_update, of_real_images in zip(*found, strict=True):
        np.testing.assert_allclose(of_update, of_real_images, rtol=1e-5, atol=1e-6)


def test_inference_passes_what_training_passes(method, passes):
    method.predict(batch().healthy)
    method.translate(batch().healthy)
    assert len(passes) == 2  # one for both translations
    assert not any(planes.any() for _, planes, _ in passes)


@pytest.mark.parametrize("phase", [0, 1])
def test_statistics_do_not_change_with_the_classes_places_in_a_batch(method, phase):
    """What the trunk and both branches average over the real images of an update."""
    layers = normalisations(method.networks["generator"])

    def statistics(images):
        estimate_statistics(method.networks["generator"], lambda: method._both(tf.concat(images, 0)))
        return [np.asarray(v) for layer in layers for v in (layer.moving_mean, layer.moving_variance)]

    seen = []
    original = method._both
    method._both = lambda images: seen.append(images) or original(images)
    found = []
    for given in (batch(), Batch(*reversed(batch()))):
        method.losses(method.phases[phase], given, draws(method, method.phases[phase]), input_gradient)
        found.append(seen[-1 - phase])  # the pass over real images
    method._both = original
    for one, other in zip(*(statistics(_halves(images)) for images in found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


# ---- what inference's statistics are worth


SIDE = 32


def blobs(count, seed):
    """Waves; waves with a bright blob; what is to be added to these. [count, 32, 32, 1] each."""
    rng, grid = np.random.default_rng(seed), np.arange(SIDE)

    def waves():
        phase = rng.uniform(0, 2 * np.pi, 2)
        return 0.4 * np.sin(grid[:, None] / 4 + phase[0]) * np.cos(grid / 4 + phase[1]) - 0.2

    healthy, below = (np.stack([waves() for _ in range(count)]) for _ in range(2))
    centres = rng.integers(8, 24, (count, 2))
    blob = [0.8 * np.exp(-((grid[:, None] - y) ** 2 + (grid - x) ** 2) / 18) for y, x in centres]
    return [a[..., None].astype("f") for a in (healthy, below + blob, -np.stack(blob))]


class Leaking(DeScarGAN):
    """As it was: passes of a kind for each thing to do, and planes that carry the class."""

    def _planes(self, count, label):
        return _one_hot(count, label)

    def _pass(self, to_healthy, to_diseased):
        parts = (to_healthy, to_diseased)
        planes = ops.concatenate([self._planes(ops.shape(x)[0], label) for label, x in enumerate(parts)])
        features = _halves(self._trunk(ops.concatenate(parts), planes, training=True))
        return [self._branch(label, z, x, True) for label, (z, x) in enumerate(zip(features, parts, strict=True))]

    def _discriminator_losses(self, batch, draws, input_gradient):
        a = [ops.stop_gradient(x) for x in self._pass(batch.diseased, batch.healthy)]
        x_hat = [losses.mix(r, x, t) for r, x, t in zip(batch, a, _halves(draws["t"]), strict=True)]
        return self._discriminator_terms(batch, a, x_hat, draws, input_gradient, losses.score)

    def _generator_losses(self, batch, draws):
        half = ops.shape(batch.healthy)[0]
        a_h, a_p = self._pass(batch.diseased, batch.healthy)
        scored = self._criticise(a_h, a_p, self._keep(draws, 2 * half), classify=half)
        return self._generator_terms(batch, scored[:2], scored[2:], self._pass(*batch), self._pass(a_p, a_h))

    def statistics_pass(self, batch):
        """What inference asks: all images to healthy ones."""
        images = ops.concatenate(batch)
        features = self._trunk(images, self._planes(ops.shape(images)[0], HEALTHY), training=True)
        self._branch(HEALTHY, features, images, True)


def trained_on_blobs(kind, rounds, half=8):
    """A method after a short training whose rates fall to zero, and its images."""
    keras.utils.set_random_seed(0)
    method = kind(
        DeScarGANSettings(
            image_size=SIDE,
            generator_filters=4,
            discriminator_filters=8,
            discriminator_max_filters=32,
            discriminator_poolings=2,
            discriminator_activation="leaky_relu",
            discriminator_initializer="he_normal",
            critic_updates=1,
            distance="mse",
            lambda_id=50,
            lambda_rec=50,
            lambda_adv_d=4,
            lambda_cls_d=4,
            classifier_dropout=0,
            generator_learning_rate=6e-3,
            discriminator_learning_rate=2e-3,
        )
    )
    averaged = method.networks["generator"]
    for layer in normalisations(averaged):
        layer.momentum = 0.95  # of so few rounds the usual 0.99 would remember too many
    step = TrainStep(method, averaged, tf.distribute.get_strategy(), seed=0, clip_norm=10.0)  # averages nothing
    images, rng = blobs(400, seed=1), np.random.default_rng(0)
    # Permutations, as in a training: which images chance leaves out moved a mean square by up to a seventh.
    order = np.concatenate([rng.permutation(400) for _ in range(math.ceil(rounds * half / 400))])
    for number in range(rounds):
        taken = Batch(*(tf.constant(x[order[number * half :][:half]]) for x in images[:2]))
        # At the end without learning, so that averages are of the final weights: what is left is the kind of pass.
        step.round((taken,), tf.constant(max(1 - 1.5 * number / rounds, 0.0), tf.float32))
    return method, Batch(*images[:2]), half


@pytest.mark.usefixtures("graphs_as_traced")
@pytest.mark.parametrize(("kind", "rounds", "fits"), [(DeScarGAN, 100, True), (Leaking, 50, False)])
def test_averages_are_what_inference_would_measure(kind, rounds, fits, monkeypatch):
    """Statistics estimated anew from passes of inference's kind change next to nothing; with leaking passes, all."""
    # Of networks of few layers the quickest learner; with two poolings of one convolution each dice stays at 0.24.
    monkeypatch.setattr(generator, "_NUM_POOLINGS", 1)
    monkeypatch.setattr(generator, "_NUM_CONVOLUTIONS", 2)
    method, real, half = trained_on_blobs(kind, rounds)
    healthy, diseased, truth = blobs(60, seed=2)

    def measure():
        d, d_healthy = (np.asarray(method.predict(tf.constant(x)).anomaly_map) for x in (diseased, healthy))
        return np.mean(metrics.dice(d, truth, 0.2)), np.mean((d - truth) ** 2), np.mean(d_healthy**2)

    def passes():
        for i in range(0, 240, 5 * half):  # they are run line by line: few and large ones
            method.statistics_pass(Batch(*(tf.constant(x[i : i + 5 * half]) for x in real)))

    (dice, *squares), _ = measure(), estimate_statistics(method.networks["generator"], passes)
    again, *squares_again = measure()
    assert dice > (0.3 if fits else 0.2)  # it does translate
    kept = abs(again - dice) < 0.02 and np.allclose(squares_again, squares, rtol=0.1)
    assert kept == fits, (dice, again, squares, squares_again)


# ---- fixed statistics


FEW_PASSES = 3  # that statistics are estimated from: quicker, and nothing else about them differs


class Constant:
    """Data and settings of a training whose last rounds are under fixed statistics."""

    rounds, fixed_at = 4, 2

    @staticmethod
    def trainer(run_dir, settings, strategy=None, average_decay=0.5):
        """Its rounds are run line by line: four are quicker so than traced twice."""
        keras.utils.set_random_seed(0)
        split = Split(np.concatenate(batch(8)), np.repeat([HEALTHY, DISEASED], 4), None, list("abcdefgh"))
        engine = TensorFlowEngine(
            lambda: DeScarGAN(settings),
            strategy or tf.distribute.get_strategy(),
            split,
            batch_size=4,
            seed=0,
            average_decay=average_decay,
        )
        rules = LoopSettings(
            batch_size=4,
            seed=0,
            max_steps=Constant.rounds,
            fixed_statistics_from=0.5,
            validate_every_steps=100,
            checkpoint_every_steps=1,
            keep_checkpoints=100,
        )
        engine.train_step.round = engine.train_step._round
        engine.train_step.trace_anew = lambda: None
        return Trainer(run_dir, engine, rules, lambda *_: Validation({}, 0.0, {}, ()))

    @staticmethod
    def statistics(arrays, network, layers):
        """Those of a checkpoint's network: by their place among its weights."""
        names = [w.path.split("/")[-1] for w in network.weights]
        prefix = "averaged" if layers == "averaged" else "networks/generator"
        return [arrays[f"{prefix}/{i:03d}"] for i, name in enumerate(names) if name.startswith("moving")]


@pytest.fixture(scope="module")
def fixed(tmp_path_factory, shallow):
    settings = DeScarGANSettings(
        image_size=64,
        generator_filters=2,
        discriminator_filters=2,
        critic_updates=1,
        generator_learning_rate=1e-2,
        discriminator_learning_rate=1e-3,
    )
    run_dir = tmp_path_factory.mktemp("fixed")
    trainer = Constant.trainer(run_dir, settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_module, "STATISTICS_PASSES", FEW_PASSES)
        assert trainer.run() == Constant.rounds
    return run_dir, settings, trainer


def test_from_their_share_of_the_training_statistics_stay_as_they_are(fixed):
    run_dir, _, trainer = fixed
    network = trainer.engine.method.networks["generator"]
    loaded = {step: checkpoint.load(run_dir / "checkpoints" / str(step))[0] for step in range(1, Constant.rounds + 1)}
    values = {step: Constant.statistics(arrays, network, "live") for step, arrays in loaded.items()}
    for step in range(1, Constant.rounds):
        same = all(np.array_equal(a, b) for a, b in zip(values[step], values[step + 1], strict=True))
        assert same == (step > Constant.fixed_at)
    weights = [loaded[step]["networks/generator/000"] for step in (Constant.rounds - 1, Constant.rounds)]
    assert not np.array_equal(*weights)  # while it goes on learning
    first_fixed = Constant.fixed_at + 1
    averages = [Constant.statistics(loaded[step], network, "averaged") for step in (first_fixed, Constant.rounds)]
    for first, last, live in zip(*averages, values[first_fixed], strict=True):
        np.testing.assert_allclose(first, live, rtol=1e-5)
        np.testing.assert_allclose(last, live, rtol=1e-5)


def test_rounds_are_traced_anew_where_statistics_are_fixed(tmp_path):
    """In a graph from before, moving averages would go on and batches' own statistics be used."""
    settings = {"fixed_statistics_from": 0.5, "checkpoint_every_steps": 1, "keep_checkpoints": 6, "max_steps": 6}
    training = trainer(tmp_path, scripted(*range(9)), method=Normalising, traced=True, **settings)
    first = training.engine.train_step.round
    training.run()
    step = training.engine.train_step
    assert step.round is not first
    assert [graph.experimental_get_tracing_count() for graph in (first, step.round)] == [1, 1]
    (layer,) = normalisations(step.method.networks["generator"])
    places = [i for i, w in enumerate(step.method.networks["generator"].weights) if w is layer.moving_mean]
    means = [
        checkpoint.load(tmp_path / "checkpoints" / str(number))[0][f"networks/generator/{places[0]:03d}"]
        for number in range(1, 7)
    ]
    assert [np.array_equal(*pair) for pair in itertools.pairwise(means)] == [False, False, False, True, True]


@pytest.fixture
def few_passes(monkeypatch):
    monkeypatch.setattr(step_module, "STATISTICS_PASSES", FEW_PASSES)


def test_it_goes_on_from_the_averaged_weights_with_statistics_estimated_from_training_images(
    fixed, tmp_path, few_passes
):
    run_dir, settings, _ = fixed
    arrays, about = checkpoint.load(run_dir / "checkpoints" / str(Constant.fixed_at))
    engine = Constant.trainer(tmp_path, settings).engine
    engine.assign(arrays, about["step"], "there")
    engine.estimate_and_fix_statistics()
    found = engine.arrays()
    trainable = [i for i, w in enumerate(engine.method.networks["generator"].weights) if w.trainable]
    for i in trainable:
        np.testing.assert_array_equal(found[f"networks/generator/{i:03d}"], arrays[f"averaged/{i:03d}"])
    # By hand: the same network, the same images, in passes of four.
    twin = DeScarGAN(settings)
    twin.networks["generator"].set_weights(
        [arrays[f"averaged/{i:03d}"] for i in range(len(found)) if f"averaged/{i:03d}" in arrays]
    )
    estimate_statistics(
        twin.networks["generator"],
        lambda: [twin.statistics_pass(b) for b in engine._dataset(0).take(FEW_PASSES)],
    )
    for a, b in zip(
        twin.networks["generator"].get_weights(), engine.method.networks["generator"].get_weights(), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_rates_rise_again_and_the_log_says_so(fixed):
    run_dir, _, trainer = fixed
    assert [trainer._factor(step) for step in (2, 3, 4)] == pytest.approx([0.01, 0.02, 0.03])
    assert (
        f"step       {Constant.fixed_at}  from here on normalisation uses fixed statistics"
        in (run_dir / "train.log").read_text()
    )
    assert checkpoint.describe(run_dir / "checkpoints" / "4")["fixed_statistics_at"] == Constant.fixed_at


def test_a_resumed_training_has_the_same_fixed_statistics(fixed, tmp_path):
    run_dir, settings, _ = fixed
    shutil.copytree(run_dir / "checkpoints" / "3", tmp_path / "checkpoints" / "3")
    assert Constant.trainer(tmp_path, settings).run() == Constant.rounds
    first, second = (checkpoint.load(folder / "checkpoints" / "4")[0] for folder in (run_dir, tmp_path))
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


@pytest.mark.usefixtures("eager", "few_passes")
def test_two_replicas_fix_the_same_statistics(fixed, tmp_path, two_replicas):
    _, settings, _ = fixed
    engine = Constant.trainer(tmp_path, settings, two_replicas).engine
    engine.estimate_and_fix_statistics()
    for layer in normalisations(engine.method.networks["generator"]):
        assert layer.fixed
        for variable in (layer.moving_mean, layer.moving_variance):
            one, other = (np.asarray(v) for v in two_replicas.experimental_local_results(variable.value))
            np.testing.assert_array_equal(one, other)
        assert np.any(np.asarray(layer.moving_variance) != 1.0)


def test_a_branch_for_both_classes_is_told_the_target_in_one_pass(tiny_settings):
    keras.utils.set_random_seed(0)
    method = DeScarGAN(tiny_settings.__class__(**{**vars(tiny_settings), "generator_branches": 1}))
    seen = []
    trunk = method._trunk
    method._trunk = lambda images, planes, training: seen.append(np.asarray(planes)) or trunk(images, planes, training)
    method.losses(method.phases[0], batch(), draws(method, method.phases[0]), input_gradient)
    (planes,) = seen
    np.testing.assert_array_equal(planes, [[1, 0]] * 4 + [[0, 1]] * 4)
