"""TensorFlow Serving's three configuration files: the messages of its text format, as far as the embedded server reads.

The published API package lacks two of the three, so all are declared here; protobuf parses them and names the line of
a mistake.
"""

from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory, text_format

from descargan_tf.errors import UserError

# Message: {field: type}. A map is a repeated message of key and value; field numbers are of no account in text.
_MESSAGES = {
    "Int64Value": {"value": "int64"},
    "Latest": {"num_versions": "uint32"},
    "All": {},
    "Specific": {"versions": "repeated int64"},
    "VersionPolicy": {"latest": "Latest", "all": "All", "specific": "Specific"},
    "Label": {"key": "string", "value": "int64"},
    "Model": {
        "name": "string",
        "base_path": "string",
        "model_platform": "string",
        "model_version_policy": "VersionPolicy",
        "version_labels": "repeated Label",
    },
    "ModelList": {"config": "repeated Model"},
    "ModelServerConfig": {"model_config_list": "ModelList"},
    "BatchingParameters": {
        "max_batch_size": "Int64Value",
        "batch_timeout_micros": "Int64Value",
        "max_enqueued_batches": "Int64Value",
        "num_batch_threads": "Int64Value",
        "allowed_batch_sizes": "repeated int64",
        "enable_large_batch_splitting": "BoolValue",
        "pad_variable_length_inputs": "bool",
        "thread_pool_name": "StringValue",
    },
    "BoolValue": {"value": "bool"},
    "StringValue": {"value": "string"},
    "Prometheus": {"enable": "bool", "path": "string"},
    "MonitoringConfig": {"prometheus_config": "Prometheus"},
}


def parse_file(kind: str, path: str | Path) -> message.Message:
    """A file in protobuf's text format.

    Args:
        kind: ModelServerConfig, BatchingParameters or MonitoringConfig.
        path: the file.

    Raises:
        UserError: it cannot be read, or does not fit; names line and column.
    """
    try:
        return text_format.Parse(Path(path).read_text(), _CLASSES[f"serving.{kind}"]())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    except text_format.ParseError as error:
        raise UserError(f"{path} is not a {kind} that this server reads: {error}") from error


def _classes():
    file = descriptor_pb2.FileDescriptorProto(name="descargan_serving.proto", package="serving", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, fields in _MESSAGES.items():
        described = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), start=1):
            repeated, _, kind = kind.rpartition(" ")
            added = described.field.add(name=field, number=number)
            added.label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            if kind in _MESSAGES:
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".serving.{kind}"
            else:
                added.type = getattr(kinds, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClassesForFiles([file.name], pool)


_CLASSES = _classes()
