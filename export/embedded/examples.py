"""Classify and regress: requests of tf.train.Examples, for models with signatures made for them.

Models that this project exports have none, and are told so with 400. Kept because TensorFlow Serving's contract, which
this server stands in for with any SavedModel, answers both calls with 200 where a signature is made for them. As there
by default, a signature is taken for what its tensors are called, not for the method that it names.
"""

from collections.abc import Callable

import numpy as np
from tensorflow.core.example import example_pb2

from .rest_contract import decode_base64, is_base64, json_type, shown
from .status import Code, ServingError, invalid
from .types import Model

_INPUT = "inputs"  # serialized Examples, of both methods
_CLASSES, _SCORES, _VALUES = "classes", "scores", "outputs"

Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def read_examples(document: dict) -> np.ndarray:
    """The examples of a request, each joined with the request's context, serialized.

    Raises:
        ServingError: no examples, or a feature that is neither number, text, truth value nor base64.
    """
    context = _example(document["context"]).SerializeToString() if "context" in document else b""
    if "examples" not in document:
        raise invalid(
            f"JSON Value: {shown(document)} When method is classify, key 'examples' is expected and was not found"
        )
    examples = document["examples"]
    if not isinstance(examples, list):
        raise invalid(f"JSON Value: {shown(document)} Expecting 'examples' value to be an list/array")
    if not examples:
        raise invalid(f"JSON Value: {shown(document)} 'examples' value is an empty array")
    # Serialized messages of one kind, put end to end, are the message with the fields of both.
    return np.array([context + _example(each).SerializeToString() for each in examples], dtype=object)


def classify(servable: Model, signature_name: str, examples: np.ndarray, run: Run) -> list:
    """[label, score] of each class of each example; a label or score that the model lacks is "" or 0.

    Raises:
        ServingError: the signature is not one for classification, or its outputs do not fit the examples.
    """
    signature = _signature(servable, signature_name)
    names = {_CLASSES, _SCORES} & signature.outputs.keys()
    if not names:
        raise ServingError(
            Code.FAILED_PRECONDITION,
            'Expected classification signature outputs to contain at least one of "classes" or "scores"; '
            f"found {sorted(signature.outputs)}",
        )
    outputs = run({_INPUT: examples})
    for name in names:
        array = outputs[name]
        if array.ndim != 2:
            raise invalid(f"Expected Tensor shape: [batch_size num_classes] but got {list(array.shape)}")
        if len(array) != len(examples):
            raise invalid(f"Expected {name} output batch size of {len(examples)}. Got: {len(array)}")
    shape = outputs[min(names)].shape
    if any(outputs[name].shape != shape for name in names):
        raise invalid(f"Tensors class and score should match in shape. Got {[outputs[n].shape for n in sorted(names)]}")
    labels = outputs[_CLASSES] if _CLASSES in names else np.full(shape, b"", dtype=object)
    scores = outputs[_SCORES] if _SCORES in names else np.zeros(shape, np.float32)
    return [
        [[label.decode(errors="replace"), score] for label, score in zip(*row, strict=True)]
        for row in zip(labels, scores, strict=True)
    ]


def regress(servable: Model, signature_name: str, examples: np.ndarray, run: Run) -> list:
    """The value of each example.

    Raises:
        ServingError: the signature is not one for regression, or its output does not fit the examples.
    """
    signature = _signature(servable, signature_name)
    if set(signature.outputs) != {_VALUES}:
        raise ServingError(
            Code.FAILED_PRECONDITION,
            f'No regression outputs found in SignatureDef: expected "outputs", found {sorted(signature.outputs)}',
        )
    values = run({_INPUT: examples})[_VALUES]
    if values.shape not in ((len(examples),), (len(examples), 1)):
        raise invalid(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {list(values.shape)}"
        )
    return list(values.reshape(-1))


def _signature(servable, name):
    if name not in servable.signatures:
        raise invalid(f"No signature was found with the name: {name}")
    signature = servable.signatures[name]
    if set(signature.inputs) != {_INPUT} or signature.inputs[_INPUT].dtype != "string":
        raise ServingError(
            Code.FAILED_PRECONDITION,
            f'No inputs for examples found in SignatureDef: expected "inputs" of strings, found '
            f"{sorted(signature.inputs)}",
        )
    return signature


def _example(value):
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {json_type(value)}")
    example = example_pb2.Example()
    for name, content in value.items():
        feature = example.features.feature[name]
        for item in content if isinstance(content, list) else [content]:
            _add(feature, name, item)
    return example


def _add(feature, name, item):
    if isinstance(item, (bool, int)):
        kind, value = "int64_list", int(item)
    elif isinstance(item, float):
        kind, value = "float_list", item
    elif isinstance(item, str):
        kind, value = "bytes_list", item.encode(errors="replace")
    elif is_base64(item):
        kind, value = "bytes_list", decode_base64(item)
    else:
        raise invalid(f"Feature: {name} has element with unexpected JSON type: {json_type(item)}")
    if feature.WhichOneof("kind") not in (None, kind):
        expected = feature.WhichOneof("kind").removesuffix("_list")
        raise invalid(f"Unexpected element type in feature: {name} expecting type: {expected}")
    try:
        getattr(feature, kind).value.append(value)
    except ValueError:
        raise invalid(f"Feature: {name} has uint64 element. Only int64 is supported.") from None
