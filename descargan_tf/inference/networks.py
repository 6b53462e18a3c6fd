"""A trained network's answers from fewer operations, on TensorFlow: the same ones up to rounding.

Weights are constants, which oneDNN lays out once. Normalisations with fixed statistics are part of the convolution
before them. Wide 3x3 convolutions take two thirds of the multiplications, and those after upsampling three quarters:
rows are computed in pairs by Winograd's F(2, 3) (Lavin & Gray, CVPR 2016, sect. 4.1, along one axis). Both axes would
save more multiplications, but the additions, and in bfloat16 the rounding, would cost more than that.
"""

import copy

import keras
import numpy as np
import tensorflow as tf

from descargan_tf.hardware import multiplies_in_tiles
from descargan_tf.inference.folding import foldable_pairs, folded_weights
from descargan_tf.methods.base import Method
from descargan_tf.models.blocks import Conv2D, MaxPooling2D, UpsampleConv2D

_FEWEST_CHANNELS = 128  # in and out, where the multiplications of a convolution outweigh additions: measured


def for_inference(method: Method) -> Method:
    """A copy of the method for prediction alone, with the weights as they are when a graph is made of it."""
    made = copy.copy(method)
    made.networks = {name: InferenceNetwork(network) for name, network in method.networks.items()}
    return made


class InferenceNetwork:
    """Stands in for a functional model at inference."""

    def __init__(self, network: keras.Model, normalised: dict | None = None):
        self._network = network
        if normalised is None:
            pairs = [(before, after) for before, after in foldable_pairs(network) if type(before) in _FASTER]
            normalised = {id(before): (before, after) for before, after in pairs}
        self._normalised = normalised  # convolutions by id, each with the normalisation that goes into it
        self._folded = {id(after) for _, after in normalised.values()}

    def __getattr__(self, name):
        return getattr(self._network, name)

    def get_layer(self, name):
        """As of a model; one within it answers as this one does."""
        return self._of(self._network.get_layer(name))

    def __call__(self, inputs, training=False, mask=None):
        """As of a model, which hands masks to those in it, None for each input."""
        if training or any(part is not None for part in keras.tree.flatten(mask)):
            raise ValueError("a network for inference takes neither training=True nor a mask")
        # What Keras itself runs a functional model by; it has no public name.
        inputs = self._network._standardize_inputs(keras.tree.map_structure(_images, inputs))
        return keras.tree.map_structure(_images, self._network._run_through_graph(inputs, self._of))

    def _of(self, layer):
        if isinstance(layer, keras.Model):
            return InferenceNetwork(layer, self._normalised)
        if id(layer) in self._folded:
            return lambda x, **_: x
        if type(layer) in _FASTER:
            return lambda x, **_: _FASTER[type(layer)](self, layer, x)
        return lambda *args, **kwargs: layer(*keras.tree.map_structure(_images, args), **kwargs)

    def _weights(self, layer):
        """Kernel and bias; not of graph tensors, and so outside of the graph that is being made."""
        with tf.init_scope():
            _, normalisation = self._normalised.get(id(layer), (None, None))
            return [np.asarray(weight, np.float32) for weight in folded_weights(layer, normalisation)]

    def _convolve(self, layer, x):
        kernel, bias = self._weights(layer)
        dtype = layer.compute_dtype
        is_plain = (layer.strides, layer.dilation_rate, layer.groups, layer.padding) == ((1, 1), (1, 1), 1, "same")
        is_wide = layer.kernel_size == (3, 3) and min(kernel.shape[2:]) >= _FEWEST_CHANNELS
        if is_plain and is_wide and _has_pairs(x) and not multiplies_in_tiles(dtype):
            return _convolve_rows(_rows(x, dtype), kernel, bias).map(layer.activation)
        x = tf.cast(_images(x), dtype)
        if is_plain and layer.filters == 1 and dtype == "float32":
            return layer.activation(_convolve_to_one(x, kernel, bias))
        kernel = tf.constant(kernel, dtype)
        y = tf.nn.conv2d(x, kernel, layer.strides, layer.padding.upper(), dilations=layer.dilation_rate)
        # The addition that TensorFlow fuses with a convolution, and with a rectifier after it.
        return layer.activation(tf.nn.bias_add(y, tf.constant(bias, dtype)))

    def _upsample(self, layer, x):
        kernel, bias = self._weights(layer)
        dtype = layer.compute_dtype
        if isinstance(x, _Rows):
            return _upsample_rows(_rows(x, dtype), kernel, bias)
        y = _transposed(tf.cast(x, dtype), kernel, (2, 2))
        return tf.nn.bias_add(y, tf.constant(bias, dtype))

    def _pool(self, layer, x):
        if not (isinstance(x, _Rows) and layer.pool_size == layer.strides == (2, 2) and _has_pairs(x)):
            return layer(_images(x))
        even, odd = x.pair
        return _Rows(whole=tf.nn.max_pool2d(tf.maximum(even, odd), (1, 2), (1, 2), layer.padding.upper()))

    def _activate(self, layer, x):
        return x.map(layer) if isinstance(x, _Rows) else layer(x)

    def _concatenate(self, layer, inputs):
        if not (any(isinstance(x, _Rows) for x in inputs) and layer.axis in (-1, 3) and all(map(_has_pairs, inputs))):
            return layer([_images(x) for x in inputs])
        pairs = [_rows(x, layer.compute_dtype).pair for x in inputs]
        return _Rows(*(tf.concat(parts, axis=-1) for parts in zip(*pairs, strict=True)))


# By the type itself: what another class made of one of these computes is not known.
_FASTER = {
    keras.layers.Conv2D: InferenceNetwork._convolve,
    Conv2D: InferenceNetwork._convolve,
    UpsampleConv2D: InferenceNetwork._upsample,
    MaxPooling2D: InferenceNetwork._pool,
    keras.layers.Activation: InferenceNetwork._activate,
    keras.layers.Concatenate: InferenceNetwork._concatenate,
}


class _Rows:
    """Feature maps with rows first, [H, B, W, C], where a range of rows is a view; or its even and odd rows apart."""

    def __init__(self, even=None, odd=None, whole=None):
        self._pair, self._whole = None if even is None else (even, odd), whole

    @property
    def height(self):
        return 2 * self._pair[0].shape[0] if self._whole is None else self._whole.shape[0]

    @property
    def pair(self):
        """The even rows and the odd ones, each [H / 2, B, W, C]."""
        if self._pair is None:
            rows = tf.reshape(self._whole, [self.height // 2, 2, *_sizes(self._whole)[1:]])
            self._pair = rows[:, 0], rows[:, 1]
        return self._pair

    @property
    def whole(self):
        """All rows in order."""
        if self._whole is None:
            self._whole = tf.reshape(tf.stack(self._pair, axis=1), [self.height, *_sizes(self._pair[0])[1:]])
        return self._whole

    def images(self):
        """[B, H, W, C]."""
        if self._pair is None:
            return tf.transpose(self._whole, [1, 0, 2, 3])
        _, batch, *others = _sizes(self._pair[0])
        return tf.reshape(tf.transpose(tf.stack(self._pair), [2, 1, 0, 3, 4]), [batch, self.height, *others])

    def map(self, function):
        """A function of each value by itself."""
        if self._pair is None:
            return _Rows(whole=function(self._whole))
        return _Rows(*(function(x) for x in self._pair))


def _sizes(x):
    """With -1 for a batch of unknown size."""
    return [-1 if size is None else size for size in x.shape]


def _has_pairs(x):
    height = x.height if isinstance(x, _Rows) else x.shape[1]
    return height is not None and height % 2 == 0


def _images(x):
    return x.images() if isinstance(x, _Rows) else x


def _rows(x, dtype):
    if isinstance(x, _Rows):
        return x.map(lambda part: tf.cast(part, dtype))
    batch, height, *others = _sizes(x)
    x = tf.reshape(tf.cast(x, dtype), [batch, height // 2, 2, *others])
    even, odd = tf.unstack(tf.transpose(x, [2, 1, 0, 3, 4]))
    return _Rows(even, odd)


def _convolve_rows(rows, kernel, bias):
    """3x3 with zero padding, by four convolutions along the rows for two rows, in place of six.

    Two rows hang on the rows d0 to d3, of which d1 and d2 lie where they do. With k0 to k2 the kernel's rows they are
    (d0 - d2) k0 + a + b and (d3 - d1) k2 + a - b, where a = (d1 + d2) (k0 + k1 + k2) / 2 and
    b = (d2 - d1) (k0 - k1 + k2) / 2.
    """
    even, odd = rows.pair
    dtype = even.dtype
    k0, k1, k2 = kernel[0:1], kernel[1:2], kernel[2:3]

    def convolve(x, k):
        return tf.nn.conv2d(x, tf.constant(k, dtype), 1, "SAME")

    def sum_with_bias(x, other):  # in the order that TensorFlow fuses: convolution, bias, addition, rectifier
        return tf.nn.bias_add(x, tf.constant(bias, dtype)) + other

    zeros = tf.zeros_like(even[:1])
    before, after = tf.concat([zeros, odd], axis=0)[:-1], tf.concat([even, zeros], axis=0)[1:]
    a = convolve(even + odd, (k0 + k1 + k2) / 2)
    b = convolve(odd - even, (k0 - k1 + k2) / 2)
    return _Rows(
        sum_with_bias(convolve(before - odd, k0), a + b),
        sum_with_bias(convolve(after - even, k2), a - b),
    )


def _upsample_rows(rows, kernel, bias):
    """An upsampling convolution, by three convolutions along the rows for two rows, in place of four.

    Of a row d1 between d0 and d2, with t0 to t3 the transposed kernel's rows, t0 + t2 = t1 + t3: (d0 - d1) t3 + a and
    a - (d1 - d2) t0, where a = d1 (t1 + t3).
    """
    x = rows.whole
    zeros = tf.zeros_like(x[:1])
    padded = tf.concat([zeros, x, zeros], axis=0)
    difference = padded[:-1] - padded[1:]
    a = _transposed(x, kernel[1:2] + kernel[3:4], (1, 2))
    a = tf.nn.bias_add(a, tf.constant(bias, x.dtype))
    return _Rows(
        a + _transposed(difference[:-1], kernel[3:4], (1, 2)), a + _transposed(difference[1:], -kernel[0:1], (1, 2))
    )


def _transposed(x, kernel, strides):
    batch, height, width, _ = tf.unstack(tf.shape(x))
    shape = tf.stack([batch, height * strides[0], width * strides[1], kernel.shape[2]])
    return tf.nn.conv2d_transpose(x, tf.constant(kernel, x.dtype), shape, strides, "SAME")


def _convolve_to_one(x, kernel, bias):
    """Zero padding, stride one, one output channel: a matrix product gives each tap's plane, to be shifted and added.

    A convolution of oneDNN's computes sixteen channels for the one.
    """
    height, width, channels, _ = kernel.shape
    batch, *size, _ = tf.unstack(tf.shape(x))
    planes = tf.matmul(tf.reshape(x, [-1, channels]), tf.constant(kernel.reshape(-1, channels).T, x.dtype))
    planes = tf.reshape(tf.transpose(planes), [height * width, batch, *size])
    margins = [((taps - 1) // 2, taps // 2) for taps in (height, width)]
    planes = tf.pad(planes, [(0, 0), (0, 0), *margins])
    shifted = [planes[width * i + j, :, i : i + size[0], j : j + size[1]] for i in range(height) for j in range(width)]
    return tf.add_n(shifted)[..., tf.newaxis] + tf.constant(bias, x.dtype)
