"""Malformed requests by the thousand: python benchmarks/serving_abuse.py --model_base_path=exports/descargan

Every request must be answered in time and with 4xx (or 200 where the mutation left it valid), the server must be alive
and answer as before, and its memory must be back where it was.
"""

import argparse
import base64
import collections
import http.client
import io
import json
import os
import random
import struct
import sys
import time
import zlib
from pathlib import Path

from PIL import Image
from serving_load import connect, embedded_server, image_shape, request_bodies

ALLOWED_SECONDS = 30


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


def mutations(bodies, shape, rng):
    """Endless (name, body)."""
    encoded = json.loads(bodies["bytes"])["instances"][0]["b64"]
    png = base64.b64decode(encoded)
    bomb, animated = png_bomb(20_000), gif()
    size, floats = shape[0], bodies["float"]
    row = [[0.5]] * shape[1]
    wrong_values = [None, True, "x", {}, [], {"b64": 1}, 1e308, 10**400, float("nan"), "\ud800", -(2**70)]
    makers = {
        "cut JSON": lambda: floats[: rng.randrange(len(floats))],
        "flipped byte of JSON": lambda: _flip(bodies["bytes"], rng),
        "token out of place": lambda: _insert(floats, rng.choice(b'[]{},:"-eNtf0'), rng),
        "wrong shape": lambda: json.dumps({"instances": [[row] * rng.choice([0, 1, size - 1, size + 1])]}).encode(),
        "wrong rank": lambda: b'{"instances":' + b"[" * (n := rng.randrange(1, 300)) + b"1" + b"]" * n + b"}",
        "wrong value": lambda: json.dumps({"instances": [[[*row[:-1], [rng.choice(wrong_values)]]] * size]}).encode(),
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


def ask(url, model_name, body):
    connection = connect(url)
    try:
        connection.request("POST", f"/v1/models/{model_name}:predict", body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_base_path", required=True)
    parser.add_argument("--model_name", default="descargan")
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batched", action="store_true")
    arguments = parser.parse_args()
    outcomes, bad = collections.defaultdict(collections.Counter), []
    flags = ["--enable_batching"] if arguments.batched else []
    with embedded_server(arguments.model_name, arguments.model_base_path, *flags) as (url, pid):
        shape = image_shape(url, arguments.model_name)
        bodies = request_bodies(shape)
        good = {kind: ask(url, arguments.model_name, body)[1] for kind, body in bodies.items()}
        source = mutations(bodies, shape, random.Random(arguments.seed))
        memory = [resident_mib(pid)]
        started, slowest = time.monotonic(), 0.0
        for number in range(arguments.requests):
            name, body = next(source)
            before = time.monotonic()
            try:
                status, content = ask(url, arguments.model_name, body)
            except (OSError, http.client.HTTPException) as error:
                status, content = "no answer", repr(error).encode()
            slowest = max(slowest, time.monotonic() - before)
            outcomes[name][status] += 1
            if not (status == 200 or (isinstance(status, int) and 400 <= status < 500)):
                bad.append(f"{name}: {status} {content[:200]!r}")
            if number in (arguments.requests // 5, arguments.requests - 1):
                memory.append(resident_mib(pid))
        seconds = time.monotonic() - started
        same = all(ask(url, arguments.model_name, bodies[kind])[1] == answer for kind, answer in good.items())
    for name, counts in outcomes.items():
        print(f"{name:24} {dict(counts)}")
    print(
        f"{arguments.requests} requests in {seconds:.0f} s, the slowest {slowest:.2f} s (allowed {ALLOWED_SECONDS} s)"
    )
    start, early, end = (f"{value:.0f}" for value in memory)
    print(f"memory: {start} MiB at the start, {early} MiB after a fifth, {end} MiB at the end")
    print(f"the good requests are answered as before: {same}; answers that are neither 200 nor 4xx: {len(bad)}")
    for line in bad[:5]:
        print(f"  {line}", file=sys.stderr)
    return 0 if same and not bad and slowest < ALLOWED_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
