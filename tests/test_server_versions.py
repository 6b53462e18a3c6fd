"""Versions of models that change while the embedded server is asked."""

import collections
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from embedded_server import FAST, IMAGE, publish, serving, states, wait_until

from descargan_tf.export import warmup
from descargan_tf.export.embedded.batching import BatchingParameters
from descargan_tf.export.embedded.models import LoadSettings, ModelConfig


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
    run = tf.compat.v1.Session.run
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
