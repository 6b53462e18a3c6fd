"""Convolutions put otherwise for training on processors are the same convolutions, however often they are derived."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from descargan_tf.models import blocks, winograd


def plain(x, kernel):
    return tf.nn.conv2d(x, kernel, 1, "SAME")


def plain_after_upsampling(x, kernel):
    return plain(tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2), kernel)


def derived(function, x, kernel):
    """What it makes, its first derivatives and those of a function of these."""
    weights = tf.constant(np.random.default_rng(1).normal(size=function(x, kernel).shape), tf.float32)
    with tf.GradientTape() as outer:
        outer.watch([x, kernel])
        with tf.GradientTape() as inner:
            inner.watch([x, kernel])
            y = function(x, kernel)
            found = tf.reduce_sum(tf.tanh(y) * weights)
        first = inner.gradient(found, [x, kernel])
        found = tf.add_n([tf.reduce_sum(tf.sin(gradient)) for gradient in first])
    return [y, *first, *outer.gradient(found, [x, kernel])]


@pytest.mark.parametrize(
    ("function", "equal", "shape"),
    [
        (winograd.convolve, plain, (2, 8, 6, 5)),
        (winograd.convolve, plain, (1, 4, 1, 3)),  # one four of rows alone
        (winograd.convolve, plain, (3, 12, 4, 1)),
        (winograd.convolve_plainly, plain, (2, 8, 6, 5)),
        (winograd.convolve_columns, plain, (2, 2, 2, 5)),
        (winograd.convolve_columns, plain, (3, 1, 1, 4)),
        (winograd.convolve_columns, plain, (2, 1, 3, 4)),
        (winograd.upsample, plain_after_upsampling, (2, 5, 4, 3)),
        (winograd.upsample, plain_after_upsampling, (1, 1, 1, 3)),
    ],
)
def test_they_equal_the_plain_one_and_so_do_their_derivatives(function, equal, shape):
    rng = np.random.default_rng(0)
    x, kernel = (tf.constant(rng.normal(size=s), tf.float32) for s in (shape, (3, 3, shape[3], 7)))
    for found, expected in zip(derived(function, x, kernel), derived(equal, x, kernel), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("num_positions", [3, 5000])  # columns laid out; places in memory
def test_rows_are_correlated_at_three_places(num_positions):
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(num_positions, n)) for n in (4, 6))
    x[0] = y[0] = 0  # as every row has before it
    expected = [x[:-1].T @ y[1:], x.T @ y, x[1:].T @ y[:-1]]
    found = winograd._correlated_rows(*(tf.constant(v, tf.float32) for v in (x, y)))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_many_channels_round_no_worse_than_is_said():
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=s) for s in ((1, 8, 8, 256), (3, 3, 256, 128)))
    found = winograd.convolve(*(tf.constant(v, tf.float32) for v in (x, kernel)))
    expected = plain(tf.constant(x), tf.constant(kernel)).numpy()
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("shape", "filters", "expected"),
    [
        ((10, 16, 16, 256), 256, winograd.convolve),
        ((10, 16, 16, 256), 64, winograd.convolve_plainly),  # few channels
        ((10, 64, 64, 256), 16, None),  # fewer
        ((10, 8, 8, 128), 128, None),  # little to compute
        ((10, 18, 18, 256), 256, None),  # no fours of rows
        ((10, 2, 2, 512), 512, winograd.convolve_columns),
        ((10, 2, 2, 32), 32, None),
        ((None, 16, 16, 256), 256, None),
    ],
)
def test_which_one_is_quicker(monkeypatch, shape, filters, expected):
    monkeypatch.setattr(winograd, "has_avx512", lambda: False)
    assert winograd.quicker_convolution(shape, filters) is expected
    monkeypatch.setattr(winograd, "has_avx512", lambda: True)
    only_gradient = expected is winograd.convolve_plainly
    assert winograd.quicker_convolution(shape, filters) is (None if only_gradient else expected)


@pytest.mark.parametrize(
    ("shape", "filters", "has_avx512", "expected"),
    [
        ((10, 9, 9, 256), 128, False, winograd.upsample),
        ((10, 9, 9, 256), 128, True, None),
        ((10, 9, 9, 256), 16, False, None),  # few channels
        ((10, 4, 4, 64), 64, False, None),  # little to compute
        ((None, 9, 9, 256), 128, False, None),
    ],
)
def test_which_upsampling_is_quicker(monkeypatch, shape, filters, has_avx512, expected):
    monkeypatch.setattr(winograd, "has_avx512", lambda: has_avx512)
    assert winograd.quicker_upsampling(shape, filters) is expected


@pytest.fixture
def asked(monkeypatch):
    """Shapes that layers ask for; they get what they ask for, whatever it costs."""
    shapes = []

    def chosen(shape, filters):
        shapes.append(shape)
        return winograd.convolve if shape[1] % 4 == 0 else winograd.convolve_columns

    monkeypatch.setattr(winograd, "quicker_convolution", chosen)
    return shapes


def test_layers_use_them_in_training_on_processors_alone(asked):
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 4, 4, 3)), tf.float32)
    layer = blocks.Conv2D(2, 3, padding="same", activation="relu", bias_initializer="ones")
    expected = layer(x)
    assert not asked
    with blocks.training_on_processors():
        found = layer(x)
        assert asked == [x.shape]
        for other in (
            blocks.Conv2D(2, 3, padding="valid"),
            blocks.Conv2D(2, 3, padding="same", strides=2),
            blocks.Conv2D(3, 3, padding="same", groups=3),
            blocks.Conv2D(2, 1, padding="same"),
            blocks.Conv2D(2, 3, padding="same", dtype="mixed_bfloat16"),
        ):
            other(x)
        assert len(asked) == 1
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(layer(x), keras.ops.relu(plain(x, layer.kernel) + 1))
    assert len(asked) == 1


def test_upsampling_layers_use_theirs_in_training_on_processors_alone(monkeypatch):
    shapes = []
    monkeypatch.setattr(winograd, "quicker_upsampling", lambda *what: shapes.append(what) or winograd.upsample)
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 3, 4, 3)), tf.float32)
    layer = blocks.UpsampleConv2D(2)
    expected = layer(x)
    layer.bias.assign([1.0, 2.0])
    assert not shapes
    with blocks.training_on_processors():
        np.testing.assert_allclose(layer(x), expected + np.array([1.0, 2.0]), atol=1e-5)
        blocks.UpsampleConv2D(2, dtype="mixed_bfloat16")(x)
    layer(x)
    assert shapes == [(x.shape, 2)]
