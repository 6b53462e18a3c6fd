"""Networks rewritten for inference answer as before."""

import keras
import numpy as np
import pytest
from exports import SIZE, lively_method
from keras import layers

from descargan_tf.inference.folding import fold_method, fold_network, uses_own_statistics
from descargan_tf.models import stargan
from descargan_tf.models.blocks import BatchNormalization, UpsampleConv2D

pytestmark = pytest.mark.usefixtures("shallow")


def normalisations(network):
    kinds = (BatchNormalization, layers.BatchNormalization)
    return [layer for layer in network._flatten_layers() if isinstance(layer, kinds)]


def stir(network, seed=0):
    """Weights that are nowhere 0 or 1; variances stay positive."""
    rng = np.random.default_rng(seed)
    for weight in network.weights:
        weight.assign(rng.uniform(0.3, 1.7, weight.shape) * rng.choice([-1, 1], weight.shape))
        if "variance" in weight.path:
            weight.assign(np.abs(np.asarray(weight)))
    return network


def same(network, folded, atol=1e-5):
    x = np.random.default_rng(1).normal(size=(2, *network.input_shape[1:])).astype("float32")
    expected = np.asarray(network(x, training=False))
    np.testing.assert_allclose(np.asarray(folded(x, training=False)), expected, atol=atol * np.abs(expected).max())


def test_a_convolution_takes_in_the_normalisation_behind_it_by_hand():
    image = keras.Input((4, 4, 1))
    x = layers.Conv2D(1, 1, name="convolution")(image)
    x = BatchNormalization(epsilon=0.0, name="normalisation")(x)
    network = keras.Model(image, x)
    network.get_layer("convolution").set_weights([np.full((1, 1, 1, 1), 2.0), np.array([1.0])])
    network.get_layer("normalisation").set_weights([np.array([v]) for v in (5.0, 7.0, 3.0, 4.0)])
    folded, count = fold_network(network)
    assert count == 1
    # 5 (2 x + 1 - 3) / sqrt(4) + 7 = 5 x + 2
    kernel, bias = folded.get_layer("convolution").get_weights()
    assert kernel.ravel() == pytest.approx([5])
    assert bias == pytest.approx([2])


@pytest.mark.parametrize("statistics", ["moving", "per_image"])
def test_a_method_predicts_as_before(statistics):
    method = lively_method(batch_norm=statistics)
    folded, count = fold_method(method)
    remaining = sum(len(normalisations(network)) for network in folded.networks.values())
    assert (count, remaining) == ((8, 0) if statistics == "moving" else (0, 8))
    images = keras.ops.convert_to_tensor(np.random.default_rng(0).uniform(-1, 1, (2, SIZE, SIZE, 1)), "float32")
    for name, before, after in zip(
        ("map", "image", "score", "class"), method.predict(images), folded.predict(images), strict=True
    ):
        np.testing.assert_allclose(np.asarray(after), np.asarray(before), atol=1e-5, err_msg=name)
    assert len(normalisations(method.networks["generator"])) == 8  # the method itself stays as it was


def test_leaky_rectifiers_keep_their_slope():
    """0.01 here; a configuration has a function's name alone, and of that name Keras' own has 0.2."""
    critic = stargan.build_discriminator(image_size=64, filters=2, initializer="he_normal")
    images = np.random.default_rng(0).uniform(-1, 1, (3, 64, 64, 1)).astype("f")
    folded, _ = fold_network(critic)
    for name, expected in critic(images).items():
        np.testing.assert_allclose(folded(images)[name], expected, rtol=1e-4, atol=1e-5, err_msg=name)


def test_upsampling_becomes_one_transposed_convolution_borders_and_all():
    image = keras.Input((6, 6, 3))
    network = stir(keras.Model(image, BatchNormalization()(UpsampleConv2D(4)(image))))
    folded, count = fold_network(network)
    assert count == 1
    assert not any(isinstance(layer, UpsampleConv2D) for layer in folded.layers)
    same(network, folded)


@pytest.mark.parametrize("options", [{}, {"center": False}, {"scale": False}])
def test_keras_own_normalisation_is_folded_too(options):
    image = keras.Input((8, 8, 2))
    x = layers.BatchNormalization(**options)(layers.Conv2D(3, 3, use_bias=False, strides=2)(image))
    network = stir(keras.Model(image, layers.ReLU()(x)))
    folded, count = fold_network(network)
    assert (count, normalisations(folded)) == (1, [])
    same(network, folded)


def used_twice(x):
    y = layers.Conv2D(2, 3, padding="same")(x)
    return layers.Add()([y, BatchNormalization()(y)])


def rectified_first(x):
    return BatchNormalization()(layers.Conv2D(2, 3, activation="relu")(x))


def without_convolution(x):
    return BatchNormalization()(layers.MaxPooling2D()(x))


def over_another_axis(x):
    return layers.BatchNormalization(axis=1)(layers.Conv2D(2, 3)(x))


def own_statistics(x):
    return BatchNormalization("per_image")(layers.Conv2D(2, 3)(x))


@pytest.mark.parametrize("build", [used_twice, rectified_first, without_convolution, over_another_axis, own_statistics])
def test_what_cannot_be_folded_stays(build):
    image = keras.Input((8, 8, 2))
    network = stir(keras.Model(image, build(image)))
    folded, count = fold_network(network)
    assert count == 0
    assert len(normalisations(folded)) == 1
    same(network, folded)


def test_a_convolution_whose_answer_leaves_the_network_stays():
    image = keras.Input((8, 8, 2))
    y = layers.Conv2D(2, 3)(image)
    network = stir(keras.Model(image, [y, BatchNormalization()(y)]))
    folded, count = fold_network(network)
    assert count == 0
    x = np.ones((1, 8, 8, 2), "float32")
    for before, after in zip(network(x), folded(x), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-6)


def test_shared_layers_stay_shared():
    image = keras.Input((8, 8, 2))
    shared = layers.Conv2D(2, 3, padding="same")
    network = stir(keras.Model(image, BatchNormalization()(shared(shared(image)))))
    folded, count = fold_network(network)
    assert count == 0
    assert len(folded.layers) == len(network.layers)
    same(network, folded)


def test_bfloat16_convolutions_store_bfloat16():
    folded, _ = fold_method(lively_method(precision="bfloat16"))
    weights = {weight.dtype for weight in folded.networks["generator"].get_layer("trunk").weights}
    assert weights == {"bfloat16"}


def test_statistics_of_the_image_itself_are_recognised():
    image = keras.Input((8, 8, 2))
    assert uses_own_statistics(keras.Model(image, own_statistics(image)))
    assert uses_own_statistics(keras.Model(image, layers.GroupNormalization(groups=-1)(image)))
    assert not uses_own_statistics(keras.Model(image, rectified_first(image)))
    assert uses_own_statistics(lively_method(batch_norm="per_image").networks["generator"])
