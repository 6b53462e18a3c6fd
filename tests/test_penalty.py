"""What the gradient penalty costs: nothing that is known to be zero is carried back through a critic."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from descargan_tf import losses
from descargan_tf.models import blocks, discriminator, stargan, vagan
from descargan_tf.training.step import input_gradient

SIZE = 64


def three_heads(activation):
    def build(precision):
        return discriminator.build_discriminator(
            image_size=SIZE, filters=2, precision=precision, activation=activation, initializer="he_normal"
        )

    return build, lambda part, x: part(part(x, "trunk"), "critic_healthy"), 12


CRITICS = {  # name -> builder by precision, the score map by its parts, the number of convolutions in it
    "relu": three_heads("relu"),
    "leaky_relu": three_heads("leaky_relu"),
    "vagan": (
        lambda precision: vagan.build_critic(image_size=SIZE, filters=2, precision=precision),
        lambda part, x: part(x),
        10,
    ),
    "stargan": (
        lambda precision: stargan.build_discriminator(image_size=SIZE, filters=2, precision=precision),
        lambda part, x: part(part(x, "trunk"), "critic"),
        7,
    ),
}


def penalty_gradient(network, score_map, in_float32):
    """A graph of images to the gradient of their penalty with respect to the critic's weights."""
    weights = [v.value for v in network.trainable_variables]

    def gradient(x):
        with tf.GradientTape() as tape:
            found = input_gradient(lambda x: losses.score(score_map(in_float32, x)), x)
            penalty = tf.reduce_mean(losses.gradient_penalty(found))
        return tape.gradient(penalty, weights, unconnected_gradients="zero")

    return tf.function(gradient, autograph=False).get_concrete_function(tf.TensorSpec((4, SIZE, SIZE, 1)))


def convolutions(function):
    """How many of each type the outputs hang on."""
    found, left = set(), [tensor.op for tensor in function.graph.outputs]
    while left:
        operation = left.pop()
        if operation not in found:
            found.add(operation)
            left += [tensor.op for tensor in operation.inputs]
    return collections.Counter(o.type for o in found if o.type.startswith("Conv2D"))


@pytest.mark.parametrize("name", CRITICS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_penaltys_gradient_passes_each_layer_four_times_and_is_the_same(monkeypatch, name, precision):
    build, score_map, layers = CRITICS[name]
    network = build(precision)
    in_float32 = blocks.InFloat32(network, precision, build)
    images = tf.constant(np.random.default_rng(0).uniform(-1, 1, (4, SIZE, SIZE, 1)), tf.float32)
    short = penalty_gradient(network, score_map, in_float32)
    monkeypatch.setattr(blocks, "_in_penalty", lambda: False)
    plain = penalty_gradient(network, score_map, in_float32)

    # Forward, but what the last layer makes is not asked for; the gradient with respect to the images; of each of its
    # convolutions the gradient with respect to the kernel, and with respect to what comes in, but into the last.
    expected = {"Conv2D": 2 * (layers - 1), "Conv2DBackpropInput": layers, "Conv2DBackpropFilter": layers}
    assert convolutions(short) == expected
    assert sum(convolutions(plain).values()) > 1.4 * sum(expected.values())
    found, wanted = short(images), plain(images)
    assert sum(np.abs(g).max() > 0 for g in wanted) == layers  # kernels alone: an offset does not change a slope
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
