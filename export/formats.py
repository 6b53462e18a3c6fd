"""The same prediction for other engines: ONNX, OpenVINO and LiteRT, by Keras' own exporters."""

import importlib.util
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from descargan_tf.errors import UserError
from descargan_tf.methods.base import Method
from descargan_tf.prediction.outputs import named_outputs
from descargan_tf.prediction.splits import predict_split

from .reference import drawn_images, tolerance
from .saved_model import Predictor

FOLDER = "formats"
NUM_IMAGES = 32
_BATCH = 4


class Format(NamedTuple):
    """One engine's file."""

    file: str
    packages: tuple[str, ...]  # that must be importable to write the file and to run it
    run: Callable[[Path, np.ndarray], dict[str, np.ndarray]]  # (file, images [N, H, W, 1]) -> output -> array [N, ...]


def check_formats(names: tuple[str, ...]) -> None:
    """Refuse formats that cannot be written here, before anything is done.

    Raises:
        UserError: a package is not installed; names it and what installs it.
    """
    for name in names:
        missing = [package for package in FORMATS[name].packages if importlib.util.find_spec(package) is None]
        if missing:
            raise UserError(
                f"--export_formats={name} needs the packages {', '.join(missing)}, which are not installed: "
                "pip install -r requirements-formats.txt"
            )


def write_formats(names: tuple[str, ...], folder: Path, predictor: Predictor, live: Method) -> dict:
    """Write files of other engines into a folder and hold each to the live model.

    Their outputs are those of `serving_default` without `predicted_class`.

    Args:
        names: keys of FORMATS.
        folder: made if need be.
        predictor: of the method, float32.
        live: the method as it was trained, float32.

    Returns:
        name -> output -> largest absolute difference over NUM_IMAGES images.

    Raises:
        UserError: an engine's answers differ from the live model's.
    """
    if not names:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    images = drawn_images(NUM_IMAGES, predictor.shape[1], seed=1)
    answers = predict_split(tf.function(live.predict, autograph=False), images, _BATCH)
    expected, bound = named_outputs(answers), tolerance(live, "float32").bound
    differences = {}
    for name in names:
        path = folder / FORMATS[name].file
        write_format(name, path, predictor)
        found = FORMATS[name].run(path, images)
        differences[name] = {key: float(np.abs(found[key] - value).max()) for key, value in expected.items()}
        output, difference = max(differences[name].items(), key=lambda item: item[1])
        if not difference <= bound:
            raise UserError(
                f"--export_formats={name}: {output} differs from the live model by {difference:.3g}, "
                f"more than {bound:g}."
            )
    return differences


def write_format(name: str, path: Path, predictor: Predictor) -> None:
    """Write one engine's file, unchecked; arguments as above."""
    # By it OpenVINO's converter would tell Google Analytics, from another process, each time it is used.
    sys.modules.setdefault("openvino_telemetry", None)
    shape = predictor.shape
    model = _PredictionModel(predictor)
    model(np.zeros((1, *shape[1:]), np.float32))
    signature = [keras.InputSpec(shape=shape, dtype="float32", name="image")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the name that Keras mends tf2onnx by
        model.export(str(path), format=name, input_signature=signature, verbose=False)


class _PredictionModel(keras.Model):
    """A predictor as the one kind of thing that Keras exports.

    Its weights are constants already: variables, Keras and LiteRT would look for and copy for longer than all else
    takes.
    """

    def __init__(self, predictor):
        super().__init__(name="prediction")
        self._predict = lambda image: predictor(image)  # Keras would look into an object

    def call(self, image):
        return named_outputs(self._predict(image))


def _run_onnx(path, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    argument = session.get_inputs()[0].name
    return _stacked(lambda batch: dict(zip(names, session.run(None, {argument: batch}), strict=True)), images)


def _run_openvino(path, images):
    import openvino

    compiled = openvino.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return _stacked(lambda batch: {k.get_any_name(): v.copy() for k, v in compiled([batch]).items()}, images)


def _run_litert(path, images):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it will move to a package of its own; not in this release
        interpreter = tf.lite.Interpreter(model_path=str(path))
    run = interpreter.get_signature_runner()
    return _stacked(lambda batch: run(image=batch), images)


def _stacked(run, images):
    parts = [run(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


FORMATS = {
    "onnx": Format("model.onnx", ("tf2onnx", "onnx", "onnxruntime"), _run_onnx),
    "openvino": Format("model.xml", ("openvino",), _run_openvino),
    "litert": Format("model.tflite", (), _run_litert),
}
