"""What is decided before either backend is loaded."""

import importlib.util
import os
from pathlib import Path

import pytest
from command_line import parsed

from descargan_tf import flags as flags_module
from descargan_tf.errors import UserError
from descargan_tf.flags import RUN_FLAGS
from descargan_tf.main import main
from descargan_tf.run_folder import check_run
from descargan_tf.surroundings import settle

ROOT = Path(__file__).resolve().parent.parent
RUN = ("--dataset=synthetic", "--run_dir=run")


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    return tmp_path


def trained_in_jax(folder):
    config = parsed(*RUN, "--backend=jax")
    (folder / "run").mkdir()
    (folder / "run" / RUN_FLAGS).write_text(flags_module.lines(config))
    return config


def test_keras_is_told_the_backend():
    for name in ("jax", "tensorflow"):
        settle(name)
        assert os.environ["KERAS_BACKEND"] == name


@pytest.mark.parametrize(("name", "file"), [("jax", "requirements-jax.txt"), ("tensorflow", "requirements.txt")])
def test_a_backend_that_is_not_installed_is_named_with_what_installs_it(inside, monkeypatch, capsys, name, file):
    assert (ROOT / file).exists()
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None if module == name else find(module))
    assert main(["main", *RUN, f"--backend={name}"]) == 2
    assert capsys.readouterr().err == (
        f"error: --backend={name}, but {name} is not installed: `pip install -r {file}`, or choose the other backend.\n"
    )
    assert not list(inside.iterdir())


def test_a_run_may_change_its_backend(inside):
    trained_in_jax(inside)
    check_run(parsed(*RUN), Path("run") / RUN_FLAGS)


@pytest.mark.parametrize("mode", ["evaluate", "predict", "export", "serve"])
def test_the_backend_is_of_the_machine_and_not_of_the_run(inside, mode):
    trained_in_jax(inside)
    config = parsed(f"--mode={mode}", "--run_dir=run", "--input=scan.png")
    assert config.backend == "tensorflow"


def test_a_run_is_taken_up_by_its_own_flags_with_its_backend(inside):
    trained_in_jax(inside)
    assert parsed(f"--flagfile=run/{RUN_FLAGS}").backend == "jax"


@pytest.mark.parametrize("mode", ["export", "serve"])
def test_what_needs_tensorflow_says_so(inside, mode):
    trained_in_jax(inside)
    with pytest.raises(UserError, match=f"--mode={mode} needs TensorFlow: leave out --backend=jax."):
        parsed(f"--mode={mode}", "--run_dir=run", "--backend=jax")


def test_both_sets_of_packages_agree():
    """Checkpoints pass between environments that are installed from either."""
    packages = [
        {line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")}
        for file in ("requirements.txt", "requirements-jax.txt")
    ]
    assert len(packages[1] - packages[0]) == 1
    assert (packages[1] - packages[0]).pop().startswith("jax>=")
    assert not any(line.startswith("tensorflow") for line in packages[1])
