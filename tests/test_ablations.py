"""What each ablation of DeScarGAN changes, and that it changes nothing else."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from descargan_tf.methods.descargan import DeScarGAN
from descargan_tf.models.discriminator import build_discriminator
from descargan_tf.models.generator import build_generator
from descargan_tf.run_folder import configure
from descargan_tf.training.step import TrainStep
from descargan_tf.types import HEALTHY, Batch

ROOT = Path(__file__).resolve().parent.parent
ABLATIONS = {
    "no_skips": {"skip_connections": "none"},
    "top_skip": {"skip_connections": "all"},
    "one_generator_branch": {"generator_branches": 1},
    "one_discriminator_branch": {"critic_branches": 1},
    "no_identity": {"lambda_id": 0.0},
    "change": {"output": "change"},
}
BOTH = ("both", "both")


def count(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def build(tiny_settings, **changes):
    keras.utils.set_random_seed(0)
    return DeScarGAN(dataclasses.replace(tiny_settings, critic_updates=1, **changes))


def images(count, seed):
    return tf.constant(np.random.default_rng(seed).uniform(-1, 1, (count, 64, 64, 1)).astype("f"))


@pytest.mark.parametrize("name", ABLATIONS)
def test_a_flagfile_changes_its_own_flags_alone(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    base = configure(["main", "--flagfile=configs/synthetic.flags", "--run_dir=runs/a"])
    found = configure(["main", f"--flagfile=configs/ablation_{name}.flags", "--run_dir=runs/a"])
    assert found == dataclasses.replace(base, **ABLATIONS[name])
    assert found != base


def test_every_flagfile_of_an_ablation_is_tested():
    assert {path.stem for path in (ROOT / "configs").glob("ablation_*")} == {f"ablation_{name}" for name in ABLATIONS}


@pytest.mark.usefixtures("shapes_alone")
def test_parameter_counts_at_the_papers_size_follow_from_the_layers():
    # Without skips the first convolutions after the two joins do not read 256 and 128 channels more.
    assert count(build_generator(image_size=64, skip_connections="none")) == 8_528_262 - 9 * (256 * 256 + 128 * 128)
    # With the topmost, the first convolution of each branch reads 64 channels more.
    assert count(build_generator(image_size=64, skip_connections="all")) == 8_528_262 + 2 * 9 * 64 * 64
    # A branch: convolution 64 -> 64, normalisation, convolution 64 -> 1, normalisation.
    branch = 9 * 64 * 64 + 64 + 2 * 64 + 9 * 64 + 1 + 2
    assert count(build_generator(image_size=64, branches=BOTH)) == 8_528_262 - branch
    assert count(build_generator(image_size=64, output="change")) == 8_528_262
    # A critic: two convolutions 512 -> 512 and one 1x1 -> 1.
    critic = 2 * (9 * 512 * 512 + 512) + 512 + 1
    assert count(build_discriminator(image_size=256, critics=BOTH)) == 18_170_180 - critic


def activations(trunk, size):
    """Names of the trunk's layers that give rectified maps of a size, in order."""
    return [
        layer.name
        for layer in trunk.layers
        if isinstance(layer, keras.layers.Activation) and layer.output.shape[1] == size
    ]


@pytest.mark.parametrize(("skip_connections", "joined"), [("none", []), ("inner", [16, 32]), ("all", [16, 32, 64])])
def test_skip_connections_join_maps_of_these_sizes(tiny_settings, skip_connections, joined):
    trunk = build(tiny_settings, skip_connections=skip_connections).networks["generator"].get_layer("trunk")
    joins = [layer for layer in trunk.layers if isinstance(layer, keras.layers.Concatenate)]
    assert [layer.output.shape[1] for layer in joins] == joined
    for layer, size in zip(joins, joined, strict=True):
        # What is joined is the last map of that size on the way down, beside the upsampled one.
        ways = {history.operation.name for history in (tensor._keras_history for tensor in layer.input)}
        assert activations(trunk, size)[1] in ways
        assert len(ways) == 2


def test_without_skips_nothing_passes_by_the_lowest_maps(tiny_settings):
    """With the lowest maps silenced, the image makes no difference without skips, and one with them."""
    for skip_connections, passes in (("none", False), ("inner", True)):
        generator = build(tiny_settings, skip_connections=skip_connections).networks["generator"]
        trunk = generator.get_layer("trunk")
        lowest = trunk.get_layer(activations(trunk, 8)[-1])
        lowest.call = lambda x: tf.zeros_like(x)
        target = tf.constant([[1.0, 0.0]])
        first, second = (np.asarray(trunk([images(1, seed), target], training=True)) for seed in (0, 1))
        assert np.array_equal(first, second) != passes


@pytest.mark.usefixtures("shallow_here")
def test_one_generator_branch_serves_both_classes(tiny_settings):
    method = build(tiny_settings, generator_branches=1)
    generator, x = method.networks["generator"], images(2, 0)
    assert {layer.name for layer in generator.layers if isinstance(layer, keras.Model)} == {"trunk", "both"}
    for target in ([[1.0, 0.0]] * 2, [[0.0, 1.0]] * 2):
        outputs = generator({"image": x, "target": tf.constant(target)})
        np.testing.assert_array_equal(outputs["healthy"], outputs["diseased"])
    translated = method.translate(x)
    # The label still reaches it, through the trunk.
    assert float(tf.reduce_max(tf.abs(translated["healthy"] - translated["diseased"]))) > 1e-4
    np.testing.assert_allclose(method.predict(x).healthy_image, translated["healthy"], atol=1e-6)


@pytest.mark.usefixtures("shallow_here")
def test_one_generator_branch_normalises_over_both_targets(tiny_settings):
    """In a pass with one target for all images it could not see which."""
    method = build(tiny_settings, generator_branches=1)
    x = images(4, 0)
    found = method._both(x)
    one_hot = tf.constant([[1.0, 0.0]] * 4 + [[0.0, 1.0]] * 4)
    features = method.networks["generator"].get_layer("trunk")([tf.concat([x, x], 0), one_hot], training=True)
    expected = method.networks["generator"].get_layer("both")(features, training=True)
    np.testing.assert_allclose(tf.concat(found, 0), expected, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.usefixtures("shallow_here")
def test_one_critic_serves_both_classes(tiny_settings):
    method = build(tiny_settings, critic_branches=1)
    discriminator = method.networks["discriminator"]
    names = {layer.name for layer in discriminator.layers if isinstance(layer, keras.Model)}
    assert names == {"trunk", "critic_both", "classifier"}
    x, other = images(2, 0), images(2, 1)
    (as_healthy, _), _ = method._scores(x, other, method._in_float32)
    (_, as_diseased), _ = method._scores(other, x, method._in_float32)
    np.testing.assert_allclose(as_healthy, as_diseased, rtol=1e-5)
    two = build(tiny_settings)
    (as_healthy, _), _ = two._scores(x, other, two._in_float32)
    (_, as_diseased), _ = two._scores(other, x, two._in_float32)
    assert not np.allclose(as_healthy, as_diseased, rtol=1e-2)


@pytest.mark.usefixtures("shallow_here")
def test_a_change_is_added_to_the_image(tiny_settings):
    new, change = build(tiny_settings), build(tiny_settings, output="change")
    for name, network in new.networks.items():
        change.networks[name].set_weights(network.get_weights())
    x = images(3, 0)
    expected = np.asarray(x) + 2 * np.asarray(new.predict(x).healthy_image)
    found = change.networks["generator"]({"image": x, "target": tf.zeros((3, 2))})["healthy"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(expected).max() > 1  # so that cutting matters
    answer = change.predict(x)
    np.testing.assert_allclose(answer.healthy_image, np.clip(expected, -1, 1), atol=1e-5)
    np.testing.assert_allclose(answer.anomaly_map, answer.healthy_image - x, atol=1e-6)
    np.testing.assert_allclose(change.translate(x)["healthy"], answer.healthy_image, atol=1e-6)


@pytest.mark.usefixtures("shallow_here")
def test_a_change_is_small_at_the_start_and_none_is_possible_everywhere(tiny_settings):
    method = build(tiny_settings, output="change")
    x = images(4, 0)
    g_h, g_p = method._both(x)
    for made in (g_h, g_p):
        change = np.asarray(made - x)
        assert 0.1 < np.std(change) < 0.25  # 2 tanh(0.1 z) of a normalised z
    for name in ("healthy", "diseased"):
        last = method.networks["generator"].get_layer(name).layers
        (*_, normalisation) = [layer for layer in last if hasattr(layer, "moving_mean")]
        normalisation.gamma.assign([0.0])
    white = tf.ones((4, 64, 64, 1))
    np.testing.assert_array_equal(method._both(white)[0], white)


@pytest.mark.usefixtures("eager", "shallow_here")
@pytest.mark.parametrize("name", [name for name in ABLATIONS if name != "no_identity"])
def test_an_ablation_trains(tiny_settings, name):
    method = build(tiny_settings, **ABLATIONS[name])
    step = TrainStep(method, method.networks["generator"], tf.distribute.get_strategy(), seed=7)
    before = {key: network.get_weights() for key, network in method.networks.items()}
    logs = step.round((Batch(images(2, 0), images(2, 1)),))
    assert all(np.isfinite(float(value)) for value in logs.values())
    for key, network in method.networks.items():
        assert not all(np.array_equal(a, b) for a, b in zip(before[key], network.get_weights(), strict=True))
    assert np.asarray(method.predict(images(1, 2)).class_probabilities)[0, HEALTHY] > 0


@pytest.mark.usefixtures("shallow_here")
def test_without_identity_loss_the_total_leaves_it_out(tiny_settings):
    method = build(tiny_settings, lambda_id=0.0)
    weights = method.weights(method.phases[1])
    assert weights.pop("identity") == 0
    full = build(tiny_settings).weights(method.phases[1])
    assert full.pop("identity") == 50
    assert weights == full
