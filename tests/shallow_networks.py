"""DeScarGAN's, D_cls's and the VAE's networks with the same parts, ends and kinds of layers, a few of each.

Making, tracing and running a network take a time for each layer, whatever its size: where a test is of what lies around
the networks, these do.
"""

import keras

from descargan_tf.models.blocks import BatchNormalization, Conv2D, MaxPooling2D, UpsampleConv2D, policy, rectifier
from descargan_tf.models.discriminator import CLASSIFIER_UNITS
from descargan_tf.models.generator import LabelPlanes
from descargan_tf.types import CLASS_NAMES


def use(replace=setattr):
    """Methods made from now on have them."""
    from descargan_tf.methods import dcls, descargan, vae

    replace(descargan, "build_generator", build_generator)
    for module in (descargan, dcls):
        replace(module, "build_discriminator", build_discriminator)
    replace(vae, "build_vae", build_vae)


def build_generator(*, image_size, filters, precision, inference_statistics, **of_the_paper):
    """As `models.generator`'s, of two levels."""
    assert (of_the_paper["branches"], of_the_paper["output"]) == (CLASS_NAMES, "image")
    dtype, last = policy(precision), policy(precision, last=True)

    def block(x, n, dtype=dtype, activation="relu"):
        x = Conv2D(n, 3, padding="same", kernel_initializer="he_normal", dtype=dtype)(x)
        x = BatchNormalization(inference_statistics, dtype=dtype)(x)
        return keras.layers.Activation(activation, dtype=dtype)(x)

    image = keras.Input((image_size, image_size, 1), name="image")
    target = keras.Input((len(CLASS_NAMES),), name="target")
    x = block(LabelPlanes(dtype=dtype)([image, target]), filters)
    y = UpsampleConv2D(filters, dtype=dtype)(MaxPooling2D(2, dtype=dtype)(x))
    trunk = keras.Model([image, target], keras.layers.Concatenate(dtype=dtype)([y, x]), name="trunk")
    features, outputs = trunk([image, target]), {}
    for name in CLASS_NAMES:
        z = keras.Input(trunk.output.shape[1:], dtype=trunk.output.dtype)
        outputs[name] = keras.Model(z, block(z, 1, last, "tanh"), name=name)(features)
    return keras.Model({"image": image, "target": target}, outputs, name="generator")


def build_discriminator(*, image_size, filters, precision, activation, critics, **of_the_paper):
    """As `models.discriminator`'s, of one pooling."""
    dtype, last = policy(precision), policy(precision, last=True)
    image = keras.Input((image_size, image_size, 1), name="image")
    x = Conv2D(filters, 3, padding="same", activation=rectifier(activation), dtype=dtype)(image)
    trunk = keras.Model(image, MaxPooling2D(8, dtype=dtype)(x), name="trunk")
    features, outputs = trunk(image), {}
    for name in critics:
        z = keras.Input(features.shape[1:], dtype=features.dtype)
        critic = keras.Model(z, Conv2D(1, 1, dtype=last)(z), name=f"critic_{name}")
        outputs[critic.name] = critic(features)
    z = keras.Input(features.shape[1:], dtype=features.dtype)
    keep = keras.Input((CLASSIFIER_UNITS,), name="keep")
    y = keras.layers.Flatten(dtype=dtype)(z)
    y = keras.layers.Dense(CLASSIFIER_UNITS, activation=activation, dtype=last)(y)
    y = keras.layers.Multiply(dtype=last)([y, keep])
    y = keras.layers.Dense(len(CLASS_NAMES), dtype=last)(y)
    outputs["logits"] = keras.Model([z, keep], y, name="classifier")([features, keep])
    return keras.Model({"image": image, "keep": keep}, outputs, name="discriminator")


def build_vae(*, image_size, filters, latent_units, precision, inference_statistics):
    """As `models.vae`'s, with one convolution each way."""
    dtype, last = policy(precision), policy(precision, last=True)

    def conv(x, layer):
        x = layer(filters, 4, 4, padding="same", kernel_initializer="he_normal", dtype=dtype)(x)
        x = BatchNormalization(inference_statistics, dtype=dtype)(x)
        return keras.layers.LeakyReLU(0.2, dtype=dtype)(x)

    image = keras.Input((image_size, image_size, 1), name="image")
    x = conv(image, Conv2D)
    flat = keras.layers.Flatten(dtype=dtype)(x)
    code = {
        "mean": keras.layers.Dense(latent_units, dtype=last, name="mean")(flat),
        "log_sigma": keras.layers.Dense(latent_units, kernel_initializer="zeros", dtype=last, name="log_sigma")(flat),
    }
    encoder = keras.Model(image, code, name="encoder")
    z = keras.Input((latent_units,), name="code")
    y = keras.layers.Reshape(x.shape[1:], dtype=dtype)(keras.layers.Dense(flat.shape[1], dtype=dtype)(z))
    y = Conv2D(1, 3, padding="same", dtype=last)(conv(y, keras.layers.Conv2DTranspose))
    decoder = keras.Model(z, y, name="decoder")
    return keras.Model(image, decoder(encoder(image)["mean"]), name="autoencoder")
