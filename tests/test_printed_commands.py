"""Commands that the program prints: what a shell makes of them is what was meant, whatever is in the path."""

import dataclasses
import json
import re
import shlex
import types
from pathlib import Path

import pytest

from descargan_tf import run_folder
from descargan_tf.commands import benchmark, evaluate, publish
from descargan_tf.config import Config

AWKWARD = ["a run/of mine", "it's", 'say "x"', "$(touch gone)", "a;b&c|d", "*", "M\u00fcller", "a\\b", "#1", "~"]


@pytest.fixture(params=AWKWARD)
def folder(request):
    return f"runs/{request.param}"


def in_a_shell(command):
    """The words that a shell gives to the program, flags by name."""
    words = shlex.split(command, comments=True)
    return words, dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))


def write_flags(folder):
    Path(folder).mkdir(parents=True)
    (Path(folder) / "flags.txt").write_text("--dataset=synthetic\n")


def test_what_evaluates_a_run_that_has_no_report(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = Config(mode="export", run_dir=folder)
    for state in ("none", "of another step"):
        if state != "none":
            Path(folder).mkdir(parents=True)
            (Path(folder) / "report.json").write_text(json.dumps({"checkpoint_step": 3, "checkpoint": "best"}))
        found, reason = run_folder.report_of(config, 7)
        assert found is None
        words, flags = in_a_shell(re.search(r"`(python .*)`", reason)[1])
        assert words[:3] == ["python", "-m", "descargan_tf.main"]
        assert flags == {"mode": "evaluate", "run_dir": folder, "checkpoint": "7"}


def test_what_shows_a_run_in_tensorboard(folder):
    words, _ = in_a_shell(run_folder.tensorboard_command(Path(folder)))
    assert words[1:] == ["--logdir", folder]


def test_what_evaluated_a_run(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_flags(folder)
    config = Config(mode="generate", run_dir=folder, checkpoint=f"{folder}/checkpoints/3", batch_norm="moving")
    _, flags = in_a_shell(evaluate._command(config))
    assert flags == {
        "mode": "evaluate",
        "run_dir": folder,
        "checkpoint": f"{folder}/checkpoints/3",
        "batch_norm": "moving",
        "saliency": "none",
    }


def test_it_names_no_setting_that_the_method_does_not_have(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_flags("r")
    _, flags = in_a_shell(evaluate._command(Config(mode="generate", method="stargan", run_dir="r")))
    assert "batch_norm" not in flags


def test_what_made_a_benchmark(folder):
    config = dataclasses.replace(
        Config(mode="generate"),
        run_dir=folder,
        benchmark_runs="descargan:0,1;fpgan:0",
        benchmark_flagfiles=f"{folder}/quick_{{}}.flags",
        benchmark_flags=f"--data_dir={shlex.quote(folder)} --num_test=3",
    )
    _, flags = in_a_shell(benchmark._command(config))
    assert (flags["mode"], flags["run_dir"], flags["benchmark_runs"]) == ("benchmark", folder, config.benchmark_runs)
    assert flags["benchmark_flagfiles"] == config.benchmark_flagfiles
    assert shlex.split(flags["benchmark_flags"]) == [f"--data_dir={folder}", "--num_test=3"]


def test_what_trains_published_weights_again(folder):
    config = Config(mode="generate", dataset="synthetic")
    method = types.SimpleNamespace(num_parameters={})
    _, flags = in_a_shell(publish._about(config, Path(folder), method, {"step": 3})["command"])
    assert flags == {"flagfile": f"{folder}/flags.txt", "run_dir": "runs/again"}
