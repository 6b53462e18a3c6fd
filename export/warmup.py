"""Warm-up requests that TensorFlow Serving runs through a model before it answers anybody.

They are `tensorflow.serving.PredictionLog` messages (tensorflow_serving/apis/prediction_log.proto) in a TFRecord file.
The few fields in use are declared here with their numbers, so that an export needs no package but TensorFlow: a message
inside a message has the encoding of bytes, hence `bytes` wherever TensorFlow's own messages come in.
"""

from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FILE = Path("assets.extra") / "tf_serving_warmup_requests"
_PACKAGE = "descargan_tf.warmup"
_STRING, _BYTES = (getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{name}") for name in ("STRING", "BYTES"))
_MESSAGES = {  # name -> fields (name, number, type or message, is repeated)
    "ModelSpec": (("name", 1, _STRING, False), ("signature_name", 3, _STRING, False)),
    "Input": (("key", 1, _STRING, False), ("value", 2, _BYTES, False)),  # an entry of map<string, TensorProto>
    "PredictRequest": (("model_spec", 1, "ModelSpec", False), ("inputs", 2, "Input", True)),
    "PredictLog": (("request", 1, "PredictRequest", False),),
    "PredictionLog": (("predict_log", 6, "PredictLog", False),),
}


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
            log = _new("PredictionLog")
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
    for record in tf.data.TFRecordDataset(str(path)):
        message = _new("PredictionLog").FromString(record.numpy()).predict_log.request
        inputs = {entry.key: tf.make_ndarray(_tensor_proto(entry.value)) for entry in message.inputs}
        requests.append(Request(message.model_spec.name, message.model_spec.signature_name, inputs))
    return requests


def _tensor_proto(content):
    proto = tf.make_tensor_proto(0)
    proto.ParseFromString(content)
    return proto


def _new(name):
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}"))()


def _pool():
    # A pool of our own: in the common one these would clash with the tensorflow-serving-api package.
    file = descriptor_pb2.FileDescriptorProto(name="descargan_tf/warmup.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind, is_repeated in fields:
            label = "LABEL_REPEATED" if is_repeated else "LABEL_OPTIONAL"
            field = message.field.add(
                name=field_name, number=number, label=getattr(descriptor_pb2.FieldDescriptorProto, label)
            )
            if isinstance(kind, str):
                field.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
                field.type_name = f".{_PACKAGE}.{kind}"
            else:
                field.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL = _pool()
