"""Maps as PNG pictures, drawn inside the graph: the colours and the fixed scale of `prediction.overlay`."""

import tensorflow as tf

from descargan_tf.prediction.overlay import NEGATIVE_COLOUR, POSITIVE_COLOUR, SCALE


def overlay_png(image, anomaly_map):
    """The signed maps in colour over the images, both [B, H, W, 1], as [B] strings."""
    # float64, as there: float32 would round a few pixels the other way.
    gray = tf.clip_by_value((tf.cast(image, tf.float64) + 1) * 127.5, 0, 255)
    return _png(_coloured(gray, anomaly_map))


def map_png(anomaly_map):
    """The signed maps [B, H, W, 1] in colour on white, as [B] strings."""
    return _png(_coloured(tf.constant(255, tf.float64), anomaly_map))


def _coloured(gray, anomaly_map):
    anomaly_map = tf.cast(anomaly_map, tf.float64)
    opacity = tf.clip_by_value(tf.abs(anomaly_map) / SCALE, 0, 1)
    positive, negative = (tf.constant(colour, tf.float64) for colour in (POSITIVE_COLOUR, NEGATIVE_COLOUR))
    colour = tf.where(anomaly_map > 0, positive, negative)
    return tf.cast(tf.round(gray + opacity * (colour - gray)), tf.uint8)


def _png(pictures):
    return tf.map_fn(tf.io.encode_png, pictures, fn_output_signature=tf.TensorSpec((), tf.string))
