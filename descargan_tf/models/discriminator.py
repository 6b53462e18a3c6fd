"""The discriminator with three heads (paper Fig. 3): a critic per class and a classifier, on one trunk."""

import keras

from descargan_tf.models.blocks import Conv2D, MaxPooling2D, new_initializer, policy, rectifier
from descargan_tf.types import CLASS_NAMES

CLASSIFIER_UNITS = 64
# Numbers of channels, as multiples of the first layer's: of the trunk's convolutions between two poolings, of a head's.
_TRUNK = ((1,), (2,), (4, 4), (8, 8), (8, 8))
_HEAD = (16, 16)


def build_discriminator(
    *,
    image_size,
    filters=32,
    precision="float32",
    critic_padding=0,
    initializer="glorot_normal",
    activation="relu",
    max_filters=0,
    poolings=5,
    critics=CLASS_NAMES,
):
    """D: 18,170,180 trainable parameters at 256x256 and 32 filters. No normalisation (trap D3.10).

    Parts are models of their own: `get_layer("trunk")`, `"critic_healthy"`, `"critic_diseased"`, `"classifier"`.

    Args:
        image_size: H = W, a multiple of 64: six poolings, and a dense layer that fixes the size.
        filters: of the first layer (the paper has 32: half of the generator's 64).
        precision: "float32" or "bfloat16"; the last layer of each head is float32 always.
        critic_padding: zeros around the last feature map before the 1x1 convolution of the critics. 0 as in Fig. 3;
            1 as in the authors' program, whose map then has a border that is the bias alone (D3.9).
        initializer: of the convolutions' kernels. The authors' glorot_normal shrinks the signal layer by layer before
            rectifiers; he_normal does not, and the classifier leaves its first plateau sooner.
        activation: of every layer but the last of a head: "relu" as in the paper, or "leaky_relu" (slope 0.2). At high
            rates rectifiers die here, first the classifier's 64.
        max_filters: no layer has more; 0: 16 times the first layer's, as in the paper.
        poolings: the trunk has five in the paper, which at 256x256 gives critics' maps of 8x8 scores; with three they
            are 8x8 at 64x64 too, and a score judges the same part of the picture. The first ones stay.
        critics: name of each class's, one name twice makes one for both; none leaves D_cls alone, 8,729,922 parameters
            at the size above.

    Returns:
        A functional model from {image [B, H, W, 1], keep [B, 64]} to {critic_healthy [B, h, w, 1],
        critic_diseased [B, h, w, 1], logits [B, K]}, float32. `keep` multiplies the classifier's last features: the
        caller's dropout mask (0 or 1 / (1 - rate), D3.11), ones at inference.
    """
    dtype, last = policy(precision), policy(precision, last=True)

    def conv(x, *widths):
        for width in widths:
            x = Conv2D(
                min(width * filters, max_filters or width * filters),
                3,
                padding="same",
                activation=rectifier(activation),
                kernel_initializer=new_initializer(initializer),
                dtype=dtype,
            )(x)
        return x

    def pool(x):
        return MaxPooling2D(2, dtype=dtype)(x)

    x = image = keras.Input((image_size, image_size, 1), name="image")
    for level, widths in enumerate(_TRUNK):
        x = conv(x, *widths)
        if level < poolings:
            x = pool(x)
    trunk = keras.Model(image, conv(x, 16), name="trunk")
    features = trunk(image)

    outputs = {}
    for name in dict.fromkeys(critics):
        z = keras.Input(features.shape[1:], dtype=features.dtype)
        y = conv(z, *_HEAD)
        y = keras.layers.ZeroPadding2D(critic_padding, dtype=last)(y)
        y = Conv2D(1, 1, kernel_initializer=new_initializer(initializer), dtype=last)(y)
        critic = keras.Model(z, y, name=f"critic_{name}")
        outputs[critic.name] = critic(features)

    # D5.5: the dense layers keep PyTorch's default, U(+-1/sqrt(fan_in)).
    uniform = new_initializer("pytorch_uniform")
    z = keras.Input(features.shape[1:], dtype=features.dtype)
    keep = keras.Input((CLASSIFIER_UNITS,), name="keep")
    y = keras.layers.Flatten(dtype=dtype)(pool(conv(z, *_HEAD)))
    y = keras.layers.Dense(CLASSIFIER_UNITS, activation=activation, kernel_initializer=uniform, dtype=last)(y)
    y = keras.layers.Multiply(dtype=last)([y, keep])
    y = keras.layers.Dense(len(CLASS_NAMES), kernel_initializer=uniform, dtype=last)(y)
    outputs["logits"] = keras.Model([z, keep], y, name="classifier")([features, keep])
    return keras.Model({"image": image, "keep": keep}, outputs, name="discriminator")
