"""The nouns of the server, which REST, gRPC, batches and the models themselves share; none of them knows a protocol."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import numpy as np

from .status import invalid

DEFAULT_SIGNATURE = "serving_default"
_TYPE_NAMES = {"float32": "float", "float64": "double", "float16": "half", "object": "string"}


class TensorSpec(NamedTuple):
    """What a signature says of an input: type as TensorFlow names it, shape with None for open; None: any rank."""

    dtype: str
    shape: tuple[int | None, ...] | None


class Signature(NamedTuple):
    """A function of the model, as the SavedModel declares it."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    definition: object  # its SignatureDef


class Model(Protocol):
    """One loaded version of a model, as those see it who ask it."""

    name: str
    version: int
    signatures: Mapping[str, Signature]

    def check(self, signature_name: str, inputs: Mapping[str, np.ndarray]) -> None:
        """Refuse what the signature does not allow, before anything runs."""

    def run(self, signature_name: str, inputs: Mapping[str, np.ndarray], deadline: float) -> dict[str, np.ndarray]:
        """All outputs of a signature for inputs that `check` let through."""


# How a request runs, alone or in a batch: model, signature's name, inputs, deadline as `time.monotonic` -> outputs.
Run = Callable[[Model, str, Mapping[str, np.ndarray], float], dict[str, np.ndarray]]


def type_name(numpy_name: str) -> str:
    """TensorFlow's name of a type."""
    return _TYPE_NAMES.get(numpy_name, numpy_name)


def shape_text(shape: tuple[int | None, ...]) -> str:
    """A shape as TensorFlow writes it."""
    return f"[{','.join('?' if size is None else str(size) for size in shape)}]"


def check_shape(name: str, shape: tuple[int, ...], spec: TensorSpec) -> None:
    """Refuse a tensor that does not fit its signature, in the words of tf.ensure_shape.

    Departs: TensorFlow Serving hands any shape to the graph. A wrong rank can abort the process there (a failed check
    in the CPU convolution), so nothing is run here that the signature does not allow.

    Raises:
        ServingError: names both shapes.
    """
    expected = spec.shape
    if expected is None:
        return
    if len(shape) != len(expected) or any(want not in (None, size) for size, want in zip(shape, expected, strict=True)):
        raise invalid(
            f"Shape of tensor {name} {shape_text(shape)} is not compatible with expected shape {shape_text(expected)}."
        )
