"""StarGAN's generator and discriminator (Choi et al., CVPR 2018); with other arguments Fixed-Point GAN's too."""

import functools

import keras

from descargan_tf.models.blocks import Conv2D, new_initializer, policy, rectifier
from descargan_tf.models.generator import LabelPlanes

_NUM_RESIDUAL_BLOCKS = 6
_NUM_SCALINGS = 2  # halvings before the residual blocks, doublings after them
_NUM_HALVINGS = 6  # of the discriminator
_SLOPE = 0.01  # of the leaky rectifiers


def build_generator(*, image_size, filters=64, precision="float32", label_planes=2, additive=False):
    """G: 8,408,576 trainable parameters at 64 filters and two label planes, 8,405,440 at one, whatever the image size.

    Two halvings, six residual blocks, two doublings, no skip connections. Instance normalisation by each image's own
    statistics, when it is tested too.

    Args:
        image_size: H = W, a multiple of 4.
        filters: of the first layer; doubled at each halving.
        precision: "float32" or "bfloat16"; the output layer is float32 always.
        label_planes: length of the target's code.
        additive: the network makes a change of the image, tanh(x + delta), instead of an image, tanh(y). Values near
            +-1 cannot be kept then: tanh(1 + 0) is 0.76.

    Returns:
        A functional model from {image [B, H, W, 1] in [-1, 1], target [B, label_planes]} to [B, H, W, 1] float32 in
        [-1, 1].
    """
    dtype, last = policy(precision), policy(precision, last=True)

    def normalise(x):
        return keras.layers.GroupNormalization(groups=-1, epsilon=1e-5, dtype=dtype)(x)

    kernel = functools.partial(new_initializer, "pytorch_uniform")

    def block(x, layer, n, size, strides=1, activation="relu"):
        # Zeros around the image, not its reflection: the label planes have no effect there after normalisation.
        x = layer(n, size, strides, padding="same", use_bias=False, kernel_initializer=kernel(), dtype=dtype)(x)
        x = normalise(x)
        return keras.layers.Activation(activation, dtype=dtype)(x) if activation else x

    conv, up = Conv2D, keras.layers.Conv2DTranspose
    n = filters
    image = keras.Input((image_size, image_size, 1), name="image")
    target = keras.Input((label_planes,), name="target")
    x = LabelPlanes(dtype=dtype)([image, target])
    x = block(x, conv, n, 7)
    for _ in range(_NUM_SCALINGS):
        n *= 2
        x = block(x, conv, n, 4, strides=2)
    for _ in range(_NUM_RESIDUAL_BLOCKS):
        y = block(x, conv, n, 3)
        y = block(y, conv, n, 3, activation=None)
        x = keras.layers.Add(dtype=dtype)([x, y])
    for _ in range(_NUM_SCALINGS):
        n //= 2
        x = block(x, up, n, 4, strides=2)
    x = conv(1, 7, padding="same", use_bias=False, kernel_initializer=kernel(), dtype=last)(x)
    if additive:
        x = keras.layers.Add(dtype=last)([image, x])
    x = keras.layers.Activation("tanh", dtype=last)(x)
    return keras.Model({"image": image, "target": target}, x, name="generator")


def build_discriminator(*, image_size, filters=64, precision="float32", num_logits=2, initializer="pytorch_uniform"):
    """D: 44,784,576 trainable parameters at 256x256 and 64 filters, 44,751,808 with one logit. No normalisation.

    Parts are models of their own: `get_layer("trunk")`, `"critic"`, `"classifier"`.

    Args:
        image_size: H = W, a multiple of 64: six halvings, and a classifier that fixes the size.
        filters: of the first layer; doubled at each halving.
        precision: "float32" or "bfloat16"; the heads are float32 always.
        num_logits: one per class, or one for two classes.
        initializer: of the kernels. The program's "pytorch_uniform" shrinks the signal at each of the six layers, so
            that critic and classifier stay where they are for long at the start; "he_normal" does not.

    Returns:
        A functional model from [B, H, W, 1] to {critic [B, H/64, W/64, 1], logits [B, num_logits]}, float32.
    """
    dtype, last = policy(precision), policy(precision, last=True)
    kernel = functools.partial(new_initializer, initializer)
    image = keras.Input((image_size, image_size, 1), name="image")
    x = image
    for halving in range(_NUM_HALVINGS):
        n = filters * 2**halving
        x = Conv2D(n, 4, strides=2, padding="same", kernel_initializer=kernel(), dtype=dtype)(x)
        x = keras.layers.Activation(rectifier("leaky_relu", _SLOPE), dtype=dtype)(x)
    trunk = keras.Model(image, x, name="trunk")
    features = trunk(image)

    def head(name, n, size, padding):
        z = keras.Input(features.shape[1:], dtype=features.dtype)
        y = Conv2D(n, size, padding=padding, use_bias=False, kernel_initializer=kernel(), dtype=last)(z)
        y = keras.layers.Flatten(dtype=last)(y) if padding == "valid" else y
        return keras.Model(z, y, name=name)(features)

    outputs = {
        "critic": head("critic", 1, 3, "same"),
        "logits": head("classifier", num_logits, image_size // 2**_NUM_HALVINGS, "valid"),
    }
    return keras.Model(image, outputs, name="discriminator")
