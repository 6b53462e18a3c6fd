"""Load on a model server: python benchmarks/serving_load.py --model_base_path=exports/descargan

Starts the embedded server on an export, without and with batching, or asks the one at --url (TensorFlow Serving, say),
and prints a line for each kind of request: floats as JSON, and PNG bytes. A client is a thread with a connection of its
own that sends its next request when it has the answer to the last.
"""

import argparse
import base64
import contextlib
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
ROW = "{:28} {:>9} {:>7} {:>10} {:>9} {:>9} {:>9}"


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_base_path", help="folder of version folders; the embedded server is started on it")
    parser.add_argument("--url", help="instead: of a server that runs")
    parser.add_argument("--model_name", default="descargan")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=8)
    arguments = parser.parse_args()
    if bool(arguments.model_base_path) == bool(arguments.url):
        parser.error("name either --model_base_path or --url")
    return arguments


@contextlib.contextmanager
def embedded_server(model_name, base_path, *flags):
    """A server in a process of its own; gives its URL and process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "export.server", f"--model_name={model_name}", f"--rest_api_port={port}"]
    process = subprocess.Popen(
        [*command, f"--model_base_path={Path(base_path).resolve()}", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    try:
        if not process.stdout.readline().startswith("serving"):
            raise SystemExit(process.wait())
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait()


def connect(url):
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=120)


def image_shape(url, model_name):
    """[H, W, C] of the model's input."""
    connection = connect(url)
    connection.request("GET", f"/v1/models/{model_name}/metadata")
    metadata = json.loads(connection.getresponse().read())
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    dims = signatures["serving_default"]["inputs"]["image"]["tensor_shape"]["dim"]
    return [int(dim["size"]) for dim in dims[1:]]


def request_bodies(shape):
    """One request of each kind, of one image: smooth like a radiograph, with some noise."""
    height, width = shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    noise = np.random.default_rng(0).normal(0, 0.02, (height, width))
    image = np.clip(np.cos(2 * x) * np.cos(3 * y) + noise, -1, 1).astype(np.float32)
    file = io.BytesIO()
    Image.fromarray(np.uint8(np.round(127.5 * (image + 1)))).save(file, "PNG")
    encoded = base64.b64encode(file.getvalue()).decode()
    return {
        "float": json.dumps({"instances": [[[[float(f"{v:.6g}")] for v in row] for row in image]]}).encode(),
        "bytes": json.dumps({"signature_name": "serving_bytes", "instances": [{"b64": encoded}]}).encode(),
    }


def load(url, model_name, body, num_requests, num_clients):
    """Latencies in seconds of the answered requests, the number that failed, and the time of all."""
    path = f"/v1/models/{model_name}:predict"
    remaining, lock = iter(range(num_requests)), threading.Lock()
    latencies, failures = [], []

    def client():
        connection = connect(url)
        while True:
            with lock:
                if next(remaining, None) is None:
                    return
            started = time.perf_counter()
            try:
                connection.request("POST", path, body)
                response = connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException) as error:
                failures.append(repr(error))
                connection.close()
                continue
            if response.status == 200 and content.startswith(b"{"):
                latencies.append(time.perf_counter() - started)
            else:
                failures.append(f"{response.status} {content[:200]!r}")

    started = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(num_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies, failures, time.perf_counter() - started


def measure(label, url, arguments):
    shape = image_shape(url, arguments.model_name)
    for kind, body in request_bodies(shape).items():
        load(url, arguments.model_name, body, 2 * arguments.clients, arguments.clients)  # warm
        latencies, failures, seconds = load(url, arguments.model_name, body, arguments.requests, arguments.clients)
        quantiles = [f"{1000 * np.quantile(latencies, q):.1f}" if latencies else "-" for q in (0.5, 0.95, 0.99)]
        name = f"{shape[0]} px, {kind}, {label}"
        print(ROW.format(name, arguments.requests, len(failures), f"{len(latencies) / seconds:.1f}", *quantiles))
        for failure in sorted(set(failures))[:3]:
            print(f"  failed: {failure}", file=sys.stderr)
        sys.stdout.flush()


def main():
    arguments = parse_arguments()
    print(f"{arguments.clients} clients, one image a request")
    print(ROW.format("", "requests", "failed", "images/s", "p50 ms", "p95 ms", "p99 ms"))
    if arguments.url:
        measure("as it is", arguments.url, arguments)
        return
    for label, flags in (("alone", []), ("batched", ["--enable_batching"])):
        with embedded_server(arguments.model_name, arguments.model_base_path, *flags) as (url, _):
            measure(label, url, arguments)


if __name__ == "__main__":
    main()
