"""The arithmetic of a benchmark's tables against numbers computed by hand, and the five files that show them."""

import csv
import io
import json
import math
import re

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, cohen_kappa_score, roc_auc_score
from test_report import Page

from descargan_tf.benchmark import report as benchmark_report
from descargan_tf.benchmark import tables as benchmark_tables
from descargan_tf.benchmark.tables import (
    TABLE_1,
    TABLE_2,
    make_tables,
    paired_difference,
    read_run,
    resample,
)
from descargan_tf.errors import UserError
from descargan_tf.evaluation import evaluator, figures, report
from descargan_tf.evaluation.paper import PAPER
from descargan_tf.types import Prediction, Split

LABELS = np.repeat([0, 1], [5, 4]).astype(np.int32)


# ---- single steps


def test_a_resample_draws_each_class_by_itself():
    weights = resample(LABELS, 0, 400)
    assert weights.shape == (400, 9)
    np.testing.assert_array_equal(weights[:, :5].sum(axis=1), 5)
    np.testing.assert_array_equal(weights[:, 5:].sum(axis=1), 4)
    assert abs(weights[:, 0].mean() - 1) < 0.15
    assert weights[:, 0].std() > 0.5
    np.testing.assert_array_equal(weights, resample(LABELS, 0, 400))
    assert not np.array_equal(weights, resample(LABELS, 1, 400))


def test_a_mean_is_weighed_and_leaves_unknown_values_out():
    values, labels = np.array([1.0, 4.0, np.nan, 10.0]), np.ones(4)
    weights = np.array([[1, 1, 1, 1], [2, 0, 5, 1], [0, 3, 0, 1]])
    # 15 / 3, 12 / 3, 22 / 4
    np.testing.assert_allclose(benchmark_tables.statistic("dice", values, labels, weights), [5, 4, 5.5])


@pytest.mark.parametrize("name", TABLE_2)
def test_measures_of_a_split_are_those_of_the_images_repeated(name):
    score = np.array([0.1, 0.6, 0.3, 0.5, 0.8, 0.5, 0.9, 0.4, 0.7])
    weights = np.vstack([np.ones(9), resample(LABELS, 3, 5)])
    found = benchmark_tables.statistic(name, score, LABELS, weights)
    for row, value in zip(weights.astype(int), found, strict=True):
        label, repeated = np.repeat(LABELS, row), np.repeat(score, row)
        expected = {
            "accuracy": lambda a, b: np.mean(a == (b > 0.5)),
            "kappa": lambda a, b: cohen_kappa_score(a, b > 0.5),
            "auroc_image": roc_auc_score,
            "auroc_score": roc_auc_score,
            "brier": brier_score_loss,
        }[name](label, repeated)
        assert value == pytest.approx(expected)


def test_a_run_that_was_evaluated_before_there_was_a_measure_says_so(tables, rows):
    older = [run._replace(report=json.loads(json.dumps(run.report))) for run in rows["fpgan"]]
    for run in older:
        for scores in run.report["metrics"].values():
            del scores["brier"]
    found = make_tables({**rows, "fpgan": older}, seed=5)
    entry = found["table_2"]["fpgan"]["brier"]
    assert entry["reason"] == "not available: evaluated before it was measured; evaluate that run again"
    assert found["table_2"]["fpgan"]["kappa"] == tables["table_2"]["fpgan"]["kappa"]
    assert found["table_2"]["twin"]["brier"]["mean"] is not None


def test_the_paired_difference_by_hand():
    found = paired_difference([1, 2, 3, 4], [2, 2, 2, 2], 0.5)
    assert found["difference"] == 0.5
    assert found["p"] == 1.0  # -1 and 0 on one side, 0, 1 and 2 on the other: 2 (2 + 1) / 5
    assert found["ci95"] == pytest.approx([-0.925, 1.925])  # quantiles of -1, 0, 1, 2 at 0.025 and 0.975
    apart = paired_difference(np.arange(99.0), np.arange(99.0) + 1, -1)
    assert apart["p"] == pytest.approx(2 / 100)
    assert apart["ci95"] == [-1, -1]
    same = paired_difference(np.ones(9), np.ones(9), 0)
    assert (same["p"], same["ci95"]) == (1.0, [0, 0])


# ---- whole tables, from reports as the evaluation writes them


def make_split():
    rng = np.random.default_rng(0)
    images = rng.uniform(-0.8, 0.0, (9, 16, 16, 1)).astype(np.float32)
    truth = np.zeros_like(images)
    truth[5:, 4:9, 4:9] = 0.6
    truth[5:, 9:11, 4:9] = -0.3
    return Split(images, LABELS, truth, [f"{i}.npy" for i in range(9)])


SPLIT = make_split()


def answers(strength, noise, seed, saliency=False):
    rng = np.random.default_rng(seed)
    d = strength * SPLIT.ground_truth + rng.normal(0, noise, SPLIT.images.shape).astype(np.float32)
    probability = np.clip(0.5 + 0.4 * (LABELS - 0.5) + rng.normal(0, 0.3, 9), 0, 1)
    probabilities = np.stack([1 - probability, probability], 1)
    if saliency:
        return Prediction(np.abs(d), None, None, probabilities)
    return Prediction(d, SPLIT.images + d, np.abs(d).mean((1, 2, 3)), probabilities)


def evaluated(folder, prediction, split=SPLIT):
    folder.mkdir()
    thresholds = evaluator.calibrate(split, prediction=prediction)
    about = {
        "data_digest": "feed",
        "training": {"rounds": 8, "images_per_round": 4, "images": 32, "seconds": 90.0},
        "num_parameters": {"generator": 1200, "discriminator": 34},
        "checkpoint": "somewhere/best (step 6)",
    }
    report.write_report(folder, evaluator.evaluate_split(prediction, split, thresholds, 0), [], about)
    figures.write_samples(folder / "samples.npz", prediction, split, 2)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    predictions = {
        "fpgan": [answers(0.9, 0.02, 1), answers(0.8, 0.05, 2)],
        "twin": [answers(0.9, 0.02, 1)],
        "dcls": [answers(1.0, 0.1, 3, saliency=True)],
        "vae": [answers(0.1, 0.4, 4)._replace(class_probabilities=None)],
    }
    found = {}
    for name, of_seeds in predictions.items():
        folders = [evaluated(folder / f"{name}{seed}", p) for seed, p in enumerate(of_seeds)]
        found[name] = [read_run(path, seed) for seed, path in enumerate(folders)]
    return found


@pytest.fixture(scope="module")
def tables(rows):
    return make_tables(rows, seed=5)


@pytest.mark.parametrize("protocol", ["image_units", "authors"])
@pytest.mark.parametrize("name", TABLE_1)
def test_means_and_spread_are_those_of_the_seeds_reports(rows, tables, protocol, name):
    a, b = (run.report["metrics"][protocol][name]["mean"] for run in rows["fpgan"])
    entry = tables["table_1"][protocol]["fpgan"][name]
    assert entry["mean"] == pytest.approx((a + b) / 2)
    assert entry["spread"] == pytest.approx(abs(a - b) / math.sqrt(2))  # sample standard deviation of two
    assert entry["values"] == [a, b]
    low, high = entry["ci95"]
    assert low <= entry["mean"] <= high
    alone = tables["table_1"][protocol]["twin"][name]
    assert alone["spread"] is None
    assert alone["mean"] == a


def test_intervals_are_those_of_the_mean_over_seeds_image_by_image(rows, tables):
    """Of the values per image averaged first: the same resample for both seeds."""
    values = np.mean([run.columns["dice"][5:] for run in rows["fpgan"]], axis=0)
    means = resample(LABELS, 5, 2000)[:, 5:].astype(float) @ values / 4
    assert tables["table_1"]["image_units"]["fpgan"]["dice"]["ci95"] == pytest.approx(
        np.quantile(means, [0.025, 0.975])
    )


def test_the_best_is_the_largest_or_the_smallest_as_the_metric_wants(tables):
    differences = tables["differences"]["image_units"]
    assert differences["mse_d_gt"]["best"] == "twin"
    assert differences["ssim"]["best"] == "twin"
    assert differences["mse_healthy"]["best"] == "twin"
    means = {row: entries["dice"]["mean"] for row, entries in tables["table_1"]["image_units"].items()}
    assert means[differences["dice"]["best"]] == max(means.values())
    other = differences["mse_d_gt"]["others"]["vae"]
    found = tables["table_1"]["image_units"]
    assert other["difference"] == pytest.approx(found["vae"]["mse_d_gt"]["mean"] - found["twin"]["mse_d_gt"]["mean"])
    assert other["ci95"][0] > 0
    assert other["p"] == pytest.approx(2 / 2001)


def test_rows_that_answer_alike_are_not_told_apart(rows):
    found = make_tables({"a": rows["twin"], "b": rows["twin"]}, seed=0)["differences"]["image_units"]
    for entry in found.values():
        assert entry["others"]["b"] == {"difference": 0, "ci95": [0, 0], "p": 1}


def test_what_a_method_does_not_give_says_why(tables):
    saliency = tables["table_1"]["image_units"]["dcls"]
    assert saliency["mse_d_gt"]["mean"] is None
    assert "saliency" in saliency["mse_d_gt"]["reason"]
    assert saliency["dice"]["mean"] > 0
    assert tables["table_2"]["vae"]["accuracy"]["mean"] is None
    assert tables["table_2"]["vae"]["auroc_score"]["mean"] is not None
    assert "vae" not in tables["differences"]["images"]["accuracy"]["others"]


def test_the_zero_map_is_there_and_never_the_best(tables):
    zero = tables["zero_map"]["image_units"]
    assert zero["dice"]["mean"] == 0
    assert zero["mse_d_gt"]["mean"] == pytest.approx(np.mean(SPLIT.ground_truth[5:] ** 2))
    assert {found["best"] for found in tables["differences"]["image_units"].values()} <= {"fpgan", "twin", "dcls"}


def test_without_any_run_there_are_no_tables():
    assert make_tables({"fpgan": []})["table_1"] == {}


def test_runs_of_different_images_share_no_table(rows, tmp_path):
    other = SPLIT._replace(names=[f"other{i}.npy" for i in range(9)])
    run = read_run(evaluated(tmp_path / "other", answers(1, 0.1, 0), other), 0)
    with pytest.raises(UserError, match="answered for different test images"):
        make_tables({"a": rows["twin"], "b": [run]})


@pytest.mark.parametrize(
    ("name", "content"), [("report.json", "{"), ("per_image.csv", "name,label\n"), ("report.json", None)]
)
def test_a_damaged_report_is_named(tmp_path, name, content):
    folder = evaluated(tmp_path / "run", answers(1, 0.1, 0))
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(UserError, match=f"the report in {re.escape(str(folder))} cannot be read"):
        read_run(folder, 0)


# ---- the files


@pytest.fixture(scope="module")
def written(rows, tables, tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    listed = [
        benchmark_report.Row(
            name,
            name,
            f"configs/quick_{name}.flags",
            "gradcam" if name == "dcls" else None,
            tuple(run.seed for run in runs),
            {7: "failed, ended with status 2: error: <no> luck"} if name == "vae" else {},
            benchmark_tables.budget(runs),
        )
        for name, runs in rows.items()
    ]
    listed.append(
        benchmark_report.Row("stargan", "stargan", "x.flags", None, (), {0: "not finished: round 0 of 8"}, None)
    )
    answered = {"FP-GAN": answers(0.9, 0.02, 1), "D_cls": answers(1, 0.1, 3, saliency=True)}
    for column, prediction in answered.items():
        figures.write_samples(folder / "samples.npz", prediction, SPLIT, 2)
        answered[column], samples = figures.read_samples(folder / "samples.npz")
    (folder / "samples.npz").unlink()
    about = {
        "title": "Benchmark: <tiny>",
        "command": "python -m descargan_tf.main --mode=benchmark '--benchmark_runs=fpgan:0,1'",
        "threshold": rows["twin"][0].report["threshold"],
        "facts": {"Machine that made the tables": "a | b"},
    }
    pictures = figures.draw_comparison(folder / "figures", answered, samples)
    benchmark_report.write(folder, listed, tables, pictures, about)
    return folder


def test_nothing_but_what_is_promised_is_written(written):
    assert sorted(path.name for path in written.iterdir()) == [
        "figures",
        "report.html",
        "tables.csv",
        "tables.json",
        "tables.md",
        "tables.tex",
    ]
    assert sorted(path.name for path in (written / "figures").iterdir()) == [
        "diseased_maps.png",
        "diseased_outputs.png",
        "healthy_maps.png",
        "healthy_outputs.png",
        "panels.png",
    ]


def numbers_of(lines, separator, end=""):
    """Row -> first number of each cell, of the first table among some lines."""
    found = {}
    for line in lines:
        cells = [re.sub(r"\\textbf{|\*\*", "", cell).strip() for cell in line.removesuffix(end).split(separator)]
        values = [re.match(r"-?[\d.]+(e-?\d+)?|n/a", cell) for cell in cells[1:]]
        if len(cells) == 6 and all(values) and "printed" not in cells[0]:
            found[cells[0].replace("\\_", "_")] = [value.group() for value in values]
    return found


def test_markdown_latex_csv_and_json_say_the_same(written, tables):
    markdown = (written / "tables.md").read_text().split("## Table 1, authors")[0]
    latex = (written / "tables.tex").read_text().split(r"\end{table}")[0]
    shown = numbers_of([line[2:-2] for line in markdown.splitlines() if line.startswith("| ")], " | ")
    assert numbers_of(latex.splitlines(), " & ", r" \\") == shown
    assert set(shown) == {"FP-GAN", "twin", "D_cls (gradcam saliency)", "VAE", "all-zero map"}

    by_label = {"fpgan": "FP-GAN", "twin": "twin", "dcls": "D_cls (gradcam saliency)", "vae": "VAE"}
    lines = list(csv.DictReader(io.StringIO((written / "tables.csv").read_text())))
    of_json = json.loads((written / "tables.json").read_text())
    for row, label in by_label.items():
        for name, text in zip(TABLE_1, shown[label], strict=True):
            (line,) = [x for x in lines if (x["row"], x["protocol"], x["metric"]) == (row, "image_units", name)]
            entry = of_json["table_1"]["image_units"][row][name]
            assert entry == tables["table_1"]["image_units"][row][name]
            if text == "n/a":
                assert (line["mean"], entry["mean"]) == ("", None)
                continue
            assert float(line["mean"]) == entry["mean"]
            assert float(text) == pytest.approx(entry["mean"], abs=5.1e-4, rel=0.06)
            assert (line["best"] == "1") == (of_json["differences"]["image_units"][name]["best"] == row)
    (line,) = [x for x in lines if (x["row"], x["table"], x["metric"]) == ("fpgan", "table_2", "kappa")]
    assert line["printed"] == "0.750"
    assert int(line["num_seeds"]) == 2


def test_latex_tables_are_whole(written):
    text = (written / "tables.tex").read_text()
    for opening in (r"\begin{table}", r"\begin{tabular}", r"\toprule", r"\bottomrule"):
        assert text.count(opening) == 3
    for block, expected in zip(text.split(r"\midrule")[1:], (6, 6, 7), strict=True):
        columns = {len(re.split(r"(?<!\\)&", line)) for line in block.split(r"\bottomrule")[0].splitlines() if line}
        assert columns == {expected}
    assert not re.search(r"(?<!\\)[_%#]", text.replace("% needs", ""))
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_the_paper_is_beside_and_a_row_that_it_does_not_have_has_none(written):
    text = (written / "tables.md").read_text()
    assert "| *FP-GAN, as printed* | 0.766 | 0.975 | 0.0160 (0.004) | 0.917 | 0.0027 (0.003) |" in text
    assert "*D_cls, as printed* | 0.890 | 0.780 | 0.949 |" in text
    assert "twin, as printed" not in text
    assert "0.853" not in text  # of a row that is not among these


def test_cells_without_a_number_say_why(written):
    text = (written / "tables.md").read_text()
    reason = "not applicable: the map is a saliency, which has no image units"
    assert f"- D_cls (gradcam saliency): MSE(d, GT) (var), SSIM: {reason}." in text
    assert (
        "- VAE: Accuracy, Cohen's kappa, AUROC, images, Brier score: not available: the method gives no class" in text
    )


def test_a_map_worse_than_none_is_called_so(written, tables):
    zero = tables["zero_map"]["image_units"]["mse_d_gt"]["mean"]
    means = {row: entries["mse_d_gt"]["mean"] for row, entries in tables["table_1"]["image_units"].items()}
    assert means["fpgan"] < zero < means["vae"]
    assert "Not below the all-zero map in MSE(d, GT): VAE." in (written / "tables.md").read_text()


def test_what_is_missing_is_said_first(written):
    text = (written / "tables.md").read_text()
    missing = text[text.index("## What is missing") : text.index("## Table 1")]
    assert "- VAE, seed 7: failed, ended with status 2: error: <no> luck" in missing
    assert "- StarGAN, seed 0: not finished: round 0 of 8" in missing
    assert "| StarGAN | n/a |" in text[text.index("## Budget") :]
    assert "1,200 generator + 34 discriminator" in text
    assert "| FP-GAN | 32 | 8 | 4 |" in text
    assert "1.5, 1.5" in text


def test_the_threshold_says_that_it_is_from_the_validation_split(written):
    for name in ("tables.md", "report.html"):
        text = (written / name).read_text()
        assert "of the validate split" in text
        assert "Nothing was chosen on the test images." in text


def test_html_is_one_well_formed_file_without_outside_references(written):
    text = (written / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == 5
    for tag, attrs in page.tags:
        for name in ("src", "href", "srcset", "style", "poster", "data"):
            assert tag == "a" or attrs.get(name, "data:").startswith("data:")
    assert "url(" not in text
    words = "".join(page.text)
    for part in ("Benchmark: <tiny>", "error: <no> luck", "as printed 0.766", "D_cls (gradcam saliency)", "a | b"):
        assert part in words


def test_samples_come_back_as_they_were(tmp_path):
    for prediction in (answers(1, 0.1, 0), answers(1, 0.1, 0, saliency=True)):
        found, split = figures.read_samples(figures.write_samples(tmp_path / "s.npz", prediction, SPLIT, 2))
        assert split.names.tolist() == ["0.npy", "1.npy", "5.npy", "6.npy"]
        np.testing.assert_array_equal(split.labels, [0, 0, 1, 1])
        np.testing.assert_array_equal(split.ground_truth, SPLIT.ground_truth[[0, 1, 5, 6]])
        for name, value in prediction._asdict().items():
            got = getattr(found, name)
            assert (got is None) == (value is None)
            if value is not None:
                np.testing.assert_array_equal(got, value[[0, 1, 5, 6]])
    (tmp_path / "s.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="cannot be read"):
        figures.read_samples(tmp_path / "s.npz")


def test_figures_share_one_scale(tmp_path):
    """A map twice as strong must look so: nothing is scaled by its own extremes."""
    one = slice(-1, None)
    split = SPLIT._replace(
        images=SPLIT.images[one], labels=SPLIT.labels[one], ground_truth=SPLIT.ground_truth[one], names=SPLIT.names[one]
    )
    drawn = []
    for k in (0.5, 1):
        prediction = Prediction(*(part[one] for part in answers(k, 0, 0)))
        (maps, *_) = figures.draw_comparison(tmp_path / str(k), {"a": prediction}, split)
        drawn.append(maps.path.read_bytes())
    first, second = drawn
    assert first != second


def test_the_printed_numbers_are_the_papers():
    """Table 1 and 2, as printed: literals, read off the paper again."""
    table_1 = {
        "stargan": ("0.710", "0.962", "0.0229 (0.128)", "0.888", "0.0025 (0.002)"),
        "fpgan": ("0.766", "0.975", "0.0160 (0.004)", "0.917", "0.0027 (0.003)"),
        "vagan": ("0.442", "0.954", "0.1321 (0.132)", "0.869", "0.0036 (0.002)"),
        "vae": ("0.288", "0.809", "0.0734 (0.071)", "0.668", "0.0316 (0.031)"),
        "descargan": ("0.853", "0.988", "0.0086 (0.002)", "0.954", "0.0018 (0.001)"),
    }
    table_2 = {
        "stargan": ("0.853", "0.705", "0.923", "0.0534 (0.095)"),
        "fpgan": ("0.875", "0.750", "0.939", "0.0060 (0.007)"),
        "vagan": (None, None, None, "0.0638 (0.065)"),
        "vae": (None, None, None, "0.0231 (0.030)"),
        "densenet169": ("0.893", "0.785", "0.951", None),
        "dcls": ("0.890", "0.780", "0.949", None),
        "descargan": ("0.898", "0.795", "0.953", "0.0035 (0.003)"),
    }
    assert {name: tuple(p.table_1[key] for key in TABLE_1) for name, p in PAPER.items() if p.table_1} == table_1
    keys = ("accuracy", "kappa", "auroc_image", "mse_healthy")
    assert {name: tuple(p.table_2.get(key) for key in keys) for name, p in PAPER.items()} == table_2
