"""HTTP as proxies, curl and other people's libraries send it: what the embedded server makes of each form."""

import gzip
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import time

import pytest
from embedded_server import PLAIN, serving
from serving_http import Reply

from descargan_tf.export.embedded.rest_api import unpack
from descargan_tf.export.embedded.status import ServingError

BODY = b'{"instances": [1.0, 3.0]}'
ANSWER = {"predictions": [2.5, 3.5]}


@pytest.fixture(scope="module")
def server(serving_config):
    with serving(serving_config, max_request_bytes=100_000) as running:
        yield running


class Wire:
    """A connection that sends bytes as they are, and reads answers one by one."""

    def __init__(self, url):
        host, port = url.removeprefix("http://").split(":")
        self._socket = socket.create_connection((host, int(port)), timeout=20)
        self._file = self._socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()
        self._socket.close()

    def send(self, content):
        self._socket.sendall(content)

    def head(self):
        status = int(self._file.readline().split()[1])
        headers = {}
        while (line := self._file.readline().strip()) != b"":
            name, value = line.decode().split(": ", 1)
            headers[name.lower()] = value
        return status, headers

    def answer(self, has_body=True):
        status, headers = self.head()
        content = self._file.read(int(headers["content-length"])) if has_body else b""
        return Reply(status, headers, content)

    def is_at_end(self):
        return self._file.read(1) == b""


@pytest.fixture
def wire(server):
    with Wire(server.url) as connected:
        yield connected


def post(target, body=BODY, *headers):
    lines = [f"POST {target} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def get(target, *headers, method="GET"):
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: x", *headers]).encode() + b"\r\n\r\n"


def predicts(wire):
    """Whether the connection is still fit for a prediction."""
    wire.send(post(PLAIN))
    reply = wire.answer()
    return (reply.status, reply.json) == (200, ANSWER)


# ---- targets


@pytest.mark.parametrize("before", ["http://model.example:8501", "HTTPS://model.example", "http://user:pw@[::1]:1"])
def test_a_target_in_absolute_form_is_the_path_in_it(wire, before):
    wire.send(get(before + "/v1/models/half_plus_two"))
    assert "model_version_status" in wire.answer().json
    wire.send(post(before + PLAIN))
    assert wire.answer().json == ANSWER
    wire.send(get(before + "/monitoring/prometheus/metrics"))
    assert wire.answer().status == 200
    for root in ("", "/"):
        wire.send(get(before + root))
        reply = wire.answer()
        assert (reply.status, reply.headers["location"]) == (307, "?model=m")
    wire.send(get(before + "?model=m"))
    assert b"<title>DeScarGAN viewer</title>" in wire.answer().content
    wire.send(post(before + PLAIN + "?x=1"))
    assert wire.answer().json == {"error": f"Malformed request: POST {PLAIN}?x=1"}


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "//v1/models/m", 404),  # as TensorFlow Serving's server
        ("GET", "/v1//models/m", 400),
        ("GET", "/v1/models//m", 400),
        ("GET", "/monitoring/prometheus/metrics/", 404),  # and not sent on to this host
        ("OPTIONS", "*", 404),
        ("POST", "/", 404),
        ("GET", "/v1/models/a%0Ab", 404),
        ("GET", "/v1/models/%", 404),
        ("GET", "/v1/models%2Fm", 400),
        ("GET", "/v1/models/%FF", 404),
        ("GET", "/v1/models/../models/m", 400),
        ("GET", "http:/v1/models/m", 404),
    ],
)
def test_targets_that_name_nothing(wire, method, target, status):
    wire.send(get(target, method=method))
    reply = wire.answer()
    assert reply.status == status
    assert reply.headers["content-type"].partition(";")[0] == (
        "application/json" if target.startswith("/v1/") or status == 400 else "text/html"
    )
    assert "location" not in reply.headers
    assert predicts(wire)


def test_a_model_of_any_name_is_looked_for_by_it(wire):
    wire.send(get("/v1/models/a%0Ab%2F%C3%BC"))
    assert wire.answer().json == {"error": "Could not find any versions of model a\nb/ü"}
    wire.send(get("/v1/models/h%61lf_plus_tw%6f"))
    assert wire.answer().status == 200


# ---- behind a proxy


@pytest.mark.parametrize(
    ("target", "location"),
    [("/", "?model=m"), ("/?", "?model=m"), ("/?token=a%20b", "?token=a%20b&model=m"), ("/?models", "?models&model=m")],
)
def test_the_redirect_keeps_what_a_proxy_has_put_in_front(wire, target, location):
    """A relative one, so the browser fills in host and path as it knows them."""
    for headers in ((), ("X-Forwarded-Prefix: /descargan", "X-Forwarded-Host: elsewhere", "X-Forwarded-Proto: https")):
        wire.send(get(target, *headers))
        assert wire.answer().headers["location"] == location


# ---- methods


def test_head_is_answered_without_a_body(wire):
    for target, status in (("/", 307), ("/?model=m", 200), ("/monitoring/prometheus/metrics", 200), ("/nothing", 404)):
        wire.send(get(target, method="HEAD"))
        assert wire.answer(has_body=False).status == status
        assert predicts(wire)
    wire.send(get("/v1/models/m", method="HEAD"))  # TensorFlow Serving knows GET, POST and OPTIONS
    assert wire.answer(has_body=False).status == 400
    assert predicts(wire)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (("Origin: https://page.example", "Access-Control-Request-Method: POST"), 200),
        ((), 400),
        (("Origin: https://page.example", "Content-Length: 2"), 200),
    ],
)
def test_options(wire, headers, status):
    wire.send(get(PLAIN, *headers, method="OPTIONS") + (b"{}" if "Content-Length: 2" in headers else b""))
    assert wire.answer()[::2] == (status, b"")
    assert predicts(wire)


def test_http_1_0(server):
    with Wire(server.url) as wire:
        wire.send(f"POST {PLAIN} HTTP/1.0\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY)
        assert wire.answer().json == ANSWER
        assert wire.is_at_end()


# ---- offers to upgrade

H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")


@pytest.mark.parametrize(
    "headers",
    [H2C, ("Connection: upgrade", "Upgrade: websocket"), ("Connection: keep-alive, Upgrade", "Upgrade: TLS/1.0")],
)
def test_an_offer_to_upgrade_is_passed_over(wire, headers):
    whole = post(PLAIN, BODY, *headers)
    wire.send(whole)
    assert wire.answer().json == ANSWER
    head, body = whole.split(b"\r\n\r\n")  # in two parts, as curl sends what is large
    wire.send(head + b"\r\n\r\n")
    time.sleep(0.1)
    wire.send(body)
    assert wire.answer().json == ANSWER
    wire.send(get("/v1/models/m", *headers))
    assert wire.answer().status == 200
    assert predicts(wire)


def test_whatever_parser_is_installed():
    """httptools ends a message at such an offer; here it lies beside h11, and is not taken."""
    needed("httptools", importlib.util.find_spec("httptools"))
    import httptools

    class Receiver:
        body = b""

        def on_body(self, body):
            self.body += body

    receiver = Receiver()
    with pytest.raises(httptools.HttpParserUpgrade):
        httptools.HttpRequestParser(receiver).feed_data(post(PLAIN, BODY, *H2C))
    assert receiver.body == b""


def test_curls_own_offer(server):
    needed("curl", shutil.which("curl"))
    for more in ((), ("-H", "Expect: 100-continue"), ("-H", "Transfer-Encoding: chunked")):
        command = ["curl", "-sS", "--noproxy", "*", "--http2", "-d", BODY.decode(), *more, server.url + PLAIN]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout) == ANSWER


def test_http_2_without_an_offer_is_refused(wire):
    wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert wire.head()[0] >= 400


def needed(name, found):
    if not found:
        (pytest.fail if os.environ.get("REQUIRE_PROGRAMS") else pytest.skip)(f"not installed: {name}")


# ---- bodies


def test_a_gzip_body_of_several_members(wire):
    for body in (
        gzip.compress(BODY[:10]) + gzip.compress(BODY[10:]),
        b"".join(gzip.compress(BODY[i : i + 1]) for i in range(len(BODY))),
        gzip.compress(b"") + gzip.compress(BODY) + gzip.compress(b""),
    ):
        for coding in ("gzip", "GZIP", "x-gzip"):
            wire.send(post(PLAIN, body, f"Content-Encoding: {coding}"))
            assert wire.answer().json == ANSWER


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (gzip.compress(BODY)[:-1], "The gzip body is cut off"),
        (gzip.compress(BODY) + gzip.compress(BODY)[:-4], "The gzip body is cut off"),
        (gzip.compress(BODY) + b"\x1f", "The gzip body is cut off"),
        (gzip.compress(BODY) + b"and so on", "What follows member 1 of the gzip body is not gzip: "),
        (gzip.compress(BODY) + b"\0" * 20, "What follows member 1 of the gzip body is not gzip: "),
        (BODY, "The body is announced as gzip and is not: "),
        (b"", "The gzip body is cut off"),
        (gzip.compress(b"") * 5001, "The body has more than 100000 bytes"),
        (gzip.compress(bytes(60_000)) * 2, "The body unpacks to more than 100000 bytes"),
    ],
    ids=range(9),  # the bytes hold the time
)
def test_a_gzip_body_that_is_none(wire, body, words):
    wire.send(post(PLAIN, body, "Content-Encoding: gzip"))
    reply = wire.answer()
    assert reply.status == (413 if "has more" in words else 400)
    assert reply.json["error"].startswith(words)
    assert predicts(wire)


def test_members_are_joined_and_counted_over_all_of_the_body():
    parts = [os.urandom(1000 * i) for i in range(1, 60)]
    assert unpack(b"".join(map(gzip.compress, parts)), 2_000_000) == b"".join(parts)
    whole = b"".join(parts)
    assert unpack(b"".join(map(gzip.compress, parts)), len(whole)) == whole
    with pytest.raises(ServingError, match=f"unpacks to more than {len(whole) - 1} bytes"):
        unpack(b"".join(map(gzip.compress, parts)), len(whole) - 1)
    started = time.monotonic()
    with pytest.raises(ServingError, match="more than 10000 members; pack it as one"):
        unpack(gzip.compress(b"") * 200_000, 10)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("coding", ["br", "deflate", "zstd", "gzip, gzip"])
def test_codings_that_are_not_read_are_named(wire, coding):
    wire.send(post(PLAIN, BODY, f"Content-Encoding: {coding}"))
    reply = wire.answer()
    assert (reply.status, reply.json) == (
        415,
        {"error": f"Content-Encoding {coding} is not read here: send the body plain, or as gzip"},
    )
    wire.send(post(PLAIN, BODY, "Content-Encoding: identity"))
    assert wire.answer().json == ANSWER


def test_chunked_bodies(wire):
    head = f"POST {PLAIN} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    wire.send(head + b"5;name=value\r\n" + BODY[:5] + b"\r\n" + f"{len(BODY) - 5:x}\r\n".encode() + BODY[5:])
    wire.send(b"\r\n0\r\nTrailer: x\r\n\r\n")
    assert wire.answer().json == ANSWER
    for byte in head:
        wire.send(bytes([byte]))
    wire.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY))
    assert wire.answer().json == ANSWER
    assert predicts(wire)


def test_leave_to_send_is_given(wire):
    head, body = post(PLAIN, BODY, "Expect: 100-continue").split(b"\r\n\r\n")
    wire.send(head + b"\r\n\r\n")
    assert wire.head()[0] == 100
    wire.send(body)
    assert wire.answer().json == ANSWER
    assert predicts(wire)


@pytest.mark.parametrize(
    ("target", "length", "status"), [(PLAIN, 100_001, 413), ("/v1/models/m", 10, 400), ("/nothing", 10, 404)]
)
def test_leave_to_send_is_not_given_in_vain(server, target, length, status):
    with Wire(server.url) as wire:
        wire.send(f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n".encode())
        wire.send(b"Expect: 100-continue\r\n\r\n")
        assert wire.answer().status == status
        wire.send(b"x" * length)  # as some do all the same
        assert predicts(wire)


@pytest.mark.parametrize("length", [10, 1_000_000])
def test_a_body_that_nobody_reads_does_not_become_the_next_request(wire, length):
    body = b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\n\r\n".ljust(length)
    for method, target, status in (
        ("GET", "/v1/models/m", 200),
        ("GET", "/?model=m", 200),
        ("POST", "/v1/models/m", 400),
        ("PUT", PLAIN, 400),
        ("POST", "/nothing", 404),
        ("POST", PLAIN, 400 if length == 10 else 413),
    ):
        wire.send(get(target, f"Content-Length: {len(body)}", method=method) + body)
        assert wire.answer().status == status
        assert predicts(wire)


def test_requests_that_come_together_are_answered_in_turn(wire):
    wire.send(post(PLAIN) + get("/v1/models/m") + post("/v1/models/none:predict") + post(PLAIN))
    assert [wire.answer().status for _ in range(4)] == [200, 200, 404, 200]
