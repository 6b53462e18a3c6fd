"""TensorFlow Serving's gRPC calls Predict, GetModelMetadata and GetModelStatus, where its API package is installed."""

import importlib.util
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import tensorflow as tf

from descargan_tf.errors import UserError

from .models import ModelManager
from .monitoring import Metrics
from .status import Code, ServingError, invalid
from .types import DEFAULT_SIGNATURE, Run

_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcServer:
    """Listens from the moment it is made.

    Args:
        address: host:port.
        manager: of the models.
        run: how a checked request runs: alone or in a batch.
        metrics: where requests are counted.
        threads: requests at a time.
        timeout_seconds: for a call whose caller set no deadline.
        max_request_bytes: of a message.

    Raises:
        UserError: the API package is not installed, or the address cannot be had.
    """

    def __init__(
        self,
        address: str,
        manager: ModelManager,
        run: Run,
        metrics: Metrics,
        threads: int,
        timeout_seconds: float,
        max_request_bytes: int,
    ):
        if importlib.util.find_spec("tensorflow_serving") is None:
            raise UserError(
                "gRPC needs the package tensorflow-serving-api, which is not installed: "
                "pip install --no-deps tensorflow-serving-api==2.21.0, or leave the gRPC port at 0."
            )
        from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

        options = [("grpc.max_receive_message_length", max_request_bytes), ("grpc.max_send_message_length", -1)]
        # Without this a second server may listen on a port that is taken.
        options.append(("grpc.so_reuseport", 0))
        self._server = grpc.server(ThreadPoolExecutor(threads, thread_name_prefix="grpc"), options=options)
        calls = _Calls(manager, run, metrics, timeout_seconds)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(_prediction_service(calls), self._server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(_model_service(calls), self._server)
        try:
            self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise UserError(f"gRPC cannot listen on {address}: is the port taken? ({error})") from error
        self._server.start()

    def stop(self, grace_seconds: float) -> None:
        """Take no more calls and answer those at work."""
        self._server.stop(grace_seconds).wait()


class _Calls:
    def __init__(self, manager, run, metrics, timeout_seconds):
        self._manager, self._run, self._metrics, self._timeout_seconds = manager, run, metrics, timeout_seconds

    def answered(self, call, request, context):
        """One call, its failure as gRPC's status."""
        try:
            return call(request, context)
        except ServingError as error:
            context.abort(_STATUS_CODES[int(error.code)], error.message)

    def predict(self, request, context):
        started, code = time.monotonic(), Code.OK
        try:
            return self._predict(request, context, started)
        except ServingError as error:
            code = error.code
            raise
        except Exception:
            code = Code.INTERNAL
            raise
        finally:
            name = request.model_spec.name
            model = name if name in self._manager.names else "(unknown)"
            self._metrics.record_request(model, "Predict", "GRPC", code, time.monotonic() - started)

    def _predict(self, request, context, started):
        from tensorflow_serving.apis import predict_pb2

        remaining = context.time_remaining()
        seconds = self._timeout_seconds if remaining is None else min(remaining, self._timeout_seconds)
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        with self._acquire(request.model_spec) as servable:
            if name not in servable.signatures:
                raise ServingError(Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
            known = servable.signatures[name].outputs
            for output in request.output_filter:
                if output not in known:
                    raise invalid(
                        f"output tensor alias not found in signature: {output} Outputs expected to be in the set "
                        f"{{{','.join(sorted(known))}}}."
                    )
            inputs = {key: _array(key, proto) for key, proto in request.inputs.items()}
            outputs = self._run(servable, name, inputs, started + seconds)
            response = predict_pb2.PredictResponse()
            response.model_spec.name, response.model_spec.signature_name = servable.name, name
            response.model_spec.version.value = servable.version
        for key in request.output_filter or outputs:
            response.outputs[key].CopyFrom(tf.make_tensor_proto(outputs[key]))
        return response

    def metadata(self, request, _):
        from tensorflow_serving.apis import get_model_metadata_pb2

        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid(f"Metadata field {field} is not supported")
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        signatures = get_model_metadata_pb2.SignatureDefMap()
        with self._acquire(request.model_spec) as servable:
            for key, signature in servable.signatures.items():
                signatures.signature_def[key].CopyFrom(signature.definition)
            response.model_spec.name = servable.name
            response.model_spec.version.value = servable.version
        response.metadata["signature_def"].Pack(signatures)
        return response

    def status(self, request, _):
        from tensorflow_serving.apis import get_model_status_pb2

        spec = request.model_spec
        version = spec.version.value if spec.HasField("version") else None
        response = get_model_status_pb2.GetModelStatusResponse()
        for status in self._manager.statuses(spec.name, version):
            added = response.model_version_status.add(version=status.version)
            added.state = get_model_status_pb2.ModelVersionStatus.State.Value(status.state)
            added.status.error_code, added.status.error_message = int(status.code), status.message
        return response

    def _acquire(self, spec):
        version = spec.version.value if spec.HasField("version") else None
        return self._manager.acquire(spec.name, version, spec.version_label or None)


def _array(name, proto):
    try:
        array = tf.make_ndarray(proto)
    except (TypeError, ValueError) as error:
        raise invalid(f"Input {name} is not a valid tensor: {error}") from None
    if array.dtype.kind == "S":  # numpy strings drop trailing zero bytes
        raise invalid(f"Input {name} is not a valid tensor of strings")
    return np.ascontiguousarray(array) if array.ndim else array


def _prediction_service(calls):
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):  # noqa: N802 (gRPC's names)
            return calls.answered(calls.predict, request, context)

        def GetModelMetadata(self, request, context):  # noqa: N802
            return calls.answered(calls.metadata, request, context)

    return PredictionService()


def _model_service(calls):
    from tensorflow_serving.apis import model_service_pb2_grpc

    class ModelService(model_service_pb2_grpc.ModelServiceServicer):
        def GetModelStatus(self, request, context):  # noqa: N802
            return calls.answered(calls.status, request, context)

    return ModelService()
