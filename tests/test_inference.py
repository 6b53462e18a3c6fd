"""Networks for inference answer as the trained ones do, from fewer operations."""

import functools
import sys
import types

import keras
import numpy as np
import program_starts
import pytest
import tensorflow as tf
from exports import SIZE, lively_method
from keras import layers

from descargan_tf import hardware
from descargan_tf.inference import networks
from descargan_tf.inference.networks import InferenceNetwork
from descargan_tf.models.blocks import BatchNormalization, MaxPooling2D, UpsampleConv2D, policy
from descargan_tf.training import backends
from descargan_tf.training.backends import compiled_predict

pytestmark = pytest.mark.usefixtures("shallow")

TENSORFLOW = types.SimpleNamespace(backend="tensorflow")
lively = functools.cache(lively_method)  # for what changes none


@pytest.fixture(autouse=True)
def every_width_is_wide(monkeypatch):
    monkeypatch.setattr(networks, "_FEWEST_CHANNELS", {2: 1, 4: 1})
    yield
    program_starts.leave_graphs_as_traced(False)  # as prediction leaves them in its process


def stir(network):
    """Weights that are nowhere 0 or 1; variances stay positive."""
    rng = np.random.default_rng(0)
    for weight in network.weights:
        value = rng.uniform(0.3, 1.7, weight.shape)
        weight.assign(value if "variance" in weight.path else value * rng.choice([-1, 1], weight.shape))
    return network


def graph_of(network, batch=None):
    return tf.function(InferenceNetwork(network), [tf.TensorSpec((batch, *network.input_shape[1:]))], autograph=False)


def convolutions(function):
    """Kernel shapes of the graph's convolutions, transposed ones too, in order."""
    found = []
    for operation in function.get_concrete_function().graph.get_operations():
        if operation.type in ("Conv2D", "Conv2DBackpropInput"):
            found.append(tuple(operation.inputs[1].shape))
    return sorted(found)


def same(network, batch=None):
    """Both answer alike; gives the graph for inference."""
    images = np.random.default_rng(1).normal(size=(3, *network.input_shape[1:])).astype("float32")
    expected, function = np.asarray(stir(network)(images, training=False)), graph_of(network, batch)
    np.testing.assert_allclose(function(tf.constant(images)), expected, atol=1e-5 * np.abs(expected).max())
    return function


def normalised(x, filters=4, **options):
    return BatchNormalization()(layers.Conv2D(filters, 3, padding="same", **options)(x))


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize(("size", "count"), [(12, 6), (8, 6), (4, 6), (6, 4), (2, 4)])
def test_four_rows_take_six_convolutions_along_them_and_two_four_borders_and_all(size, count, batch):
    image = keras.Input((size, size, 2))
    graph = same(keras.Model(image, layers.Activation("relu")(normalised(image))), batch)
    assert convolutions(graph) == [(1, 3, 2, 4)] * count


@pytest.mark.parametrize(
    "options",
    [
        {"strides": 2},
        {"dilation_rate": 2},
        {"padding": "valid"},
        {"groups": 2},
        {"kernel_size": 5},
        {"use_bias": False, "strides": 2},
        {"filters": 1, "padding": "valid"},
    ],
)
def test_other_convolutions_are_computed_as_they_are(options):
    image = keras.Input((8, 8, 2))
    options = {"filters": 4, "kernel_size": 3, "padding": "same", **options}
    graph = same(keras.Model(image, BatchNormalization()(layers.Conv2D(**options)(image))))
    assert len(convolutions(graph)) == 1


class Doubled(layers.Conv2D):
    """Another class, which computes something else."""

    def call(self, inputs):
        return 2 * super().call(inputs)


def test_a_class_made_of_a_known_one_is_asked_itself():
    image = keras.Input((8, 8, 2))
    graph = same(keras.Model(image, BatchNormalization()(Doubled(4, 3, padding="same")(image))))
    assert convolutions(graph) == [(3, 3, 2, 4)]


def test_the_layers_of_the_generator_are_all_known():
    graph = tf.function(InferenceNetwork(lively().networks["generator"]).get_layer("trunk"))
    images, planes = tf.TensorSpec((None, SIZE, SIZE, 1)), tf.TensorSpec((None, 2))
    operations = graph.get_concrete_function([images, planes]).graph.get_operations()
    kinds = [operation.type for operation in operations]
    assert kinds.count("Conv2D") == 4 * 6
    assert kinds.count("Conv2DBackpropInput") == 2 * 2 * 3  # of even and of odd rows
    assert "FusedBatchNormV3" not in kinds


def test_an_odd_height_has_no_pairs_of_rows():
    image = keras.Input((7, 6, 2))
    x = normalised(normalised(image))
    assert convolutions(same(keras.Model(image, x))) == [(3, 3, 2, 4), (3, 3, 4, 4)]
    image = keras.Input((6, 6, 2))  # odd after pooling
    x = normalised(MaxPooling2D()(normalised(image)))
    assert convolutions(same(keras.Model(image, x))) == [(1, 3, 2, 4)] * 4 + [(3, 3, 4, 4)]
    image = keras.Input((6, 6, 2))
    pooled = MaxPooling2D()(normalised(image))
    x = layers.Concatenate()([pooled, MaxPooling2D()(image)])
    assert convolutions(same(keras.Model(image, normalised(x)))) == [(1, 3, 2, 4)] * 4 + [(3, 3, 6, 4)]


@pytest.mark.parametrize(("size", "fewest", "count"), [(8, {2: 9, 4: 3}, 6), (6, {2: 3, 4: 9}, 4)])
def test_wide_means_both_channels_in_and_out(size, fewest, count, monkeypatch):
    monkeypatch.setattr(networks, "_FEWEST_CHANNELS", fewest)
    image = keras.Input((size, size, 2))
    graph = same(keras.Model(image, normalised(normalised(image), 3)))
    assert convolutions(graph) == [(1, 3, 4, 3)] * count + [(3, 3, 2, 4)]


# Rows by fours; and where twos are halved, or fours and twos meet.
@pytest.mark.parametrize(("size", "high", "low", "up"), [(16, 6, 6, 6), (8, 6, 6, 6), (12, 6, 4, 6), (4, 6, 4, 6)])
@pytest.mark.parametrize("batch", [None, 3])
def test_rows_stay_apart_through_a_network_like_the_trunk(size, high, low, up, batch):
    image = keras.Input((size, size, 2))
    x = skip = layers.Activation("relu")(normalised(normalised(image)))
    x = MaxPooling2D()(x)
    x = layers.Activation("relu")(normalised(x))
    x = layers.Activation("relu")(BatchNormalization()(UpsampleConv2D(3)(x)))
    x = layers.Concatenate()([x, skip])
    x = UpsampleConv2D(2)(normalised(x))
    graph = same(keras.Model(image, x), batch)
    expected = [(1, 3, 2, 4)] * high + [(1, 3, 4, 4)] * (high + low) + [(1, 3, 7, 4)] * high
    expected += [(1, 4, 3, 4)] * up + [(1, 4, 2, 4)] * up
    assert convolutions(graph) == sorted(expected)
    transposed = [o for o in graph.get_concrete_function().graph.get_operations() if o.type == "Transpose"]
    assert len(transposed) == 2  # of the first rows, and back in the end


def test_upsampling_alone_is_one_transposed_convolution():
    image = keras.Input((6, 6, 3))
    graph = same(keras.Model(image, BatchNormalization()(UpsampleConv2D(4)(image))))
    assert convolutions(graph) == [(4, 4, 4, 3)]


@pytest.mark.parametrize("kernel", [(3, 3), (5, 1), (2, 4)])
def test_one_channel_is_a_matrix_product(kernel, monkeypatch):
    monkeypatch.setattr(networks, "_FEWEST_CHANNELS", {2: 2, 4: 2})
    image = keras.Input((7, 6, 4))
    network = keras.Model(image, layers.Activation("tanh")(layers.Conv2D(1, kernel, padding="same")(image)))
    assert not convolutions(same(keras.Model(image, network(image))))


def test_layers_with_activations_and_others_between_take_images():
    image = keras.Input((8, 8, 2))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    x = layers.LeakyReLU()(normalised(layers.ZeroPadding2D(1)(x)))
    x = layers.Concatenate(axis=1)([normalised(x), x])
    same(keras.Model(image, layers.Flatten()(MaxPooling2D(3, strides=1)(normalised(x)))))


# Each way of computing convolutions, and each kind of method.
@pytest.mark.parametrize(
    ("changes", "fewest", "tolerance"),  # many small layers round often
    [
        ({}, 1, 5e-5),
        ({"batch_norm": "per_image"}, 100, 2e-5),
        ({"batch_norm": "per_image"}, 1, 5e-5),
        ({"output": "change"}, 100, 2e-5),
    ],
)
def test_a_method_predicts_as_before(changes, fewest, tolerance, monkeypatch):
    monkeypatch.setattr(networks, "_FEWEST_CHANNELS", {2: fewest, 4: fewest})
    images = np.random.default_rng(0).uniform(-1, 1, (2, SIZE, SIZE, 1)).astype("float32")
    after = compiled_predict(TENSORFLOW, lively(**changes), weights_stay=True)(images)
    for name, expected in lively(**changes).predict(tf.constant(images))._asdict().items():
        largest = np.abs(expected).max()
        np.testing.assert_allclose(getattr(after, name), expected, atol=tolerance * largest, err_msg=name)


def test_bfloat16_is_as_far_from_float32_as_before():
    images = np.random.default_rng(0).uniform(-1, 1, (2, SIZE, SIZE, 1)).astype("float32")
    changes = {"generator_filters": 16, "discriminator_filters": 8}
    exact = lively_method(**changes).predict(tf.constant(images)).anomaly_map
    method = lively_method(precision="bfloat16", **changes)
    live, rows = (compiled_predict(TENSORFLOW, method, weights_stay=stay)(images) for stay in (False, True))
    error, of_rows = (float(np.sqrt(np.mean((answer.anomaly_map - exact) ** 2))) for answer in (live, rows))
    assert 0 < of_rows < 2 * error


@pytest.mark.parametrize(
    ("fewest", "has_avx512", "loops"), [(SIZE**2, False, 1), (SIZE**2 + 1, False, 0), (SIZE**2, True, 0)]
)
def test_large_images_are_computed_one_by_one(fewest, has_avx512, loops, monkeypatch):
    monkeypatch.setattr(networks, "_FEWEST_PIXELS", fewest)
    monkeypatch.setattr(backends, "has_avx512", lambda: has_avx512)
    images = tf.random.stateless_uniform((3, SIZE, SIZE, 1), [0, 1], -1, 1)
    program_starts.leave_graphs_as_traced(False)
    predict = compiled_predict(TENSORFLOW, lively(), weights_stay=True)
    left = tf.config.optimizer.get_experimental_options().get("disable_meta_optimizer")
    assert left is not has_avx512
    graph = predict.get_concrete_function(images).graph
    assert [operation.type for operation in graph.get_operations()].count("While") == loops
    for name, expected in lively().predict(images)._asdict().items():
        found = getattr(predict(images), name)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=5e-5 * np.abs(expected).max(), err_msg=name)


def test_weights_that_stay_are_those_of_the_first_call():
    method, network = lively(), lively().networks["generator"]
    images = tf.constant(np.random.default_rng(0).uniform(-1, 1, (1, SIZE, SIZE, 1)).astype("float32"))
    answers = {False: method.predict, True: compiled_predict(TENSORFLOW, method, weights_stay=True)}
    before = {stay: np.asarray(answer(images).anomaly_map) for stay, answer in answers.items()}
    weights = network.get_weights()
    network.set_weights([1.5 * weight for weight in weights])
    np.testing.assert_array_equal(answers[True](images).anomaly_map, before[True])
    assert np.abs(answers[False](images).anomaly_map - before[False]).max() > 1e-3
    network.set_weights(weights)  # of other tests, too


def test_it_is_for_inference_alone_and_otherwise_as_its_model():
    network = lively().networks["generator"]
    made = InferenceNetwork(network)
    assert made.output_shape == network.output_shape
    with pytest.raises(ValueError, match="neither training=True nor a mask"):
        made({"image": np.zeros((1, SIZE, SIZE, 1)), "target": np.zeros((1, 2))}, training=True)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_where_multiplications_cost_next_to_nothing_rows_are_not_paired(precision, monkeypatch):
    monkeypatch.setattr(hardware, "_processor_flags", lambda: {"avx512_bf16", "amx_bf16"})
    image = keras.Input((8, 8, 2))
    x = layers.Conv2D(4, 3, padding="same", dtype=policy(precision))(image)
    graph = graph_of(keras.Model(image, x))
    assert convolutions(graph) == ([(1, 3, 2, 4)] * 6 if precision == "float32" else [(3, 3, 2, 4)])


@pytest.mark.parametrize(("backend", "has_gpu"), [("jax", False), ("tensorflow", True)])
def test_elsewhere_networks_stay_as_they_are(backend, has_gpu, monkeypatch):
    monkeypatch.setattr(backends, "has_accelerator", lambda: has_gpu)
    if backend == "jax":
        monkeypatch.setitem(
            sys.modules, "descargan_tf.training.jax_step", types.SimpleNamespace(predictor=lambda *a: a)
        )
    monkeypatch.setattr(networks, "for_inference", lambda method: pytest.fail("networks for inference were made"))
    method = lively()
    answer = compiled_predict(types.SimpleNamespace(backend=backend), method, weights_stay=True)
    if backend == "jax":
        assert answer[0] is method
