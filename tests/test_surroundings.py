"""What lies around the program does not change it: environment, home folder, working directory, hooks."""

import gc
import importlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from hostile_surroundings import HOSTILE, OTHER_KERAS, run

from descargan_tf import provenance, surroundings
from descargan_tf.evaluation import figures
from descargan_tf.types import Prediction, Split

# Runs a module as `python -m` does, up to where it would load Keras, and says what that and TensorFlow would find.
SHOW = """
import importlib.abc, importlib.machinery, json, os, runpy, sys

class Keras(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name == "keras" else None

    def exec_module(self, module):
        os.write(2, b"failed call to cuInit")
        assert "tensorflow" not in sys.modules
        print(json.dumps(dict(os.environ)))
        sys.stdout.flush()
        os._exit(0)

sys.meta_path.insert(0, Keras())
module, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("arguments", [["export.embedded", "--model_base_path=none"], ["export.verify", "none"]])
def test_the_programs_beside_it_load_what_computes_as_anywhere(tmp_path, arguments):
    """What Keras and TensorFlow make of such an environment, one that loads them shows: test_packaging.py."""
    done = run(tmp_path, OTHER_KERAS, sys.executable, "-c", SHOW, *arguments)
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()  # and not a word of cuInit
    assert line.startswith("not taken from the environment")
    found = json.loads(done.stdout)
    assert (found["KERAS_BACKEND"], found["KERAS_HOME"]) == ("tensorflow", os.devnull)
    assert not (set(HOSTILE) - {"KERAS_BACKEND"}) & set(found)


def test_the_clients_environment_is_its_own(tmp_path):
    """It loads neither TensorFlow nor Keras, so there is nothing to take from anywhere."""
    done = run(
        tmp_path, "[1", sys.executable, "-m", "export.client", "--url=http://127.0.0.1:9", "none.png", "--retries=0"
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


# ---- the terminal


def talkative_devices(kind=None):
    os.write(2, b"E0000 cuda_platform.cc:52] failed call to cuInit: UNKNOWN ERROR (303)\n")
    return []


def test_what_is_said_where_there_is_no_driver_is_kept_off_the_screen(monkeypatch, capfd, tmp_path):
    monkeypatch.setattr(tf.config, "list_physical_devices", talkative_devices)
    with surroundings.loading(driver=(tmp_path / "version",)):
        os.write(2, b"I0000 port.cc:153] oneDNN custom operations are on\n")
    assert capfd.readouterr().err == ""


def test_where_there_is_a_driver_it_is_shown(monkeypatch, capfd, tmp_path):
    """A GPU that cannot be used is what its owner must hear of."""
    monkeypatch.setattr(tf.config, "list_physical_devices", talkative_devices)
    (tmp_path / "version").touch()
    with surroundings.loading(driver=(tmp_path / "none", tmp_path / "version")):
        os.write(2, b"I0000 port.cc:153] oneDNN custom operations are on\n")
    assert capfd.readouterr().err == "E0000 cuda_platform.cc:52] failed call to cuInit: UNKNOWN ERROR (303)\n"


def test_what_fails_while_it_loads_is_shown(capfd):
    def load():
        with surroundings.loading():
            os.write(2, b"libstdc++.so.6: version not found\n")
            importlib.import_module("descargan_tf.none")

    with pytest.raises(ModuleNotFoundError):
        load()
    assert capfd.readouterr().err == "libstdc++.so.6: version not found\n"


@pytest.mark.parametrize(
    ("backend", "own_process", "for_good"),
    [("not loaded yet", True, True), ("not loaded yet", False, False), ("tensorflow", True, False)],
)
def test_garbage_is_not_looked_for_while_it_loads(backend, own_process, for_good):
    """Nor later among what is there then, where that is the program's own; but once."""
    before = gc.get_freeze_count()
    with surroundings.loading(backend, own_process=own_process):
        assert not gc.isenabled()
    assert gc.isenabled()
    assert (gc.get_freeze_count() > before) == for_good


# ---- the rest


def test_the_commit_is_that_of_the_program_in_a_hook_of_another_repository(monkeypatch, tmp_path):
    expected = provenance.git_commit()
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path))
    assert provenance.git_commit() == expected


def test_figures_do_not_follow_the_users_style(monkeypatch, tmp_path):
    import matplotlib

    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (4, 16, 16, 1)).astype("f")
    split = Split(images, np.array([0, 0, 1, 1]), None, list("abcd"))
    prediction = Prediction(0.1 * images, 0.9 * images, np.arange(4.0), np.full((4, 2), 0.5))
    plain = [figure.path.read_bytes() for figure in figures.draw_all(tmp_path / "plain", prediction, split)]
    style = {"figure.facecolor": "black", "font.size": 30, "text.usetex": True, "savefig.dpi": 10}
    with matplotlib.rc_context(style):
        styled = [figure.path.read_bytes() for figure in figures.draw_all(tmp_path / "styled", prediction, split)]
        assert matplotlib.rcParams["font.size"] == 30  # which is the user's, in a notebook
    assert plain == styled


def test_what_tensorflow_leaves_to_child_processes_is_nothing_to_speak_of(monkeypatch, capsys):
    monkeypatch.setenv("TF2_BEHAVIOR", "1")
    surroundings.settle()
    assert "TF2_BEHAVIOR" not in os.environ
    assert capsys.readouterr().err == ""
