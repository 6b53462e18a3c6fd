"""Requests that the embedded server joins into batches."""

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from embedded_server import PLAIN, serving, wait_until

from descargan_tf.errors import UserError
from descargan_tf.export.embedded.batching import Batcher, BatchingParameters, read_parameters
from descargan_tf.export.embedded.models import read_configs
from descargan_tf.export.embedded.status import Code, ServingError
from descargan_tf.export.embedded.text_protos import parse_file

ROOT = Path(__file__).resolve().parent.parent


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
