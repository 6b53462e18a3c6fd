"""VAGAN's map generator and critic (Baumgartner et al., CVPR 2018)."""

import keras

from descargan_tf.models.blocks import BatchNormalization, Conv2D, MaxPooling2D, policy, rectifier


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

    def conv(x, *widths):
        for n in widths:
            x = block(x, Conv2D, n, 3)
        return x

    def pool(x):
        return MaxPooling2D(2, dtype=dtype)(x)

    def join(x, skip):
        x = block(x, keras.layers.Conv2DTranspose, filters, 4, strides=2)  # the same few filters at every level
        return keras.layers.Concatenate(dtype=dtype)([x, skip])

    n = filters
    image = keras.Input((image_size, image_size, 1), name="image")
    x0 = conv(image, n, n)
    x1 = conv(pool(x0), 2 * n, 2 * n)
    x2 = conv(pool(x1), 4 * n, 4 * n)
    y = conv(pool(x2), 8 * n, 8 * n)
    y = conv(join(y, x2), 4 * n, 4 * n)
    y = conv(join(y, x1), 2 * n, 2 * n)
    y = conv(join(y, x0), n)
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

    def conv(x, *widths):
        for n in widths:
            x = Conv2D(n, 3, padding="same", activation=rectifier("relu"), kernel_initializer="he_normal", dtype=dtype)(
                x
            )
        return x

    def pool(x):
        return MaxPooling2D(2, dtype=dtype)(x)

    n = filters
    image = keras.Input((image_size, image_size, 1), name="image")
    x = pool(conv(image, n))
    x = pool(conv(x, 2 * n))
    x = pool(conv(x, 4 * n, 4 * n))
    x = pool(conv(x, 8 * n, 8 * n))
    x = conv(x, 16 * n, 16 * n, 16 * n)
    x = Conv2D(1, 1, kernel_initializer="he_normal", dtype=last)(x)
    return keras.Model(image, x, name="discriminator")
