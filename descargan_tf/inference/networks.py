"""A trained network's answers from fewer operations, on TensorFlow: the same ones up to rounding.

Weights are constants, which oneDNN lays out once. Normalisations with fixed statistics are part of the convolution
before them. Wide 3x3 convolutions take two thirds of the multiplications, and those after upsampling three quarters:
rows are computed in pairs by Winograd's F(2, 3) (Lavin & Gray, CVPR 2016, sect. 4.1, along one axis). In float32, whose
rounding allows it, the former take half: rows are computed in fours by F(4, 3). Both axes would save more
multiplications, but the additions would cost more than that.
"""

import copy
import itertools
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from descargan_tf.hardware import multiplies_in_tiles
from descargan_tf.inference.folding import foldable_pairs, folded_weights
from descargan_tf.methods.base import Method
from descargan_tf.models.blocks import Conv2D, MaxPooling2D, UpsampleConv2D
from descargan_tf.models.winograd import INPUT_TRANSFORM, KERNEL_TRANSFORM, OUTPUT_TRANSFORM
from descargan_tf.processes import num_cores
from descargan_tf.types import Prediction

# Channels in and out where the multiplications of a convolution outweigh additions, by rows at a time: measured.
_FEWEST_CHANNELS = {2: 128, 4: 64}
_FEWEST_PIXELS = 256 * 256  # of an image that by itself keeps a processor busy: measured


def for_inference(method: Method) -> Method:
    """A copy of the method for prediction alone, with the weights as they are when a graph is made of it."""
    made = copy.copy(method)
    made.networks = {name: InferenceNetwork(network) for name, network in method.networks.items()}
    return made


def image_by_image(predict: Callable) -> Callable:
    """The same function of images [B, H, W, 1], to be compiled; large ones are computed one by one, one on each core.

    What is between two operations then stays in the processor's caches, and takes less memory.
    """

    def predict_each(images):
        if None in images.shape or images.shape[0] == 1 or np.prod(images.shape[1:]) < _FEWEST_PIXELS:
            return predict(images)
        fields = []

        def answer(image):
            """As one vector: what a loop gives is to be known before it is made."""
            fields[:] = predict(image[tf.newaxis])
            return tf.concat([tf.reshape(field, [-1]) for field in fields if field is not None], axis=0)

        vectors = tf.map_fn(answer, images, parallel_iterations=num_cores())
        sizes = [field.shape.num_elements() for field in fields if field is not None]
        parts = iter(tf.split(vectors, sizes, axis=1))
        return Prediction(*(None if x is None else tf.reshape(next(parts), [-1, *x.shape[1:]]) for x in fields))

    return predict_each


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
        if is_plain and layer.kernel_size == (3, 3) and _has_pairs(x) and not multiplies_in_tiles(dtype):
            count = _count(_height(x), dtype)
            if min(kernel.shape[2:]) >= _FEWEST_CHANNELS[count]:
                made = _CONVOLUTIONS[count](_rows(x, dtype).apart(count), kernel, bias)
                return _Rows(made).map(layer.activation)
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
            parts = _rows(x, dtype).apart(_count(2 * x.height, dtype) // 2)
            return _Rows(_upsample_rows(parts, kernel, bias))
        y = _transposed(tf.cast(x, dtype), kernel, (2, 2))
        return tf.nn.bias_add(y, tf.constant(bias, dtype))

    def _pool(self, layer, x):
        if not (isinstance(x, _Rows) and layer.pool_size == layer.strides == (2, 2) and _has_pairs(x)):
            return layer(_images(x))
        parts = x.apart(max(x.count, 2))
        rows = (tf.maximum(even, odd) for even, odd in zip(parts[::2], parts[1::2], strict=True))
        return _Rows([tf.nn.max_pool2d(part, (1, 2), (1, 2), layer.padding.upper()) for part in rows])

    def _activate(self, layer, x):
        return x.map(layer) if isinstance(x, _Rows) else layer(x)

    def _concatenate(self, layer, inputs):
        if not (any(isinstance(x, _Rows) for x in inputs) and layer.axis in (-1, 3) and all(map(_has_pairs, inputs))):
            return layer([_images(x) for x in inputs])
        dtype = layer.compute_dtype
        apart = [_rows(x, dtype).apart(_count(_height(x), dtype)) for x in inputs]
        return _Rows([tf.concat(parts, axis=-1) for parts in zip(*apart, strict=True)])


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
    """Feature maps with rows first, where a range of rows is a view, in n parts: each nth row, [H / n, B, W, C].

    Of four parts the first has rows 0, 4, 8, ..., the second 1, 5, 9, ...; one part is all of them.
    """

    def __init__(self, parts):
        self._parts = list(parts)

    @property
    def count(self):
        return len(self._parts)

    @property
    def height(self):
        return self.count * self._parts[0].shape[0]

    def apart(self, count):
        """In so many parts, a multiple or a divisor of what there are."""
        if count > self.count:
            times = count // self.count
            finer = [tf.reshape(x, [x.shape[0] // times, times, *_sizes(x)[1:]]) for x in self._parts]
            return [x[:, i] for i in range(times) for x in finer]
        if count < self.count:
            coarser = [tf.stack(self._parts[i::count], axis=1) for i in range(count)]
            return [tf.reshape(x, [self.height // count, *_sizes(x)[2:]]) for x in coarser]
        return self._parts

    def images(self):
        """[B, H, W, C]."""
        _, batch, *others = _sizes(self._parts[0])
        return tf.reshape(tf.transpose(tf.stack(self._parts), [2, 1, 0, 3, 4]), [batch, self.height, *others])

    def map(self, function):
        """A function of each value by itself."""
        return _Rows(map(function, self._parts))


def _sizes(x):
    """With -1 for a batch of unknown size."""
    return [-1 if size is None else size for size in x.shape]


def _height(x):
    return x.height if isinstance(x, _Rows) else x.shape[1]


def _has_pairs(x):
    return _height(x) is not None and _height(x) % 2 == 0


def _count(height, dtype):
    """How many rows are computed at a time, of an even height."""
    return 4 if dtype == "float32" and height % 4 == 0 else 2


def _images(x):
    return x.images() if isinstance(x, _Rows) else x


def _rows(x, dtype):
    if isinstance(x, _Rows):
        return x.map(lambda part: tf.cast(part, dtype))
    batch, height, *others = _sizes(x)
    count = _count(height, dtype)
    x = tf.reshape(tf.cast(x, dtype), [batch, height // count, count, *others])
    return _Rows(tf.unstack(tf.transpose(x, [2, 1, 0, 3, 4])))


def _bordered(parts):
    """The last part's rows after zeros, and the first one's before zeros: one row more than a part has."""
    zeros = tf.zeros_like(parts[0][:1])
    return tf.concat([zeros, parts[-1]], axis=0), tf.concat([parts[0], zeros], axis=0)


def _around(parts):
    """What precedes the rows of the first part, and what follows those of the last, with zeros around the whole."""
    last, first = _bordered(parts)
    return last[:-1], first[1:]


def _convolve_pairs(parts, kernel, bias):
    """3x3 with zero padding, by four convolutions along the rows for two rows, in place of six.

    Two rows hang on the rows d0 to d3, of which d1 and d2 lie where they do. With k0 to k2 the kernel's rows they are
    (d0 - d2) k0 + a + b and (d3 - d1) k2 + a - b, where a = (d1 + d2) (k0 + k1 + k2) / 2 and
    b = (d2 - d1) (k0 - k1 + k2) / 2.
    """
    even, odd = parts
    before, after = _around(parts)
    dtype = even.dtype
    k0, k1, k2 = kernel[0:1], kernel[1:2], kernel[2:3]

    def convolve(x, k):
        return tf.nn.conv2d(x, tf.constant(k, dtype), 1, "SAME")

    def sum_with_bias(x, other):  # in the order that TensorFlow fuses: convolution, bias, addition, rectifier
        return tf.nn.bias_add(x, tf.constant(bias, dtype)) + other

    a = convolve(even + odd, (k0 + k1 + k2) / 2)
    b = convolve(odd - even, (k0 - k1 + k2) / 2)
    return sum_with_bias(convolve(before - odd, k0), a + b), sum_with_bias(convolve(after - even, k2), a - b)


def _convolve_fours(parts, kernel, bias):
    """3x3 with zero padding, by six convolutions along the rows for four rows, in place of twelve (`winograd`)."""
    height, batch, width, channels = _sizes(parts[0])
    before, after = _around(parts)
    mixed = tf.matmul(INPUT_TRANSFORM, tf.reshape(tf.stack([before, *parts, after]), [6, -1]))
    mixed = tf.unstack(tf.reshape(mixed, [6, height, batch, width, channels]))
    kernels = np.tensordot(KERNEL_TRANSFORM, kernel, 1)[:, np.newaxis]
    made = [tf.nn.conv2d(x, tf.constant(k), 1, "SAME") for x, k in zip(mixed, kernels, strict=True)]
    made[1] = tf.nn.bias_add(made[1], tf.constant(bias))  # which all four rows take once
    rows = tf.matmul(OUTPUT_TRANSFORM, tf.reshape(tf.stack(made), [6, -1]))
    return tf.unstack(tf.reshape(rows, [4, height, batch, width, kernel.shape[3]]))


_CONVOLUTIONS = {2: _convolve_pairs, 4: _convolve_fours}


def _upsample_rows(parts, kernel, bias):
    """An upsampling convolution, by three convolutions along the rows for two rows, in place of four.

    Gives twice as many parts.

    Of a row d1 between d0 and d2, with t0 to t3 the transposed kernel's rows, t0 + t2 = t1 + t3: (d0 - d1) t3 + a and
    a - (d1 - d2) t0, where a = d1 (t1 + t3).
    """
    last, first = _bordered(parts)
    outer = last - first  # before the first part and after the last one
    steps = [outer[:-1], *(x - following for x, following in itertools.pairwise(parts)), outer[1:]]
    made = []
    for x, (above, below) in zip(parts, itertools.pairwise(steps), strict=True):
        a = tf.nn.bias_add(_transposed(x, kernel[1:2] + kernel[3:4], (1, 2)), tf.constant(bias, x.dtype))
        made += [a + _transposed(above, kernel[3:4], (1, 2)), a + _transposed(below, -kernel[0:1], (1, 2))]
    return made


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
