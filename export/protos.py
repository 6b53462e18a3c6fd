"""Messages of other programs' files, declared in protobuf's own text format.

The package tensorflow-serving-api has some of them and not others (none of batching and monitoring), and an export must
need no package but TensorFlow: so the few fields in use are declared where they are used.
"""

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory, text_format


def message_classes(declaration: str) -> dict[str, type[message.Message]]:
    """The classes of a `FileDescriptorProto` in text format, by their names with the package's.

    They live in a pool of their own: in the common one they would clash with those of tensorflow-serving-api.
    """
    file = text_format.Parse(declaration, descriptor_pb2.FileDescriptorProto())
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClassesForFiles([file.name], pool)
