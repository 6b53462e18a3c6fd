"""What the embedded server does beyond the contract: batches, versions that change under load, limits, drain, gRPC."""

import collections
import contextlib
import dataclasses
import gzip
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from serving_http import Server
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from descargan_tf.errors import UserError
from descargan_tf.export import warmup
from descargan_tf.export.embedded import grpc_service, http_app
from descargan_tf.export.embedded.batching import Batcher, BatchingParameters, read_parameters
from descargan_tf.export.embedded.http_app import HttpSettings
from descargan_tf.export.embedded.models import LoadSettings, ModelConfig, read_configs
from descargan_tf.export.embedded.server import EmbeddedServer, ServerSettings, main, settings_from_flags
from descargan_tf.export.embedded.status import Code, ServingError
from descargan_tf.export.embedded.text_protos import parse_file

ROOT = Path(__file__).resolve().parent.parent
PLAIN = "/v1/models/half_plus_two:predict"
IMAGE = np.full((16, 16, 1), 0.25, np.float32)
FAST = LoadSettings(poll_seconds=0.02)


@contextlib.contextmanager
def serving(config, **changes):
    """An embedded server; HTTP settings are given by their own names."""
    http = {name: changes.pop(name) for name in list(changes) if name in HttpSettings.__dataclass_fields__}
    configs = config if isinstance(config, list) else read_configs(config)
    settings = ServerSettings(configs, rest_api_port=None, http=HttpSettings(**http), **changes)
    with EmbeddedServer(settings) as embedded:
        yield Server("embedded", embedded.url)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def states(server, name="m"):
    return {
        entry["version"]: entry["state"]
        for entry in server.ask("GET", f"/v1/models/{name}").json["model_version_status"]
    }


def publish(base, version, source):
    """As an exporter does: written beside, then renamed."""
    shutil.copytree(source, base / f".{version}.partial")
    os.rename(base / f".{version}.partial", base / str(version))


@pytest.fixture
def one_model(serving_config, tmp_path):
    """A base path with version 1 of model m, and the folder of its two versions."""
    source = serving_config.parent / "m"
    base = tmp_path / "m"
    base.mkdir()
    publish(base, 1, source / "1")
    return base, source


# ---- batching


class Recorder:
    """A model that doubles, notes its batches, waits for `go` and refuses negative numbers."""

    def __init__(self):
        self.sizes, self.go, self.running = [], threading.Event(), threading.Event()
        self.go.set()

    def check(self, signature_name, inputs):
        pass

    def run(self, signature_name, inputs, deadline):
        self.running.set()
        assert self.go.wait(20)
        self.sizes.append(len(inputs["x"]))
        if (inputs["x"] < 0).any():
            raise ServingError(Code.INVALID_ARGUMENT, "negative")
        if signature_name == "lost":
            return {"y": inputs["x"][:1]}
        return {"y": 2 * inputs["x"]}


@contextlib.contextmanager
def batcher(**parameters):
    batches = Batcher(BatchingParameters(**{"num_batch_threads": 1, **parameters}))
    try:
        yield batches
    finally:
        batches.stop()


def ask_while_busy(batches, model, arrays, seconds=20, signature_name="serving_default"):
    """Answers, or errors, to requests that all come while the only thread is at work on another one."""
    model.go.clear()
    deadline = time.monotonic() + seconds
    with ThreadPoolExecutor(len(arrays) + 1) as pool:
        first = pool.submit(batches.run, model, "serving_default", {"x": np.zeros((1, 9))}, time.monotonic() + 20)
        assert model.running.wait(20)
        futures = []
        for array in arrays:
            futures.append(pool.submit(batches.run, model, signature_name, {"x": np.array(array, float)}, deadline))
            expected = sum(len(each) for each in arrays[: len(futures)])
            wait_until(lambda e=expected: sum(b.size for b in batches._queue) == e or futures[-1].done())
        model.sizes.clear()
        model.go.set()
        first.result()
        return [future.exception() or future.result()["y"].tolist() for future in futures]


def test_requests_that_come_together_run_together():
    model = Recorder()
    with batcher(max_batch_size=8) as batches:
        answers = ask_while_busy(batches, model, [[1], [2, 3], [4]])
    assert answers == [[2], [4, 6], [8]]
    assert model.sizes == [1, 4]  # the one that kept the thread busy, then all


def test_batches_end_at_their_largest_size_and_hold_one_shape():
    model = Recorder()
    with batcher(max_batch_size=3) as batches:
        answers = ask_while_busy(batches, model, [[1, 2], [3], [4], [[5, 6]]])
    assert answers == [[2, 4], [6], [8], [[10, 12]]]
    assert sorted(model.sizes) == [1, 1, 1, 3]


def test_one_bad_request_does_not_hit_the_others():
    model = Recorder()
    with batcher(max_batch_size=8) as batches:
        good, bad, other = ask_while_busy(batches, model, [[1], [-1], [2]])
    assert (good, other) == ([2], [4])
    assert (bad.code, bad.message) == (Code.INVALID_ARGUMENT, "negative")
    assert model.sizes == [1, 3, 1, 1, 1]


def test_batches_are_filled_up_to_an_allowed_size():
    model = Recorder()
    with batcher(max_batch_size=8, allowed_batch_sizes=(2, 4, 8)) as batches:
        assert ask_while_busy(batches, model, [[1], [2], [3]]) == [[2], [4], [6]]
    assert model.sizes == [2, 4]


def test_a_full_queue_is_unavailable():
    model = Recorder()
    with batcher(max_batch_size=1, max_enqueued_batches=2) as batches:
        answers = ask_while_busy(batches, model, [[1], [2], [3]])
    assert answers[:2] == [[2], [4]]
    assert answers[2].code == Code.UNAVAILABLE
    assert "queue to which this task was submitted is full" in answers[2].message


def test_a_request_that_waited_too_long_does_not_run():
    model = Recorder()
    with batcher(max_batch_size=8) as batches:
        (late,) = ask_while_busy(batches, model, [[1]], seconds=0.0)
    assert late.code == Code.DEADLINE_EXCEEDED


def test_large_requests_are_refused_or_split():
    model = Recorder()
    deadline = time.monotonic() + 20
    seven = {"x": np.arange(7.0)}
    with batcher(max_batch_size=3) as batches, pytest.raises(ServingError, match="Task size 7 is larger") as caught:
        batches.run(model, "serving_default", seven, deadline)
    assert caught.value.code == Code.INVALID_ARGUMENT
    with batcher(max_batch_size=3, enable_large_batch_splitting=True) as batches:
        assert batches.run(model, "serving_default", seven, deadline)["y"].tolist() == (2 * seven["x"]).tolist()
    assert model.sizes == [3, 3, 1]


def test_what_cannot_be_batched_is_refused():
    deadline = time.monotonic() + 20
    with batcher() as batches:
        for inputs in ({"x": np.array(1.0)}, {"x": np.zeros(2), "z": np.zeros(3)}):
            with pytest.raises(ServingError, match="same 0th dimension size"):
                batches.run(Recorder(), "serving_default", inputs, deadline)
        with pytest.raises(ServingError, match="Batched output tensor's 0th dimension does not equal"):
            batches.run(Recorder(), "lost", {"x": np.zeros(2)}, deadline)


def test_a_batch_waits_for_company_no_longer_than_told():
    model = Recorder()
    with batcher(max_batch_size=2, batch_timeout_micros=50_000) as batches:
        started = time.monotonic()
        batches.run(model, "serving_default", {"x": np.zeros(1)}, started + 20)
        assert time.monotonic() - started >= 0.05
        with ThreadPoolExecutor(2) as pool:
            for _ in pool.map(
                lambda x: batches.run(model, "serving_default", {"x": np.array([x])}, time.monotonic() + 20), [1.0, 2.0]
            ):
                pass
    assert model.sizes[0] == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_batch_size { value: 0 }", "max_batch_size is 0, expected at least 1"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: 4", "expected to rise and to end with max_batch_size"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros is -1, below 0"),
        ("max_size { value: 4 }", "not a BatchingParameters that this server reads: 1:1"),
    ],
)
def test_impossible_batching_parameters(tmp_path, text, words):
    (tmp_path / "batching.txt").write_text(text)
    with pytest.raises(UserError, match=words):
        read_parameters(tmp_path / "batching.txt")


def test_the_configuration_files_of_the_deployment_are_read():
    folder = ROOT / "export" / "serving"
    parameters = read_parameters(folder / "batching_parameters.txt")
    assert parameters.batch_timeout_micros == 0
    assert [config.name for config in read_configs(folder / "models.config")] == ["descargan"]
    assert parse_file("MonitoringConfig", folder / "monitoring.config").prometheus_config.enable


def test_a_batched_server_answers_as_an_unbatched_one(serving_config):
    parameters = BatchingParameters(max_batch_size=8, batch_timeout_micros=30_000_000, num_batch_threads=1)
    with serving(serving_config, batching=parameters) as server, ThreadPoolExecutor(8) as pool:
        ask = lambda x: server.post(PLAIN, {"instances": [x]}).json["predictions"][0]  # noqa: E731
        values = [float(x) for x in range(8)]
        started = time.monotonic()
        assert list(pool.map(ask, values)) == [0.5 * x + 2 for x in values]
        assert time.monotonic() - started < 15  # a full batch does not wait
        page = server.ask("GET", "/monitoring/prometheus/metrics").content.decode()
    assert ":tensorflow:serving:batching_session:processed_batch_size_count 1.0" in page
    assert ":tensorflow:serving:batching_session:processed_batch_size_sum 8.0" in page


# ---- versions


@pytest.mark.parametrize("parameters", [None, BatchingParameters(max_batch_size=4)], ids=["alone", "batched"])
def test_versions_are_swapped_without_a_failed_request(one_model, parameters):
    base, source = one_model
    replies, stop = collections.deque(), threading.Event()
    with serving([ModelConfig("m", base)], load=FAST, batching=parameters) as server:

        def ask():
            reply = server.post("/v1/models/m:predict", {"instances": [IMAGE.tolist()]})
            scale = reply.json["predictions"][0]["anomaly_map"][0][0][0] / 0.25 if reply.status == 200 else None
            replies.append((reply.status, scale))

        def keep_asking():
            while not stop.is_set():
                ask()

        threads = [threading.Thread(target=keep_asking) for _ in range(4)]
        for thread in threads:
            thread.start()
        for version in (2, 3, 4, 5):
            publish(base, version, source / ("1" if version % 2 else "2"))
            wait_until(lambda v=version: states(server).get(str(v)) == "AVAILABLE")
            count = len(replies)
            wait_until(lambda c=count: len(replies) > c + 8)
        stop.set()
        for thread in threads:
            thread.join()
        ask()  # the threads may note an answer of version 4 after one of version 5
        wait_until(lambda: "UNLOADING" not in states(server).values())
        assert states(server) == {"5": "AVAILABLE", "4": "END", "3": "END", "2": "END", "1": "END"}
    assert {status for status, _ in replies} == {200}
    scales = [scale for _, scale in replies]
    assert set(scales) == {1.0, 2.0}
    assert scales[0] == scales[-1] == 1.0


def test_a_broken_version_changes_nothing_but_the_status(one_model, caplog):
    base, source = one_model
    with serving([ModelConfig("m", base)], load=FAST) as server:
        broken = base / ".2"
        broken.mkdir()
        (broken / "saved_model.pb").write_bytes(b"no model")
        broken.rename(base / "2")
        wait_until(lambda: states(server).get("2") == "END")
        status = server.ask("GET", "/v1/models/m/versions/2").json["model_version_status"][0]["status"]
        assert status["error_code"] == "FAILED_PRECONDITION"
        assert "Cannot parse file" in status["error_message"]
        assert states(server)["1"] == "AVAILABLE"
        assert server.post("/v1/models/m:predict", {"instances": [IMAGE.tolist()]}).status == 200
        assert "2 cannot be loaded, what was served stays: FAILED_PRECONDITION" in caplog.text
        assert caplog.text.count("cannot be loaded") == 1  # not again at every look
        shutil.rmtree(base / "2")
        publish(base, 2, source / "2")  # another folder is another chance
        wait_until(lambda: states(server) == {"2": "AVAILABLE", "1": "END"})


def test_a_version_that_failed_is_tried_again(one_model):
    base, source = one_model
    with serving([ModelConfig("m", base)], load=LoadSettings(poll_seconds=0.02, retry_seconds=0.3)) as server:
        (base / "2").mkdir()  # a copy in place, which is not whole yet
        wait_until(lambda: states(server).get("2") == "END")
        shutil.copytree(source / "2", base / "2", dirs_exist_ok=True)
        wait_until(lambda: states(server) == {"2": "AVAILABLE", "1": "END"})


def test_a_failing_warmup_request_keeps_a_version_out(one_model, tmp_path):
    base, source = one_model
    bad = tmp_path / "bad"
    shutil.copytree(source / "2", bad)
    warmup.write_requests(bad, [warmup.Request("m", "serving_bytes", {"image_bytes": np.array([b"no image"], object)})])
    with serving([ModelConfig("m", base)], load=FAST) as server:
        publish(base, 2, bad)
        wait_until(lambda: states(server).get("2") == "END")
        status = server.ask("GET", "/v1/models/m/versions/2").json["model_version_status"][0]["status"]
        assert status["error_code"] == "INVALID_ARGUMENT"
        assert "Unknown image file format" in status["error_message"]
    with serving([ModelConfig("m", base)], load=LoadSettings(warm_up=False)) as server:
        assert states(server) == {"2": "AVAILABLE"}


def test_warmup_requests_are_replayed(one_model, tmp_path, monkeypatch):
    base, source = one_model
    shutil.copytree(source / "2", tmp_path / "warm")
    warmup.write_requests(tmp_path / "warm", [warmup.Request("m", "", {"image": IMAGE[None]})])
    publish(base, 2, tmp_path / "warm")
    seen = []
    run = grpc_service.tf.compat.v1.Session.run
    monkeypatch.setattr(
        tf.compat.v1.Session, "run", lambda self, *args, **kwargs: seen.append(args) or run(self, *args, **kwargs)
    )
    with serving([ModelConfig("m", base)]):
        fed = [next(iter(args[1].values())) for args in seen if len(args) > 1 and args[1]]
    assert any(np.array_equal(array, IMAGE[None]) for array in fed if getattr(array, "dtype", None) == np.float32)


def test_an_emptied_folder_leaves_what_is_loaded(one_model):
    base, _ = one_model
    with serving([ModelConfig("m", base)], load=FAST) as server:
        shutil.rmtree(base)
        time.sleep(0.1)
        assert server.post("/v1/models/m:predict", {"instances": [IMAGE.tolist()]}).status == 200


def test_a_version_in_use_is_freed_after_its_last_request(one_model, monkeypatch):
    base, source = one_model
    from descargan_tf.export.embedded.servable import Servable

    entered, go, closed = threading.Event(), threading.Event(), []
    run, close = Servable.run, Servable.close

    def slow_run(self, *args):
        if self.version == 1:
            entered.set()
            assert go.wait(20)
        return run(self, *args)

    monkeypatch.setattr(Servable, "run", slow_run)
    monkeypatch.setattr(Servable, "close", lambda self: closed.append(self.version) or close(self))
    with serving([ModelConfig("m", base)], load=FAST) as server, ThreadPoolExecutor(1) as pool:
        old = pool.submit(server.post, "/v1/models/m:predict", {"instances": [IMAGE.tolist()]})
        assert entered.wait(20)
        publish(base, 2, source / "2")
        wait_until(lambda: states(server) == {"2": "AVAILABLE", "1": "UNLOADING"})
        new = server.post("/v1/models/m:predict", {"instances": [IMAGE.tolist()]})
        assert new.json["predictions"][0]["anomaly_map"][0][0][0] == 0.5
        assert closed == []
        go.set()
        assert old.result().json["predictions"][0]["anomaly_map"][0][0][0] == 0.25
        wait_until(lambda: states(server)["1"] == "END")
        assert closed == [1]


def test_models_config_is_read_again(serving_config, tmp_path):
    folder = serving_config.parent
    file = tmp_path / "models.config"

    def entry(name, more=""):
        return f'config {{ name: "{name}" base_path: "{folder / name}" model_platform: "tensorflow" {more} }}'

    def write(*entries):
        (tmp_path / "new").write_text("model_config_list { " + " ".join(entries) + " }")
        (tmp_path / "new").rename(file)

    both = "model_version_policy { specific { versions: 1 versions: 2 } }"
    write(entry("m", both + ' version_labels { key: "stable" value: 1 }'))
    load = LoadSettings(poll_seconds=0.02, config_poll_seconds=0.02)
    with serving(file, load=load, model_config_file=str(file)) as server:

        def scale(place):
            reply = server.post(f"/v1/models/m{place}:predict", {"instances": [IMAGE.tolist()]})
            return reply.json["predictions"][0]["anomaly_map"][0][0][0] / 0.25 if reply.status == 200 else reply.status

        assert (scale("/labels/stable"), scale("")) == (1, 2)
        write(entry("m", both + ' version_labels { key: "stable" value: 2 }'), entry("pair"))
        wait_until(lambda: scale("/labels/stable") == 2)
        wait_until(lambda: server.ask("GET", "/v1/models/pair").status == 200)
        file.write_text("nonsense")
        time.sleep(0.1)
        assert scale("/labels/stable") == 2
        # A label cannot move to a version that is not there; a model that is no longer named goes.
        write(entry("m", both + ' version_labels { key: "stable" value: 7 }'))
        wait_until(lambda: states(server, "pair") == {"1": "END"})
        assert scale("/labels/stable") == 2
        assert server.post("/v1/models/pair:predict", {"instances": []}).status == 404


def test_all_and_the_newest_versions(one_model):
    base, source = one_model
    publish(base, 2, source / "2")
    publish(base, 10, source / "1")
    (base / "notes").mkdir()
    assert ModelConfig("m", base, latest=2).wanted({1, 2, 10}) == {2, 10}
    with serving([ModelConfig("m", base, latest=None)]) as server:
        assert list(states(server)) == ["10", "2", "1"]


# ---- limits


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
        assert (reply.status, reply.headers["Location"]) == (307, "/?model=m")
        missing = server.ask("GET", "/?model=m")
        assert (missing.status, missing.content) == (
            404,
            b"The viewer page is not installed: viewer.html is missing.\n",
        )
        page.write_text("<title>viewer</title>")
        found = server.ask("GET", "/?model=m")
        assert (found.status, found.content) == (200, b"<title>viewer</title>")
        assert found.headers["Content-Type"].startswith("text/html")


# ---- gRPC


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


# ---- start and end


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name the models: either --model_base_path"),
        (["--model_base_path={base}", "--rest_api_port=0"], "leave nothing to answer at"),
        (["--model_base_path={base}", "--port=8501"], "they need ports of their own"),
        (["--model_base_path={base}", "--rest_api_port=99999"], "--rest_api_port"),
        (["--model_base_path={base}/nothing"], "model base path {base}/nothing cannot be read: No such file"),
        (["--model_base_path={base}"], "{base} holds no version of model default: expected a folder named by a number"),
        (["--model_base_path={broken}"], "{broken}/1 cannot be loaded: FAILED_PRECONDITION: Cannot parse file"),
        (["--model_config_file={base}/nothing.config"], "nothing.config cannot be read: No such file"),
        (["serve"], "unexpected argument 'serve'"),
        (["--model_base_path={base}", "--enable_batching", "--batching_parameters_file={base}/x"], "cannot be read"),
    ],
)
def test_what_cannot_start_says_why(tmp_path, capsys, arguments, words):
    base, broken = tmp_path / "empty", tmp_path / "broken"
    base.mkdir()
    (broken / "1").mkdir(parents=True)
    (broken / "1" / "saved_model.pb").write_bytes(b"no model")
    filled = [argument.format(base=base, broken=broken) for argument in arguments]
    if "port" not in "".join(filled):
        filled.append(f"--rest_api_port={free_port()}")
    assert main(["server", *filled]) == 2
    error = capsys.readouterr().err
    assert words.format(base=base, broken=broken) in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_taken_port_says_so(one_model, capsys):
    base, _ = one_model
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["server", f"--model_base_path={base}", f"--rest_api_port={port}"]) == 2
    assert f"error: cannot listen on 127.0.0.1:{port}: Address already in use" in capsys.readouterr().err


def test_a_label_of_a_version_that_is_not_there(one_model):
    base, _ = one_model
    config = ModelConfig("m", base, labels={"stable": 3})
    words = "model m: label stable names version 3, which is not loaded"
    with pytest.raises(UserError, match=words), serving([config]):
        pass
    with serving([config], load=LoadSettings(labels_for_unavailable=True)) as server:
        assert server.post("/v1/models/m/labels/stable:predict", {"instances": [1]}).status == 404


def test_flags_have_the_names_of_tensorflow_serving(serving_config, tmp_path):
    (tmp_path / "monitoring.config").write_text('prometheus_config { enable: true path: "/metrics" }')
    settings = settings_from_flags(
        [
            "server",
            f"--model_config_file={serving_config}",
            f"--monitoring_config_file={tmp_path / 'monitoring.config'}",
            "--rest_api_timeout_in_ms=100",
            "--enable_batching",
            "--file_system_poll_wait_seconds=0",
        ]
    )
    assert [config.name for config in settings.models] == ["m", "half_plus_two", "pair"]
    assert settings.models[0].specific == (1, 2)
    assert settings.models[0].labels == {"stable": 1, "canary": 2}
    assert (settings.host, settings.rest_api_port, settings.port) == ("127.0.0.1", 8501, 0)
    assert (settings.http.metrics_path, settings.http.rest_api_timeout_in_ms) == ("/metrics", 100)
    assert settings.batching == BatchingParameters()
    assert settings.load.poll_seconds == 0


def test_mode_serve_serves_the_export_folder(tmp_path, monkeypatch, capsys):
    from descargan_tf import main as program

    seen = []
    monkeypatch.setattr("descargan_tf.export.embedded.server.serve", lambda settings: seen.append(settings) or 0)
    assert program.main(["main", "--mode=serve", f"--export_dir={tmp_path}", "--rest_api_port=9000"]) == 0
    batches = BatchingParameters(4, enable_large_batch_splitting=True)
    expected = ServerSettings([ModelConfig("descargan", tmp_path)], rest_api_port=9000, batching=batches)
    assert seen == [expected]
    cors = "--rest_api_enable_cors_support"
    assert program.main(["main", "--mode=serve", f"--export_dir={tmp_path}", "--rest_api_port=9000", cors]) == 0
    assert seen[1] == dataclasses.replace(expected, http=HttpSettings(rest_api_enable_cors_support=True))
    assert program.main(["main", "--mode=serve"]) == 2
    assert "--mode=serve needs --export_dir=<folder of version folders>" in capsys.readouterr().err


def test_sigterm_answers_what_is_at_work(serving_config):
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "export.embedded", f"--model_config_file={serving_config}", f"--rest_api_port={port}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = [process.stdout.readline().strip() for _ in range(4)]
        assert lines[0] == f"serving m at http://127.0.0.1:{port}/v1/models/m"
        server = Server("embedded", f"http://127.0.0.1:{port}")

        def ask(steps):
            started = time.monotonic()
            reply = server.post(PLAIN, {"signature_name": "slow", "instances": [steps]})
            return reply, time.monotonic() - started

        ask(10)
        steps = int(10_000 * 3 / max(ask(10_000)[1], 1e-3))
        with ThreadPoolExecutor(1) as pool:
            at_work = pool.submit(ask, steps)
            time.sleep(0.5)
            assert not at_work.done()
            process.send_signal(signal.SIGTERM)
            reply, _ = at_work.result()
        assert (reply.status, reply.json) == (200, {"predictions": [steps]})
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "stopping: answering what is at work" in out
        assert "Traceback" not in err
        with pytest.raises(ConnectionRefusedError):
            server.ask("GET", "/v1/models/m")
    finally:
        process.kill()
        process.wait()
