"""The readiness probes of export/serving/, tried on a server that answers as TensorFlow Serving does."""

import http.server
import json
import socket
import subprocess
import threading

import pytest
import yaml
from deployment import MODEL, REST_PORT, SERVING


class Status(http.server.BaseHTTPRequestHandler):
    """Answers GET /v1/models/descargan with the states that the test sets."""

    states = ()

    def do_GET(self):
        known = self.path == f"/v1/models/{MODEL}"
        status = {"error_code": "OK", "error_message": ""}
        answer = {
            "model_version_status": [
                {"version": str(n), "state": state, "status": status} for n, state in enumerate(self.states, start=1)
            ]
        }
        if not known:
            answer = {"error": f"Could not find any versions of model {self.path}"}
        body = json.dumps(answer, indent=4).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Nothing on the terminal."""


@pytest.fixture(scope="module")
def status_port():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Status) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def probes():
    services = yaml.safe_load((SERVING / "docker-compose.yml").read_text())["services"]
    for name, service in services.items():
        kind, *command = service["healthcheck"]["test"]
        assert kind == "CMD"
        yield name, command
    for item in yaml.safe_load_all((SERVING / "kubernetes.yaml").read_text()):
        if item["kind"] == "Deployment":
            (one,) = item["spec"]["template"]["spec"]["containers"]
            yield "kubernetes", one["readinessProbe"]["exec"]["command"]


def ready(command, port, model=MODEL):
    """Run a probe as it is written, but for the port (and the model)."""
    program, option, script = command
    for written, wanted in (
        (f"/127.0.0.1/{REST_PORT} ", f"/127.0.0.1/{port} "),
        (f"/models/{MODEL} ", f"/models/{model} "),
    ):
        assert script.count(written) == 1
        script = script.replace(written, wanted)
    return subprocess.run([program, option, script], capture_output=True, timeout=20, check=False).returncode == 0


PROBES = pytest.mark.parametrize("command", [pytest.param(command, id=name) for name, command in probes()])


@PROBES
@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (["LOADING"], False),
        (["START"], False),
        (["END"], False),
        ([], False),
        (["AVAILABLE"], True),
        (["AVAILABLE", "LOADING"], True),
        (["UNLOADING", "END"], False),
    ],
)
def test_a_server_is_ready_when_a_version_is_available(monkeypatch, status_port, command, states, expected):
    monkeypatch.setattr(Status, "states", states)
    assert ready(command, status_port) is expected


@PROBES
def test_a_server_without_the_model_is_not_ready(monkeypatch, status_port, command):
    monkeypatch.setattr(Status, "states", ["AVAILABLE"])
    assert ready(command, status_port)
    assert not ready(command, status_port, model="another")


@PROBES
def test_a_server_that_does_not_listen_is_not_ready(command):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, and nobody listens
        assert not ready(command, closed.getsockname()[1])
