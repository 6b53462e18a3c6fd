"""One loaded version of a model: a SavedModel, its signatures, and the guard before every run."""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from descargan_tf.names import as_text

from .. import warmup
from .status import Code, ServingError, invalid
from .types import DEFAULT_SIGNATURE, Signature, TensorSpec, check_shape, type_name

_WARMUP_SECONDS = 600  # for one request, the first of which may take long


class Servable:
    """A SavedModel, ready to run; `close` frees it.

    It runs in a session, as in TensorFlow Serving and although Python calls that deprecated: a session stops a run at
    its deadline and gives its memory back when it is closed; a loaded function does neither.

    Args:
        name: of the model.
        version: its number.
        path: the version's folder.
        warm_up: whether to replay the requests that the exporter left.

    Raises:
        ServingError: the SavedModel cannot be loaded, or a warm-up request fails.
    """

    def __init__(self, name: str, version: int, path: Path, warm_up: bool = True):
        self.name, self.version = name, version
        graph = tf.Graph()
        config = tf.compat.v1.ConfigProto(gpu_options=tf.compat.v1.GPUOptions(allow_growth=True))
        self._session = tf.compat.v1.Session(graph=graph, config=config)
        try:
            with graph.as_default(), as_text(path) as readable:
                meta_graph = tf.compat.v1.saved_model.load(self._session, [tf.saved_model.SERVING], str(readable))
            self.signatures = {
                key: Signature(_specs(definition.inputs), _specs(definition.outputs), definition)
                for key, definition in meta_graph.signature_def.items()
            }
            if warm_up:
                self._warm_up(path)
        except ServingError:
            self.close()
            raise
        except Exception as error:  # a broken SavedModel fails in as many ways as there are files in it
            self.close()
            code = _code(error) if isinstance(error, tf.errors.OpError) else Code.FAILED_PRECONDITION
            raise ServingError(code, " ".join(str(error).split())) from error

    def close(self) -> None:
        """Free the model; nothing may run in it."""
        self._session.close()

    def check(self, signature_name: str, inputs: Mapping[str, np.ndarray]) -> None:
        """Refuse what the signature does not allow, before anything runs.

        Raises:
            ServingError: an input missing, unknown, of another type or of another shape.
        """
        specs = self.signatures[signature_name].inputs
        if inputs.keys() != specs.keys():
            names = [",".join(sorted(keys)) for keys in (inputs, specs, inputs.keys() - specs, specs.keys() - inputs)]
            raise invalid(
                f"input size does not match signature: {len(inputs)}!={len(specs)} len({{{names[0]}}}) != "
                f"len({{{names[1]}}}). Sent extra: {{{names[2]}}}. Missing but required: {{{names[3]}}}."
            )
        for name, spec in specs.items():
            found = type_name(inputs[name].dtype.name)
            if found != spec.dtype:
                raise invalid(f"Type mismatch: actual {found} vs. expect {spec.dtype} for input {name}")
            check_shape(name, inputs[name].shape, spec)

    def run(self, signature_name: str, inputs: Mapping[str, np.ndarray], deadline: float) -> dict[str, np.ndarray]:
        """All outputs of a signature for inputs that `check` let through.

        Args:
            signature_name: one of `signatures`.
            inputs: arrays by input name, bytes as object arrays.
            deadline: as `time.monotonic`.

        Raises:
            ServingError: what the graph refused, in its words, or that time ran out.
        """
        definition = self.signatures[signature_name].definition
        remaining_ms = int(1000 * (deadline - time.monotonic()))
        if remaining_ms <= 0:
            raise ServingError(Code.DEADLINE_EXCEEDED, "Timed out before the model ran")
        try:
            outputs = self._session.run(
                {name: info.name for name, info in definition.outputs.items()},
                {definition.inputs[name].name: array for name, array in inputs.items()},
                options=tf.compat.v1.RunOptions(timeout_in_ms=remaining_ms),
            )
        except tf.errors.OpError as error:
            raise ServingError(_code(error), _graph_message(error)) from error
        # A session gives scalars, and bytes, for tensors without dimensions.
        return {
            name: np.asarray(value, dtype=object if isinstance(value, bytes) else None)
            for name, value in outputs.items()
        }

    def _warm_up(self, path):
        for number, request in enumerate(warmup.read_requests(path)):
            name = request.signature or DEFAULT_SIGNATURE
            if name not in self.signatures:
                raise invalid(f"warm-up request {number} names signature {name}, which the model does not have")
            self.check(name, request.inputs)
            self.run(name, request.inputs, time.monotonic() + _WARMUP_SECONDS)


def _specs(infos):
    return {
        name: TensorSpec(
            type_name(tf.dtypes.as_dtype(info.dtype).name),
            None
            if info.tensor_shape.unknown_rank
            else tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim),
        )
        for name, info in infos.items()
        if info.dtype  # the initialiser's signature has an output that is an operation, not a tensor
    }


def _code(error):
    return Code(error.error_code) if error.error_code in Code.__members__.values() else Code.UNKNOWN


def _graph_message(error):
    # Python puts a headline before the runtime's message and a stack behind it.
    message = error.message.removeprefix("Graph execution error:").strip()
    return message.split("\n", 1)[0].strip()
