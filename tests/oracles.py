"""The networks once more, in plain numpy, from the paper's figures and the reference's rules; slow and obvious."""

import numpy as np


def conv3x3(x, kernel, bias):
    """[H, W, C] with zero padding."""
    height, width, _ = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    out = np.zeros((height, width, kernel.shape[-1]))
    for i in range(3):
        for j in range(3):
            out += padded[i : i + height, j : j + width] @ kernel[i, j]
    return out + bias


def normalise(x, gamma, beta, epsilon=1e-5):
    """Each image's own statistics."""
    mean, variance = x.mean((0, 1)), x.var((0, 1))
    return (x - mean) / np.sqrt(variance + epsilon) * gamma + beta


def relu(x):
    return np.maximum(x, 0)


def leaky_relu(x):
    return np.where(x > 0, x, 0.2 * x)


def pool(x):
    height, width, channels = x.shape
    return x.reshape(height // 2, 2, width // 2, 2, channels).max((1, 3))


def upsample(x):
    return x.repeat(2, 0).repeat(2, 1)


def weights_of(model):
    """Trainable weights of a Keras model in order, as an iterator of float64 arrays."""
    return iter([np.asarray(w, np.float64) for w in model.trainable_weights])


def generator(model, image, target):
    """Paper Fig. 2 for one image [H, W, 1] and one-hot target [2]: outputs of both branches."""
    w = weights_of(model.get_layer("trunk"))

    def block(x, activation=relu, w=w):
        return activation(normalise(conv3x3(x, next(w), next(w)), next(w), next(w)))

    planes = np.broadcast_to(target, (*image.shape[:2], 2))
    x0 = block(block(np.concatenate([image, planes], -1)))
    x1 = block(block(pool(x0)))
    x2 = block(block(pool(x1)))
    y = block(upsample(block(block(pool(x2)))))
    y = block(block(np.concatenate([y, x2], -1)))
    y = block(upsample(y))
    y = block(block(np.concatenate([y, x1], -1)))
    y = block(upsample(y))
    assert next(w, None) is None
    outputs = {}
    for name in ("healthy", "diseased"):
        w = weights_of(model.get_layer(name))
        outputs[name] = block(block(y, w=w), np.tanh, w=w)
    return outputs


def discriminator(model, image, activation=relu, poolings=5):
    """Paper Fig. 3 for one image, without dropout, its trunk's last poolings left out: two score maps and logits."""
    w = weights_of(model.get_layer("trunk"))
    x = image
    for number, convolutions in enumerate((1, 1, 2, 2, 2, 1)):
        if 0 < number <= poolings:
            x = pool(x)
        for _ in range(convolutions):
            x = activation(conv3x3(x, next(w), next(w)))
    found = []
    for name in ("critic_healthy", "critic_diseased"):
        w = weights_of(model.get_layer(name))
        y = activation(conv3x3(activation(conv3x3(x, next(w), next(w))), next(w), next(w)))
        found.append(y @ next(w)[0, 0] + next(w))
    w = weights_of(model.get_layer("classifier"))
    y = pool(activation(conv3x3(activation(conv3x3(x, next(w), next(w))), next(w), next(w))))
    y = activation(y.reshape(-1) @ next(w) + next(w))
    found.append(y @ next(w) + next(w))
    return found
