"""TensorFlow Serving's three configuration files: the messages of its text format, as far as the embedded server reads.

protobuf parses them and names the line of a mistake. Field numbers are of no account in text.
"""

from pathlib import Path

from google.protobuf import message, text_format

from descargan_tf.errors import UserError
from descargan_tf.files import reason

from ..protos import message_classes

_CLASSES = message_classes("""
    name: "configuration.proto" package: "serving" syntax: "proto3"
    message_type {
      name: "ModelServerConfig"
      field { name: "model_config_list" number: 1 type_name: "ModelList" }
    }
    message_type {
      name: "ModelList"
      field { name: "config" number: 1 type_name: "Model" label: LABEL_REPEATED }
    }
    message_type {
      name: "Model"
      field { name: "name" number: 1 type: TYPE_STRING }
      field { name: "base_path" number: 2 type: TYPE_STRING }
      field { name: "model_platform" number: 3 type: TYPE_STRING }
      field { name: "model_version_policy" number: 4 type_name: "VersionPolicy" }
      field { name: "version_labels" number: 5 type_name: "Label" label: LABEL_REPEATED }  # map<string, int64>
    }
    message_type {
      name: "VersionPolicy"
      field { name: "latest" number: 1 type_name: "Latest" }
      field { name: "all" number: 2 type_name: "All" }
      field { name: "specific" number: 3 type_name: "Specific" }
    }
    message_type { name: "Latest" field { name: "num_versions" number: 1 type: TYPE_UINT32 } }
    message_type { name: "All" }
    message_type { name: "Specific" field { name: "versions" number: 1 type: TYPE_INT64 label: LABEL_REPEATED } }
    message_type {
      name: "Label"
      field { name: "key" number: 1 type: TYPE_STRING }
      field { name: "value" number: 2 type: TYPE_INT64 }
    }
    message_type {
      name: "BatchingParameters"
      field { name: "max_batch_size" number: 1 type_name: "Int64Value" }
      field { name: "batch_timeout_micros" number: 2 type_name: "Int64Value" }
      field { name: "max_enqueued_batches" number: 3 type_name: "Int64Value" }
      field { name: "num_batch_threads" number: 4 type_name: "Int64Value" }
      field { name: "allowed_batch_sizes" number: 5 type: TYPE_INT64 label: LABEL_REPEATED }
      field { name: "enable_large_batch_splitting" number: 6 type_name: "BoolValue" }
      field { name: "pad_variable_length_inputs" number: 7 type: TYPE_BOOL }
      field { name: "thread_pool_name" number: 8 type_name: "StringValue" }
    }
    message_type { name: "Int64Value" field { name: "value" number: 1 type: TYPE_INT64 } }
    message_type { name: "BoolValue" field { name: "value" number: 1 type: TYPE_BOOL } }
    message_type { name: "StringValue" field { name: "value" number: 1 type: TYPE_STRING } }
    message_type { name: "MonitoringConfig" field { name: "prometheus_config" number: 1 type_name: "Prometheus" } }
    message_type {
      name: "Prometheus"
      field { name: "enable" number: 1 type: TYPE_BOOL }
      field { name: "path" number: 2 type: TYPE_STRING }
    }
""")


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
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    except text_format.ParseError as error:
        raise UserError(f"{path} is not a {kind} that this server reads: {error}") from error
