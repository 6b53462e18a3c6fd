"""The client against a server that fails on demand, and against the embedded one."""

import base64
import csv
import io
import json
import re
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import served_model
import tensorflow as tf
from PIL import Image
from scripted_server import Reply, ScriptedServer, error, outputs_of

from descargan_tf.data.images import Scaling, write_png
from descargan_tf.errors import UserError
from descargan_tf.export import client as client_module
from descargan_tf.export.client import Backoff, Client, RequestError, find_inputs, main, predict_files
from descargan_tf.prediction.files import predict_files as predict_files_locally
from descargan_tf.types import Prediction

pytestmark = pytest.mark.usefixtures("shallow", "graphs_as_traced")

SIZE = 16


@pytest.fixture
def server():
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def client(server):
    with Client(server.url, first_wait_seconds=0.01, timeout_seconds=5) as made:
        yield made


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(4):
        write_png(folder / f"scan {i}.png", picture(i))
    return folder


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE)).astype(np.uint8)


def png(seed=0):
    stream = io.BytesIO()
    Image.fromarray(picture(seed)).save(stream, "PNG")
    return stream.getvalue()


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def rows_of(folder):
    with open(folder / "predictions.csv", newline="") as file:
        return list(csv.reader(file))


def run(url, *arguments):
    return main([f"--url={url}", *map(str, arguments)])


# ---- one image


def test_the_request_is_the_file_itself_in_base64(client, server):
    client.predict(png())
    ((path, body),) = server.requests
    assert path == "/v1/models/descargan:predict"
    request = json.loads(body)
    assert request["signature_name"] == "serving_bytes"
    assert base64.b64decode(request["instances"][0]["image_bytes"]["b64"]) == png()


def test_the_answer_is_what_the_server_said(client, tmp_path):
    write_png(tmp_path / "a.png", picture(3))
    answer, expected = client.predict(tmp_path / "a.png"), outputs_of(png(3))
    np.testing.assert_array_equal(answer.anomaly_map, np.float32(expected["anomaly_map"])[..., 0])
    np.testing.assert_array_equal(answer.healthy_image, np.float32(expected["healthy_image"])[..., 0])
    assert answer.anomaly_map.dtype == answer.healthy_image.dtype == np.float32
    assert answer.disease_probability == expected["disease_probability"]
    assert answer.anomaly_score == expected["anomaly_score"]
    assert answer.predicted_class == ("diseased" if expected["disease_probability"] > 0.5 else "healthy")
    assert answer.overlay_png == base64.b64decode(expected["overlay_png_bytes"]["b64"])
    assert answer.anomaly_map_png == base64.b64decode(expected["anomaly_map_png_bytes"]["b64"])


@pytest.mark.parametrize(
    ("which", "path"),
    [
        ({}, "/v1/models/descargan:predict"),
        ({"version": 3}, "/v1/models/descargan/versions/3:predict"),
        ({"label": "canary"}, "/v1/models/descargan/labels/canary:predict"),
        ({"model_name": "a model"}, "/v1/models/a%20model:predict"),
    ],
)
def test_a_version_is_named_in_the_path(server, which, path):
    with Client(server.url + "/", **which) as client:
        client.predict(png())
    assert server.requests[0][0] == path


def test_versions_are_numbers_and_states(client):
    assert client.versions() == {7: "AVAILABLE"}


def test_what_is_no_picture_is_not_sent(client, server, tmp_path):
    (tmp_path / "a.png").write_bytes(b"GIF89a")
    with pytest.raises(UserError, match="is neither PNG nor JPEG, which is what an export reads; convert it first"):
        client.predict(tmp_path / "a.png")
    assert server.requests == []


def test_a_missing_file_is_a_user_error(client, tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        client.predict(tmp_path / "none.png")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("127.0.0.1:8501", "127.0.0.1:8501 is no server URL; expected scheme, host and port, such as"),
        ("ftp://host", "ftp://host is no server URL"),
        ("http://host/?a=1", "is no server URL"),
    ],
)
def test_an_impossible_url_is_refused(url, message):
    with pytest.raises(UserError, match=re.escape(message)):
        Client(url)


def test_version_and_label_exclude_each_other():
    with pytest.raises(UserError, match="version 1 and label canary were both given"):
        Client("http://host", version=1, label="canary")


# ---- patience


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(client, server, status):
    server.script += [error(status, "queue full")] * 3
    assert client.predict(png()).disease_probability == outputs_of(png())["disease_probability"]
    assert len(server.requests) == 4


def test_a_broken_connection_is_tried_again(client, server):
    def hang_up(handler):
        handler.connection.shutdown(socket.SHUT_RDWR)

    server.script.append(Reply(200, b"", before=hang_up))
    assert client.predict(png()).disease_probability == outputs_of(png())["disease_probability"]
    assert len(server.requests) == 2


def test_retry_after_is_obeyed(client, server):
    server.script.append(error(503, "later", **{"Retry-After": "1"}))
    started = time.monotonic()
    client.predict(png())
    assert time.monotonic() - started >= 1.0


def test_patience_ends_in_the_servers_words(server):
    server.script += [error(503, "queue\nfull")] * 9
    with (
        Client(server.url, retries=2, first_wait_seconds=0.01) as client,
        pytest.raises(RequestError, match="the server answered 503: queue full") as caught,
    ):
        client.predict(png())
    assert caught.value.status == 503
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 404, 413, 500, 504])
def test_other_refusals_are_final(client, server, status):
    server.script.append(error(status, "so it is"))
    with pytest.raises(RequestError, match=f"the server answered {status}: so it is"):
        client.predict(png())
    assert len(server.requests) == 1


def test_a_request_out_of_time_is_not_repeated(server):
    release = threading.Event()
    server.script.append(Reply(200, {}, before=lambda _: release.wait(5)))
    with (
        Client(server.url, timeout_seconds=0.2) as client,
        pytest.raises(RequestError, match=r"no answer from http\S+ within 0.2 s; allow more time or send fewer"),
    ):
        client.predict(png())
    release.set()
    assert len(server.requests) == 1


def test_an_absent_server_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with (
        Client(url, retries=1, first_wait_seconds=0.01) as client,
        pytest.raises(RequestError, match=f"{url} cannot be reached: .*Connection refused.*; is the server running"),
    ):
        client.versions()


def test_waits_double_and_scatter():
    waits = []
    backoff = Backoff(total=9, backoff_factor=0.5, backoff_max=3, status_forcelist=[503], allowed_methods=None)
    for _ in range(5):
        backoff = backoff.increment("POST", "/", response=None)
        waits.append([backoff.get_backoff_time() for _ in range(200)])
    for drawn, longest in zip(waits, [0.5, 1, 2, 3, 3], strict=True):
        assert longest / 2 <= min(drawn) < 0.6 * longest
        assert 0.9 * longest < max(drawn) <= longest


# ---- answers that are none


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"predictions": []}, "the server's answer cannot be read"),
        ({"predictions": [{"other": 1}]}, "the server's answer holds none of anomaly_map, healthy_image, disease_prob"),
        ({"predictions": [0.5]}, "was the model exported by this program?"),
        ({"predictions": [{**outputs_of(png()), "anomaly_map": [1.0]}]}, r"shape \[1\], expected \[H, W, 1\]"),
        ({"predictions": [{**outputs_of(png()), "predicted_class": 2}]}, "predicted_class 2, expected 0 or 1"),
        ({"outputs": 1}, "was the model exported by this program?"),
        (b"<html>hello</html>", "answered, but not as a model server does"),
    ],
)
def test_an_answer_that_cannot_be_used_says_so(client, server, body, message):
    server.script.append(Reply(200, body))
    with pytest.raises(RequestError, match=message):
        client.predict(png())


def test_another_kind_of_server_is_recognised(server, client):
    server.status = lambda _: Reply(200, {"name": "descargan", "ready": True})
    with pytest.raises(RequestError, match="answered, but not as a model server does"):
        client.versions()


# ---- many files


def locally(images):
    """What the scripted server says, as a method says it."""
    images = np.asarray(images)
    p = np.clip((images.mean((1, 2, 3)) + 1) / 2, 0, 1)
    return Prediction(-images / 2, images / 2, np.abs(images / 2).mean((1, 2, 3)), np.stack([1 - p, p], 1))


def test_the_files_are_those_of_mode_predict(client, inputs, tmp_path):
    (inputs / "deeper").mkdir()
    write_png(inputs / "deeper" / "scan 0.png", picture(9))  # the same stem twice
    files = [*find_inputs([inputs]), inputs / "deeper" / "scan 0.png"]
    there, here = tmp_path / "there", tmp_path / "here"
    assert predict_files(client, files, there) == []
    assert predict_files_locally(locally, files, here, SIZE, Scaling(0, 255), "uint8", 4) == []
    assert names_in(there) == names_in(here)
    assert len(names_in(there)) == 3 * 5 + 1
    assert (there / "predictions.csv").read_bytes() == (here / "predictions.csv").read_bytes()
    for name in names_in(here):
        if name.endswith(".npy"):
            expected = np.load(here / name)
            assert np.load(there / name).dtype == expected.dtype
            np.testing.assert_allclose(np.load(there / name), expected, atol=1e-6)
        elif name.endswith(".png"):
            pictures = [np.asarray(Image.open(folder / name)).astype(int) for folder in (here, there)]
            assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_requests_are_sent_at_the_same_time_but_no_more_than_asked(inputs, tmp_path, server):
    together = threading.Barrier(2)  # breaks if fewer than two are ever on their way
    lock, state = threading.Lock(), {"now": 0, "most": 0}

    def meet(_):
        with lock:
            state["now"] += 1
            state["most"] = max(state["most"], state["now"])
        together.wait(5)
        with lock:
            state["now"] -= 1

    files = find_inputs([inputs])
    server.script += [Reply(200, {"predictions": [outputs_of(png())]}, before=meet) for _ in files]
    with Client(server.url, connections=2) as client:
        assert predict_files(client, files, tmp_path / "out", concurrency=2) == []
    assert state["most"] == 2


def test_what_fails_is_listed_and_the_rest_is_done(inputs, tmp_path, server, capsys):
    (inputs / "scan 1.png").write_bytes(b"no picture")
    server.script.append(error(400, "Unknown image file format"))
    out = tmp_path / "out"
    files = [*sorted(inputs.iterdir()), inputs / "gone.png"]
    assert run(server.url, *files, "--concurrency=1", f"--output_dir={out}") == 1
    printed = capsys.readouterr()
    assert printed.out == f"2 of 5 images done: {out / 'predictions.csv'}\n"
    assert printed.err.splitlines() == [
        f"not done: {inputs / 'scan 0.png'}: is neither PNG nor JPEG, which is what an export reads; convert it first",
        f"not done: {inputs / 'scan 1.png'}: is neither PNG nor JPEG, which is what an export reads; convert it first",
        f"not done: {inputs / 'gone.png'}: cannot be read: No such file or directory",
    ]
    assert [row[0] for row in rows_of(out)] == ["file", "scan 2.png", "scan 3.png"]
    assert names_in(out) == sorted(
        ["predictions.csv"] + [f"scan {i}_{what}" for i in (2, 3) for what in ("map.npy", "healthy.npy", "overlay.png")]
    )


def test_a_defect_still_leaves_a_table_of_what_was_done(inputs, tmp_path, client, monkeypatch):
    def broken(path, _):
        if "scan 2" in path.name:
            raise ZeroDivisionError

    monkeypatch.setattr(client_module, "write_atomically", broken)
    with pytest.raises(ZeroDivisionError):
        predict_files(client, find_inputs([inputs]), tmp_path, concurrency=1)
    assert [row[0] for row in rows_of(tmp_path)] == ["file", "scan 0.png", "scan 1.png"]


def test_a_folder_gives_what_the_server_reads_and_no_file_comes_twice(inputs):
    for name in ("a.npy", "b.TIF", "notes.txt"):
        (inputs / name).touch()
    (inputs / "photo.JPG").touch()
    found = find_inputs([inputs / "scan 2.png", inputs])
    assert [file.name for file in found] == ["scan 2.png", "photo.JPG", "scan 0.png", "scan 1.png", "scan 3.png"]


@pytest.mark.parametrize(
    ("kept", "files", "row"),
    [
        (("disease_probability", "predicted_class"), [], ["0.521446", "", "diseased"]),
        (("anomaly_map", "healthy_image", "anomaly_score"), ["healthy.npy", "map.npy"], ["", "0.260830", ""]),
    ],
)
def test_what_a_method_does_not_say_stays_empty(client, server, tmp_path, kept, files, row):
    (tmp_path / "a.png").write_bytes(png())
    outputs = outputs_of(png())
    server.script.append(Reply(200, {"predictions": [{name: outputs[name] for name in kept}]}))
    assert predict_files(client, [tmp_path / "a.png"], tmp_path / "out") == []
    assert names_in(tmp_path / "out") == [*(f"a_{name}" for name in files), "predictions.csv"]
    assert rows_of(tmp_path / "out")[1] == ["a.png", *row]


# ---- the embedded server


def test_a_served_model_gives_the_files_of_mode_predict(tmp_path):
    """From image files to maps and table, once by HTTP and once by the method itself."""
    files = [tmp_path / f"scan {i}.png" for i in range(5)]
    rng = np.random.default_rng(7)
    for file in files:
        write_png(file, rng.integers(0, 256, (served_model.SIZE, served_model.SIZE)).astype(np.uint8))
    there, here = tmp_path / "there", tmp_path / "here"
    with served_model.serve() as url:
        assert run(url, *files, f"--output_dir={there}", "--concurrency=3") == 0
    method, size = served_model.live_method(), served_model.SIZE

    def predict(images):
        return method.predict(tf.constant(images))

    assert predict_files_locally(predict, files, here, size, served_model.UNITS, "uint8", 5) == []
    assert names_in(there) == names_in(here)
    for file in files:
        for kind in ("map", "healthy"):
            served, live = (np.load(folder / f"{file.stem}_{kind}.npy") for folder in (there, here))
            np.testing.assert_allclose(served, live, atol=1e-4)
            assert np.ptp(live) > 0.1  # and not all the same
        served, live = (np.asarray(Image.open(f / f"{file.stem}_overlay.png")).astype(int) for f in (there, here))
        assert np.abs(served - live).max() <= 1
    served, live = (rows_of(folder) for folder in (there, here))
    assert served[0] == live[0] == ["file", "disease_probability", "anomaly_score", "predicted_class"]
    assert [(row[0], row[3]) for row in served[1:]] == [(row[0], row[3]) for row in live[1:]]
    numbers = [np.float64([row[1:3] for row in rows[1:]]) for rows in (served, live)]
    np.testing.assert_allclose(*numbers, atol=1e-4)


# ---- the command


def test_progress_counts_every_file(inputs, tmp_path, client):
    (inputs / "scan 1.png").write_bytes(b"")
    steps = []
    predict_files(client, find_inputs([inputs]), tmp_path, progress=steps.append)
    assert steps == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": "LOADING"}, "no version of descargan is available at {url}: {{7: 'LOADING'}}"),
        ({"status": lambda _: error(404, "Could not find any versions of model descargan")}, "the server answered 404"),
    ],
)
def test_without_a_model_nothing_is_sent(inputs, tmp_path, server, capsys, change, message):
    for name, value in change.items():
        setattr(server, name, value)
    assert run(server.url, inputs, f"--output_dir={tmp_path / 'out'}") == 2
    assert capsys.readouterr().err.startswith(f"error: {message.format(url=server.url)}")
    assert server.requests == []
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_bad_input(inputs, tmp_path, server, capsys):
    (tmp_path / "out").touch()
    assert run(server.url, inputs, f"--output_dir={tmp_path / 'out'}") == 2
    assert capsys.readouterr().err == f"error: --output_dir={tmp_path / 'out'} cannot be written: File exists\n"


@pytest.mark.parametrize(
    ("flag", "message"), [("--concurrency=0", "0 is not above 0"), ("--retries=-1", "-1 is below 0")]
)
def test_impossible_numbers_are_refused(flag, message, capsys):
    with pytest.raises(SystemExit) as caught:
        run("http://127.0.0.1:1", "a.png", flag)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_neither_tensorflow_nor_keras_is_imported():
    code = "import sys, descargan_tf.export.client; print(sorted({'tensorflow', 'keras'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
