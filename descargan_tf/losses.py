"""The paper's equations as pure functions: arrays in, one value per example out.

Letters: B examples of one call (of one class or of several), H W C image, K classes. Expectations are taken later,
once, in the training step. `r` is a real image, `a` an artificial one.
"""

from keras import ops

DISTANCES = ("l2", "mse")


def score(score_map):
    """A critic's answer: the mean of its map [B, h, w, 1] -> [B] (trap D4.5)."""
    return ops.mean(ops.cast(score_map, "float32"), axis=(1, 2, 3))


def critic_real(score_map):
    """Eq. (1), first term: -D_c(r_c). [B, h, w, 1] -> [B]."""
    return -score(score_map)


def critic_fake(score_map):
    """Eq. (1), second term: D_c'(G_c'(r_c)). [B, h, w, 1] -> [B]."""
    return score(score_map)


def mix(real, fake, t):
    """Eq. (1): x_hat = t r + (1 - t) a, images [B, H, W, C], t [B, 1, 1, 1] ~ U([0, 1])."""
    return t * real + (1.0 - t) * fake


def gradient_penalty(gradient):
    """Eq. (1), third term: (|grad D(x_hat)|_2 - 1)^2. [B, H, W, C] -> [B], float32.

    The norm has a floor inside its root: its own derivative is 0/0 where the gradient vanishes. Whatever `--precision`,
    it is float32, and so is the critic that the gradient is taken of (D5.6; `models.blocks.InFloat32`).
    """
    gradient = ops.cast(gradient, "float32")
    norm = ops.sqrt(ops.sum(ops.square(gradient), axis=(1, 2, 3)) + 1e-12)
    return ops.square(norm - 1.0)


def generator_adversarial(score_map):
    """Eq. (2): -D_c'(G_c'(r_c)). [B, h, w, 1] -> [B]."""
    return -score(score_map)


def distance(real, artificial, kind):
    """|real - artificial|, [B, H, W, C] twice -> [B].

    "l2" is the paper's norm as printed, without a square; "mse" the mean square that the authors' program computes
    (trap D4.4). At 256x256 the first is 256 times the root of the second.
    """
    square = ops.square(ops.cast(real, "float32") - ops.cast(artificial, "float32"))
    if kind == "mse":
        return ops.mean(square, axis=(1, 2, 3))
    if kind == "l2":
        return ops.sqrt(ops.sum(square, axis=(1, 2, 3)) + 1e-12)
    raise ValueError(f"distance kind {kind!r}: expected one of {DISTANCES}")


def absolute_difference(real, artificial):
    """Mean of |real - artificial|, [B, H, W, C] twice -> [B], float32: the L1 of the compared methods."""
    return ops.mean(ops.abs(ops.cast(real, "float32") - ops.cast(artificial, "float32")), axis=(1, 2, 3))


def squared_error(real, artificial):
    """Sum of (real - artificial)^2 over an image, [B, H, W, C] twice -> [B], float32."""
    return ops.sum(ops.square(ops.cast(real, "float32") - ops.cast(artificial, "float32")), axis=(1, 2, 3))


def divergence_from_standard_normal(mean, log_sigma):
    """Kullback-Leibler, KL(N(mean, sigma^2) || N(0, 1)) summed over a code, [B, Z] twice -> [B], float32.

    0.5 sum(mean^2 + sigma^2 - log sigma^2 - 1).
    """
    mean, log_sigma = ops.cast(mean, "float32"), ops.cast(log_sigma, "float32")
    return 0.5 * ops.sum(ops.square(mean) + ops.exp(2.0 * log_sigma) - 2.0 * log_sigma - 1.0, axis=-1)


def identity(real, same_class, kind):
    """Eq. (3): |r_c - G_c(r_c)|. [B, H, W, C] twice -> [B]."""
    return distance(real, same_class, kind)


def classification(logits, label):
    """Eq. (4) for real images, eq. (5) for artificial ones and their target: -log D_cls. [B, K] -> [B]."""
    return -ops.log_softmax(ops.cast(logits, "float32"), axis=-1)[:, label]


def reconstruction(real, cycled, kind):
    """Eq. (6): |r_c - G_c(G_c'(r_c))|. [B, H, W, C] twice -> [B]."""
    return distance(real, cycled, kind)


def generator_weights(adversarial, reconstruction, identity, classification):
    """Eq. (7): what each term of the generator's total is multiplied by."""
    return {
        "adversarial": adversarial,
        "reconstruction": reconstruction,
        "identity": identity,
        "classification": classification,
    }


def discriminator_weights(adversarial, gradient_penalty, classification):
    """Eq. (8) with eq. (1) put in: lambda_adv,d multiplies the gradient penalty too (trap D4.8)."""
    return {
        "real": adversarial,
        "fake": adversarial,
        "gradient_penalty": adversarial * gradient_penalty,
        "classification": classification,
    }
