"""A client that is ended does not wait: neither for its server, nor for its threads."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from scripted_server import Reply, ScriptedServer, error, outputs_of
from test_client import names_in, picture, png, rows_of, run

from descargan_tf import signals
from descargan_tf.data.images import write_png
from descargan_tf.errors import UserError
from descargan_tf.export.client import Client


@pytest.fixture
def server():
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def inputs(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(4):
        write_png(tmp_path / "in" / f"scan {i}.png", picture(i))
    return tmp_path / "in"


def press(number, when):
    """Send this process a signal once something is so."""

    def wait():
        while not when():
            time.sleep(0.01)
        time.sleep(0.1)
        os.kill(os.getpid(), number)

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.parametrize("number", signals.ENDINGS, ids=signals.name_of)
def test_it_does_not_wait_for_a_server_that_says_later(inputs, tmp_path, server, capsys, number):
    server.script += [Reply(200, {"predictions": [outputs_of(png())]})] * 2 + [busy(429, "30")] * 9
    press(number, lambda: len(server.requests) == 3)
    started = time.monotonic()
    assert run(server.url, inputs, "--concurrency=1", f"--output_dir={tmp_path / 'out'}") == 128 + number
    assert time.monotonic() - started < 10
    table = tmp_path / "out" / "predictions.csv"
    assert capsys.readouterr().err == f"{signals.name_of(number)}: stopped; 2 of 4 images done: {table}\n"
    assert [row[0] for row in rows_of(tmp_path / "out")] == ["file", "scan 0.png", "scan 1.png"]
    time.sleep(0.2)
    assert len(server.requests) == 3  # nothing is sent after the end


def busy(status, seconds):
    return error(status, "busy", **{"Retry-After": seconds})


def test_nor_for_one_that_is_still_at_work_nor_for_the_threads_that_wait(inputs, tmp_path, server):
    """A process, as it is threads that keep one from ending."""
    released = threading.Event()
    slow = Reply(200, {"predictions": [outputs_of(png())]}, before=lambda _: released.wait(60))
    server.script += [Reply(200, {"predictions": [outputs_of(png())]}), slow, slow, busy(503, "50")]
    command = [sys.executable, "-m", "descargan_tf.export.client", f"--url={server.url}", str(inputs)]
    process = subprocess.Popen([*command, f"--output_dir={tmp_path / 'out'}"], stderr=subprocess.PIPE, text=True)
    try:
        while len(server.requests) < 4 and process.poll() is None:
            time.sleep(0.05)
        time.sleep(0.5)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        released.set()
        process.kill()
    assert time.monotonic() - started < 10
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("SIGINT: stopped; 1 of 4 images done: ")
    assert "Traceback" not in err
    assert names_in(tmp_path / "out") == ["predictions.csv", *(f for f in names_in(tmp_path / "out") if "scan" in f)]
    assert len(names_in(tmp_path / "out")) == 4


def test_nor_before_the_first_image(inputs, tmp_path, server, capsys):
    asked = []

    def status(_):
        asked.append(1)
        return busy(503, "30")

    server.status = status
    press(signal.SIGTERM, lambda: asked)
    started = time.monotonic()
    assert run(server.url, inputs, f"--output_dir={tmp_path / 'out'}") == 143
    assert time.monotonic() - started < 10
    assert capsys.readouterr().err == "SIGTERM: stopped; nothing was sent\n"
    assert not (tmp_path / "out").exists()


def test_a_client_in_a_program_is_ended_too(server):
    server.script += [busy(503, "30")]
    with Client(server.url) as client:
        ending = threading.Timer(0.3, client.end)
        ending.start()
        started = time.monotonic()
        with pytest.raises(UserError, match="the program ends"):
            client.predict(png())
        assert time.monotonic() - started < 10
