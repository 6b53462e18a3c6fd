"""Warm-up requests that TensorFlow Serving runs through a model before it answers anybody.

They are `tensorflow.serving.PredictionLog` messages (tensorflow_serving/apis/prediction_log.proto) in a TFRecord file.
The few fields in use are declared here with their numbers. A message inside a message has the encoding of bytes, hence
bytes where TensorFlow's own messages come in.
"""

from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from descargan_tf.names import as_text

from .protos import message_classes

FILE = Path("assets.extra") / "tf_serving_warmup_requests"
_PREDICTION_LOG = message_classes("""
    name: "prediction_log.proto" package: "tensorflow.serving" syntax: "proto3"
    message_type {
      name: "PredictionLog"
      field { name: "predict_log" number: 6 type_name: "PredictLog" }
    }
    message_type {
      name: "PredictLog"
      field { name: "request" number: 1 type_name: "PredictRequest" }
    }
    message_type {
      name: "PredictRequest"
      field { name: "model_spec" number: 1 type_name: "ModelSpec" }
      field { name: "inputs" number: 2 type_name: "Input" label: LABEL_REPEATED }  # map<string, TensorProto>
    }
    message_type {
      name: "ModelSpec"
      field { name: "name" number: 1 type: TYPE_STRING }
      field { name: "signature_name" number: 3 type: TYPE_STRING }
    }
    message_type {
      name: "Input"
      field { name: "key" number: 1 type: TYPE_STRING }
      field { name: "value" number: 2 type: TYPE_BYTES }
    }
""")["tensorflow.serving.PredictionLog"]


class Request(NamedTuple):
    """One call of one signature."""

    model: str
    signature: str
    inputs: dict[str, Any]  # argument -> array [B, ...]


def write_requests(folder: Path, requests: list[Request]) -> Path:
    """Write the warm-up file of a SavedModel's folder."""
    path = folder / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for request in requests:
            log = _PREDICTION_LOG()
            message = log.predict_log.request
            message.model_spec.name = request.model
            message.model_spec.signature_name = request.signature
            for name, value in request.inputs.items():
                tensor = value if isinstance(value, tf.Tensor) else tf.constant(value)
                message.inputs.add(key=name, value=tf.make_tensor_proto(tensor).SerializeToString())
            writer.write(log.SerializeToString())
    return path


def read_requests(folder: Path) -> list[Request]:
    """Read the warm-up file of a SavedModel's folder; none where there is no file."""
    path = Path(folder) / FILE
    if not path.exists():
        return []
    requests = []
    with as_text(path) as readable:
        records = [record.numpy() for record in tf.data.TFRecordDataset(str(readable))]
    for record in records:
        message = _PREDICTION_LOG.FromString(record).predict_log.request
        inputs = {entry.key: tf.make_ndarray(_tensor_proto(entry.value)) for entry in message.inputs}
        requests.append(Request(message.model_spec.name, message.model_spec.signature_name, inputs))
    return requests


def _tensor_proto(content):
    proto = tf.make_tensor_proto(0)
    proto.ParseFromString(content)
    return proto
