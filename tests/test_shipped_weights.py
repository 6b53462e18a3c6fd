"""The weights that the repository holds: whole, documented, as good as they are said to be."""

import json
from pathlib import Path

import pytest

from descargan_tf import pretrained, run_folder
from descargan_tf.evaluation import pages
from descargan_tf.main import main
from descargan_tf.measures import HEADLINE, PROTOCOLS
from descargan_tf.run_folder import configure

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = sorted((ROOT / "pretrained").glob("*/published.json"))

pytestmark = pytest.mark.usefixtures("graphs_as_traced", "no_pictures")


def report(folder):
    return json.loads((Path(folder) / "report.json").read_text())


def test_there_are_weights_in_the_repository():
    assert SHIPPED


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
def test_shipped_weights_are_whole_and_fit_their_networks(path):
    folder = path.parent
    config = configure(["main", "--mode=evaluate", f"--checkpoint={folder}", "--run_dir=runs/none"])
    method, _, about = run_folder.restore(config)
    assert method.num_parameters == (about["num_parameters"])
    assert about["bytes"] <= 24e6
    assert about["largest_change"]["class_probabilities"] <= 0.01


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
def test_the_card_of_shipped_weights_is_that_of_their_files(path):
    assert (path.parent / "README.md").read_text() == pretrained.card(path.parent)


@pytest.mark.parametrize("protocol", [HEADLINE, "authors"])
def test_the_readme_has_the_numbers_of_shipped_weights(protocol):
    (path,) = SHIPPED
    text = (ROOT / "README.md").read_text()
    assert f"[`pretrained/{path.parent.name}`](pretrained/{path.parent.name}/README.md)" in text
    (row,) = [line for line in text.splitlines() if line.startswith(f"| {PROTOCOLS[protocol].title} (an all-zero map)")]
    found = report(path.parent)
    scores, zero = found["metrics"][protocol], found["baseline_zero_map"][protocol]
    assert f"| {pages.number('mse_healthy', scores['mse_healthy']['mean'])} |" in row
    for name in ("dice", "auroc_pixel", "mse_d_gt", "ssim"):
        assert f"| {pages.number(name, scores[name]['mean'])} ({pages.number(name, zero[name]['mean'])}) |" in row
    assert protocol != HEADLINE or f"| {pages.number('accuracy', scores['accuracy']['mean'])} |" in row


def test_the_demo_shows_what_its_weights_can_do(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)  # where the flagfile finds them
    places = (f"--data_dir={tmp_path / 'data'}", f"--run_dir={tmp_path / 'run'}")
    assert main(["main", "--flagfile=configs/demo.flags", "--num_test=1", *places]) == 0
    scores = report(tmp_path / "run")["metrics"]["image_units"]
    # As in the evaluation of the whole split, for its first image of either class.
    assert scores["dice"]["mean"] == pytest.approx(0.8587, abs=0.002)
    assert scores["auroc_pixel"]["mean"] == pytest.approx(0.9880, abs=0.001)
    assert scores["mse_healthy"]["mean"] == pytest.approx(3.93e-4, abs=0.05e-4)
    assert scores["accuracy"]["mean"] == 1
