"""Small SavedModels that the serving contract is tested with, and the `models.config` that names them.

For a TensorFlow Serving of your own: `python tests/serving_models.py /tmp/models`, start it with
`--model_config_file=/tmp/models/models.config --allow_version_labels_for_unavailable_models=true
--monitoring_config_file=/tmp/models/monitoring.config`, and run the tests with TF_SERVING_REST_URL=http://host:port.
"""

import sys
from pathlib import Path

import tensorflow as tf

SIZE = 16  # pixels a side of model m
METRICS_PATH = "/monitoring/prometheus/metrics"
_IMAGE = tf.TensorSpec((None, SIZE, SIZE, 1), tf.float32, name="image")
_BYTES = tf.TensorSpec((None,), tf.string, name="image_bytes")


class ImageModel(tf.Module):
    """Model m: the outputs' names of a real export; the map is `scale` times the image."""

    def __init__(self, scale):
        super().__init__()
        self.scale = tf.Variable(scale, dtype=tf.float32)

    @tf.function(input_signature=[_IMAGE])
    def predict(self, image):
        image = tf.ensure_shape(image, (None, SIZE, SIZE, 1))
        anomaly_map = self.scale * image
        score = tf.reduce_mean(tf.abs(anomaly_map), axis=(1, 2, 3))
        return {"anomaly_map": anomaly_map, "anomaly_score": score, "predicted_class": tf.cast(score > 0.5, tf.int32)}

    @tf.function(input_signature=[_BYTES])
    def predict_bytes(self, image_bytes):
        def decode(content):
            pixels = tf.io.decode_image(content, channels=1, expand_animations=False)
            return tf.ensure_shape(tf.cast(pixels, tf.float32) / 255, (SIZE, SIZE, 1))

        spec = tf.TensorSpec((SIZE, SIZE, 1), tf.float32)
        outputs = dict(self.predict(tf.map_fn(decode, image_bytes, fn_output_signature=spec)))
        outputs["image_png_bytes"] = image_bytes
        return outputs

    @tf.function(input_signature=[_IMAGE])
    def predict_half(self, image):
        return {"anomaly_map": tf.cast(tf.ensure_shape(image, (None, SIZE, SIZE, 1)), tf.bfloat16)}

    def save(self, path):
        tf.saved_model.save(
            self,
            str(path),
            signatures={
                "serving_default": self.predict,
                "serving_bytes": self.predict_bytes,
                "bfloat16": self.predict_half,
            },
        )


class HalfPlusTwo(tf.Module):
    """TensorFlow Serving's own test vectors: y = 0.5 x + 2, for values of any shape and for tf.train.Examples."""

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, name="x")])
    def predict(self, x):
        return {"y": 0.5 * x + 2}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="inputs")])
    def regress(self, inputs):
        return {"outputs": self._of_examples(inputs)}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="inputs")])
    def classify(self, inputs):
        return {"scores": self._of_examples(inputs)}

    @tf.function(input_signature=[tf.TensorSpec((), tf.float32, name="x")])
    def scalar(self, x):
        return {"y": 0.5 * x + 2, "rows": tf.fill((3, 1), x)}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.int32, name="steps")])
    def slow(self, steps):
        last = tf.reduce_max(steps)
        return {"steps": tf.while_loop(lambda i: i < last, lambda i: (i + 1,), (tf.zeros_like(last),))[0] + 0 * steps}

    @staticmethod
    def _of_examples(inputs):
        x = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"]
        return 0.5 * x + 2

    def save(self, path):
        signatures = {
            "serving_default": self.predict,
            "regress_x_to_y": self.regress,
            "classify_x_to_y": self.classify,
            "scalar": self.scalar,
            "slow": self.slow,
        }
        tf.saved_model.save(self, str(path), signatures=signatures)


class Pair(tf.Module):
    """Two inputs of different types."""

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, 2), tf.float32, name="image"),
            tf.TensorSpec((None,), tf.uint8, name="label"),
        ]
    )
    def predict(self, image, label):
        return {"sum": tf.reduce_sum(image, axis=1), "label": tf.identity(label)}

    def save(self, path):
        tf.saved_model.save(self, str(path), signatures={"serving_default": self.predict})


def write_models(folder: Path) -> Path:
    """Write all models; returns their models.config."""
    for version in (1, 2):
        ImageModel(version).save(folder / "m" / str(version))
    HalfPlusTwo().save(folder / "half_plus_two" / "123")
    Pair().save(folder / "pair" / "1")
    (folder / "monitoring.config").write_text(f'prometheus_config {{ enable: true path: "{METRICS_PATH}" }}\n')
    both = "model_version_policy { specific { versions: 1 versions: 2 } }"
    labels = 'version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 2 }'
    entries = [
        f'config {{ name: "{name}" base_path: "{(folder / name).resolve()}" model_platform: "tensorflow" {more} }}'
        for name, more in (("m", f"{both} {labels}"), ("half_plus_two", ""), ("pair", ""))
    ]
    config = folder / "models.config"
    config.write_text("model_config_list {\n" + "\n".join(entries) + "\n}\n")
    return config


if __name__ == "__main__":
    print(write_models(Path(sys.argv[1])))
