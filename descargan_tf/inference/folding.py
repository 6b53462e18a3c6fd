"""Networks rewritten for inference: the same answers from fewer operations, for any method's functional models."""

import copy
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from descargan_tf.methods.base import Method
from descargan_tf.models.blocks import BatchNormalization, UpsampleConv2D
from descargan_tf.models.upsampling import transposed_kernel

_CONVOLUTIONS = (keras.layers.Conv2D, UpsampleConv2D)
_NORMALISATIONS = (BatchNormalization, keras.layers.BatchNormalization)


class InferenceConv2D(keras.layers.Conv2D):
    """A convolution whose bias is added by the operation that TensorFlow fuses with it and the rectifier after it."""

    def call(self, inputs):
        """[B, H, W, C] to [B, H', W', filters]."""
        return self.activation(tf.nn.bias_add(self.convolution_op(inputs, self.kernel), self.bias))


class _Affine(NamedTuple):
    """What a normalisation with fixed statistics does to each channel: x * scale + offset."""

    scale: np.ndarray  # [C] float64
    offset: np.ndarray  # [C] float64


def fold_method(method: Method) -> tuple[Method, int]:
    """A copy of the method for prediction alone, on rewritten networks, and how many normalisations were folded."""
    folded = copy.copy(method)
    folded.networks, total = {}, 0
    for name, network in method.networks.items():
        folded.networks[name], count = fold_network(network)
        total += count
    return folded, total


def fold_network(network: keras.Model) -> tuple[keras.Model, int]:
    """Rewrite a functional model, with the models nested in it, and count the normalisations folded.

    A batch normalisation with moving averages that alone follows a convolution goes into that convolution's kernel and
    bias; with each image's own statistics it stays. An upsampling convolution becomes the transposed convolution that
    it is, with its kernel computed once. Convolutions store their weights in the precision that they compute in.
    """
    pairs, rewritten = list(foldable_pairs(network)), []
    after = {id(convolution): normalisation for convolution, normalisation in pairs}
    folded_away = {id(normalisation) for _, normalisation in pairs}

    def clone(layer):
        if id(layer) in folded_away:
            return keras.layers.Identity(name=layer.name, dtype=layer.dtype_policy)
        is_convolution = isinstance(layer, _CONVOLUTIONS)
        new = _empty_convolution(layer) if is_convolution else type(layer).from_config(layer.get_config())
        if hasattr(layer, "activation"):
            # A configuration holds its name alone: of a leaky rectifier not its slope.
            new.activation = layer.activation
        rewritten.append((layer, new))
        return new

    def call(layer, *args, **kwargs):
        # What a normalisation is called with beyond its input, an identity does not know.
        return layer(args[0]) if isinstance(layer, keras.layers.Identity) else layer(*args, **kwargs)

    folded = keras.models.clone_model(network, clone_function=clone, call_function=call, recursive=True)
    for old, new in rewritten:
        if isinstance(old, _CONVOLUTIONS):
            new.set_weights(folded_weights(old, after.get(id(old))))
        else:
            new.set_weights(old.get_weights())
    return folded, len(folded_away)


def uses_own_statistics(network: keras.Model) -> bool:
    """Whether a layer normalises each image by its own statistics at inference."""
    return any(
        (isinstance(layer, BatchNormalization) and layer.inference_statistics == "per_image")
        or isinstance(layer, keras.layers.GroupNormalization | keras.layers.LayerNormalization)
        for model in _models(network)
        for layer in model.layers
    )


def foldable_pairs(network: keras.Model):
    """(convolution, normalisation) wherever the convolution's answer goes nowhere else."""
    models = list(_models(network))
    leaving = {id(tensor) for model in models for tensor in model.outputs}
    for layer in (layer for model in models for layer in model.layers):
        if not (isinstance(layer, _NORMALISATIONS) and _has_fixed_statistics(layer) and len(layer._inbound_nodes) == 1):
            continue
        before = [node.operation for node in layer._inbound_nodes[0].parent_nodes]
        if len(before) == 1 and _is_linear(before[0]) and _feeds_one(before[0]) and id(before[0].output) not in leaving:
            yield before[0], layer


def _models(network):
    yield network
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from _models(layer)


def _has_fixed_statistics(layer):
    if isinstance(layer, BatchNormalization):
        return layer.inference_statistics == "moving"
    return layer.axis in (-1, 3)


def _is_linear(layer):
    if isinstance(layer, UpsampleConv2D):
        return True
    return isinstance(layer, keras.layers.Conv2D) and layer.activation is keras.activations.linear


def _feeds_one(layer):
    return len(layer._inbound_nodes) == 1 and len(layer._outbound_nodes) == 1


def _affine(layer):
    mean, variance = (np.asarray(value, np.float64) for value in (layer.moving_mean, layer.moving_variance))
    gamma = 1.0 if layer.gamma is None else np.asarray(layer.gamma, np.float64)
    beta = 0.0 if layer.beta is None else np.asarray(layer.beta, np.float64)
    scale = gamma / np.sqrt(variance + layer.epsilon)
    return _Affine(scale, beta - mean * scale)


def _empty_convolution(layer):
    dtype = layer.compute_dtype
    if isinstance(layer, UpsampleConv2D):
        return keras.layers.Conv2DTranspose(layer.filters, 4, strides=2, padding="same", name=layer.name, dtype=dtype)
    return InferenceConv2D.from_config({**layer.get_config(), "use_bias": True, "dtype": dtype})


def folded_weights(layer, normalisation=None):
    """Kernel and bias, float64, of a convolution with the normalisation after it; of an upsampling one, transposed."""
    bias = np.zeros(layer.filters) if layer.bias is None else np.asarray(layer.bias, np.float64)
    is_transposed = isinstance(layer, UpsampleConv2D)
    kernel = np.asarray(transposed_kernel(layer.kernel) if is_transposed else layer.kernel, np.float64)
    if normalisation is not None:
        affine = _affine(normalisation)
        kernel = kernel * (affine.scale[:, np.newaxis] if is_transposed else affine.scale)
        bias = bias * affine.scale + affine.offset
    return [kernel, bias]
