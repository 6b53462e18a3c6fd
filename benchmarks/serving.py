"""Load, change of versions and abuse: python benchmarks/serving.py [--parts load,swap,abuse]

    load    2000 requests of one image from 8 clients, for every kind: 64, 128 and 256 pixels, floats as JSON and PNG
            bytes, the server without and with batching. Lost ones, images a second, 50th, 95th and 99th percentile.
    swap    the same load while versions are published and taken away; every answer must be that of a version.
    abuse   5000 malformed requests; each must be refused with 4xx in time, the server must live, answer as before, and
            have given its memory back.

The embedded server runs in a process of its own, on exports with random weights that are made here, as wide as the
quickstart's (`--filters=64` is the paper's width: hours on two cores), or on your own: `--model_base_path`. `--url`
asks a server that runs already instead, TensorFlow Serving for one (load only). A client is a thread with a connection
of its own that sends its next request when it has the answer to the last. The exit status is 1 where a promise is
broken.
"""

import argparse
import base64
import collections
import contextlib
import http.client
import io
import itertools
import json
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("load", "swap", "abuse")
ALLOWED_SECONDS = 30  # the server's own limit of a request
ALLOWED_GROWTH = 1.1  # of memory over the abuse: allocators keep some of what they had
_HEAD = ("", "requests", "lost", "images/s", "p50 ms", "p95 ms", "p99 ms")


def parse_arguments():
    def words(text):
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=words, default=list(PARTS))
    parser.add_argument("--sizes", type=words, default=["64", "128", "256"], help="pixels a side, of load")
    parser.add_argument("--filters", type=int, default=16, help="of the generator's and the critic's first layer")
    parser.add_argument("--requests", type=int, default=2000, help="of each kind of load")
    parser.add_argument("--malformed", type=int, default=5000, help="requests of abuse")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="of abuse")
    parser.add_argument("--model_base_path", help="instead of exports made here: a folder of version folders")
    parser.add_argument("--url", help="instead of the embedded server: one that runs; load only")
    parser.add_argument("--model_name", default="descargan")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"--parts={','.join(unknown)}: known are {', '.join(PARTS)}")
    if arguments.url and arguments.parts != ["load"]:
        parser.error("--url goes with --parts=load: the other parts start and watch the server themselves")
    return arguments


# ---- servers and what they serve


def make_export(folder, size, filters, seed=0):
    """A version with random weights, which is as fast as any other."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from descargan_tf import surroundings

    surroundings.settle()
    with surroundings.loading():
        from exports import UINT8, lively_method

        from descargan_tf.export.saved_model import Predictor, write_saved_model

    method = lively_method(seed, image_size=size, generator_filters=filters, discriminator_filters=filters)
    write_saved_model(folder, Predictor(method, size), UINT8)


@contextlib.contextmanager
def embedded_server(model_name, base_path, *flags):
    """A server in a process of its own; gives its URL and process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "export.embedded", f"--model_name={model_name}", f"--rest_api_port={port}"]
    process = subprocess.Popen(
        [*command, f"--model_base_path={Path(base_path).resolve()}", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    try:
        if not process.stdout.readline().startswith("serving"):
            raise SystemExit(f"the server on {base_path} does not start; status {process.wait()}")
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait()


def connect(url):
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=4 * ALLOWED_SECONDS)


def ask(url, path, body=None, connection=None):
    """(status, content) of one request."""
    opened = connection or connect(url)
    try:
        opened.request("GET" if body is None else "POST", path, body)
        response = opened.getresponse()
        return response.status, response.read()
    finally:
        if connection is None:
            opened.close()


def predict_path(model_name):
    return f"/v1/models/{model_name}:predict"


def image_shape(url, model_name):
    """[H, W, C] of the model's input."""
    metadata = json.loads(ask(url, f"/v1/models/{model_name}/metadata")[1])
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


# ---- load


def send(url, path, body, num_requests, num_clients, until=None):
    """Latencies in seconds of what was answered, answers by content, failures, and the time of all.

    It ends after `num_requests`, or when the event `until` is set.
    """
    numbers = itertools.count() if until else iter(range(num_requests))
    lock, latencies, failures, answers = threading.Lock(), [], [], collections.Counter()

    def client():
        connection = connect(url)
        while not (until and until.is_set()):
            with lock:
                if next(numbers, None) is None:
                    break
            started = time.perf_counter()
            try:
                status, content = ask(url, path, body, connection)
            except (OSError, http.client.HTTPException) as error:
                failures.append(repr(error))
                connection.close()
                continue
            seconds = time.perf_counter() - started
            if status == 200 and content.startswith(b"{"):
                with lock:
                    latencies.append(seconds)
                    answers[content] += 1
            else:
                failures.append(f"{status} {content[:200]!r}")
        connection.close()

    started = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(num_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies, answers, failures, time.perf_counter() - started


def row(*cells):
    print(f"| {' | '.join(str(cell) for cell in cells)} |", flush=True)


def measure_load(label, url, arguments):
    """A line of the table for each kind of request; whether all were answered."""
    shape, path = image_shape(url, arguments.model_name), predict_path(arguments.model_name)
    is_good = True
    for kind, body in request_bodies(shape).items():
        send(url, path, body, 2 * arguments.clients, arguments.clients)  # warm
        latencies, _, failures, seconds = send(url, path, body, arguments.requests, arguments.clients)
        lost = arguments.requests - len(latencies)
        quantiles = [f"{1000 * np.quantile(latencies, q):.1f}" if latencies else "-" for q in (0.5, 0.95, 0.99)]
        row(f"{shape[0]} px, {kind}, {label}", arguments.requests, lost, f"{len(latencies) / seconds:.1f}", *quantiles)
        for failure in sorted(set(failures))[:3]:
            print(f"  failed: {failure}", file=sys.stderr)
        is_good &= lost == 0
    return is_good


def load(arguments, bases):
    print(f"\nload: {arguments.clients} clients, one image a request\n")
    row(*_HEAD)
    row("---", *["---:"] * (len(_HEAD) - 1))
    if arguments.url:
        return measure_load("as it is", arguments.url, arguments)
    is_good = True
    for base in bases:
        for label, flags in (("alone", []), ("batched", ["--enable_batching"])):
            with embedded_server(arguments.model_name, base, *flags) as (url, _):
                is_good &= measure_load(label, url, arguments)
    return is_good


# ---- change of versions


def published(source, base, number):
    """As an export does it: beside, then renamed."""
    partial = base / f".{number}.partial"
    shutil.copytree(source, partial)
    partial.rename(base / str(number))


def loaded_version(url, model_name):
    """The highest version that is available."""
    statuses = json.loads(ask(url, f"/v1/models/{model_name}")[1])["model_version_status"]
    return max(int(s["version"]) for s in statuses if s["state"] == "AVAILABLE")


def swap(arguments, folder, sources):
    """Two exports by turns as versions 1 to 6, and back to 5 by taking 6 away."""
    is_good = True
    for label, flags in (("alone", []), ("batched", ["--enable_batching"])):
        base = folder / f"swap_{label}"
        base.mkdir()
        published(sources[0], base, 1)
        with embedded_server(arguments.model_name, base, *flags, "--file_system_poll_wait_seconds=1") as (url, _):
            is_good &= _swap(arguments, label, url, base, sources)
    return is_good


def _swap(arguments, label, url, base, sources):
    body = request_bodies(image_shape(url, arguments.model_name))["bytes"]
    path, until, known, result = predict_path(arguments.model_name), threading.Event(), [], []
    sender = threading.Thread(target=lambda: result.extend(send(url, path, body, 0, arguments.clients, until)))
    known.append(score(ask(url, path, body)[1]))
    sender.start()
    changes = [2, 3, 4, 5, 6, 5]
    try:
        for i, number in enumerate(changes):
            time.sleep(1)
            if number == i + 2:
                published(sources[number % 2 == 0], base, number)
            else:
                shutil.rmtree(base / "6")
            _wait_for(url, arguments.model_name, number)
            known.append(score(ask(url, path, body)[1]))
        time.sleep(1)
    finally:
        until.set()
        sender.join()
    latencies, answers, failures, seconds = result
    first, second = known[:2]
    # In a batch an answer may be rounded otherwise than alone, so answers are compared as numbers.
    counts = [sum(n for c, n in answers.items() if abs(score(c) - of) < 1e-4) for of in (first, second)]
    strange = len(latencies) - sum(counts)
    in_order = all(abs(found - (first, second)[i % 2]) < 1e-4 for i, found in enumerate(known))
    print(
        f"swap, {label}: {len(latencies)} requests answered in {seconds:.0f} s over {len(changes)} changes of version, "
        f"{len(failures)} failed; {counts[0]} answers of the one export, {counts[1]} of the other, {strange} of "
        f"neither; after each change that of the newest: {in_order}; slowest {1000 * max(latencies):.0f} ms",
        flush=True,
    )
    for failure in sorted(set(failures))[:3]:
        print(f"  failed: {failure}", file=sys.stderr)
    return not failures and not strange and in_order and min(counts) > 0 and abs(first - second) > 1e-3


def score(content):
    return json.loads(content)["predictions"][0]["anomaly_score"]


def _wait_for(url, model_name, number):
    deadline = time.monotonic() + 120
    while loaded_version(url, model_name) != number:
        if time.monotonic() > deadline:
            raise SystemExit(f"version {number} is not taken up")
        time.sleep(0.2)


# ---- abuse


def resident_mib(pid):
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def png_bomb(side):
    """A valid PNG of side x side zeros, a thousand times smaller than its pixels."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(side + 1)) for _ in range(side)) + rows.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def as_request(*contents):
    instances = [{"b64": base64.b64encode(content).decode()} for content in contents]
    return json.dumps({"signature_name": "serving_bytes", "instances": instances}).encode()


def gif():
    file = io.BytesIO()
    Image.new("P", (8, 8)).save(file, "GIF", save_all=True, append_images=[Image.new("P", (8, 8), 1)] * 3)
    return file.getvalue()


# What may come out as a valid request: a changed digit, an inserted space; NaN and what is beyond a float are taken as
# TensorFlow Serving takes them.
MAY_BE_VALID = ("flipped byte of JSON", "token out of place", "number that is none", "flipped byte of PNG")


def mutations(bodies, shape, rng):
    """Endless (name, body)."""
    encoded = json.loads(bodies["bytes"])["instances"][0]["b64"]
    png = base64.b64decode(encoded)
    bomb, animated = png_bomb(20_000), gif()
    size, floats = shape[0], bodies["float"]
    line = [[0.5]] * shape[1]
    wrong_values = [None, True, "x", {}, [], {"b64": 1}, "\ud800", [1, 2], {"b64": "aGk="}]
    numbers = [1e308, 10**400, float("nan"), float("-inf"), -(2**70), 7.5]

    def with_value(value):
        return json.dumps({"instances": [[[*line[:-1], [value]]] * size]}).encode()

    def random_json(depth=0):
        kind = rng.randrange(8 if depth < 6 else 6)
        if kind < 6:
            return rng.choice([None, True, rng.random(), rng.randrange(-9, 9), "instances", "b64"])
        if kind == 6:
            return [random_json(depth + 1) for _ in range(rng.randrange(4))]
        keys = ["instances", "inputs", "b64", "image_bytes", "image", "signature_name", "zz"]
        return {rng.choice(keys): random_json(depth + 1) for _ in range(rng.randrange(4))}

    makers = {
        "cut JSON": lambda: floats[: rng.randrange(len(floats))],
        "flipped byte of JSON": lambda: _flip(bodies["bytes"], rng),
        "token out of place": lambda: _insert(floats, rng.choice(b'[]{},:"-eNtf0'), rng),
        "random JSON": lambda: json.dumps(random_json()).encode(),
        "wrong shape": lambda: json.dumps({"instances": [[line] * rng.choice([0, 1, size - 1, size + 1])]}).encode(),
        "wrong rank": lambda: b'{"instances":' + b"[" * (n := rng.randrange(1, 300)) + b"1" + b"]" * n + b"}",
        "wrong value": lambda: with_value(rng.choice(wrong_values)),
        "number that is none": lambda: with_value(rng.choice(numbers)),
        "wrong type": lambda: json.dumps({"instances": rng.choice(wrong_values)}).encode(),
        "wrong name": lambda: json.dumps({"signature_name": rng.choice(wrong_values), "inputs": 1}).encode(),
        "huge number": lambda: b'{"instances":[' + b"9" * rng.randrange(400, 6000) + b"]}",
        "deep nesting": lambda: b'{"a":' * rng.randrange(500, 100_000),
        "cut PNG": lambda: as_request(png[: rng.randrange(len(png))]),
        "flipped byte of PNG": lambda: as_request(_flip(png, rng)),
        "random bytes": lambda: as_request(rng.randbytes(rng.randrange(2000))),
        "good and bad PNG": lambda: as_request(png, png[: len(png) // 2]),
        "decode bomb": lambda: as_request(bomb),
        "animation": lambda: as_request(animated),
        "many rows": lambda: as_request(*[png[:50]] * rng.randrange(65, 1000)),
        "not base64": lambda: bodies["bytes"].replace(encoded[:4].encode(), b"!!!!"),
    }
    while True:
        for name, make in makers.items():
            yield name, make()


def _flip(content, rng):
    changed = bytearray(content)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _insert(content, token, rng):
    place = rng.randrange(len(content))
    return content[:place] + bytes([token]) + content[place:]


def abuse(arguments, base):
    is_good = True
    for label, flags in (("alone", []), ("batched", ["--enable_batching"])):
        with embedded_server(arguments.model_name, base, *flags) as (url, pid):
            is_good &= _abuse(arguments, label, url, pid)
    return is_good


def _abuse(arguments, label, url, pid):
    path = predict_path(arguments.model_name)
    shape = image_shape(url, arguments.model_name)
    bodies = request_bodies(shape)
    good = {kind: ask(url, path, body)[1] for kind, body in bodies.items()}
    send(url, path, bodies["float"], 50 * arguments.clients, arguments.clients)  # the memory of honest work
    source = mutations(bodies, shape, random.Random(arguments.seed))
    outcomes, bad = collections.defaultdict(collections.Counter), []
    memory = [resident_mib(pid)]
    started, slowest = time.monotonic(), 0.0
    for number in range(arguments.malformed):
        name, body = next(source)
        before = time.monotonic()
        try:
            status, content = ask(url, path, body)
        except (OSError, http.client.HTTPException) as error:
            status, content = "no answer", repr(error).encode()
        slowest = max(slowest, time.monotonic() - before)
        outcomes[name][status] += 1
        refused = isinstance(status, int) and 400 <= status < 500
        if not (refused or (status == 200 and name in MAY_BE_VALID)):
            bad.append(f"{name}: {status} {content[:200]!r} to {body[:200]!r}")
        if number == arguments.malformed // 5:
            memory.append(resident_mib(pid))
    seconds = time.monotonic() - started
    same = all(ask(url, path, bodies[kind])[1] == answer for kind, answer in good.items())
    memory.append(resident_mib(pid))
    is_back = memory[-1] <= ALLOWED_GROWTH * memory[0]
    print(f"\nabuse, {label}\n")
    row("malformed requests", "answers")
    row("---", "---")
    for name, counts in outcomes.items():
        row(name, ", ".join(f"{count} x {status}" for status, count in counts.most_common()))
    print(
        f"\n{arguments.malformed} requests in {seconds:.0f} s, the slowest {slowest:.2f} s (allowed {ALLOWED_SECONDS});"
        f" neither refused nor valid after all: {len(bad)}\nmemory: {memory[0]:.0f} MiB after honest work, "
        f"{memory[1]:.0f} MiB after a fifth, {memory[-1]:.0f} MiB at the end (allowed {ALLOWED_GROWTH:g} times the "
        f"first)\nthe server lives and answers as before: {same}",
        flush=True,
    )
    for line in bad[:5]:
        print(f"  {line}", file=sys.stderr)
    return same and not bad and slowest < ALLOWED_SECONDS and is_back


def main():
    arguments = parse_arguments()
    broken = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        bases = [Path(arguments.model_base_path)] if arguments.model_base_path else []
        if "load" in arguments.parts and not (bases or arguments.url):
            for size in map(int, arguments.sizes):
                make_export(folder / str(size) / "1", size, arguments.filters)
                bases.append(folder / str(size))
        if "load" in arguments.parts and not load(arguments, bases):
            broken.append("load")
        if "swap" in arguments.parts:
            sources = [folder / "first", folder / "second"]
            for seed, source in enumerate(sources):
                make_export(source, 64, arguments.filters, seed)
            if not swap(arguments, folder, sources):
                broken.append("swap")
        if "abuse" in arguments.parts:
            base = Path(arguments.model_base_path or folder / "abused")
            if not arguments.model_base_path:
                make_export(base / "1", 64, arguments.filters)
            if not abuse(arguments, base):
                broken.append("abuse")
    if broken:
        print(f"promises broken in: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
