"""The two-branch generator (paper Fig. 2): one trunk that sees image and target label, one output branch per class."""

import keras
from keras import ops

from descargan_tf.models.blocks import BatchNormalization, Conv2D, MaxPooling2D, UpsampleConv2D, policy
from descargan_tf.types import CLASS_NAMES

_NUM_POOLINGS = 3
_NUM_CONVOLUTIONS = 2  # at each size, and of each branch
_INITIAL_CHANGE = 0.1  # scale of the normalisation before the tanh of a change


def build_generator(
    *,
    image_size,
    filters=64,
    precision="float32",
    inference_statistics="moving",
    skip_connections="inner",
    branches=CLASS_NAMES,
    output="image",
):
    """G: 8,528,262 trainable parameters at 64 filters, whatever the image size.

    A U-Net with three poolings whose topmost skip connection is left out (sect. 2), every convolution followed by batch
    normalisation, the one-channel output too (trap D3.4). The trunk and both branches are models of their own,
    `get_layer("trunk")`, `get_layer("healthy")`, `get_layer("diseased")`, so that a caller can send each class's
    images through its branch alone (D3.3) and compute nothing twice.

    The last three arguments undo what the paper claims to be of use, one claim each.

    Args:
        image_size: H = W, a multiple of 8.
        filters: of the first layer; doubled at each pooling.
        precision: "float32" or "bfloat16"; the output layers are float32 always.
        inference_statistics: see `BatchNormalization`.
        skip_connections: "inner" as in the paper, "none", or "all": the topmost too, into the branches.
        branches: name of each class's; one name twice makes one branch, which is told the class by the trunk alone.
        output: "image", a new one, or "change", x + 2 tanh(delta): a branch then takes [features, image]. Every value
            can be reached from any pixel; the last normalisation's scale is small at the start, so that an untrained
            generator changes little.

    Returns:
        A functional model from {image [B, H, W, 1] in [-1, 1], target [B, K] one-hot} to
        {healthy [B, H, W, 1], diseased [B, H, W, 1]}, float32 in [-1, 1]; with "change" in [-3, 3].
    """
    dtype = policy(precision)

    def normalise_activate(x, dtype=dtype, activation="relu", scale=1.0):
        x = BatchNormalization(inference_statistics, initial_scale=scale, dtype=dtype)(x)
        return keras.layers.Activation(activation, dtype=dtype)(x)

    def block(x, n, dtype=dtype, activation="relu", scale=1.0):
        # The bias before a normalisation is without effect; it stays for the paper's parameter count (D3.5).
        x = Conv2D(n, 3, padding="same", kernel_initializer="he_normal", dtype=dtype)(x)
        return normalise_activate(x, dtype, activation, scale)

    def blocks(x, n, count=_NUM_CONVOLUTIONS):
        for _ in range(count):
            x = block(x, n)
        return x

    def up(x, n):
        return normalise_activate(UpsampleConv2D(n, dtype=dtype)(x))

    def join(x, skip, n):
        if skip_connections != "none":
            x = keras.layers.Concatenate(dtype=dtype)([x, skip])
        return blocks(x, n)

    n = filters
    image = keras.Input((image_size, image_size, 1), name="image")
    target = keras.Input((len(CLASS_NAMES),), name="target")
    y = blocks(LabelPlanes(dtype=dtype)([image, target]), n)
    down = [y]
    for level in range(1, _NUM_POOLINGS + 1):
        y = blocks(MaxPooling2D(2, dtype=dtype)(y), 2**level * n)
        down.append(y)
    for level in range(_NUM_POOLINGS - 1, 0, -1):
        y = join(up(y, 2**level * n), down[level], 2**level * n)
    y = up(y, n)  # no skip from the topmost: it holds the output to the input's class
    if skip_connections == "all":
        y = keras.layers.Concatenate(dtype=dtype)([y, down[0]])
    trunk = keras.Model([image, target], y, name="trunk")

    last = policy(precision, last=True)
    made = {}
    features = trunk([image, target])
    for name in dict.fromkeys(branches):
        z = keras.Input(trunk.output.shape[1:], dtype=trunk.output.dtype)
        inner = blocks(z, n, _NUM_CONVOLUTIONS - 1)
        if output == "image":
            made[name] = keras.Model(z, block(inner, 1, last, "tanh"), name=name)(features)
        else:
            x = keras.Input((image_size, image_size, 1))
            change = block(inner, 1, last, "tanh", _INITIAL_CHANGE)
            change = keras.layers.Rescaling(2.0, dtype=last)(change)
            made[name] = keras.Model([z, x], keras.layers.Add(dtype=last)([x, change]), name=name)([features, image])
    outputs = {name: made[branch] for name, branch in zip(CLASS_NAMES, branches, strict=True)}
    return keras.Model({"image": image, "target": target}, outputs, name="generator")


class LabelPlanes(keras.layers.Layer):
    """Append one constant plane per class to the image (trap D3.1: the parameter count only fits with them).

    What they hold is the caller's: one whose passes have one target for all images gives zeros (`DeScarGAN._planes`).
    """

    def call(self, inputs):
        """([B, H, W, C], [B, K]) to [B, H, W, C + K]."""
        image, target = inputs
        planes = ops.expand_dims(ops.expand_dims(ops.cast(target, image.dtype), 1), 1)
        planes = ops.broadcast_to(planes, (*ops.shape(image)[:3], target.shape[-1]))
        return ops.concatenate([image, planes], axis=-1)

    def compute_output_shape(self, input_shape):
        """[B, H, W, C + K]."""
        image, target = input_shape
        return (*image[:3], image[3] + target[1])
