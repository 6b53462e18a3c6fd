"""TensorFlow Serving's REST contract, case by case: against the embedded server always, against a real one if there is.

A real one is the server at TF_SERVING_REST_URL, which must serve what `tests/serving_models.py` writes, or else
tensorflow_model_server on PATH, which is started here. The report's last lines name the targets that ran. Error texts
are matched by the part that clients rely on; numbers and JSON are compared as values.
"""

import base64
import gzip
import io
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import serving_models
from PIL import Image
from serving_http import Server, free_port

from descargan_tf.export.embedded.models import read_configs
from descargan_tf.export.embedded.server import EmbeddedServer, ServerSettings

BINARY = shutil.which("tensorflow_model_server")
TARGETS = ["embedded"]
if os.environ.get("TF_SERVING_REST_URL"):
    TARGETS.append("TF_SERVING_REST_URL")
elif BINARY:
    TARGETS.append("tensorflow_model_server")

IMAGE = np.linspace(-1, 1, 256, dtype=np.float32).reshape(16, 16, 1)
PLAIN, PAIR, M = "/v1/models/half_plus_two:predict", "/v1/models/pair:predict", "/v1/models/m:predict"


@pytest.fixture(scope="module", params=TARGETS)
def server(request, serving_config):
    if request.param == "embedded":
        with EmbeddedServer(ServerSettings(read_configs(serving_config), rest_api_port=None)) as embedded:
            yield Server("embedded", embedded.url)
    elif request.param == "TF_SERVING_REST_URL":
        yield Server(request.param, os.environ["TF_SERVING_REST_URL"])
    else:
        with _TensorFlowModelServer(serving_config) as process_url:
            yield Server(request.param, process_url)


@pytest.fixture(autouse=True)
def named_in_the_report(server, record_property):
    record_property("serving_target", server.target)


class _TensorFlowModelServer:
    def __init__(self, config):
        self.folder = Path(config).parent
        self.port = free_port()

    def __enter__(self):
        self.process = subprocess.Popen(
            [
                BINARY,
                "--port=0",
                f"--grpc_socket_path={self.folder / 'grpc.sock'}",
                f"--rest_api_port={self.port}",
                f"--model_config_file={self.folder / 'models.config'}",
                f"--monitoring_config_file={self.folder / 'monitoring.config'}",
                "--allow_version_labels_for_unavailable_models=true",
                "--max_num_load_retries=0",
                "--file_system_poll_wait_seconds=1",
            ]
        )
        server = Server("starting", f"http://127.0.0.1:{self.port}")
        for _ in range(120):
            try:
                if all(_available(server, name) for name in ("m", "half_plus_two", "pair")):
                    return server.url
            except OSError:
                time.sleep(0.5)
        self.__exit__()
        raise RuntimeError("tensorflow_model_server does not answer")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)


def _available(server, name):
    reply = server.ask("GET", f"/v1/models/{name}")
    return reply.status == 200 and b"AVAILABLE" in reply.content


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def b64(content):
    return {"b64": base64.b64encode(content).decode()}


# ---- what is refused, and in what words (P1 to P32)

ERRORS = {
    "P1": (PLAIN, "", 400, r"JSON Parse error: The document is empty"),
    "P2": (PLAIN, "instances = [1, 2]", 400, r"JSON Parse error: Invalid value"),
    "P2 before the model": ("/v1/models/foo:predict", "instances = [1, 2]", 400, r"JSON Parse error: Invalid value"),
    "P3": (PLAIN, "[1,2]", 400, r"Is not object"),
    "P4": (PLAIN, {"signature_name": 100}, 400, r"'signature_name' key must be a string value\."),
    "P5": ("/v1/models/foo:predict", {"instances": [1]}, 404, r"Servable not found for request: Latest\(foo\)"),
    "P6": ("/v1/models/m/versions/99:predict", {"instances": [1]}, 404, r"not found for request: Specific\(m, 99\)"),
    "P7": ("/v1/models/m/labels/nope:predict", {"instances": [1]}, 400, r"Unrecognized servable version label: nope"),
    "P7 unknown model": ("/v1/models/foo/labels/nope:predict", {}, 400, r"Unrecognized servable version label: nope"),
    "P8": (PLAIN, {"signature_name": "nope"}, 400, r'Serving signature name: "nope" not found in signature def'),
    "P9": (
        PLAIN,
        {"signature_name": "__saved_model_init_op", "instances": [1]},
        400,
        r"Failed to get input map for signature: __saved_model_init_op",
    ),
    "P10": (PLAIN, {}, 400, r"Missing 'inputs' or 'instances' key"),
    "P11": (
        PLAIN,
        {"inputs": [1], "instances": [1]},
        400,
        r"Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist",
    ),
    # Servers before 2.6 misspell the first word.
    "P12": (PLAIN, {"instances": 5}, 400, r"Ex(pec|cep)ting 'instances' to be an list/array"),
    "P12 object": (PLAIN, {"instances": {}}, 400, r"Ex(pec|cep)ting 'instances' to be an list/array"),
    "P13": (PLAIN, {"instances": []}, 400, r"No values in 'instances' array"),
    "P14": (PLAIN, {"instances": ["x"]}, 400, r'JSON Value: "x" Type: String is not of expected type: float'),
    "P14 null": (PLAIN, {"instances": [None]}, 400, r"JSON Value: null Type: Null is not of expected type: float"),
    "P14 bool": (PLAIN, {"instances": [True]}, 400, r"JSON Value: true Type: True is not of expected type: float"),
    "P14 Nan": (PLAIN, '{"instances": [Nan]}', 400, r"JSON Parse error: Invalid value"),
    "P14 uint8": (PAIR, {"instances": [{"image": [1, 2], "label": 1.0}]}, 400, r"is not of expected type: uint8"),
    "P15": (PLAIN, {"instances": [[1, 2], [3, 4], [5, 6, 7]]}, 400, r"Expecting tensor size: 2 but got: 3"),
    "P16": (PLAIN, {"instances": [[1, 2], [[3, 4]]]}, 400, r"Expecting shape \[2\] but got: \[1,2\]"),
    "P17 size": (PLAIN, {"inputs": [[1, 2], [3]]}, 400, r"Encountered list at unexpected size: 1 at level: 1"),
    "P17 list": (PLAIN, {"inputs": [1, [2]]}, 400, r"Encountered list at unexpected level: 1 expected < 1"),
    "P17 value": (PLAIN, {"inputs": [[1], 2]}, 400, r"JSON Value: 2 found at incorrect level: 2"),
    "P18": (
        M,
        {"instances": [{"zz": 1}]},
        400,
        r"Failed to process element: 0 key: zz of 'instances' list\. Error: .*does not have named input: zz",
    ),
    "P19": (PAIR, {"instances": [{"image": [1, 2]}]}, 400, r"keys must be equal to: image,label"),
    "P20": (PLAIN, {"instances": [{"x": 1}, [2]]}, 400, r"Expecting object but got list at item 1 of input list"),
    "P21": (PLAIN, {"instances": [[1], {"x": 2}]}, 400, r"Expecting value/list but got object at item 1 of input list"),
    "P22": (PAIR, {"instances": [[1, 2]]}, 400, r"instances is a plain list, but expecting list of objects"),
    "P23": (PAIR, {"inputs": {"label": [1]}}, 400, r"Missing named input: image in 'inputs' object\."),
    "P25": (PAIR, {"inputs": [1, 2]}, 400, r"inputs is a plain value/list, but expecting an object"),
    "P26 size": (
        M,
        {"instances": np.zeros((2, 8, 8, 1)).tolist()},
        400,
        r"Shape of tensor .* is not compatible with expected shape \[\?,16,16,1\]",
    ),
    "P26 rank": (
        M,
        {"instances": [[1.0, 2.0]]},
        400,
        r"Shape of tensor .* is not compatible with expected shape \[\?,16,16,1\]",
    ),
    "P26 no batch": (
        M,
        {"inputs": IMAGE.tolist()},
        400,
        r"Shape of tensor .* is not compatible with expected shape \[\?,16,16,1\]",
    ),
    "P27": (M, {"signature_name": "serving_bytes", "instances": [{"b64": "!!"}]}, 400, r"Unable to base64 decode"),
    "P28": (M, {"instances": [{"b64": "aGk="}]}, 400, r"Type: Object is not of expected type: float"),
    "P29": (M, {"signature_name": "serving_bytes", "instances": [b64(b"hi")]}, 400, r"Unknown image file format"),
    "P32": (
        M,
        {"signature_name": "bfloat16", "instances": [IMAGE.tolist()]},
        400,
        r"Failed to write JSON value for tensor type: bfloat16",
    ),
    "row format of a scalar": (
        "/v1/models/half_plus_two:predict",
        {"signature_name": "scalar", "instances": [1.0]},
        400,
        r"Shape|shape",
    ),
    "classify without examples": ("/v1/models/half_plus_two:classify", {}, 400, r"key 'examples' is expected"),
    "C1 empty": (
        "/v1/models/half_plus_two:classify",
        {"signature_name": "classify_x_to_y", "examples": []},
        400,
        r"value is an empty array",
    ),
    # As an export of this project has none for it; a real server's words depend on whether it checks methods' names.
    "C1 classify, no signature for it": (
        "/v1/models/m:classify",
        {"signature_name": "serving_bytes", "examples": [{"image_bytes": "x"}]},
        400,
        r"SignatureDef|signature",
    ),
    "C1 regress, no signature for it": ("/v1/models/m:regress", {"examples": [{"x": 1.0}]}, 400, r"SignatureDef|sign"),
    "C1 unknown signature": (
        "/v1/models/half_plus_two:regress",
        {"signature_name": "nope", "examples": [{"x": 1.0}]},
        400,
        r"No signature was found with the name: nope",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_an_error_has_the_code_and_the_words(server, case):
    path, body, status, words = ERRORS[case]
    reply = server.post(path, body)
    assert reply.status == status
    assert reply.headers["Content-Type"] == "application/json"
    assert set(reply.json) == {"error"}
    assert re.search(words, reply.json["error"]), reply.json["error"]


# ---- what is answered


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (PLAIN, {"instances": [[1.0, 2.0], [3.0, 4.0]]}, {"predictions": [[2.5, 3.0], [3.5, 4.0]]}),
        ("/v1/models/half_plus_two/versions/123:predict", {"instances": [1.0, 2.0]}, {"predictions": [2.5, 3.0]}),
        (PLAIN, {"signature_name": "serving_default", "instances": [3.0, 4.0]}, {"predictions": [3.5, 4.0]}),
        (PLAIN, {"signature_name": "", "inputs": [3.0, 4.0]}, {"outputs": [3.5, 4.0]}),
        (PLAIN, {"instances": [{"x": 1}, {"x": 2}]}, {"predictions": [2.5, 3.0]}),
        (PLAIN, {"inputs": {"x": 8}}, {"outputs": 6.0}),
        (PLAIN, {"inputs": []}, {"outputs": []}),
        (PLAIN, {"instances": [1.0], "unknown": {"is": "ignored"}}, {"predictions": [2.5]}),
        # The first of equal keys counts.
        (PLAIN, '{"instances": [1.0], "instances": [5.0]}', {"predictions": [2.5]}),
        (PLAIN, {"signature_name": "scalar", "inputs": 4}, {"outputs": {"y": 4.0, "rows": [[4.0]] * 3}}),
        # Integers are not range-checked: 300 becomes 44, -1 becomes 255.
        (
            PAIR,
            {"instances": [{"image": [1, 2], "label": 300}, {"label": -1, "image": [3, 4]}]},
            {"predictions": [{"sum": 3.0, "label": 44}, {"sum": 7.0, "label": 255}]},
        ),
        (PAIR, {"inputs": {"image": [[1, 2]], "label": [7]}}, {"outputs": {"sum": [3.0], "label": [7]}}),
        # The key is `results`, whatever the documentation says.
        pytest.param(
            "/v1/models/half_plus_two:regress",
            {"signature_name": "regress_x_to_y", "examples": [{"x": 80.0}, {"x": [2.0]}]},
            {"results": [42.0, 3.0]},
            id="C1 regress",
        ),
        pytest.param(
            "/v1/models/half_plus_two:classify",
            {"signature_name": "classify_x_to_y", "examples": [{"x": 20.0}]},
            {"results": [[["", 12.0]]]},
            id="C1 classify",
        ),
        pytest.param(
            "/v1/models/half_plus_two:classify",
            {"signature_name": "classify_x_to_y", "context": {"x": 10.0}, "examples": [{}]},
            {"results": [[["", 7.0]]]},
            id="C1 context",
        ),
    ],
)
def test_answers_of_known_functions(server, path, body, expected):
    reply = server.post(path, body)
    assert reply.status == 200, reply.content
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.json == expected


@pytest.mark.parametrize(
    ("place", "scale"), [("", 2), ("/versions/1", 1), ("/versions/2", 2), ("/labels/stable", 1), ("/labels/canary", 2)]
)
def test_versions_and_labels(server, place, scale):
    reply = server.post(f"/v1/models/m{place}:predict", {"instances": [IMAGE.tolist(), (IMAGE / 4).tolist()]})
    first, second = reply.json["predictions"]
    assert set(first) == {"anomaly_map", "anomaly_score", "predicted_class"}
    np.testing.assert_allclose(first["anomaly_map"], scale * IMAGE, rtol=1e-6)
    np.testing.assert_allclose(second["anomaly_map"], scale * IMAGE / 4, rtol=1e-6)
    assert first["anomaly_score"] == pytest.approx(scale * np.abs(IMAGE).mean(), rel=1e-5)
    assert (first["predicted_class"], second["predicted_class"]) == (int(scale == 2 or first["anomaly_score"] > 0.5), 0)


def test_the_column_format_of_several_outputs(server):
    reply = server.post(M, {"inputs": [IMAGE.tolist()]})
    assert set(reply.json["outputs"]) == {"anomaly_map", "anomaly_score", "predicted_class"}
    np.testing.assert_allclose(reply.json["outputs"]["anomaly_map"], 2 * IMAGE[None], rtol=1e-6)


@pytest.mark.parametrize("instance", [lambda b: b64(b), lambda b: {"image_bytes": b64(b)}])
def test_bytes_go_in_and_out_as_base64(server, instance):
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    content = png(pixels)
    reply = server.post(M, {"signature_name": "serving_bytes", "instances": [instance(content)]})
    (answer,) = reply.json["predictions"]
    np.testing.assert_allclose(answer["anomaly_map"], 2 * (pixels[..., None] / 255), rtol=1e-6)
    assert base64.b64decode(answer["image_png_bytes"]["b64"]) == content


def test_p24_unknown_columns_are_passed_over(server):
    reply = server.post(M, {"inputs": {"image": [IMAGE.tolist()], "zz": 1}})
    assert reply.status == 200
    np.testing.assert_allclose(reply.json["outputs"]["anomaly_map"], 2 * IMAGE[None], rtol=1e-6)


def test_p30_numbers_that_are_none(server):
    reply = server.post(PLAIN, '{"instances": [NaN, Infinity, -Infinity, 1e39]}')
    assert reply.status == 200
    assert b"NaN" in reply.content
    assert b"-Infinity" in reply.content
    values = reply.json["predictions"]
    assert np.isnan(values[0])
    assert values[1:] == [np.inf, -np.inf, np.inf]  # 1e39 is beyond the largest float


def test_p31_what_follows_the_object_is_ignored(server):
    reply = server.post(PLAIN, '{"instances": [1.0]} and so on')
    assert (reply.status, reply.json) == (200, {"predictions": [2.5]})


def test_floats_come_back_as_they_went(server):
    values = [0.1, 1 / 3, 1e-7, 123456.79, 16777216.0]
    reply = server.post(PLAIN, {"instances": values})
    expected = 0.5 * np.array(values, np.float32) + 2
    assert np.array_equal(np.array(reply.json["predictions"], np.float32), expected)


# ---- status and metadata


def test_s1_status_of_all_versions(server):
    reply = server.ask("GET", "/v1/models/m")
    available = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert reply.json == {"model_version_status": [{"version": v, **available} for v in ("2", "1")]}
    assert reply.headers["Content-Type"] == "application/json"


def test_status_of_one_version(server):
    reply = server.ask("GET", "/v1/models/m/versions/1")
    assert [entry["version"] for entry in reply.json["model_version_status"]] == ["1"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        pytest.param("/v1/models/foo", "Could not find any versions of model foo", id="S2"),
        # A query is part of the name.
        pytest.param("/v1/models/m?x=1", "Could not find any versions of model m?x=1", id="S2 and U4"),
        pytest.param("/v1/models/m/versions/99", "Could not find version 99 of model m", id="S3"),
        pytest.param("/v1/models/foo/metadata", "Servable not found for request: Latest(foo)", id="M2"),
        pytest.param(
            "/v1/models/m/versions/99/metadata", "Servable not found for request: Specific(m, 99)", id="M2 99"
        ),
    ],
)
def test_status_and_metadata_of_what_is_not_there(server, path, words):
    reply = server.ask("GET", path)
    assert reply.status == 404
    assert words in reply.json["error"]


def test_s4_a_label_is_not_looked_at_in_a_status(server):
    reply = server.ask("GET", "/v1/models/m/labels/anything")
    assert reply.status == 200
    assert len(reply.json["model_version_status"]) == 2


def test_m1_metadata(server):
    reply = server.ask("GET", "/v1/models/m/metadata")
    assert reply.status == 200
    assert reply.json["model_spec"] == {"name": "m", "signature_name": "", "version": "2"}
    signatures = reply.json["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) == {"serving_default", "serving_bytes", "bfloat16", "__saved_model_init_op"}
    default = signatures["serving_default"]
    assert default["method_name"] == "tensorflow/serving/predict"
    assert default["inputs"]["image"]["dtype"] == "DT_FLOAT"
    sizes = [dim["size"] for dim in default["inputs"]["image"]["tensor_shape"]["dim"]]
    assert sizes == ["-1", "16", "16", "1"]
    assert default["inputs"]["image"]["tensor_shape"]["unknown_rank"] is False
    assert set(default["outputs"]) == {"anomaly_map", "anomaly_score", "predicted_class"}
    spec = server.ask("GET", "/v1/models/m/labels/stable/metadata").json["model_spec"]
    assert spec["version"] == "1"


# ---- URLs (U1 to U13)

MALFORMED = [
    ("POST", M + "?x=1"),  # U4
    ("GET", "/v1/models/m/"),
    ("POST", "/v1/models/m:PREDICT"),  # U5
    ("PUT", M),  # U8
    ("DELETE", "/v1/models/m"),
    ("GET", M),
    ("POST", "/v1/models/m/metadata"),
    ("POST", "/v1/models/m"),
    ("POST", "/v1/models"),
    ("POST", "/v1/models/m/versions/HELLO:predict"),
    ("GET", "/v1/models/m/version/1"),
    ("POST", "/v1/models/m/versions/1/labels/stable:predict"),
    ("GET", "/v1/foo"),
]


@pytest.mark.parametrize(("method", "path"), MALFORMED)
def test_malformed_requests(server, method, path):
    reply = server.ask(method, path)
    assert reply.status == 400
    assert f"Malformed request: {method} {path}" in reply.json["error"]


def test_u5_case_of_paths(server):
    assert server.post("/V1/MODELS/half_plus_two:predict", {"instances": [1.0]}).json == {"predictions": [2.5]}
    assert "model_version_status" in server.ask("GET", "/v1/models/m/METADATA").json


def test_u6_names_are_percent_decoded(server):
    assert server.post("/v1/models/half%5Fplus%5ftwo:predict", {"instances": [1.0]}).json == {"predictions": [2.5]}
    assert "Latest(a/b c)" in server.post("/v1/models/a%2Fb%20c:predict", {"instances": [1.0]}).json["error"]


def test_u9_there_is_no_list_of_models(server):
    reply = server.ask("GET", "/v1/models")
    assert (reply.status, reply.json) == (400, {"error": "Missing model name in request."})


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/models/m/versions/{}:predict"), ("GET", "/v1/models/m/versions/{}")]
)
def test_u10_a_version_beyond_int64(server, method, path):
    assert server.ask(method, path.format(2**64), "{}" if method == "POST" else None).status == 400


@pytest.mark.parametrize("path", ["/healthz", "/v2/models/m", "/v1"])
def test_u1_unknown_paths_are_not_json(server, path):
    reply = server.ask("GET", path)
    assert reply.status == 404
    assert "html" in reply.headers["Content-Type"]


def test_u11_the_content_type_does_not_matter(server):
    reply = server.ask("POST", PLAIN, '{"instances": [1.0]}', {"Content-Type": "text/plain"})
    assert reply.json == {"predictions": [2.5]}


def test_u12_gzip_goes_in_but_not_out(server):
    body = gzip.compress(b'{"instances": [1.0]}')
    reply = server.ask("POST", PLAIN, body, {"Content-Encoding": "gzip", "Accept-Encoding": "gzip"})
    assert reply.json == {"predictions": [2.5]}
    assert reply.headers["Content-Encoding"] is None


def test_u13_preflights(server):
    reply = server.ask("OPTIONS", M, headers={"Origin": "https://example.org"})
    assert (reply.status, reply.content) == (200, b"")
    assert server.ask("OPTIONS", M).status == 400


def test_metrics_are_where_prometheus_looks(server):
    server.post(PLAIN, {"instances": [1.0]})
    page = server.ask("GET", serving_models.METRICS_PATH).content.decode()
    assert '\n:tensorflow:serving:request_count{model_name="half_plus_two",status="OK"} ' in page
    assert "# TYPE :tensorflow:serving:request_count counter" in page
    assert ":tensorflow:serving:request_latency_bucket{" in page
