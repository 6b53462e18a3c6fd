import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf

from descargan_tf.models.blocks import (
    BatchNormalization,
    Conv2D,
    MaxPooling2D,
    UpsampleConv2D,
    estimate_statistics,
    fix_statistics,
    normalisations,
)
from descargan_tf.models.discriminator import CLASSIFIER_UNITS, build_discriminator
from descargan_tf.models.generator import build_generator


def count(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def randomise(model, seed=0):
    """Weights of a trained network's size everywhere, biases and normalisation too."""
    rng = np.random.default_rng(seed)
    for v in model.variables:
        spread = 0.3 if len(v.shape) == 1 else 1 / np.sqrt(np.prod(v.shape[:-1]))
        offset = 1.0 if "gamma" in v.path or "variance" in v.path else 0.0
        v.assign(offset + np.abs(rng.normal(0, spread, v.shape)) * (1 if offset else rng.choice([-1, 1], v.shape)))


def test_parameter_counts_of_the_paper(shapes_alone):
    assert count(build_generator(image_size=256, filters=64)) == 8_528_262
    assert count(build_discriminator(image_size=256, filters=32)) == 18_170_180
    assert count(build_discriminator(image_size=256, filters=32, max_filters=512)) == 18_170_180


def test_no_layer_of_the_discriminator_has_more_filters_than_allowed():
    model = build_discriminator(image_size=64, filters=4, max_filters=20)
    expected = {
        "trunk": [4, 8, 16, 16, 20, 20, 20, 20, 20],
        "critic_healthy": [20, 20, 1],
        "critic_diseased": [20, 20, 1],
        "classifier": [20, 20],
    }
    for name, widths in expected.items():
        layers = model.get_layer(name).layers
        assert [layer.filters for layer in layers if isinstance(layer, keras.layers.Conv2D)] == widths


def test_generator_equals_an_independent_computation():
    model = build_generator(image_size=16, filters=3, inference_statistics="per_image")
    randomise(model)
    image = np.random.default_rng(1).uniform(-1, 1, (16, 16, 1))
    for target in ([1, 0], [0, 1]):
        found = model({"image": image[None].astype("f"), "target": np.array([target], "f")}, training=False)
        expected = oracles.generator(model, image, np.array(target))
        for name in expected:
            np.testing.assert_allclose(np.asarray(found[name])[0], expected[name], atol=2e-5)


@pytest.mark.parametrize(("activation", "poolings", "scores"), [("relu", 5, 2), ("leaky_relu", 5, 2), ("relu", 3, 8)])
def test_discriminator_equals_an_independent_computation(activation, poolings, scores):
    model = build_discriminator(image_size=64, filters=3, activation=activation, poolings=poolings)
    randomise(model)
    image = np.random.default_rng(2).uniform(-1, 1, (64, 64, 1))
    found = model({"image": image[None].astype("f"), "keep": np.ones((1, CLASSIFIER_UNITS), "f")})
    assert found["critic_healthy"].shape == (1, scores, scores, 1)
    expected = oracles.discriminator(model, image, getattr(oracles, activation), poolings)
    for name, value in zip(("critic_healthy", "critic_diseased", "logits"), expected, strict=True):
        np.testing.assert_allclose(np.asarray(found[name])[0], value, rtol=1e-4, atol=1e-6)


def test_critic_padding_gives_the_reference_border():
    model = build_discriminator(image_size=64, filters=2, critic_padding=1)
    randomise(model)
    out = model({"image": tf.random.uniform((1, 64, 64, 1)), "keep": tf.ones((1, 64))})["critic_healthy"]
    assert out.shape == (1, 4, 4, 1)
    bias = np.asarray(model.get_layer("critic_healthy").trainable_weights[-1])
    np.testing.assert_allclose(np.asarray(out)[0, 0, :, 0], np.full(4, bias[0]), rtol=1e-6)


@pytest.mark.parametrize("statistics", ["moving", "per_image"])
def test_an_answer_does_not_depend_on_the_rest_of_the_batch(statistics):
    model = build_generator(image_size=64, filters=2, inference_statistics=statistics)
    randomise(model)
    images = np.random.default_rng(0).uniform(-1, 1, (5, 64, 64, 1)).astype("f")
    images[1] *= 100  # a wild neighbour
    target = np.tile([[1.0, 0.0]], (5, 1)).astype("f")
    together = model({"image": images, "target": target}, training=False)["healthy"]
    for i in range(5):
        alone = model({"image": images[i : i + 1], "target": target[:1]}, training=False)["healthy"]
        # Other batch sizes run other convolution kernels: rounding of 2e-5 was seen, a neighbour's effect is near 1.
        np.testing.assert_allclose(np.asarray(together)[i], np.asarray(alone)[0], atol=2e-4)


def test_batch_normalisation_in_training():
    layer = BatchNormalization()
    x = np.random.default_rng(0).normal(3, 2, (4, 5, 6, 3)).astype("f")
    layer.build(x.shape)
    layer.gamma.assign([1, 2, 3])
    layer.beta.assign([0, 1, 2])
    expected = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5) * [1, 2, 3] + [0, 1, 2]
    np.testing.assert_allclose(np.asarray(layer(x, training=True)), expected, atol=1e-4)
    # PyTorch's rule: momentum 0.01, unbiased variance.
    np.testing.assert_allclose(np.asarray(layer.moving_mean), 0.01 * x.mean((0, 1, 2)), rtol=1e-4)
    unbiased = x.reshape(-1, 3).var(0, ddof=1)
    np.testing.assert_allclose(np.asarray(layer.moving_variance), 0.99 + 0.01 * unbiased, rtol=1e-4)


def test_statistics_are_estimated_from_the_passes_that_are_made_and_no_others():
    model = build_generator(image_size=64, filters=2)
    randomise(model)
    target = np.zeros((4, 2), "f")
    batches = [np.random.default_rng(seed).uniform(-1, 1, (4, 64, 64, 1)).astype("f") for seed in range(3)]
    layers = normalisations(model)
    assert len(layers) == 15 + 2 * 2  # of the trunk, and of each branch
    expected = []
    for batch in batches:
        for layer in layers:
            layer.momentum = 0.0
        model({"image": batch, "target": target}, training=True)
        expected.append([np.asarray(layer.moving_variance) for layer in layers])
    for layer in layers:
        layer.momentum = 0.99
    estimate_statistics(model, lambda: [model({"image": b, "target": target}, training=True) for b in batches])
    for layer, *values in zip(layers, *expected, strict=True):
        np.testing.assert_allclose(layer.moving_variance, np.mean(values, 0), rtol=1e-4)
    before = np.asarray(layers[0].moving_mean)
    model({"image": 3 + batches[0], "target": target}, training=True)
    after = np.asarray(layers[0].moving_mean)
    assert 0 < np.abs(after - before).max() < 0.05  # by momentum again


def test_fixed_statistics_are_used_in_training_and_stay():
    model = build_generator(image_size=64, filters=2)
    randomise(model)
    inputs = {
        "image": np.random.default_rng(0).uniform(-1, 1, (4, 64, 64, 1)).astype("f"),
        "target": np.zeros((4, 2), "f"),
    }
    weights, inference = model.get_weights(), model(inputs, training=False)["healthy"]
    assert not np.allclose(model(inputs, training=True)["healthy"], inference, atol=1e-2)
    model.set_weights(weights)
    fix_statistics(model)
    np.testing.assert_array_equal(model(inputs, training=True)["healthy"], inference)
    for a, b in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_two_replicas_normalise_as_one(two_replicas):
    strategy = two_replicas
    x = np.random.default_rng(0).normal(3, 2, (4, 5, 6, 3)).astype("f")
    one = BatchNormalization()
    one.build(x.shape)
    with strategy.scope():
        two = BatchNormalization()
        two.build(x.shape)

    @tf.function
    def run():
        def replica():
            i = tf.distribute.get_replica_context().replica_id_in_sync_group
            return two(tf.constant(x)[2 * i : 2 * i + 2], training=True)

        return strategy.experimental_local_results(strategy.run(replica))

    together = np.concatenate([np.asarray(part) for part in run()])
    np.testing.assert_allclose(together, np.asarray(one(x, training=True)), atol=1e-5)
    np.testing.assert_allclose(np.asarray(two.moving_mean), np.asarray(one.moving_mean), atol=1e-6)
    np.testing.assert_allclose(np.asarray(two.moving_variance), np.asarray(one.moving_variance), atol=1e-5)


def test_upsampling_convolution_equals_its_two_steps():
    x = np.random.default_rng(0).normal(size=(2, 9, 7, 5)).astype("f")
    layer = UpsampleConv2D(4)
    layer(x)
    layer.bias.assign([1, 2, 3, 4])
    large = keras.layers.UpSampling2D(2)(x)
    convolution = keras.layers.Conv2D(4, 3, padding="same")
    convolution.build(large.shape)
    convolution.kernel.assign(layer.kernel)
    convolution.bias.assign(layer.bias)
    np.testing.assert_allclose(np.asarray(layer(x)), np.asarray(convolution(large)), atol=1e-5)


def test_bfloat16_keeps_weights_and_outputs_in_float32():
    generator, discriminator = (
        build_generator(image_size=64, filters=2, precision="bfloat16"),
        build_discriminator(image_size=64, filters=2, precision="bfloat16"),
    )
    for model in (generator, discriminator):
        assert {v.dtype for v in model.variables} == {"float32"}
        assert {out.dtype for out in model.output.values()} == {"float32"}
    assert generator.get_layer("trunk").output.dtype == "bfloat16"


def test_networks_are_functional_and_survive_keras_files(tmp_path):
    model = build_generator(image_size=64, filters=2)
    randomise(model)
    model.save(tmp_path / "g.keras")
    loaded = keras.saving.load_model(
        tmp_path / "g.keras",
        custom_objects={
            "BatchNormalization": BatchNormalization,
            "MaxPooling2D": MaxPooling2D,
            "Conv2D": Conv2D,
            "UpsampleConv2D": UpsampleConv2D,
            "LabelPlanes": type(model.get_layer("trunk").layers[2]),
        },
    )
    inputs = {"image": tf.random.uniform((2, 64, 64, 1)), "target": tf.constant([[1.0, 0], [0, 1.0]])}
    np.testing.assert_allclose(np.asarray(loaded(inputs)["healthy"]), np.asarray(model(inputs)["healthy"]), atol=1e-6)
