"""What is watched of methods with critics, and of those that translate into both classes and classify."""

from keras import ops

from descargan_tf.types import DECISION, HEALTHY


def critic_scores(terms):
    """As `Method.critic_scores` gives it, of a method with phases `discriminator` and `generator` and these terms."""
    return {
        "real": -terms["discriminator/real"],
        "fake": terms["discriminator/fake"],
        "generator": -terms["generator/adversarial"],
    }


def translation(batch, translate, class_probabilities):
    """Does the generator translate, and does it look at its label? As `Method.monitor` gives it.

    Args:
        batch: a Batch.
        translate: images to images by target class (Method.translate), both classes.
        class_probabilities: images [B, H, W, 1] to [B, K].
    """
    translated = translate(ops.concatenate([batch.healthy, batch.diseased]))
    g_h, g_p = translated["healthy"], translated["diseased"]
    half = ops.shape(batch.healthy)[0]
    called_healthy = class_probabilities(g_h[half:])[:, HEALTHY] > 1.0 - DECISION
    return {
        "translation_success": ops.cast(called_healthy, "float32"),
        "label_effect": ops.mean(ops.abs(g_p - g_h), axis=(1, 2, 3)),
    }
