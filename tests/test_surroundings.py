"""What lies around the program does not change it: environment, home folder, working directory, hooks."""

import gc
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from descargan_tf import provenance, surroundings
from descargan_tf.evaluation import figures
from descargan_tf.types import Prediction, Split

ROOT = Path(__file__).resolve().parent.parent
HOSTILE = {
    "KERAS_BACKEND": "torch",
    "KERAS_MAX_EPOCHS": "none",
    "KERAS_NNX_ENABLED": "true",
    "TF2_BEHAVIOR": "0",
    "TF_USE_LEGACY_KERAS": "1",
    "TF_ENABLE_AUTO_MIXED_PRECISION": "1",
    "TF_XLA_FLAGS": "--tf_xla_auto_jit=2",
    "TF_SET_ONEDNN_FPMATH_MODE": "BF16",
    "MPLBACKEND": "nonsense",
}
OTHER_KERAS = {"backend": "torch", "image_data_format": "channels_first", "floatx": "float16", "epsilon": 0.1}
SHOW = """
from descargan_tf import surroundings
surroundings.settle()
with surroundings.loading():
    import descargan_tf.commands
import json, keras, os, sys, tensorflow as tf
settings = keras.config
print(json.dumps([settings.backend(), settings.image_data_format(), settings.floatx(), settings.epsilon(),
                  tf.executing_eagerly(), os.environ.get("TF_XLA_FLAGS"), "IPython" in sys.modules]))
"""


def run(folder, keras_json, *arguments):
    """A process of the program's in hostile surroundings; its standard output and error."""
    (folder / "home/.keras").mkdir(parents=True)
    (folder / "home/.keras/keras.json").write_text(keras_json)
    (folder / "matplotlibrc").write_text("text.usetex: True\n")
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **HOSTILE, "HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (folder / "home/.keras/keras.json").read_text() == keras_json
    return done


def test_the_program_computes_as_it_does_anywhere(tmp_path):
    """And Keras loads nothing for parts that are not used."""
    done = run(tmp_path, json.dumps(OTHER_KERAS), "-c", SHOW)
    assert json.loads(done.stdout) == ["tensorflow", "channels_last", "float32", 1e-07, True, None, False]
    (line,) = done.stderr.splitlines()  # and not a word of cuInit
    assert line.startswith("not taken from the environment, as it would change what is computed: TF2_BEHAVIOR=0 ")
    assert "MPLBACKEND" not in line


@pytest.mark.parametrize(
    ("keras_json", "arguments", "message"),
    [
        (json.dumps(OTHER_KERAS), ["-m", "export.embedded", "--model_base_path=none"], "error: "),
        ("[1", ["-m", "export.verify", "none"], "error: none holds no SavedModel"),
    ],
    ids=["another's", "broken"],
)
def test_so_do_the_programs_beside_it(tmp_path, keras_json, arguments, message):
    done = run(tmp_path, keras_json, *arguments)
    assert done.returncode in (1, 2)
    first, *_, last = done.stderr.splitlines()
    assert first.startswith("not taken from the environment")
    assert last.startswith(message)
    assert "cuInit" not in done.stderr


def test_the_clients_environment_is_its_own(tmp_path):
    """It loads neither TensorFlow nor Keras, so there is nothing to take from anywhere."""
    done = run(tmp_path, "[1", "-m", "export.client", "--url=http://127.0.0.1:9", "none.png", "--retries=0")
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
