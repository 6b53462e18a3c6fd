"""docs/own_data.ipynb, run as a reader would: two folders of 8-bit files, at toy size."""

import os
import re
from pathlib import Path

import nbformat
import numpy as np
import program_starts
import pytest
from nbclient import NotebookClient
from PIL import Image

pytestmark = pytest.mark.usefixtures("one_replica", "eager_rounds", "graphs_as_traced", "no_pictures")

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = """
%matplotlib inline
# which a kernel that matplotlib is not loaded in yet takes from its environment
DATA = "mine"
RUN = "runs/mine"
IMAGE_SIZE = 64
FLAGS = [
    "--dataset=folders", "--batch_size=4", "--generator_filters=2", "--discriminator_filters=2", "--critic_updates=1",
    "--max_steps=2", "--validate_every_steps=2", "--checkpoint_every_steps=2", "--log_every_steps=1",
]
"""


def draw(folder):
    rng = np.random.default_rng(0)
    for split in ("train", "validate", "test"):
        for name in ("healthy", "diseased"):
            (folder / split / name).mkdir(parents=True)
            for number in range(4):
                pixels = rng.integers(0, 180, (64, 64)).astype("uint8")
                if name == "diseased":
                    pixels[20:30, 20:40] = 255
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")


def test_every_cell_runs(tmp_path, monkeypatch):
    draw(tmp_path / "mine")
    notebook = nbformat.read(ROOT / "docs" / "own_data.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].source.startswith("# What to change")
    code[0].source = SETTINGS
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    # The kernel, four starts of the program and one that it starts itself load TensorFlow once.
    monkeypatch.setenv(program_starts.FORKS_TOO, "1")
    monkeypatch.setattr("jupyter_client.launcher.Popen", program_starts.Fork)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = ["".join(output.get("text", "") for output in cell.outputs) for cell in code]
    assert "1=diseased n=12" in printed[2]
    assert re.search(r"^trained: +runs/mine$", printed[3], re.MULTILINE)
    assert "dice                 not available: no ground truth" in printed[4]
    assert "<descargan_tf model descargan: 64x64 uint8, 0 to 255>" in str(code[5].outputs)
    assert any("image/png" in output.get("data", {}) for output in code[6].outputs)
    assert float(printed[7].rsplit(maxsplit=1)[1]) < 1e-3
