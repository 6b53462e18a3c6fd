"""What the embedded server refuses beyond the contract, what it tells pages from elsewhere, and its viewer."""

import gzip
import socket
import time

from embedded_server import PLAIN, serving

from descargan_tf.export.embedded import http_app


def test_a_request_beyond_its_time_is_given_up(serving_config):
    with serving(serving_config, rest_api_timeout_in_ms=1500) as server:
        started = time.monotonic()
        reply = server.post(PLAIN, {"signature_name": "slow", "instances": [2**31 - 1]})
        assert reply.status == 504
        assert "took longer than 1500 ms" in reply.json["error"] or "Timed out" in reply.json["error"]
        assert time.monotonic() - started < 10
        # The session stopped the run, too: the server can be left, and answers meanwhile.
        assert server.post(PLAIN, {"instances": [1.0]}).json == {"predictions": [2.5]}


def test_a_request_that_does_not_arrive_is_given_up(serving_config):
    with serving(serving_config, rest_api_timeout_in_ms=300) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as slow:
            slow.sendall(f"POST {PLAIN} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{{".encode())
            assert slow.recv(100).startswith(b"HTTP/1.1 408 ")


def test_large_bodies_are_refused(serving_config):
    with serving(serving_config, max_request_bytes=1000) as server:
        reply = server.post(PLAIN, b'{"instances": [1.0]}' + b" " * 2_000_000)
        assert reply.status == 413
        assert "more than 1000 bytes (--max_request_bytes)" in reply.json["error"]
        chunked = server.ask("POST", PLAIN, iter([b"x" * 600] * 2))
        assert chunked.status == 413
        bomb = gzip.compress(b" " * 100_000)
        reply = server.ask("POST", PLAIN, bomb, {"Content-Encoding": "gzip"})
        assert reply.status == 400
        assert "unpacks to more than 1000 bytes" in reply.json["error"]


def test_requests_of_many_rows_are_refused(serving_config):
    with serving(serving_config, max_instances=3) as server:
        for body in ({"instances": [1.0] * 4}, {"inputs": [1.0] * 4}, {"inputs": {"x": [1.0] * 4}}):
            reply = server.post(PLAIN, body)
            assert reply.status == 400
            assert "has 4 rows; this server takes 3 at a time" in reply.json["error"]
        assert server.post(PLAIN, {"instances": [1.0] * 3}).status == 200


def test_too_many_requests_are_asked_to_come_back(serving_config):
    with serving(serving_config, max_waiting_requests=0) as server:
        reply = server.post(PLAIN, {"instances": [1.0]})
        assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
        assert "try again" in reply.json["error"]


def test_a_defect_is_an_internal_error_and_no_end(serving_config, monkeypatch, caplog):
    with serving(serving_config) as server:
        monkeypatch.setattr("descargan_tf.export.embedded.rest_contract.read_tensors", lambda *_: 1 / 0)
        reply = server.post(PLAIN, {"instances": [1.0]})
        assert (reply.status, reply.json) == (500, {"error": "Internal error; see the server's log"})
        assert "ZeroDivisionError" in caplog.text
        monkeypatch.undo()
        assert server.post(PLAIN, {"instances": [1.0]}).status == 200


def test_metrics_do_not_grow_with_made_up_names(serving_config):
    with serving(serving_config) as server:
        for number in range(5):
            assert server.post(f"/v1/models/made_up_{number}:predict", "{}").status == 404
        page = server.ask("GET", "/monitoring/prometheus/metrics").content.decode()
    assert ':tensorflow:serving:request_count{model_name="(unknown)",status="NOT_FOUND"} 5.0' in page
    assert "made_up" not in page


# ---- pages from elsewhere, and the viewer


def test_cors_headers_are_sent_where_asked_for(serving_config):
    with serving(serving_config, rest_api_enable_cors_support=True) as server:
        for reply in (
            server.post(PLAIN, {"instances": [1.0]}),
            server.post(PLAIN, "no JSON"),
            server.ask("GET", "/v1/nothing"),
            server.ask("OPTIONS", PLAIN, headers={"Origin": "http://elsewhere"}),
        ):
            assert reply.headers["Access-Control-Allow-Origin"] == "*"
            assert reply.headers["Access-Control-Allow-Methods"] == "POST, GET"
            assert reply.headers["Access-Control-Allow-Headers"] == "Content-Type"
    with serving(serving_config) as server:
        assert server.post(PLAIN, {"instances": [1.0]}).headers["Access-Control-Allow-Origin"] is None


def test_the_viewer_is_told_the_model(serving_config, monkeypatch, tmp_path):
    page = tmp_path / "viewer.html"
    monkeypatch.setattr(http_app, "VIEWER", page)
    with serving(serving_config) as server:
        reply = server.ask("GET", "/")
        assert (reply.status, reply.headers["Location"]) == (307, "?model=m")
        missing = server.ask("GET", "/?model=m")
        assert (missing.status, missing.content) == (
            404,
            b"The viewer page is not installed: viewer.html is missing.\n",
        )
        page.write_text("<title>viewer</title>")
        found = server.ask("GET", "/?model=m")
        assert (found.status, found.content) == (200, b"<title>viewer</title>")
        assert found.headers["Content-Type"].startswith("text/html")
