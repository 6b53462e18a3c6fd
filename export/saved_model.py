"""A method as a SavedModel for TensorFlow Serving: two signatures on one graph."""

from pathlib import Path

import keras
import tensorflow as tf

# No public name leads there; TensorFlow's own converters and every guide to frozen graphs use it.
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from descargan_tf.errors import UserError
from descargan_tf.inference.folding import fold_method
from descargan_tf.methods.base import Method
from descargan_tf.prediction.outputs import named_outputs
from descargan_tf.types import DECISION, Prediction

from .bytes_input import FileRule, decode_images
from .pictures import map_png, overlay_png

FLOAT_SIGNATURE, BYTES_SIGNATURE = "serving_default", "serving_bytes"
_OUTSIDE = 1.01  # what is a rounding error beyond [-1, 1] is let pass


class Predictor:
    """A method's prediction as one graph: images [B, H, W, 1] to Prediction, all float32.

    Batch normalisation is folded, and the weights are constants of the graph. Constants oneDNN lays out for its fastest
    convolutions once and keeps; weights in variables it would have to lay out at every call, so it does not.
    """

    def __init__(self, method: Method, image_size: int):
        self.shape = (None, image_size, image_size, 1)
        self.method, self.num_folded = fold_method(method)
        self._fields = []

        @tf.function(input_signature=[tf.TensorSpec(self.shape, tf.float32)], autograph=False)
        def predict(images):
            answers = self.method.predict(images)._asdict()
            self._fields = [name for name, value in answers.items() if value is not None]
            return [tf.cast(answers[name], tf.float32) for name in self._fields]

        self._function = convert_variables_to_constants_v2(predict.get_concrete_function())

    def __call__(self, images) -> Prediction:
        """What the method says of images [B, H, W, 1]; None where it has no such answer."""
        answers = self._function(tf.convert_to_tensor(images))
        return Prediction(**dict.fromkeys(Prediction._fields) | dict(zip(self._fields, answers, strict=True)))


def write_saved_model(folder: Path, predictor: Predictor, rule: FileRule) -> None:
    """Write the SavedModel of a predictor.

    Signatures: `serving_default` takes `image` [B, H, W, 1] float32 in [-1, 1], `serving_bytes` takes `image_bytes`
    [B], PNG or JPEG files. Both answer `anomaly_map` and `healthy_image` [B, H, W, 1], `disease_probability` and
    `anomaly_score` [B], all float32, and `predicted_class` [B] int64, without those that the method does not have; the
    latter also `overlay_png_bytes` and `anomaly_map_png_bytes` [B].

    Raises:
        UserError: Keras is set to channels_first, which no CPU can serve.
    """
    if keras.config.image_data_format() != "channels_last":
        raise UserError('keras.json sets image_data_format to "channels_first"; serving needs "channels_last".')
    image_size = predictor.shape[1]

    def from_images(image):
        # First of all: without it a tensor of another rank ends the whole server, inside oneDNN.
        image = tf.ensure_shape(image, predictor.shape)
        return _answers(predictor(_checked(image)))

    def from_bytes(image_bytes):
        image_bytes = tf.ensure_shape(image_bytes, (None,))
        image = tf.ensure_shape(decode_images(image_bytes, image_size, rule), predictor.shape)
        prediction = predictor(image)
        answers = _answers(prediction)
        if prediction.anomaly_map is not None:
            answers["overlay_png_bytes"] = overlay_png(image, prediction.anomaly_map)
            answers["anomaly_map_png_bytes"] = map_png(prediction.anomaly_map)
        return answers

    image = tf.TensorSpec(predictor.shape, tf.float32, name="image")
    image_bytes = tf.TensorSpec((None,), tf.string, name="image_bytes")
    # Traced once each; by Keras' ExportArchive they would be twice.
    signatures = {
        FLOAT_SIGNATURE: tf.function(from_images, autograph=False).get_concrete_function(image),
        BYTES_SIGNATURE: tf.function(from_bytes, autograph=False).get_concrete_function(image_bytes),
    }
    tf.saved_model.save(tf.Module(), str(folder), signatures=signatures)


def _checked(image):
    """Pixels that are not finite become 0, mid-gray: JSON can hold NaN, and an answer must not. Refuse other ranges."""
    image = tf.where(tf.math.is_finite(image), image, 0.0)
    lowest, highest = tf.reduce_min(image), tf.reduce_max(image)
    message = ["image: values (lowest, highest)", lowest, highest, "leave [-1, 1]; scale as in training"]
    with tf.control_dependencies([tf.Assert((lowest >= -_OUTSIDE) & (highest <= _OUTSIDE), message)]):
        return tf.identity(image)


def _answers(prediction):
    answers = named_outputs(prediction)
    if "disease_probability" in answers:
        answers["predicted_class"] = tf.cast(answers["disease_probability"] > DECISION, tf.int64)
    return answers
