"""Maps against masks, which say which pixels and neither by how much nor in which direction."""

import json

import numpy as np
import pytest
from PIL import Image

from descargan_tf import measures, pretrained
from descargan_tf.benchmark import report as benchmark_report
from descargan_tf.benchmark import tables as benchmark_tables
from descargan_tf.evaluation import evaluator, figures, metrics, report
from descargan_tf.evaluation.validation import validate
from descargan_tf.measures import PROTOCOLS
from descargan_tf.types import DIFFERENCE, DISEASED, MASK, Prediction, Split

SIZE = 64
LESION = slice(20, 36)
NO_SIGN = ("mse_d_gt", "ssim")
OUTLINE = (255, 212, 0)


def make_split(seed, num_per_class=6):
    """Bright lesions in noise, as the program's own masks of 8 bits are read."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(-0.9, 0.3, (2 * num_per_class, SIZE, SIZE, 1)).astype(np.float32)
    images[num_per_class:, LESION, LESION] = 0.3
    images[:, 0, 0], images[:, 0, 1] = -1, 1  # so that min-max scaling changes nothing
    masks = np.zeros_like(images)
    masks[num_per_class:, LESION, LESION] = 1
    labels = np.repeat([0, 1], num_per_class).astype(np.int32)
    names = [f"test/{'diseased' if label else 'healthy'}/{i}.png" for i, label in enumerate(labels)]
    return Split(images, labels, masks, names, MASK)


def answer(split, maps):
    maps = np.broadcast_to(np.asarray(maps, np.float32), split.images.shape)
    p = np.where(split.labels == DISEASED, 0.9, 0.1).astype(np.float32)
    return Prediction(maps, split.images + maps, np.abs(maps).mean((1, 2, 3)), np.stack([1 - p, p], 1))


def evaluated(split, maps, validation=None, validation_maps=None):
    """Of maps, whose like are those of the validation split if nothing else is said."""
    validation = split if validation is None else validation
    validation_maps = maps if validation_maps is None else validation_maps
    thresholds = evaluator.calibrate(validation, prediction=answer(validation, validation_maps))
    return evaluator.evaluate_split(answer(split, maps), split, thresholds, 0)


@pytest.fixture(scope="module")
def split():
    return make_split(0)


@pytest.fixture(scope="module")
def noisy(split):
    noise = np.random.default_rng(5).normal(0, 0.2, split.images.shape)
    return (-0.63 * split.ground_truth + noise).astype(np.float32)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("strength", [-0.63, 0.63])
def test_a_perfect_map_is_one_in_either_direction(split, protocol, strength):
    result = evaluated(split, strength * split.ground_truth)
    scores, zero = result["metrics"][protocol], result["baseline_zero_map"][protocol]
    for name in ("dice", "auroc_pixel", "dice_pooled", "auroc_pixel_pooled", "dice_otsu"):
        assert scores[name]["mean"] == pytest.approx(1), name
    assert (zero["dice"]["mean"], zero["auroc_pixel"]["mean"]) == (0, 0.5)
    for name in NO_SIGN:
        for entries in (scores, zero):
            assert entries[name] == {
                "mean": None,
                "ci95": None,
                "var": None,
                "num_images": 0,
                "reason": "not available: masks",
            }
    assert all(row["mse"] is None and row["ssim"] is None for row in result["per_image"][6:])
    assert result["split"]["ground_truth_kind"] == "mask"


def test_the_threshold_is_not_that_of_two_values(split):
    """Otsu of a mask is 0.002, at which every pixel of this map counted as found: Dice was 0.118."""
    result = evaluated(split, 0.01 + 0.5 * split.ground_truth)
    assert result["metrics"]["image_units"]["dice"]["mean"] == 1
    assert 0.01 < result["threshold"]["image_units"]["value"] < 0.51


def test_the_rule_is_the_best_mean_dice_on_the_validation_split(split, noisy):
    entry = evaluated(split, noisy)["threshold"]["image_units"]

    def mean_dice(t):
        found, mask = np.abs(noisy[6:]) > t, split.ground_truth[6:] > 0
        return np.mean([2 * np.sum(a & b) / (a.sum() + b.sum()) for a, b in zip(found, mask, strict=True)])

    best = mean_dice(entry["value"])
    assert best > 0.7
    assert all(mean_dice(t) <= best + 1e-12 for t in (*np.geomspace(0.001, 0.9, 60), 1.2, 1.9))
    assert entry["otsu_value"] == pytest.approx(metrics.otsu_thresholds(noisy[6:]).mean())
    assert (entry["num_images"], entry["ground_truth_kind"]) == (6, "mask")
    assert entry["rule"] == "threshold of |d| with the largest mean Dice against the masks, over the diseased images"
    at_otsu = evaluated(split, noisy)["metrics"]["image_units"]["dice_otsu"]["mean"]
    assert at_otsu == pytest.approx(mean_dice(entry["otsu_value"]))


def test_nothing_of_the_test_split_is_in_the_threshold(split, noisy):
    other = make_split(1)
    thresholds = evaluated(split, noisy, other, -0.63 * other.ground_truth)["threshold"]
    assert thresholds == evaluated(split, 3 * noisy, other, -0.63 * other.ground_truth)["threshold"]


def test_in_the_authors_protocol_the_mask_is_the_mask_and_the_map_theirs(split, noisy):
    """Min-max of image + mask would make of a mask 0 inside and -0.5 outside."""
    scores = evaluated(split, noisy)["metrics"]["authors"]
    images, healthy = split.images[6:], split.images[6:] + noisy[6:]
    d = metrics.minmax(healthy) - metrics.minmax(images)
    np.testing.assert_allclose(
        scores["auroc_pixel"]["mean"], np.mean(metrics.auroc_pixel(d, split.ground_truth[6:], 0.5)), rtol=1e-12
    )


def test_a_saliency_has_one_threshold_whatever_the_ground_truth(split):
    prediction = answer(split, 0.4 * split.ground_truth + 0.02)._replace(healthy_image=None)
    thresholds = evaluator.calibrate(split, prediction=prediction)
    assert 0.02 < thresholds["image_units"]["value"] < 0.42
    scores = evaluator.evaluate_split(prediction, split, thresholds, 0)["metrics"]["authors"]
    assert (scores["dice"]["mean"], scores["auroc_pixel"]["mean"]) == (1, 1)
    assert scores["ssim"]["reason"] == "not applicable: the map is a saliency, which has no image units"


# ---- ground truth that is not there, or of no use


def test_masks_of_some_images_count_for_those(split, noisy):
    known = np.ones(12, bool)
    known[[7, 9]] = False
    partly = split._replace(has_ground_truth=known, ground_truth=split.ground_truth * known[:, None, None, None])
    result = evaluated(partly, noisy)
    for name in ("dice", "auroc_pixel", "dice_pooled", "auroc_pixel_pooled", "dice_otsu"):
        entry = result["metrics"]["image_units"][name]
        assert entry["num_images"] == 4, name
        assert entry["note"] == "2 of 6 diseased images have no usable ground truth"
    assert result["threshold"]["image_units"]["num_images"] == 4
    assert result["split"]["num_ground_truths"] == 4
    assert [row["dice"] is None for row in result["per_image"]] == [True] * 6 + [False, True, False, True, False, False]
    assert result["metrics"]["image_units"]["accuracy"]["num_images"] == 12
    assert "Dice: 2 of 6 diseased images have no usable ground truth" in report.format_table(result)


def test_differences_of_some_images_count_for_those(split):
    known = np.arange(12) != 8
    partly = split._replace(
        ground_truth_kind=DIFFERENCE, ground_truth=-0.6 * split.ground_truth, has_ground_truth=known
    )
    result = evaluated(partly, -0.6 * split.ground_truth)
    for name in ("dice", "mse_d_gt", "ssim"):
        assert result["metrics"]["authors"][name]["num_images"] == 5
        assert "1 of 6 diseased images have no usable ground truth" in result["metrics"]["authors"][name]["note"]


@pytest.mark.parametrize("kind", [MASK, DIFFERENCE])
def test_black_validation_masks_leave_what_needs_no_threshold(split, noisy, kind):
    black = split._replace(ground_truth=0 * split.ground_truth, ground_truth_kind=kind)
    scores = evaluated(split._replace(ground_truth_kind=kind), noisy, black)["metrics"]["image_units"]
    assert scores["dice"]["mean"] is None
    assert scores["dice"]["reason"] == (
        "not available: no threshold, every ground truth of the validate split is 0 everywhere"
    )
    assert (scores["auroc_pixel"]["mean"] is None) == (kind == DIFFERENCE)
    assert (scores["mse_d_gt"]["mean"] is None) == (kind == MASK)
    assert scores["accuracy"]["mean"] == 1
    assert scores["mse_healthy"]["mean"] is not None


@pytest.mark.parametrize("kind", [MASK, DIFFERENCE])
def test_black_test_masks_are_no_measure(split, noisy, kind):
    black = split._replace(ground_truth=0 * split.ground_truth, ground_truth_kind=kind)
    scores = evaluated(black, noisy, split)["metrics"]["image_units"]
    for name in measures.OF_GROUND_TRUTH:
        if name in scores:
            assert scores[name]["reason"] == "not available: every ground truth is 0 everywhere"
    assert scores["accuracy"]["mean"] == 1


def test_thresholds_of_the_other_kind(split, noisy):
    signed = split._replace(ground_truth_kind=DIFFERENCE, ground_truth=-0.63 * split.ground_truth)
    of_masks = evaluated(signed, noisy, split)["metrics"]["image_units"]
    assert of_masks["dice"]["reason"].startswith(
        "not available: the ground truth of the validate split are masks, that of this one signed differences; "
    )
    assert of_masks["auroc_pixel"]["mean"] is None
    assert of_masks["mse_d_gt"]["mean"] is not None
    of_differences = evaluated(split, noisy, signed)["metrics"]["image_units"]  # as with published weights
    assert of_differences["dice"]["mean"] > 0.5
    assert of_differences["dice_otsu"]["reason"] == (
        "not available: no threshold, it was taken from signed differences"
    )


@pytest.mark.parametrize("maps", [0.0, 0.3])
def test_maps_without_contrast_are_judged_all_the_same(split, maps):
    scores = evaluated(split, maps)["metrics"]["image_units"]
    assert scores["dice"]["mean"] == pytest.approx(0 if maps == 0 else 2 * 256 / (256 + 64**2))
    assert scores["auroc_pixel"]["mean"] == 0.5
    assert scores["dice_otsu"]["reason"] == "not available: no threshold, every map is constant"


# ---- while training


def test_validation_says_of_masks_what_they_say(split, noisy):
    def predict(images):
        start = int(np.argmax([np.array_equal(images[0], image) for image in split.images]))
        return Prediction(*(field[start : start + len(images)] for field in answer(split, noisy)))

    def check(own, names):
        found = validate(predict, lambda batch: {}, lambda images: {"healthy": images}, own, None, 12).scalars
        assert {name for name in found if name in ("dice", "auroc_pixel", "mse_d_gt")} == names
        return found

    found = check(split, {"dice", "auroc_pixel"})
    result = evaluated(split, noisy)["metrics"]["image_units"]
    assert found["dice"] == pytest.approx(result["dice"]["mean"])
    assert found["auroc_pixel"] == pytest.approx(result["auroc_pixel"]["mean"])
    check(split._replace(ground_truth=0 * split.ground_truth), set())
    check(split._replace(ground_truth=None), set())


# ---- what is written and drawn


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory, split, noisy):
    folder = tmp_path_factory.mktemp("masks")
    result, prediction = evaluated(split, noisy), answer(split, noisy)
    value = result["threshold"]["image_units"]["value"]
    drawn = figures.draw_all(folder / "figures", prediction, split, value, num_samples=1)
    figures.write_samples(folder / "samples.npz", prediction, split, num_samples=1)
    about = {"data_digest": "feed", "batch_norm_inference": "moving", "method": "vae"}
    report.write_report(folder, result, drawn, about)
    return folder


def test_the_report_says_what_it_was_taken_against(run_dir):
    words = (run_dir / "report.md").read_text()
    assert "the ground truth is a mask" in words
    assert "true healthy image minus the diseased" not in words
    assert "MSE(d, GT) (var): not available: masks" in words
    assert "the threshold of |d| with the largest mean Dice against the masks, over the diseased images, over" in words
    assert "Image units, second line: " in words
    assert "| Dice, Otsu's threshold of \\|d\\| |" in words
    assert "predicting nothing" not in words
    assert "MSE(d, GT) is" not in words
    assert "signed red" not in words
    scores = json.loads((run_dir / "report.json").read_text())["metrics"]["image_units"]
    assert (scores["mse_d_gt"]["mean"], scores["mse_d_gt"]["reason"]) == (None, "not available: masks")


@pytest.mark.parametrize("name", ["samples.png", "dataset.png"])
def test_masks_are_drawn_as_outlines(run_dir, split, noisy, tmp_path, name):
    def outlined(path):
        return int(np.sum(np.all(np.array(Image.open(path).convert("RGB")) == OUTLINE, axis=-1)))

    assert outlined(run_dir / "figures" / name) > 50
    black = split._replace(ground_truth=0 * split.ground_truth)
    if name == "samples.png":
        drawn = figures.figure_samples(tmp_path / name, answer(split, noisy), black, num_samples=1)
    else:
        drawn = figures.figure_dataset(tmp_path / name, black)
        assert "signed, in" not in drawn.alt
    assert outlined(tmp_path / name) == 0
    assert "outline" in drawn.caption
    assert "|GT|" not in drawn.caption


def test_nothing_is_said_of_a_ground_truth_that_is_not_there(split, noisy, tmp_path):
    unknown = split._replace(ground_truth=None)
    drawn = figures.figure_samples(tmp_path / "a.png", answer(split, noisy), unknown, num_samples=1)
    assert "|d| in [0, 1]" in drawn.caption
    assert drawn.caption.endswith("No ground truth is known for this split.")
    assert "ground truth" not in drawn.alt


def test_the_histogram_is_of_the_mask_itself(run_dir):
    found = json.loads((run_dir / "report.json").read_text())["figures"]
    caption = next(figure["caption"] for figure in found if figure["file"].endswith("roc.png"))
    assert "inside and outside the mask; right of the dashed line" in caption


def test_samples_keep_the_kind(run_dir, split, tmp_path, monkeypatch):
    prediction, found = figures.read_samples(run_dir / "samples.npz")
    assert found.ground_truth_kind == MASK
    assert found.has_ground_truth is None
    monkeypatch.setattr(figures, "_save", lambda _, path, *words: figures.FigureFile(path, *words))
    drawn = figures.draw_comparison(tmp_path, {"VAE": prediction}, found)
    assert "drawn as its outline" in next(file.caption for file in drawn if file.path.name == "diseased_maps.png")


def test_model_cards_say_why_a_number_is_missing(run_dir, tmp_path):
    found = json.loads((run_dir / "report.json").read_text())
    about = {
        "name": "mine",
        "method": "vae",
        "data": "images of one's own",
        "image_size": SIZE,
        "step": 3,
        "num_parameters": {"autoencoder": 5},
        "bytes": 1,
        "sha256": "00",
        "command": "python",
        "in_eight_bits": [],
        "largest_change": {"class_probabilities": None, "anomaly_map": 0.01, "num_images": 1, "num_maps": 1},
    }
    (tmp_path / pretrained.ABOUT).write_text(json.dumps(about))
    (tmp_path / "report.json").write_text(json.dumps(found))
    card = pretrained.card(tmp_path)
    assert "| MSE(d, GT) | not available: masks |  | n/a |" in card
    assert "largest mean Dice against the masks" in card


def test_the_card_of_an_export_says_why_a_number_is_missing(run_dir, tmp_path):
    card = pytest.importorskip("descargan_tf.export.card")
    from descargan_tf.export.bytes_input import FileRule

    found = json.loads((run_dir / "report.json").read_text())
    outputs = {"anomaly_map": 0.0, "healthy_image": 0.0, "anomaly_score": 0.0}
    verification = {
        "differences": {"serving_bytes": outputs, "serving_default": outputs},
        "num_images": 1,
        "measure": "largest",
        "bound": 1e-4,
    }
    facts = card.description("vae", SIZE, FileRule((0, 255), "uint8"), "float32", verification, found)
    card.write_card(tmp_path, facts)
    words = (tmp_path / card.CARD).read_text()
    assert "| MSE(d, GT) | not available: masks |  |" in words
    value = found["threshold"]["image_units"]["value"]
    assert f"|map| > {value:.4f}: threshold of |d| with the largest mean Dice against the masks" in words


def test_tables_of_a_benchmark_say_why_a_number_is_missing(run_dir, split, tmp_path):
    report_file = json.loads((run_dir / "report.json").read_text())
    (tmp_path / "report.json").write_text(json.dumps(report_file))
    (tmp_path / "per_image.csv").write_text((run_dir / "per_image.csv").read_text())
    runs = {"vae": [benchmark_tables.read_run(tmp_path, 0)], "twin": [benchmark_tables.read_run(tmp_path, 1)]}
    made = benchmark_tables.make_tables(runs)
    for protocol in PROTOCOLS:
        entries = made["table_1"][protocol]["vae"]
        assert [entries[name]["reason"] for name in NO_SIGN] == ["not available: masks"] * 2
        assert entries["dice"]["mean"] == report_file["metrics"][protocol]["dice"]["mean"]
        assert entries["dice"]["ci95"] is not None


def test_tables_of_a_benchmark_say_which_images_count(split, noisy, tmp_path):
    known = np.arange(12) != 8
    partly = split._replace(has_ground_truth=known, ground_truth=split.ground_truth * known[:, None, None, None])
    report.write_report(tmp_path, evaluated(partly, noisy), [], {"data_digest": "feed"})
    run = benchmark_tables.read_run(tmp_path, 0)
    made = benchmark_tables.make_tables({"vae": [run]})
    assert made["table_1"]["image_units"]["vae"]["dice"]["note"] == "1 of 6 diseased images have no usable ground truth"
    row = benchmark_report.Row("vae", "vae", "vae.flags", None, (0,), {}, None)
    about = {"title": "Benchmark", "command": "python", "threshold": None, "facts": {}}
    benchmark_report.write(tmp_path, [row], made, [], about)
    words = (tmp_path / "tables.md").read_text()
    assert "- VAE: Dice, AUROC, pixels: 1 of 6 diseased images have no usable ground truth." in words
    assert "- VAE: MSE(d, GT) (var), SSIM: not available: masks." in words
