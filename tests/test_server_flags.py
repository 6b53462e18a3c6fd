"""The embedded server's flags: the same for `--mode=serve` and `python -m export.embedded`."""

import dataclasses
import re

import pytest

from descargan_tf import main as program
from descargan_tf.errors import UserError
from descargan_tf.export.embedded import server
from descargan_tf.export.embedded.batching import BatchingParameters
from descargan_tf.export.embedded.http_app import HttpSettings
from descargan_tf.export.embedded.models import ModelConfig
from descargan_tf.export.embedded.server import ServerSettings, settings_from_flags
from descargan_tf.server_flags import ServerFlags

ABSL = ("flagfile", "undefok")  # flags of every program with absl's


@pytest.fixture
def seen(monkeypatch):
    """What would be served, in the order of asking."""
    settings = []
    monkeypatch.setattr(server, "serve", lambda wanted: settings.append(wanted) or 0)
    return settings


def help_of(run, capsys):
    """Flag -> what --help says of it."""
    with pytest.raises(SystemExit) as ended:
        run(["program", "--help"])
    assert ended.value.code == 0
    entries = re.split(r"^  --", capsys.readouterr().out, flags=re.M)[1:]
    return {re.match(r"(?:\[no\])?(\w+)", entry)[1]: entry.split("\n\n")[0].strip() for entry in entries}


def test_both_ways_to_start_say_the_same_of_the_same_flags(capsys):
    by_itself, within = help_of(server.main, capsys), help_of(program.main, capsys)
    assert set(by_itself) == {field.name for field in dataclasses.fields(ServerFlags)} | {"grpc_port", *ABSL}
    assert by_itself == {name: within[name] for name in by_itself}


def test_both_ways_to_start_do_the_same_with_every_flag(serving_config, tmp_path, seen):
    (tmp_path / "batching.txt").write_text("max_batch_size { value: 3 }")
    (tmp_path / "monitoring.config").write_text('prometheus_config { enable: true path: "/metrics" }')
    values = {
        "model_config_file": serving_config,
        "host": "::1",
        "rest_api_port": 9001,
        "port": 9002,
        "rest_api_timeout_in_ms": 5,
        "rest_api_num_threads": 6,
        "rest_api_enable_cors_support": "true",
        "enable_batching": "true",
        "batching_parameters_file": tmp_path / "batching.txt",
        "monitoring_config_file": tmp_path / "monitoring.config",
        "file_system_poll_wait_seconds": 7,
        "model_config_file_poll_wait_seconds": 8,
        "max_num_load_retries": 9,
        "load_retry_interval_micros": 10,
        "enable_model_warmup": "false",
        "allow_version_labels_for_unavailable_models": "true",
        "max_request_bytes": 11,
        "max_instances": 12,
    }
    names = {field.name for field in dataclasses.fields(ServerFlags)}
    assert names - set(values) == {"model_base_path", "model_name"}
    for some in (values, {"model_base_path": tmp_path, "model_name": "m"}):
        arguments = [f"--{name}={value}" for name, value in some.items()]
        assert program.main(["main", "--mode=serve", *arguments]) == 0
        assert settings_from_flags(["server", *arguments]) == seen.pop()
    defaults, changed = ServerSettings([]), settings_from_flags(["x", *(f"--{n}={v}" for n, v in values.items())])
    for part, other in ((defaults, changed), (defaults.http, changed.http), (defaults.load, changed.load)):
        untouched = {f.name for f in dataclasses.fields(part) if getattr(part, f.name) == getattr(other, f.name)}
        assert untouched <= {"max_waiting_requests"}  # no flag


def test_nothing_said_is_the_default_of_both(tmp_path, seen):
    assert settings_from_flags(["server", f"--model_base_path={tmp_path}"]) == ServerSettings(
        [ModelConfig("default", tmp_path)]
    )
    assert program.main(["main", "--mode=serve", f"--export_dir={tmp_path}"]) == 0
    batches = BatchingParameters(4, enable_large_batch_splitting=True)
    assert seen == [ServerSettings([ModelConfig("descargan", tmp_path)], batching=batches)]


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


def test_mode_serve_serves_the_export_folder(tmp_path, seen, capsys):
    assert program.main(["main", "--mode=serve", f"--export_dir={tmp_path}", "--rest_api_port=9000"]) == 0
    batches = BatchingParameters(4, enable_large_batch_splitting=True)
    expected = ServerSettings([ModelConfig("descargan", tmp_path)], rest_api_port=9000, batching=batches)
    assert seen == [expected]
    cors = "--rest_api_enable_cors_support"
    assert program.main(["main", "--mode=serve", f"--export_dir={tmp_path}", "--rest_api_port=9000", cors]) == 0
    assert seen[1] == dataclasses.replace(expected, http=HttpSettings(rest_api_enable_cors_support=True))
    assert program.main(["main", "--mode=serve"]) == 2
    assert "--mode=serve needs --export_dir=<folder of version folders>" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["port", "grpc_port"])
def test_the_port_of_grpc_has_the_name_that_runs_were_saved_with_too(tmp_path, seen, name):
    assert program.main(["main", "--mode=serve", f"--export_dir={tmp_path}", f"--{name}=9002"]) == 0
    assert seen[0].port == 9002
    assert settings_from_flags(["server", f"--model_base_path={tmp_path}", f"--{name}=9002"]).port == 9002


def test_batches_of_mode_serve_are_those_of_its_flags(tmp_path, seen):
    (tmp_path / "batching.txt").write_text("max_batch_size { value: 3 }")
    base = ["main", "--mode=serve", f"--export_dir={tmp_path}"]
    for flags, batches in (
        (["--noenable_batching"], None),
        (["--enable_batching"], BatchingParameters(4, enable_large_batch_splitting=True)),
        (["--export_largest_batch=2"], BatchingParameters(2, enable_large_batch_splitting=True)),
        ([f"--batching_parameters_file={tmp_path / 'batching.txt'}"], BatchingParameters(3)),
    ):
        assert program.main([*base, *flags]) == 0
        assert seen.pop().batching == batches


def test_what_contradicts_itself_is_refused(tmp_path, capsys):
    both = [f"--export_dir={tmp_path}", f"--model_base_path={tmp_path}"]
    assert program.main(["main", "--mode=serve", *both]) == 2
    assert "neither --model_base_path nor --model_config_file says what else" in capsys.readouterr().err
    assert program.main(["main", "--mode=serve", f"--export_dir={tmp_path}", "--port=8501"]) == 2
    assert "they need ports of their own" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"--batching_parameters_file=b\.txt needs --enable_batching"):
        settings_from_flags(["server", f"--model_base_path={tmp_path}", "--batching_parameters_file=b.txt"])
