"""Layers that the networks share, on any Keras backend; what is faster on one of them where the result is the same."""

import contextlib
import functools
import threading

import keras
import numpy as np
from keras import ops

from descargan_tf.models.upsampling import transposed_kernel

STATISTICS = ("moving", "per_image")


class BatchNormalization(keras.layers.Layer):
    """Batch normalisation over every axis but the last, with float32 statistics.

    Training uses the statistics of the (global) batch, inference either moving averages ("moving") or those of each
    image by itself ("per_image", what the authors' program does by leaving its generator in training mode at batch
    size one, trap D6.1). Neither lets one image influence another at inference.

    Momentum 0.99 and epsilon 1e-5 are PyTorch's 0.01 and 1e-5 (D3.6). As there, the moving variance is unbiased.

    Attributes:
        fixed: training uses what inference uses, too, and changes no moving average (`fix_statistics`).
    """

    fixed = False
    _num_estimates = None  # while moving averages are estimated anew: the passes so far

    def __init__(self, inference_statistics="moving", momentum=0.99, epsilon=1e-5, initial_scale=1.0, **kwargs):
        super().__init__(**kwargs)
        if inference_statistics not in STATISTICS:
            raise ValueError(f"inference_statistics={inference_statistics!r}: expected one of {STATISTICS}")
        self.inference_statistics = inference_statistics
        self.momentum = momentum
        self.epsilon = epsilon
        self.initial_scale = initial_scale

    def build(self, input_shape):
        """Create scale, offset and the two moving averages, each [C]."""
        shape = (input_shape[-1],)
        scale = keras.initializers.Constant(self.initial_scale)
        self.gamma = self.add_weight(shape=shape, initializer=scale, name="gamma", autocast=False)
        self.beta = self.add_weight(shape=shape, initializer="zeros", name="beta", autocast=False)
        moving = {"shape": shape, "trainable": False, "autocast": False, "aggregation": "mean"}
        self.moving_mean = self.add_weight(initializer="zeros", name="moving_mean", **moving)
        self.moving_variance = self.add_weight(initializer="ones", name="moving_variance", **moving)

    def call(self, inputs, training=False):
        """[B, H, W, C] to the same."""
        if training and not self.fixed:
            if keras.backend.backend() == "tensorflow" and _num_replicas() == 1:
                return self._fused_in_training(inputs)
            mean, variance, count = self._global_moments(inputs)
            self._update_moving_averages(mean, variance * (count / ops.maximum(count - 1, 1)))
            return self._normalise(inputs, mean, variance)
        if self.inference_statistics == "per_image":
            mean, variance = ops.moments(ops.cast(inputs, "float32"), axes=(1, 2), keepdims=True)
            return self._normalise(inputs, mean, variance)
        if keras.backend.backend() == "tensorflow":  # the same numbers in one pass over the maps instead of four
            return self._fused(inputs, self.moving_mean.value, self.moving_variance.value, is_training=False)[0]
        return self._normalise(inputs, self.moving_mean, self.moving_variance)

    def compute_output_shape(self, input_shape):
        """The same; said, so that Keras need not trace `call` for it each time that a network is built."""
        return input_shape

    def _normalise(self, inputs, mean, variance):
        scale = self.gamma * ops.rsqrt(variance + self.epsilon)
        outputs = ops.cast(inputs, "float32") * scale + (self.beta - mean * scale)
        return ops.cast(outputs, inputs.dtype)

    def _next_momentum(self):
        """The share of a moving average that this pass leaves."""
        if self._num_estimates is None:
            return self.momentum
        self._num_estimates += 1  # the mean over all passes so far
        return (self._num_estimates - 1) / self._num_estimates

    def _update_moving_averages(self, mean, variance):
        if getattr(_thread, "leaves_out", False):
            return
        momentum = self._next_momentum()
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * momentum + value * (1.0 - momentum))

    def _fused_in_training(self, inputs):
        if getattr(_thread, "leaves_out", False):
            return self._fused(inputs, np.zeros(0, "float32"), np.zeros(0, "float32"))[0]
        # The operation updates moving averages itself: ten less to trace for each pass through a layer.
        averages = self.moving_mean, self.moving_variance
        values = (average.value for average in averages)
        outputs, *updated = self._fused(inputs, *values, exponential_avg_factor=1.0 - self._next_momentum())[:3]
        for average, value in zip(averages, updated, strict=True):
            average.assign(value)
        return outputs

    def _fused(self, inputs, mean, variance, is_training=True, **options):
        import tensorflow as tf

        return tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma.value,
            offset=self.beta.value,
            mean=mean,
            variance=variance,
            epsilon=self.epsilon,
            is_training=is_training,
            **options,
        )

    def _global_moments(self, inputs):
        """Moments over all replicas together, so that two with half the batch compute what one does with the whole."""
        x = ops.cast(inputs, "float32")
        axes = tuple(range(len(x.shape) - 1))
        mean = _mean_over_replicas(ops.mean(x, axis=axes))
        # Not the mean square minus the squared mean: in a channel that hardly varies, rounding would be all of that.
        # The variance's gradient by way of the mean is zero, and not computed: it would be a sum over x once more.
        variance = _mean_over_replicas(ops.mean(ops.square(x - ops.stop_gradient(mean)), axis=axes))
        count = ops.cast(ops.size(x) // x.shape[-1], "float32")
        return mean, variance, count * _num_replicas()

    def get_config(self):
        """As every Keras layer."""
        return {
            **super().get_config(),
            "inference_statistics": self.inference_statistics,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "initial_scale": self.initial_scale,
        }


def normalisations(network):
    """The batch normalisations of a functional model and of the models in it, each once, in order."""
    found = {}
    for layer in network.layers:
        inner = normalisations(layer) if isinstance(layer, keras.Model) else [layer]
        found |= {id(part): part for part in inner if isinstance(part, BatchNormalization)}
    return list(found.values())


_thread = threading.local()  # TensorFlow traces replicas in threads that take turns, on the same layers


@contextlib.contextmanager
def _marked(name):
    setattr(_thread, name, True)
    try:
        yield
    finally:
        setattr(_thread, name, False)


def left_out_of_averages():
    """Passes in training that are none of inference's kind, as over translated images: no moving average sees them."""
    return _marked("leaves_out")


def training_on_processors():
    """Convolutions may be put in the way that is quickest there, with TensorFlow (`models.winograd`).

    Not those of a network that answers: an export is for any machine.
    """
    return _marked("trains_on_processors")


def estimate_statistics(network, run_passes):
    """Moving averages anew: of the passes in training that `run_passes()` makes, line by line, and of no others."""
    layers = normalisations(network)
    for layer in layers:
        layer._num_estimates = 0
    try:
        run_passes()
    finally:
        for layer in layers:
            layer._num_estimates = None


def fix_statistics(network):
    """From now on training normalises with the statistics that inference uses. What was traced before must be again."""
    for layer in normalisations(network):
        layer.fixed = True


def _num_replicas():
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context.num_replicas_in_sync if context else 1


def _mean_over_replicas(value):
    if _num_replicas() == 1:
        return value
    import tensorflow as tf

    return tf.distribute.get_replica_context().all_reduce("mean", value)


class UpsampleConv2D(keras.layers.Layer):
    """Nearest upsampling x2 then a 3x3 convolution with zero padding, without the upsampled tensor in between.

    Weights and result are those of `UpSampling2D(2)` and `Conv2D(filters, 3, padding="same")`.
    """

    def __init__(self, filters, kernel_initializer="he_normal", **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape):
        """Create kernel [3, 3, C, filters] and bias [filters]."""
        shape = (3, 3, input_shape[-1], self.filters)
        self.kernel = self.add_weight(shape=shape, initializer=self.kernel_initializer, name="kernel", autocast=False)
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def call(self, inputs):
        """[B, H, W, C] to [B, 2H, 2W, filters]."""
        winograd = _winograd_for(inputs)
        if convolve := winograd and winograd.quicker_upsampling(inputs.shape, self.filters):
            return ops.add(convolve(inputs, self.kernel), self.bias)
        kernel = transposed_kernel(self.kernel, inputs.dtype)
        if keras.backend.backend() == "jax":
            return _transposed_conv_of_jax()(inputs, kernel) + self.bias
        return ops.add(ops.conv_transpose(inputs, kernel, strides=2, padding="same"), self.bias)

    def compute_output_shape(self, input_shape):
        """[B, 2H, 2W, filters]."""
        batch, height, width, _ = input_shape
        return batch, 2 * height, 2 * width, self.filters

    def get_config(self):
        """As every Keras layer."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


@functools.cache
def _transposed_conv_of_jax():
    """The stride-2 transposed convolution, its kernel's gradient put as that of the convolution which it transposes.

    JAX's own gradient is a convolution by a dilated, mirrored "kernel" of the images' size, in which XLA does not know
    that operation again: four of them took 9.9 of a round's 32 ms on an H200 (256x256, 64 filters, bfloat16).
    """
    import jax

    def convolve(y, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(y, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=numbers)

    @jax.custom_vjp
    def transposed(x, kernel):
        return ops.conv_transpose(x, kernel, strides=2, padding="same")

    def forward(x, kernel):
        return transposed(x, kernel), (x, kernel)

    def backward(saved, gradient):
        x, kernel = saved
        _, of_kernel = jax.vjp(lambda kernel: convolve(gradient, kernel), kernel)
        return convolve(gradient, kernel), *of_kernel(x)

    transposed.defvjp(forward, backward)
    return transposed


class Conv2D(keras.layers.Conv2D):
    """Keras' own, which adds its bias as it is; but of JAX, to one channel, a product with each tap, shifted and added.

    In training on processors large ones and tiny maps' are put otherwise (`training_on_processors`).

    Keras gives the bias three more axes, which TensorFlow takes away again: operations that a round has to trace.

    A convolution with one output leaves a GPU's matrix units idle: measured on an H200, a gradient step of the one that
    makes a 256x256 image of 64 channels took 0.57 ms, and takes 0.07.
    """

    def call(self, inputs):
        """[B, H, W, C] to [B, H, W, filters]."""
        kind = self.kernel_size, self.strides, self.dilation_rate, self.padding, self.groups
        is_plain = kind == ((3, 3), (1, 1), (1, 1), "same", 1)
        if keras.backend.backend() != "jax" or self.filters > 1 or not is_plain:
            winograd = _winograd_for(inputs) if is_plain else None
            convolve = winograd and winograd.quicker_convolution(inputs.shape, self.filters)
            outputs = (convolve or self.convolution_op)(inputs, self.kernel)
            return self.activation(ops.add(outputs, self.bias) if self.use_bias else outputs)
        height, width, channels = inputs.shape[1:]
        found = ops.matmul(inputs, ops.transpose(ops.reshape(self.kernel, (9, channels))))
        found = ops.pad(found, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifted = [found[:, i : i + height, j : j + width, 3 * i + j] for i in range(3) for j in range(3)]
        outputs = ops.expand_dims(sum(shifted), -1)
        return self.activation(outputs + self.bias if self.use_bias else outputs)


def _winograd_for(inputs):
    """`models.winograd` in `training_on_processors`, where inputs are float32; else None."""
    is_float32 = keras.backend.standardize_dtype(inputs.dtype) == "float32"
    if not is_float32 or not getattr(_thread, "trains_on_processors", False):
        return None
    from descargan_tf.models import winograd

    return winograd


class MaxPooling2D(keras.layers.MaxPooling2D):
    """The largest of 2x2 pixels; of equal ones the first, row by row, has the gradient, whatever the backend.

    JAX's own has a gradient that scatters, whose gradient, for the penalty, searches the windows again. Comparisons
    need neither, and are fused with what is around them. (Not measured on a GPU.)
    """

    def call(self, inputs):
        """[B, H, W, C] to [B, H/2, W/2, C]."""
        if _in_penalty():
            return self._pool_in_penalty(inputs)
        height, width, channels = inputs.shape[1:]
        if keras.backend.backend() != "jax" or self.pool_size != (2, 2) or height % 2 or width % 2:
            return super().call(inputs)
        pixels = ops.reshape(inputs, (-1, height // 2, 2, width // 2, 2, channels))
        top, bottom = (_larger(pixels[:, :, row, :, 0], pixels[:, :, row, :, 1]) for row in (0, 1))
        return _larger(top, bottom)

    def _pool_in_penalty(self, inputs):
        import tensorflow as tf

        windows = {"ksize": [1, *self.pool_size, 1], "strides": [1, *self.strides, 1], "padding": self.padding.upper()}
        return _piecewise_linear(
            inputs,
            lambda x: tf.raw_ops.MaxPool(input=x, **windows),
            lambda g, x, y: tf.raw_ops.MaxPoolGrad(orig_input=x, orig_output=y, grad=g, **windows),
            lambda h, x, y: tf.raw_ops.MaxPoolGradGrad(orig_input=x, orig_output=y, grad=h, **windows),
        )


def _larger(a, b):
    """The larger one, `a` if they are equal; NaN if either is."""
    return ops.where(ops.logical_or(a >= b, ops.isnan(a)), a, b)


def rectifier(name, slope=0.2):
    """The activation "relu", or "leaky_relu" with that slope, of a critic; see `_piecewise_linear`."""
    plain = ops.relu if name == "relu" else functools.partial(ops.leaky_relu, negative_slope=slope)

    def activate(x):
        return _rectify_in_penalty(x, name, slope) if _in_penalty() else plain(x)

    activate.__name__ = name
    return activate


def _in_penalty():
    return getattr(_thread, "in_penalty", False) and keras.backend.backend() == "tensorflow"


def _piecewise_linear(x, function, derivative, again):
    """A function of TensorFlow's whose derivative is the same all over a piece: what is differentiated twice.

    TensorFlow's second derivatives of such functions are zeros, not nothing: it carries them back through the whole
    network, a third of a gradient penalty's convolutions. JAX knows better.

    Args:
        x: the input.
        function: of x.
        derivative: (g, x, y) -> the gradient with respect to x where g is that of y = function(x).
        again: (h, x, y) -> the gradient with respect to g where h is that of the derivative, which is linear in g.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def made(x):
        y = function(x)

        @tf.custom_gradient
        def differentiated(g):
            return derivative(g, x, y), lambda h: again(h, x, y)

        return y, differentiated

    return made(x)


def _rectify_in_penalty(x, name, slope):
    import tensorflow as tf

    if name == "relu":

        def derivative(g, x, y):
            return tf.raw_ops.ReluGrad(gradients=g, features=y)

        return _piecewise_linear(x, tf.nn.relu, derivative, derivative)

    def derivative(g, x, y):
        return tf.raw_ops.LeakyReluGrad(gradients=g, features=x, alpha=slope)

    return _piecewise_linear(x, lambda x: tf.nn.leaky_relu(x, slope), derivative, derivative)


def policy(precision, last=False):
    """The Keras dtype policy of a layer: last layers are float32 whatever the precision."""
    return "mixed_bfloat16" if precision == "bfloat16" and not last else "float32"


class InFloat32:
    """A network's parts with its weights as they are at the call, computed in float32 whatever precision it has.

    For the gradient penalty: a gradient through bfloat16 convolutions is not one in float32, however its norm is taken
    (trap D5.6).

    Args:
        network: a functional model.
        precision: that it was built with.
        build: from a precision to another one like it.
    """

    def __init__(self, network, precision, build):
        self._network = network
        self._twin = network if precision == "float32" else build("float32")  # whose own weights are never used

    def __call__(self, inputs, part=None):
        """What the part of that name makes of the inputs, or the whole network; at inference, like a critic."""
        source, twin = (n.get_layer(part) if part else n for n in (self._network, self._twin))
        with _marked("in_penalty"):
            if twin is source:
                return source(inputs)
            return twin.stateless_call(source.trainable_variables, source.non_trainable_variables, inputs)[0]


def new_initializer(name):
    """An initialiser of kernels by name, a new one at each call: one for several layers would draw the same for each.

    "pytorch_uniform" is U(+-1/sqrt(fan_in)), PyTorch's default; the other names are Keras's.
    """
    if name == "pytorch_uniform":
        return keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
    return keras.initializers.get(name)
