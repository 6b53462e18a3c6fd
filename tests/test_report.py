"""Report files and figures: what they say, what they draw, and that they need nothing from outside."""

import base64
import csv
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from descargan_tf import files
from descargan_tf.evaluation import evaluator, figures, report
from descargan_tf.types import Prediction, Split

NAMES = ("dice", "auroc_pixel", "mse_d_gt", "ssim", "mse_healthy", "accuracy", "kappa", "auroc_image")
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def make_split():
    rng = np.random.default_rng(0)
    images = rng.uniform(-0.8, 0.0, (8, 32, 32, 1)).astype(np.float32)
    truth = np.zeros_like(images)
    truth[4:, 8:16, 8:16] = 0.6
    truth[4:, 16:20, 8:16] = -0.15
    labels = np.repeat([0, 1], 4).astype(np.int32)
    return Split(images, labels, truth, [f"<{'hd'[label]}>&{i}.npy" for i, label in enumerate(labels)])


@pytest.fixture(scope="module")
def split():
    return make_split()


@pytest.fixture(scope="module")
def prediction(split):
    noise = np.random.default_rng(1).normal(0, 0.05, split.images.shape).astype(np.float32)
    d = split.ground_truth + noise
    probability = np.array([0.1, 0.2, 0.6, 0.3, 0.9, 0.8, 0.7, 0.55], np.float32)
    return Prediction(d, split.images + d, np.abs(d).mean((1, 2, 3)), np.stack([1 - probability, probability], 1))


@pytest.fixture(scope="module")
def thresholds(split):
    return evaluator.calibrate(split, data_checksum="sha256:feed")


@pytest.fixture(scope="module")
def result(split, prediction, thresholds):
    return evaluator.evaluate_split(prediction, split, thresholds, 0)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory, split, prediction, thresholds, result):
    folder = tmp_path_factory.mktemp("run")
    drawn = figures.draw_all(folder / "figures", prediction, split, thresholds["image_units"]["value"], num_samples=1)
    about = {
        "method": "descargan",
        "config": {"image_size": np.int64(32), "data_dir": Path("/data/<set>"), "limit": float("nan")},
        "versions": {"keras": "3"},
        "git_commit": "0123abcd",
        "command": "python -m descargan_tf.main --mode=evaluate && echo '<done>'",
        "wall_seconds": 1.5,
    }
    report.write_report(folder, result, drawn, about)
    return folder


def test_json_has_the_promised_shape(run_dir, result):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    written = json.loads((run_dir / "report.json").read_text(), parse_constant=refuse)
    for part in ("metrics", "baseline_zero_map"):
        for protocol in ("image_units", "authors"):
            for name in NAMES:
                assert {"mean", "ci95", "var"} <= written[part][protocol][name].keys()
    assert written["metrics"] == result["metrics"]
    assert written["threshold"]["image_units"]["data_checksum"] == "sha256:feed"
    assert (written["git_commit"], written["versions"]) == ("0123abcd", {"keras": "3"})
    assert written["config"] == {"image_size": 32, "data_dir": "/data/<set>", "limit": "nan"}
    assert written["figures"][0]["file"] == "figures/samples.png"
    assert "per_image" not in written


def test_html_is_one_well_formed_file_without_outside_references(run_dir):
    text = (run_dir / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    tags = [tag for tag, _ in page.tags]
    assert not {"script", "link", "iframe", "object"} & set(tags)
    assert ("html", {"lang": "en"}) in page.tags
    assert "prefers-color-scheme: dark" in text
    assert any(attrs.get("name") == "viewport" for _, attrs in page.tags)
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == 5
    for attrs in pictures:
        kind, data = attrs["src"].split(",", 1)
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
        assert len(attrs["alt"]) > 20
    for tag, attrs in page.tags:
        for name in ("src", "href", "srcset", "style", "poster", "data"):
            assert tag == "a" or attrs.get(name, "data:").startswith("data:")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "echo '<done>'" in "".join(page.text)


def test_pages_show_the_numbers_beside_paper_and_baseline(run_dir, result):
    words = "".join(Page((run_dir / "report.html").read_text()).text)
    markdown = (run_dir / "report.md").read_text()
    dice = result["metrics"]["image_units"]["dice"]
    for text in (words, markdown):
        assert f"Dice is {dice['mean']:.3f} (95 % interval {dice['ci95'][0]:.3f} to {dice['ci95'][1]:.3f})" in text
        for printed in ("0.853", "0.988", "0.0086 (0.002)", "0.954", "0.0018 (0.001)", "not directly comparable"):
            assert printed in text
        assert f"{result['baseline_zero_map']['authors']['mse_d_gt']['mean']:.4f}" in text
        assert f"{result['threshold']['authors']['value']:.5f}" in text
        assert "not a medical device" in text
        assert "not picked" in text
    assert "](figures/roc.png)" in markdown
    table = [line for line in markdown.splitlines() if line.startswith("| MSE(d, GT)")]
    assert len(table) == 1
    assert table[0].count(" | ") == 5


def test_csv_has_one_row_an_image(run_dir, split, result):
    rows = list(csv.DictReader(io.StringIO((run_dir / "per_image.csv").read_text())))
    assert [row["name"] for row in rows] == split.names
    pixel = ["dice", "auroc", "mse", "ssim"]
    assert list(rows[0]) == ["name", "label", "probability", "score", *pixel, *(f"authors_{name}" for name in pixel)]
    assert rows[0]["dice"] == ""
    assert float(rows[7]["dice"]) == result["per_image"][7]["dice"]
    assert float(rows[7]["probability"]) == pytest.approx(0.55)
    for column, protocol in (("ssim", "image_units"), ("authors_mse", "authors")):
        metric = {"ssim": "ssim", "authors_mse": "mse_d_gt"}[column]
        mean = np.mean([float(row[column]) for row in rows[4:]])
        assert mean == pytest.approx(result["metrics"][protocol][metric]["mean"])


def test_nothing_half_written_is_left(run_dir):
    assert sorted(path.name for path in run_dir.iterdir()) == [
        "figures",
        "per_image.csv",
        "report.html",
        "report.json",
        "report.md",
    ]
    assert sorted(path.name for path in (run_dir / "figures").iterdir()) == [
        "calibration.png",
        "dataset.png",
        "healthy.png",
        "roc.png",
        "samples.png",
    ]


def test_terminal_table_is_aligned(result):
    lines = report.format_table(result).splitlines()
    head = next(line for line in lines if "this run" in line)
    dice = next(line for line in lines if line.startswith("Dice "))
    assert dice.index(f"{result['metrics']['image_units']['dice']['mean']:.3f}") == head.index("this run")
    assert any("0.0086 (0.002)" in line for line in lines)
    assert not any(line != line.rstrip() for line in lines)


def test_a_map_worse_than_nothing_is_called_so(split, prediction, thresholds):
    wrong = prediction._replace(anomaly_map=-split.ground_truth)
    text = report.format_table(evaluator.evaluate_split(wrong, split, thresholds, 0))
    assert "of an all-zero map: no better than predicting nothing" in text


def test_a_report_without_ground_truth_and_about(tmp_path, split, prediction):
    unknown = split._replace(ground_truth=None)
    thresholds = evaluator.calibrate(unknown)
    result = evaluator.evaluate_split(prediction._replace(class_probabilities=None), unknown, thresholds, 0)
    drawn = figures.draw_all(tmp_path / "figures", prediction._replace(class_probabilities=None), unknown, None, 1)
    report.write_report(tmp_path, result, drawn, {})
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["metrics"]["authors"]["dice"]["mean"] is None
    assert written["git_commit"] is None
    words = "".join(Page((tmp_path / "report.html").read_text()).text)
    assert "Dice: not available: no ground truth" in words
    assert "n/a" in report.format_table(result)
    assert "by anomaly score" in next(figure.caption for figure in drawn if figure.path.name == "roc.png")


def test_a_classifier_has_no_map_figures(tmp_path, split, prediction):
    classifier = Prediction(None, None, None, prediction.class_probabilities)
    drawn = figures.draw_all(tmp_path, classifier, split, 0.3)
    assert [figure.path.name for figure in drawn] == ["roc.png", "calibration.png", "dataset.png"]


def test_figures_show_colour_repeat_and_share_one_scale(tmp_path, split, prediction):
    first = figures.figure_samples(tmp_path / "a.png", prediction, split, num_samples=2)
    again = figures.figure_samples(tmp_path / "b.png", prediction, split, num_samples=2)
    assert first.path.read_bytes() == again.path.read_bytes()
    assert "first 2 diseased images" in first.caption
    # Doubling a map must be visible: a picture scaled by its own extremes would look the same.
    doubled = prediction._replace(anomaly_map=prediction.anomaly_map * 2)
    other = figures.figure_samples(tmp_path / "c.png", doubled, split, num_samples=2)
    assert other.path.read_bytes() != first.path.read_bytes()
    pixels = np.asarray(Image.open(first.path).convert("RGB")).astype(int)
    assert (pixels[..., 0] - pixels[..., 2]).max() > 80
    assert (pixels[..., 2] - pixels[..., 0]).max() > 30


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "report.md"
    files.write_atomically(path, b"old")
    with pytest.raises(TypeError):
        files.write_atomically(path, "not bytes")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("names", "called"),
    [
        (["test/diseased/a.npy", "test/diseased/b.npy"], ["a.npy", "b.npy"]),
        (["test/diseased/p1/s1/view1.dcm", "test/diseased/p1/s2/view1.dcm"], ["s1", "s2"]),
        (["test/p1/s1/view1.dcm", "test/p2/s1/view1.dcm", "test/p2/s3/view2.dcm"], None),
        (["a.npy"], ["a.npy"]),
        (["same.npy", "same.npy"], ["same.npy", "same.npy"]),
        ([], []),
    ],
)
def test_rows_of_pictures_are_called_by_what_tells_them_apart(names, called):
    found = figures.row_names(names)
    assert called is None or found == called
    assert len(set(found)) == len(set(names))
