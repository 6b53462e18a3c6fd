"""The embedded server's gRPC calls."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from embedded_server import IMAGE
from serving_http import free_port
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from descargan_tf.errors import UserError
from descargan_tf.export.embedded import grpc_service
from descargan_tf.export.embedded.models import read_configs
from descargan_tf.export.embedded.server import EmbeddedServer, ServerSettings


@pytest.fixture(scope="module")
def channel(serving_config):
    port = free_port()
    settings = ServerSettings(read_configs(serving_config), rest_api_port=0, port=port)
    with EmbeddedServer(settings), grpc.insecure_channel(f"127.0.0.1:{port}") as opened:
        yield opened


def predict_request(model="m", signature="", **inputs):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def test_grpc_predict(channel):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    response = stub.Predict(predict_request(image=IMAGE[None]), timeout=20)
    np.testing.assert_array_equal(tf.make_ndarray(response.outputs["anomaly_map"]), 2 * IMAGE[None])
    assert (response.model_spec.version.value, response.model_spec.signature_name) == (2, "serving_default")
    request = predict_request(image=IMAGE[None])
    request.model_spec.version_label = "stable"
    request.output_filter.append("anomaly_score")
    response = stub.Predict(request, timeout=20)
    assert list(response.outputs) == ["anomaly_score"]
    assert tf.make_ndarray(response.outputs["anomaly_score"]) == [0.25]
    png = tf.io.encode_png(np.full((16, 16, 1), 255, np.uint8)).numpy()
    response = stub.Predict(predict_request(signature="serving_bytes", image_bytes=[png]), timeout=20)
    assert tf.make_ndarray(response.outputs["image_png_bytes"]).tolist() == [png]


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        (predict_request("foo"), "NOT_FOUND", "Servable not found for request: Latest(foo)"),
        (predict_request(signature="x"), "FAILED_PRECONDITION", 'Serving signature key "x" not found.'),
        (
            predict_request(picture=IMAGE[None]),
            "INVALID_ARGUMENT",
            "input size does not match signature: 1!=1 len({picture}) != len({image}). Sent extra: {picture}. "
            "Missing but required: {image}.",
        ),
        (
            predict_request(image=IMAGE[None].astype(np.int32)),
            "INVALID_ARGUMENT",
            "Type mismatch: actual int32 vs. expect float",
        ),
        (
            predict_request(image=IMAGE),
            "INVALID_ARGUMENT",
            "Shape of tensor image [16,16,1] is not compatible with expected shape [?,16,16,1].",
        ),
        (
            predict_request(signature="serving_bytes", image_bytes=[b"x"]),
            "INVALID_ARGUMENT",
            "Unknown image file format",
        ),
    ],
)
def test_grpc_errors(channel, request_, code, words):
    with pytest.raises(grpc.RpcError) as caught:
        prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request_, timeout=20)
    assert caught.value.code() == grpc.StatusCode[code]
    assert words in caught.value.details()


def test_grpc_status_and_metadata(channel):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "m"
    response = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, timeout=20)
    available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert [(s.version, s.state) for s in response.model_version_status] == [(2, available), (1, available)]
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "pair"
    response = prediction_service_pb2_grpc.PredictionServiceStub(channel).GetModelMetadata(request, timeout=20)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert set(signatures.signature_def["serving_default"].inputs) == {"image", "label"}


def test_grpc_without_its_package_is_a_clear_message(serving_config, monkeypatch):
    monkeypatch.setattr(grpc_service.importlib.util, "find_spec", lambda name: None)
    settings = ServerSettings(read_configs(serving_config), rest_api_port=0, port=free_port())
    with pytest.raises(UserError, match="needs the package tensorflow-serving-api"), EmbeddedServer(settings):
        pass
