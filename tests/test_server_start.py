"""How the embedded server starts and ends."""

import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from embedded_server import PLAIN, serving
from program_starts import start
from serving_http import Server, free_port

from descargan_tf.errors import UserError
from descargan_tf.export.embedded.models import LoadSettings, ModelConfig
from descargan_tf.export.embedded.server import main

ROOT = Path(__file__).resolve().parent.parent


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


def test_sigterm_answers_what_is_at_work(serving_config):
    port = free_port()
    flags = (f"--model_config_file={serving_config}", f"--rest_api_port={port}")
    process = start(ROOT, *flags, module="export.embedded")
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
