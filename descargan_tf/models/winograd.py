"""3x3 convolutions of training on processors, in float32 with TensorFlow: the same numbers but for rounding, sooner.

Large ones by Winograd's minimal filtering F(4, 3) along the rows (A. Lavin, S. Gray, "Fast algorithms for convolutional
neural networks", CVPR 2016, sect. 4): four rows of an output are made of six products by rows instead of twelve, so
six convolutions of 1x3 take half of the multiplications. Along both axes it would be a quarter of them, but what that
reads and writes outweighs it. Of maps of 2x2, such as critics end in, oneDNN takes most of the time to lay out kernels;
a product of matrices takes them as they are.

Gradients of kernels are products of matrices, too: a map's positions are what is summed over, and a shift by a position
is another place in memory to begin at. oneDNN's own, without AVX-512, take one and a half to four times as long.

Each gradient is again one of these three: the convolution, that of its input, that of its kernel. So they can be
differentiated any number of times, as the gradient penalty asks.
"""

import functools

import numpy as np
import tensorflow as tf

from descargan_tf.hardware import has_avx512
from descargan_tf.models.upsampling import transposed_kernel

_MIN_CHANNELS = 128  # of fewer, transforming rows takes the time that the products save
_MIN_CHANNELS_OF_GRADIENT = 32  # of a kernel: it is summed over rows, and not transformed back
_MIN_OPERATIONS = 3e8
_MIN_POSITIONS = 2048  # of fewer, three small products take longer than columns to be laid out for one
_MAX_COLUMNS = 4  # positions of a map
_MIN_OPERATIONS_OF_COLUMNS = 1e6  # of less, it saves nothing and has a round's graph take longer to trace

# Rows of the input, of the kernel and of the output (B^T, G, A^T) for the points 0, 1, -1, 2, -2 and infinity.
INPUT_TRANSFORM = np.array(
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
KERNEL_TRANSFORM = np.array(
    [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]],
    "float32",
) / np.float32(24)
OUTPUT_TRANSFORM = np.array(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], "float32"
)
# Nearest upsampling by two, then a convolution. Along an axis, where w = w0 + w1 + w2, an even output is
# w0 (x[i-1] - x[i]) + w x[i], an odd one w x[i] + w2 (x[i+1] - x[i]): three products for two outputs. These are the
# kernel's rows and the outputs' (transposed); of both axes, their Kronecker products.
_UPSAMPLING_KERNEL = np.kron(*2 * [np.array([[1, 0, 0], [1, 1, 1], [0, 0, 1]], "float32")])
_UPSAMPLING_OUTPUT = np.kron(*2 * [np.array([[1, 0], [1, 1], [0, 1]], "float32")])
_SAME = {"strides": [1, 1, 1, 1], "padding": "SAME"}
_HALVED = {"strides": [1, 2, 2, 1], "padding": "SAME"}


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
    if operations < _MIN_OPERATIONS or height % 4:
        return None
    if min(channels, filters) >= _MIN_CHANNELS:
        return convolve
    return convolve_plainly if _is_gradient_quicker(channels, filters) else None


def quicker_upsampling(shape, filters):
    """As `quicker_convolution`, for one after nearest upsampling by two: [B, H, W, C] to [B, 2H, 2W, filters]."""
    if None in shape:
        return None
    batch, height, width, channels = shape
    is_large = 32 * batch * height * width * channels * filters >= _MIN_OPERATIONS
    return upsample if is_large and _is_gradient_quicker(channels, filters) else None


def _is_gradient_quicker(channels, filters):
    return min(channels, filters) >= _MIN_CHANNELS_OF_GRADIENT and not has_avx512()


def _bilinear(function, of_x, of_kernel):
    """The function (x, kernel), linear in either, to be differentiated any number of times.

    Args:
        function: (x, kernel) -> y.
        of_x: (gradient with respect to y, kernel) -> that with respect to x.
        of_kernel: (x, gradient with respect to y) -> that with respect to the kernel.
    """

    @tf.custom_gradient
    def forward(x, kernel):
        return function(x, kernel), lambda y: (backward(y, kernel), correlation(x, y))

    @tf.custom_gradient
    def backward(y, kernel):
        return of_x(y, kernel), lambda x: (forward(x, kernel), correlation(x, y))

    @tf.custom_gradient
    def correlation(x, y):
        return of_kernel(x, y), lambda kernel: (backward(y, kernel), forward(x, kernel))

    return lambda x, kernel: forward(x, tf.convert_to_tensor(kernel))


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
    parts = zip(_input_parts(x), _kernel_parts(kernel, KERNEL_TRANSFORM), strict=True)
    made = [tf.raw_ops.Conv2D(input=part, filter=of_kernel, **_SAME) for part, of_kernel in parts]
    return _output(made, (batch, height, width, kernel.shape[3]))


@_graph
def _convolved_back(y, kernel):
    """By the kernel that is mirrored along both axes, its channels swapped; along the rows the matrix does it."""
    batch, height, width, _ = y.shape
    channels = kernel.shape[2]
    sizes = [batch * height // 4, 1, width, channels]
    parts = zip(_input_parts(y), _kernel_parts(kernel, KERNEL_TRANSFORM[:, ::-1]), strict=True)
    made = [
        tf.raw_ops.Conv2DBackpropInput(input_sizes=sizes, filter=of_kernel, out_backprop=part, **_SAME)
        for part, of_kernel in parts
    ]
    return _output(made, (batch, height, width, channels))


@_graph
def _correlated(x, y):
    """Rows have a zero before them, which follows the row before as well."""
    x, y = (tf.pad(t, ((0, 0), (0, 0), (1, 0), (0, 0))) for t in (x, y))
    channels, filters = x.shape[3], y.shape[3]
    of_y = tf.matmul(OUTPUT_TRANSFORM, tf.reshape(_rows(y), (4, -1)), transpose_a=True)
    of_y = tf.unstack(tf.reshape(of_y, (6, -1, filters)))
    of_x = (tf.reshape(part, (-1, channels)) for part in _input_parts(x))
    made = [_correlated_rows(*parts) for parts in zip(of_x, of_y, strict=True)]
    kernel = tf.matmul(KERNEL_TRANSFORM, tf.reshape(tf.stack(made), (6, -1)), transpose_a=True)
    return tf.reshape(kernel, (3, 3, channels, filters))


def _correlated_rows(x, y):
    """[N, C] and [N, K] to [3, C, K]: sums over n of x[n - 1] y[n], x[n] y[n] and x[n + 1] y[n]; x is zero outside."""
    if x.shape[0] >= _MIN_POSITIONS:
        # A slice that begins at a multiple of 64 bytes is not copied.
        shifted = (x[:-1], y[1:]), (x, y), (x[1:], y[:-1])
        return tf.stack([tf.matmul(*pair, transpose_a=True) for pair in shifted])
    columns = tf.concat([tf.pad(y[1:], ((0, 1), (0, 0))), y, tf.pad(y[:-1], ((1, 0), (0, 0)))], axis=1)
    made = tf.reshape(tf.matmul(x, columns, transpose_a=True), (x.shape[1], 3, y.shape[1]))
    return tf.transpose(made, (1, 0, 2))


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
    mixed = tf.matmul(INPUT_TRANSFORM, tf.reshape(tf.concat([before, rows, after], axis=0), (6, -1)))
    return [tf.reshape(part, (batch * height // 4, 1, width, channels)) for part in tf.unstack(mixed)]


def _kernel_parts(kernel, matrix):
    """Six of [1, 3, C, K]."""
    mixed = tf.matmul(matrix, tf.reshape(kernel, (3, -1)))
    return [tf.reshape(part, (1, *kernel.shape[1:])) for part in tf.unstack(mixed)]


def _output(parts, shape):
    batch, height, width, channels = shape
    rows = tf.matmul(OUTPUT_TRANSFORM, tf.reshape(tf.stack(parts), (6, -1)))
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


def _upsampled(x, kernel):
    """As one transposed convolution."""
    batch, height, width, _ = x.shape
    sizes = (batch, 2 * height, 2 * width, kernel.shape[3])
    kernel = transposed_kernel(kernel)
    return tf.raw_ops.Conv2DBackpropInput(input_sizes=sizes, filter=kernel, out_backprop=x, **_HALVED)


def _upsampled_back(y, kernel):
    return tf.raw_ops.Conv2D(input=y, filter=transposed_kernel(kernel), **_HALVED)


@_graph
def _correlated_with_upsampled(x, y):
    batch, height, width, channels = x.shape
    filters = y.shape[3]
    fours = tf.reshape(y, (batch, height, 2, width, 2, filters))
    fours = tf.reshape(tf.transpose(fours, (2, 4, 0, 1, 3, 5)), (4, -1))
    of_y = tf.unstack(tf.reshape(tf.matmul(_UPSAMPLING_OUTPUT, fours), (9, -1, filters)))
    of_x = [tf.reshape(d, (-1, channels)) for rows in _differences(x, 1) for d in _differences(rows, 2)]
    made = [tf.matmul(*parts, transpose_a=True) for parts in zip(of_x, of_y, strict=True)]
    kernel = tf.matmul(_UPSAMPLING_KERNEL, tf.reshape(tf.stack(made), (9, -1)), transpose_a=True)
    return tf.reshape(kernel, (3, 3, channels, filters))


def _differences(x, axis):
    """What precedes each along that axis, less it; it; what follows it, less it."""
    around = tf.pad(x, [(int(i == axis),) * 2 for i in range(4)])
    before, after = (tf.slice(around, [i * (axis == own) for own in range(4)], x.shape) for i in (0, 2))
    return before - x, x, after - x


def _plainly_convolved(x, kernel):
    return tf.raw_ops.Conv2D(input=x, filter=kernel, **_SAME)


def _plainly_convolved_back(y, kernel):
    sizes = (*y.shape[:3], kernel.shape[2])
    return tf.raw_ops.Conv2DBackpropInput(input_sizes=sizes, filter=kernel, out_backprop=y, **_SAME)


# Each takes [B, H, W, C] and [3, 3, C, K], zeros around the former, to [B, H, W, K], H a multiple of 4; the last one to
# [B, 2H, 2W, K], H any number.
convolve = _bilinear(_convolved, _convolved_back, _correlated)
convolve_plainly = _bilinear(_plainly_convolved, _plainly_convolved_back, _correlated)
upsample = _bilinear(_upsampled, _upsampled_back, _correlated_with_upsampled)
