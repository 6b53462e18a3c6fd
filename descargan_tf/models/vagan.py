"""VAGAN's map generator and critic (Baumgartner et al., CVPR 2018)."""

import keras

from descargan_tf.models.blocks import BatchNormalization, Conv2D, MaxPooling2D, policy, rectifier

_NUM_POOLINGS = 3
_NUM_CONVOLUTIONS = 2  # at each size, before as after the smallest
# Numbers of channels of the critic's convolutions between two poolings, as multiples of the first layer's.
_CRITIC = ((1,), (2,), (4, 4), (8, 8), (16, 16, 16))


def build_generator(*, image_size, filters=16, precision="float32", inference_statistics="moving"):
    """G: 462,305 trainable parameters at 16 filters, whatever the image size.

    A U-Net with three poolings and skip connections at all three levels, the topmost too. It makes the map M, and
    the model's output is tanh(x + M(x)).

    Args:
        image_size: H = W, a multiple of 8.
        filters: of the first layer; doubled at each pooling.
        precision: "float32" or "bfloat16"; the output layer is float32 always.
        inference_statistics: see `BatchNormalization`.

    Returns:
        A functional model from [B, H, W, 1] in [-1, 1] to the same.
    """
    dtype, last = policy(precision), policy(precision, last=True)

    def block(x, layer, n, size, strides=1):
        x = layer(n, size, strides, padding="same", use_bias=False, kernel_initializer="he_normal", dtype=dtype)(x)
        x = BatchNormalization(inference_statistics, epsilon=1e-3, dtype=dtype)(x)
        return keras.layers.Activation("relu", dtype=dtype)(x)

    def conv(x, level, count=_NUM_CONVOLUTIONS):
        for _ in range(count):
            x = block(x, Conv2D, 2**level * filters, 3)
        return x

    def join(x, skip):
        x = block(x, keras.layers.Conv2DTranspose, filters, 4, strides=2)  # the same few filters at every level
        return keras.layers.Concatenate(dtype=dtype)([x, skip])

    image = keras.Input((image_size, image_size, 1), name="image")
    down = [conv(image, 0)]
    for level in range(1, _NUM_POOLINGS + 1):
        down.append(conv(MaxPooling2D(2, dtype=dtype)(down[-1]), level))
    y = down.pop()
    for level in range(_NUM_POOLINGS - 1, 0, -1):
        y = conv(join(y, down[level]), level)
    y = conv(join(y, down[0]), 0, _NUM_CONVOLUTIONS - 1)  # the last is the output's
    # Keras' own: with JAX the project's would go by products with taps, which was not measured here.
    y = keras.layers.Conv2D(1, 3, padding="same", kernel_initializer="he_normal", dtype=last)(y)
    y = keras.layers.Add(dtype=last)([image, y])
    return keras.Model(image, keras.layers.Activation("tanh", dtype=last)(y), name="generator")


def build_critic(*, image_size, filters=16, precision="float32"):
    """D: 1,757,249 trainable parameters at 16 filters, whatever the image size. No normalisation.

    Args:
        image_size: H = W, a multiple of 16.
        filters: of the first layer; doubled at each pooling.
        precision: "float32" or "bfloat16"; the last layer is float32 always.

    Returns:
        A functional model from [B, H, W, 1] to [B, H/16, W/16, 1] float32, whose mean is the score.
    """
    dtype, last = policy(precision), policy(precision, last=True)

    def conv(x, n):
        made = Conv2D(n, 3, padding="same", activation=rectifier("relu"), kernel_initializer="he_normal", dtype=dtype)
        return made(x)

    x = image = keras.Input((image_size, image_size, 1), name="image")
    for level, widths in enumerate(_CRITIC):
        if level:
            x = MaxPooling2D(2, dtype=dtype)(x)
        for width in widths:
            x = conv(x, width * filters)
    x = Conv2D(1, 1, kernel_initializer="he_normal", dtype=last)(x)
    return keras.Model(image, x, name="discriminator")
