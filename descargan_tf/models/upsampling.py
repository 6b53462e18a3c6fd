"""Nearest upsampling and a convolution as one transposed convolution, on any Keras backend."""

import numpy as np
from keras import ops

# Nearest upsampling by two and a 3x3 convolution are one stride-2 transposed convolution, whose four taps along an axis
# are sums of the three: [0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0].
_TAPS = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], "float32")
_TAPS_2D = np.kron(_TAPS, _TAPS)  # [16, 9]: both axes at once


def transposed_kernel(kernel, dtype="float32"):
    """The kernel [4, 4, K, C] of the transposed convolution for [3, 3, C, K] of the one after nearest upsampling."""
    channels, filters = kernel.shape[2:]
    taps = ops.matmul(_TAPS_2D, ops.reshape(kernel, (9, channels * filters)))
    taps = ops.cast(ops.reshape(taps, (4, 4, channels, filters)), dtype)
    return ops.transpose(taps, (0, 1, 3, 2))
