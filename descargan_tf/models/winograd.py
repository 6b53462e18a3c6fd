"""3x3 convolutions of training on processors, in float32 with TensorFlow: the same numbers but for rounding, sooner.

Large ones by Winograd's minimal filtering F(4, 3) along the rows (A. Lavin, S. Gray, "Fast algorithms for convolutional
neural networks", CVPR 2016, sect. 4): four rows of an output are made of six products by rows instead of twelve, so
six convolutions of 1x3 take half of the multiplications. Along both axes it would be a quarter of them, but what that
reads and writes outweighs it. Of maps of 2x2, such as critics end in, oneDNN takes most of the time to lay out kernels;
a product of matrices takes them as they are.

Each gradient is again one of these three: the convolution, that of its input, that of its kernel. So they can be
differentiated any number of times, as the gradient penalty asks.
"""

import functools

import numpy as np
import tensorflow as tf

_MIN_CHANNELS = 128  # channels: of fewer, transforming rows takes the time that the products save
_MIN_OPERATIONS = 3e8
_MAX_COLUMNS = 4  # positions of a map
_MIN_OPERATIONS_OF_COLUMNS = 1e6  # of less, it saves nothing and has a round's graph take longer to trace

# Rows of the input, of the kernel and of the output (B^T, G, A^T) for the points 0, 1, -1, 2, -2 and infinity.
_INPUT = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    "float32",
)
_KERNEL = np.array(
    [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]],
    "float32",
) / np.float32(24)
_OUTPUT = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], "float32")
_SAME = {"strides": [1, 1, 1, 1], "padding": "SAME"}


def quicker_convolution(shape, filters):
    """The function (x, kernel [3, 3, C, filters]) that stands for `tf.nn.conv2d(x, kernel, 1, "SAME")`, or None.

    Args:
        shape: of x, [B, H, W, C]; None where it is not known.
        filters: of the kernel.
    """
    if None in shape:
        return None
    batch, height, width, channels = shape
    operations = 18 * batch * height * width * channels * filters
    if height * width <= _MAX_COLUMNS:
        return convolve_columns if operations >= _MIN_OPERATIONS_OF_COLUMNS else None
    is_large = operations >= _MIN_OPERATIONS
    return convolve if is_large and height % 4 == 0 and min(channels, filters) >= _MIN_CHANNELS else None


def convolve(x, kernel):
    """[B, H, W, C] and [3, 3, C, K] to [B, H, W, K], zeros around x; H is a multiple of 4."""
    return _convolution(x, tf.convert_to_tensor(kernel))


@tf.custom_gradient
def _convolution(x, kernel):
    return _convolved(x, kernel), lambda y: (_input_gradient(y, kernel), _kernel_gradient(x, y))


@tf.custom_gradient
def _input_gradient(y, kernel):
    return _convolved_back(y, kernel), lambda x: (_convolution(x, kernel), _kernel_gradient(x, y))


@tf.custom_gradient
def _kernel_gradient(x, y):
    return _correlated(x, y), lambda kernel: (_input_gradient(y, kernel), _convolution(x, kernel))


def _graph(function):
    """Traced once for each kind of layer, and one operation of the round's graph instead of forty."""
    traced = tf.function(function, autograph=False, experimental_attributes={"_noinline": True})

    @functools.wraps(function)
    def call(*tensors):  # a plain call warns of each new shape
        specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors]
        return traced.get_concrete_function(*specs)(*tensors)

    return call


@_graph
def _convolved(x, kernel):
    batch, height, width, _ = x.shape
    parts = zip(_input_parts(x), _kernel_parts(kernel, _KERNEL), strict=True)
    made = [tf.raw_ops.Conv2D(input=part, filter=of_kernel, **_SAME) for part, of_kernel in parts]
    return _output(made, (batch, height, width, kernel.shape[3]))


@_graph
def _convolved_back(y, kernel):
    """By the kernel that is mirrored along both axes, its channels swapped; along the rows the matrix does it."""
    batch, height, width, _ = y.shape
    channels = kernel.shape[2]
    sizes = [batch * height // 4, 1, width, channels]
    parts = zip(_input_parts(y), _kernel_parts(kernel, _KERNEL[:, ::-1]), strict=True)
    made = [
        tf.raw_ops.Conv2DBackpropInput(input_sizes=sizes, filter=of_kernel, out_backprop=part, **_SAME)
        for part, of_kernel in parts
    ]
    return _output(made, (batch, height, width, channels))


@_graph
def _correlated(x, y):
    batch, height, width, filters = y.shape
    channels = x.shape[3]
    of_y = tf.unstack(tf.matmul(_OUTPUT, tf.reshape(_rows(y), (4, -1)), transpose_a=True))
    made = [
        tf.raw_ops.Conv2DBackpropFilter(
            input=part,
            filter_sizes=[1, 3, channels, filters],
            out_backprop=tf.reshape(gradient, (batch * height // 4, 1, width, filters)),
            **_SAME,
        )
        for part, gradient in zip(_input_parts(x), of_y, strict=True)
    ]
    kernel = tf.matmul(_KERNEL, tf.reshape(tf.stack(made), (6, -1)), transpose_a=True)
    return tf.reshape(kernel, (3, 3, channels, filters))


def _rows(x):
    """[B, H, W, C] to [4, B, H/4, W C]: the first rows of all fours, the second ones, ..."""
    batch, height, width, channels = x.shape
    return tf.transpose(tf.reshape(x, (batch, height // 4, 4, width * channels)), (2, 0, 1, 3))


def _input_parts(x):
    """Six of [B H/4, 1, W, C]: mixtures of each four rows, the one before and the one after them."""
    batch, height, width, channels = x.shape
    rows = _rows(x)
    before = tf.pad(rows[3:, :, :-1], ((0, 0), (0, 0), (1, 0), (0, 0)))
    after = tf.pad(rows[:1, :, 1:], ((0, 0), (0, 0), (0, 1), (0, 0)))
    mixed = tf.matmul(_INPUT, tf.reshape(tf.concat([before, rows, after], axis=0), (6, -1)))
    return [tf.reshape(part, (batch * height // 4, 1, width, channels)) for part in tf.unstack(mixed)]


def _kernel_parts(kernel, matrix):
    """Six of [1, 3, C, K]."""
    mixed = tf.matmul(matrix, tf.reshape(kernel, (3, -1)))
    return [tf.reshape(part, (1, *kernel.shape[1:])) for part in tf.unstack(mixed)]


def _output(parts, shape):
    batch, height, width, channels = shape
    rows = tf.matmul(_OUTPUT, tf.reshape(tf.stack(parts), (6, -1)))
    rows = tf.transpose(tf.reshape(rows, (4, batch, height // 4, width * channels)), (1, 2, 0, 3))
    return tf.reshape(rows, shape)


def convolve_columns(x, kernel):
    """[B, H, W, C] and [3, 3, C, K] to [B, H, W, K], zeros around x, as a product of two matrices; for tiny maps."""
    batch, height, width, channels = x.shape
    columns = tf.matmul(_neighbours(height, width), tf.reshape(x, (batch, height * width, channels)))
    columns = tf.reshape(columns, (batch * height * width, 9 * channels))
    made = tf.matmul(columns, tf.reshape(kernel, (9 * channels, -1)))
    return tf.reshape(made, (batch, height, width, -1))


def _neighbours(height, width):
    """[9 H W, H W] of zeros and ones: the position of each one's nine neighbours, row by row."""
    made = np.zeros((height, width, 3, 3, height, width), "float32")
    for i, j, row, column in np.ndindex(height, width, 3, 3):
        y, x = i + row - 1, j + column - 1
        if 0 <= y < height and 0 <= x < width:
            made[i, j, row, column, y, x] = 1
    return made.reshape(9 * height * width, height * width)
