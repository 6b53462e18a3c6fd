"""The README's requests, as pasted, against a server."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import served_model
import tensorflow as tf
from PIL import Image

pytestmark = pytest.mark.usefixtures("shallow", "graphs_as_traced")

ROOT = Path(__file__).resolve().parent.parent
SECTION = (ROOT / "README.md").read_text().split("\n## Export and serve\n")[1].split("\n## ")[0]
(COMMANDS, SHELL), (PYTHON,) = (re.findall(f"```{language}\n(.*?)```", SECTION, re.S) for language in ("sh", "python"))
ADDRESS = "http://127.0.0.1:8501"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a user works who has run the quickstart: one of its test images."""
    made = tmp_path_factory.mktemp("readme")
    path = made / re.search(r'n\.load\("(.*?)"\)', SHELL)[1]
    path.parent.mkdir(parents=True)
    y, x = np.mgrid[:64, :64] / 32 - 1
    np.save(path, np.float32(0.8 * np.cos(3 * x) * np.sin(2 * y)))
    return made


@pytest.fixture(scope="module")
def pasted(folder):
    """What the blocks print, the shell's first."""
    missing = [program for program in ("bash", "curl", "jq", "base64") if shutil.which(program) is None]
    if missing:
        (pytest.fail if os.environ.get("REQUIRE_PROGRAMS") else pytest.skip)(f"not installed: {', '.join(missing)}")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}
    outputs = []
    with served_model.serve() as url:
        for program, text in ((["bash", "-euo", "pipefail", "-c"], SHELL), ([sys.executable, "-c"], PYTHON)):
            assert ADDRESS in text
            done = subprocess.run(
                [*program, text.replace(ADDRESS, url)],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            outputs.append(done.stdout)
    return outputs


@pytest.fixture(scope="module")
def expected(pasted, folder):
    pixels = np.asarray(Image.open(folder / "scan.png"))
    image = (pixels / 127.5 - 1).astype(np.float32)[np.newaxis, ..., np.newaxis]
    return served_model.live_method().predict(tf.constant(image))


def test_the_shell_shows_state_and_numbers(pasted, expected):
    assert '"state": "AVAILABLE"' in pasted[0]
    shown = json.loads(re.search(r'\{\s*"disease_probability".*?\}', pasted[0], re.S)[0])
    assert shown["disease_probability"] == pytest.approx(float(expected.class_probabilities[0, 1]), abs=1e-4)
    assert shown["anomaly_score"] == pytest.approx(float(expected.anomaly_score[0]), abs=1e-4)
    assert shown["predicted_class"] in (0, 1)


def test_the_shell_saves_the_overlay(pasted, folder):
    assert Image.open(io.BytesIO((folder / "scan_overlay.png").read_bytes())).size == (64, 64)


def test_the_client_writes_maps_and_a_table(pasted, expected, folder):
    header, row = (folder / "predictions" / "predictions.csv").read_text().splitlines()
    assert header == "file,disease_probability,anomaly_score,predicted_class"
    assert float(row.split(",")[2]) == pytest.approx(float(expected.anomaly_score[0]), abs=1e-4)
    found = np.load(folder / "predictions" / "scan_map.npy")
    np.testing.assert_allclose(found, expected.anomaly_map[0, ..., 0], atol=1e-4)


def test_the_five_lines_of_python_print_probability_and_shape(pasted, expected):
    probability, shape = pasted[1].split(" ", 1)
    assert float(probability) == pytest.approx(float(expected.class_probabilities[0, 1]), abs=1e-4)
    assert shape == "(64, 64)\n"


def test_the_commands_before_name_one_folder_and_the_port(pasted):
    export, serve = (line for line in COMMANDS.splitlines() if line)
    (base,) = re.findall(r"--export_dir=(\S+)", export)
    assert f"--mode=serve --export_dir={base}" in serve
    assert serve.endswith(ADDRESS)
