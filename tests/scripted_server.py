"""A model server that fails as a test wants it to, and otherwise answers by a rule that numpy can repeat."""

import base64
import contextlib
import io
import json
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from descargan_tf.prediction.overlay import overlay

VIEWER = Path(__file__).parents[1] / "export" / "embedded" / "viewer.html"


class Reply(NamedTuple):
    status: int
    body: bytes | str | dict = b""
    headers: dict = {}  # noqa: RUF012
    before: object = None  # called before the answer goes out


def error(status, message, **headers):
    return Reply(status, {"error": message}, headers)


def outputs_of(png):
    """The healthy image is half of the input; an image is diseased by its mean."""
    image = np.float32(np.asarray(Image.open(io.BytesIO(png)).convert("L")) / 127.5 - 1)
    healthy, signed = image / 2, -image / 2
    p = np.float32(np.clip((image.mean() + 1) / 2, 0, 1))
    return {
        "anomaly_map": signed[..., None].tolist(),
        "healthy_image": healthy[..., None].tolist(),
        "disease_probability": float(p),
        "anomaly_score": float(np.abs(signed).mean()),
        "predicted_class": int(p > 0.5),
        "overlay_png_bytes": {"b64": _png(overlay(image, signed))},
        "anomaly_map_png_bytes": {"b64": _png(overlay(np.ones_like(image), signed))},
    }


def _png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


class ScriptedServer:
    def __init__(self, cors=False, prefix="", cookie=None):
        self.cors = cors
        self.prefix = prefix  # of a proxy's path, which the model server behind it is not told
        self.cookie = cookie  # set by the page, and wanted with every other request, as by a proxy that logs in
        self.script = deque()  # Replies to predictions, used up one by one before the rule answers
        self.state = "AVAILABLE"
        self.requests = []  # (path, body) of predictions, in the order of arrival
        self.headers = []  # of the same
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def reply_to(self, path, body):
        self.requests.append((path, body))
        if self.script:
            return self.script.popleft()
        (instance,) = json.loads(body)["instances"]
        return Reply(200, {"predictions": [outputs_of(base64.b64decode(instance["image_bytes"]["b64"]))]})

    def status(self, path):
        if path != "/v1/models/descargan":
            return error(404, f"Could not find any versions of model {path.rsplit('/', 1)[-1]}")
        return Reply(200, {"model_version_status": [{"version": "7", "state": self.state, "status": {}}]})

    def admit(self, handler):
        """What a proxy before the model server says to a request; 200 lets it pass."""
        if not handler.path.startswith(self.prefix):
            return 404
        return 200 if self.cookie in (None, handler.headers["Cookie"]) else 401

    def tunnel(self, handler):
        """What it says to CONNECT."""
        return 405

    def _handler(self):
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                path = self.path.removeprefix(scripted.prefix)
                if path.split("?")[0].rstrip("/") in ("", "/viewer.html"):
                    cookie = {"Set-Cookie": scripted.cookie} if scripted.cookie else {}
                    self.send(Reply(200, VIEWER.read_bytes(), {"Content-Type": "text/html; charset=utf-8", **cookie}))
                elif self.may_ask():
                    self.send(scripted.status(path))

            def do_CONNECT(self):
                self.send(Reply(scripted.tunnel(self)))

            def do_OPTIONS(self):
                self.send(Reply(200))

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if not self.may_ask():
                    return
                scripted.headers.append(self.headers)
                reply = scripted.reply_to(self.path.removeprefix(scripted.prefix), body)
                if reply.before:
                    reply.before(self)
                self.send(reply)

            def may_ask(self):
                status = scripted.admit(self)
                if status != 200:
                    self.send(Reply(status, b"<html>", {"Content-Type": "text/html"}))
                return status == 200

            def send(self, reply):
                body = json.dumps(reply.body) if isinstance(reply.body, dict) else reply.body
                body = body.encode() if isinstance(body, str) else body
                headers = {"Content-Type": "application/json", **reply.headers, "Content-Length": str(len(body))}
                if scripted.cors:
                    headers |= {"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Headers": "Content-Type"}
                with contextlib.suppress(OSError):  # the client has gone, as some tests want it
                    self.send_response(reply.status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_):
                """Say nothing."""

        return Handler
