"""A residual variational autoencoder in the manner of Chen & Konukoglu (2018), the VAE that the paper compares with."""

import keras

from descargan_tf.models.blocks import BatchNormalization, Conv2D, policy

_NUM_BLOCKS = 4  # of the encoder, and of the decoder
_SLOPE = 0.2  # of the rectifiers below zero


def build_vae(*, image_size, filters=16, latent_units=128, precision="float32", inference_statistics="moving"):
    """17,760,464 trainable parameters of the encoder and 9,142,450 of the decoder at 256x256 and the defaults.

    Parts are models of their own: `get_layer("encoder")` from images [B, H, W, 1] to {mean [B, Z], log_sigma [B, Z]},
    `get_layer("decoder")` from [B, Z] to images. Four residual blocks each halve, then double the image.

    Departs: the published program has one dense head, as its training is adversarial; a VAE has two.

    Args:
        image_size: H = W, a multiple of 16; the dense layers fix it.
        filters: of the first layer; doubled in each of the four blocks.
        latent_units: Z, the length of the code.
        precision: "float32" or "bfloat16"; the dense heads and the last layer are float32 always.
        inference_statistics: see `BatchNormalization`.

    Returns:
        A functional model from images [B, H, W, 1] to the reconstruction [B, H, W, 1] from the mean code, float32 and
        not bounded.
    """
    dtype, last = policy(precision), policy(precision, last=True)

    def normalise_activate(x):
        x = BatchNormalization(inference_statistics, dtype=dtype)(x)
        return keras.layers.LeakyReLU(_SLOPE, dtype=dtype)(x)

    def conv(x, n, layer=Conv2D, strides=1):
        x = layer(n, 3, strides, padding="same", kernel_initializer="he_normal", dtype=dtype)(x)
        return normalise_activate(x)

    def residual(x, inner, outer, layer):
        """Both paths change the size in their first convolution: `layer` with stride two."""
        main = conv(conv(x, inner, layer, strides=2), outer)
        return keras.layers.Add(dtype=dtype)([main, conv(x, outer, layer, strides=2)])

    n = filters
    image = keras.Input((image_size, image_size, 1), name="image")
    x = conv(image, n)
    widths = [2**i * n for i in range(_NUM_BLOCKS)]
    for width in widths:
        x = residual(x, width, 2 * width, Conv2D)
    smallest = x.shape[1:]
    x = keras.layers.Flatten(dtype=dtype)(x)
    code = {
        "mean": keras.layers.Dense(latent_units, dtype=last, name="mean")(x),
        # Sigma is one at the start: exp() of a sum over so many features could be anything.
        "log_sigma": keras.layers.Dense(latent_units, kernel_initializer="zeros", dtype=last, name="log_sigma")(x),
    }
    encoder = keras.Model(image, code, name="encoder")

    z = keras.Input((latent_units,), name="code")
    y = keras.layers.Dense(smallest[0] * smallest[1] * smallest[2], dtype=dtype)(z)
    y = keras.layers.Reshape(smallest, dtype=dtype)(y)
    y = Conv2D(widths[-1], 3, padding="same", kernel_initializer="he_normal", dtype=dtype)(y)
    y = keras.layers.LeakyReLU(_SLOPE, dtype=dtype)(y)
    for width in reversed(widths):
        y = residual(y, width, width // 2, keras.layers.Conv2DTranspose)
    # Reference: a second channel, a standard deviation that the program's loss never looks at.
    y = Conv2D(2, 3, padding="same", dtype=last)(y)
    decoder = keras.Model(z, FirstChannel(dtype=last)(y), name="decoder")
    return keras.Model(image, decoder(encoder(image)["mean"]), name="autoencoder")


class FirstChannel(keras.layers.Layer):
    """Leave all channels away but the first."""

    def call(self, inputs):
        """[B, H, W, C] to [B, H, W, 1]."""
        return inputs[..., :1]

    def compute_output_shape(self, input_shape):
        """[B, H, W, 1]."""
        return (*input_shape[:-1], 1)
