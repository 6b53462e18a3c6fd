"""DenseNet (Huang et al., CVPR 2017) for images of one channel.

The same function as `keras.applications.DenseNet169`, which has neither a normalisation over all replicas nor a
precision, width or depth of its own to choose.
"""

import keras

from descargan_tf.models.blocks import BatchNormalization, Conv2D, policy
from descargan_tf.types import CLASS_NAMES

DENSENET_169 = (6, 12, 32, 32)  # layers in each dense block


def build_densenet(*, image_size, filters=64, blocks=DENSENET_169, precision="float32", inference_statistics="moving"):
    """12,481,538 trainable parameters at 64 filters and 6, 12, 32, 32 layers, whatever the image size.

    Parts are models of their own: `get_layer("trunk")` from images to the last map, `get_layer("head")` from there to
    logits.

    Args:
        image_size: H = W, a multiple of 32.
        filters: of the first layer; each dense layer adds half as many.
        blocks: how many layers each dense block has.
        precision: "float32" or "bfloat16"; the last layer is float32 always.
        inference_statistics: see `BatchNormalization`.

    Returns:
        A functional model from [B, H, W, 1] in [-1, 1] to logits [B, K], float32.
    """
    dtype = policy(precision)
    growth = filters // 2

    def conv(x, n, size, strides=1, padding="same"):
        return Conv2D(n, size, strides, padding=padding, use_bias=False, kernel_initializer="he_normal", dtype=dtype)(x)

    def normalise_activate(x):
        x = BatchNormalization(inference_statistics, epsilon=1.001e-5, dtype=dtype)(x)
        return keras.layers.Activation("relu", dtype=dtype)(x)

    def dense_block(x, count):
        for _ in range(count):
            y = conv(normalise_activate(x), 4 * growth, 1)
            y = conv(normalise_activate(y), growth, 3)
            x = keras.layers.Concatenate(dtype=dtype)([x, y])
        return x

    def transition(x):
        x = conv(normalise_activate(x), x.shape[-1] // 2, 1)
        return keras.layers.AveragePooling2D(2, dtype=dtype)(x)

    image = keras.Input((image_size, image_size, 1), name="image")
    # Paddings of their own: TensorFlow's "same" puts the odd row of a stride of two on the other side.
    x = keras.layers.ZeroPadding2D(3, dtype=dtype)(image)
    x = normalise_activate(conv(x, filters, 7, strides=2, padding="valid"))
    x = keras.layers.ZeroPadding2D(1, dtype=dtype)(x)
    x = keras.layers.MaxPooling2D(3, strides=2, dtype=dtype)(x)
    for number, count in enumerate(blocks):
        x = dense_block(transition(x) if number else x, count)
    trunk = keras.Model(image, normalise_activate(x), name="trunk")
    features = trunk(image)

    z = keras.Input(features.shape[1:], dtype=features.dtype)
    y = keras.layers.GlobalAveragePooling2D(dtype=dtype)(z)
    y = keras.layers.Dense(len(CLASS_NAMES), dtype=policy(precision, last=True))(y)
    return keras.Model(image, keras.Model(z, y, name="head")(features), name="classifier")
