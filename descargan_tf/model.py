"""A trained model from Python: `descargan_tf.load`.

It takes images as the training files held them, and answers by the names that the SavedModel's outputs have.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from descargan_tf import run_folder
from descargan_tf.config import PUBLISHED
from descargan_tf.data.images import Scaling, scale_pixels
from descargan_tf.errors import UserError
from descargan_tf.flags import RUN_FLAGS
from descargan_tf.names import as_text
from descargan_tf.prediction.outputs import named_outputs
from descargan_tf.prediction.splits import BATCH_SIZE, predict_split
from descargan_tf.training.backends import compiled_predict
from descargan_tf.types import DECISION, Prediction

_SAVED_MODEL = "saved_model.pb"


class Model:
    """What a run, published weights or an exported version answer.

    Attributes:
        name: of the method.
        image_size: pixels a side.
        dtype: of the training files; images of another type have another meaning.
        scaling: file values that became -1 and 1.
        networks: the Keras models by name, with the weights that answer; an exported version has none.
    """

    def __init__(
        self,
        name: str,
        image_size: int,
        dtype: str,
        scaling: Scaling,
        networks: dict[str, keras.Model],
        predict: Callable[[np.ndarray], Prediction],
    ):
        self.name, self.image_size, self.dtype, self.scaling = name, image_size, dtype, scaling
        self.networks = networks
        self._predict = predict

    def __repr__(self):
        size, low, high = self.image_size, self.scaling.low, self.scaling.high
        return f"<descargan_tf model {self.name}: {size}x{size} {self.dtype}, {low:g} to {high:g}>"

    def predict(self, images: np.ndarray, batch_size: int = BATCH_SIZE) -> dict[str, np.ndarray]:
        """Maps, healthy twins and probabilities by name.

        Args:
            images: [H, W], [N, H, W] or [N, H, W, 1], of the training files' type and range of values.
            batch_size: images at a time.

        Returns:
            Those that the method has of "anomaly_map" (healthy twin - image) and "healthy_image", each [N, H, W]
            float32 in units in which images are in [-1, 1]; "anomaly_score" and "disease_probability" [N] float32;
            "predicted_class" [N] int64, 1 for diseased. One image is N = 1.

        Raises:
            UserError: other images than the training's: shape, type or values.
        """
        prediction = predict_split(self._predict, self._prepared(images), batch_size)
        outputs = {
            name: value[..., 0] if value.ndim == 4 else value for name, value in named_outputs(prediction).items()
        }
        if "disease_probability" in outputs:
            outputs["predicted_class"] = (outputs["disease_probability"] > DECISION).astype(np.int64)
        return outputs

    def _prepared(self, images):
        images = np.asarray(images)
        given, size = images.shape, self.image_size
        if images.shape == (size, size):
            images = images[None]
        if images.ndim == 3:
            images = images[..., None]
        if images.shape[1:] != (size, size, 1) or not len(images):
            raise UserError(
                f"images have shape {given}; the model takes [{size}, {size}], [N, {size}, {size}] or "
                f"[N, {size}, {size}, 1]."
            )
        if str(images.dtype) != self.dtype:
            raise UserError(
                f"images hold {images.dtype} and the model was trained on {self.dtype} files: give them as those are, "
                f"values {self.scaling.low:g} to {self.scaling.high:g}."
            )
        return np.stack([scale_pixels(image, self.scaling, f"image {i}") for i, image in enumerate(images)])


def load(path: str | os.PathLike, checkpoint: str = "best") -> Model:
    """A trained model.

    Args:
        path: the folder of a run, of published weights (pretrained/<name>), or of what --mode=export wrote.
        checkpoint: of a run: best, latest or a step.

    Raises:
        UserError: it is none of these, or cannot be read.
    """
    path = Path(path)
    exported = _version_folder(path)
    if exported is not None:
        return _load_export(exported)
    published = (path / PUBLISHED).is_file()
    if not published and not (path / RUN_FLAGS).is_file():
        raise UserError(
            f"{path} is no trained model: expected the folder of a run ({RUN_FLAGS}), of published weights "
            f"({PUBLISHED}), or of an export ({_SAVED_MODEL}, or numbered folders with one)."
        )
    if keras.backend.backend() not in ("tensorflow", "jax"):
        raise UserError(
            f"Keras computes with {keras.backend.backend()} here: set KERAS_BACKEND=tensorflow, or jax, before keras "
            "is imported."
        )
    which = f"--checkpoint={path}" if published else f"--checkpoint={checkpoint}"
    where = [] if published else [f"--run_dir={path}"]
    # Of the modes that start from what was trained, this one needs nothing else.
    config = run_folder.configure(["load", "--mode=export", which, *where, f"--backend={keras.backend.backend()}"])
    facts = run_folder.data_facts(config.trained_dir)
    method = run_folder.restore(config).method
    return Model(
        config.method,
        config.image_size,
        facts["dtype"],
        facts["scaling"],
        method.networks,
        compiled_predict(config, method),
    )


def _version_folder(path):
    """The newest version below it, or it itself; None where it is no export."""
    if (path / _SAVED_MODEL).is_file():
        return path
    versions = [folder for folder in path.glob("[0-9]*") if (folder / _SAVED_MODEL).is_file()]
    return max(versions, key=lambda folder: int(folder.name)) if versions else None


def _load_export(folder):
    import tensorflow as tf

    path = folder / "assets.extra" / "model.json"
    try:
        facts = json.loads(path.read_text())
        files, size = facts["files"], facts["image"]["shape"][0]
        dtype, scaling = files["training_dtype"], Scaling(*files["training_range"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): it says what images the export takes.") from error
    with as_text(folder) as readable:
        loaded = tf.saved_model.load(readable)
    signature = loaded.signatures["serving_default"]

    def predict(images):
        answers = signature(image=tf.constant(images))
        probability = answers.get("disease_probability")
        return Prediction(
            answers.get("anomaly_map"),
            answers.get("healthy_image"),
            answers.get("anomaly_score"),
            None if probability is None else tf.stack([1.0 - probability, probability], axis=1),
        )

    model = Model(facts["method"], size, dtype, scaling, {}, predict)
    model._exported = loaded  # a signature does not keep the variables of its model alive
    return model
