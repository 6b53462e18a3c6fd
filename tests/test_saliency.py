"""Maps of classifiers: each by its formula, what they are worth in an evaluation, and the way through the program."""

import csv
import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from descargan_tf import run_folder
from descargan_tf.config import Config
from descargan_tf.data.images import write_npy
from descargan_tf.errors import UserError
from descargan_tf.evaluation import evaluator, figures, metrics, report
from descargan_tf.main import main
from descargan_tf.measures import PROTOCOLS
from descargan_tf.methods import METHODS, saliency
from descargan_tf.methods.classifier import Classifier
from descargan_tf.methods.dcls import DCls, DClsSettings
from descargan_tf.methods.densenet169 import DenseNet169, DenseNet169Settings
from descargan_tf.methods.saliency import MAPS, explained
from descargan_tf.run_folder import configure
from descargan_tf.training.step import input_gradient
from descargan_tf.types import Prediction, Split

SIZE = 16

pytestmark = pytest.mark.usefixtures("graphs_as_traced", "shallow")


def images(count, size=64, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, size, size, 1)).astype("f")


class Linear(Classifier):
    """Log-odds w x + b, where w is drawn: every map of it can be written down."""

    def __init__(self, bias=0.3, size=0.1):
        self.networks = {}
        self.w = np.random.default_rng(7).normal(0, size, (SIZE, SIZE, 1)).astype("f")
        self.bias = np.float32(bias)

    def features(self, images):
        return images

    def logits(self, features):
        value = 0.5 * ops.sum(features * self.w, axis=(1, 2, 3)) + self.bias
        return ops.stack([self.bias - value, value], axis=1)

    def _training_logits(self, images, draws):
        raise AssertionError("explaining is not training")

    def log_odds(self, x):
        return float((x * self.w).sum() + self.bias)


def explain(kind, classifier, x):
    answer = tf.function(lambda x: MAPS[kind](classifier, x, input_gradient))
    return np.asarray(answer(tf.constant(x)))


@pytest.fixture
def linear():
    return Linear()


@pytest.fixture(scope="module")
def dcls(shallow):
    keras.utils.set_random_seed(0)
    settings = {"discriminator_filters": 4, "discriminator_initializer": "he_normal"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("descargan_tf.models.discriminator._HEAD", (16,))  # without, a path's integral converges slowly
        return DCls(DClsSettings(image_size=64, **settings))


@pytest.fixture(scope="module")
def densenet(shallow):
    keras.utils.set_random_seed(1)
    return DenseNet169(DenseNet169Settings(image_size=64, discriminator_filters=4, dense_blocks="1,1,1,1"))


@pytest.fixture
def few_steps(monkeypatch):
    """Where it does not matter how many: 5 of the path, 49 patches."""
    monkeypatch.setattr(saliency, "_PATH_STEPS", 5)
    monkeypatch.setattr(saliency, "_PATCHES_ASIDE", 4)


def log_odds(classifier, x):
    logits = np.asarray(classifier.logits(classifier.features(x)), np.float64)
    return logits[:, 1] - logits[:, 0]


# ---- each by its formula


def test_integrated_gradients_of_a_linear_function_are_its_summands(linear):
    x = images(2, SIZE)
    found = explain("integrated_gradients", linear, x)
    np.testing.assert_allclose(found, (x + 1) * linear.w, atol=1e-5)


def test_integrated_gradients_add_up_to_the_difference_from_black(dcls, monkeypatch):
    monkeypatch.setattr(saliency, "_PATH_STEPS", 1000)  # the fewer, the less exactly
    x = images(1)
    total = explain("integrated_gradients", dcls, x).sum((1, 2, 3))
    expected = log_odds(dcls, x) - log_odds(dcls, -np.ones_like(x))
    assert np.abs(expected).min() > 1e-3
    np.testing.assert_allclose(total, expected, rtol=0.01)


def test_occlusion_covers_every_pixel_with_patches_of_the_mean(linear):
    x = images(2, SIZE, seed=1)
    expected, times = np.zeros(x.shape), np.zeros((SIZE, SIZE, 1))
    for top in range(SIZE - 1):  # patches of two pixels, one apart
        for left in range(SIZE - 1):
            times[top : top + 2, left : left + 2] += 1
            for i in range(2):
                covered = x[i].copy()
                covered[top : top + 2, left : left + 2] = x[i].mean()
                fall = linear.log_odds(x[i]) - linear.log_odds(covered)
                expected[i, top : top + 2, left : left + 2] += fall
    assert times.min() == 1
    found = explain("occlusion", linear, x)
    np.testing.assert_allclose(found, expected / times, atol=1e-5)


def test_grad_cam_of_a_linear_function(linear):
    x = images(2, SIZE, seed=2)
    found = explain("gradcam", linear, x)
    np.testing.assert_allclose(found, np.maximum(linear.w.mean() * x, 0), atol=1e-6)
    assert found.max() > 0


def test_grad_cam_of_a_mean_and_a_dense_layer_is_the_class_activation_map(densenet):
    x = images(2, seed=3)
    kernel = np.asarray(densenet.networks["classifier"].get_layer("head").trainable_weights[0])
    features = np.asarray(densenet.features(x))
    for sign in (1, -1):  # one of the two classes' maps is there, whatever the weights
        flipped = kernel[:, ::-1] if sign < 0 else kernel
        densenet.networks["classifier"].get_layer("head").trainable_weights[0].assign(flipped)
        cam = np.maximum(sign * features @ (kernel[:, 1] - kernel[:, 0]), 0) / 4  # mean over 2x2
        found = explain("gradcam", densenet, x)[..., 0]
        # Between the centres of the four values it is bilinear, outside of them constant.
        corners = found[:, [0, 0, -1, -1], [0, -1, 0, -1]].reshape(-1, 2, 2)
        np.testing.assert_allclose(corners, cam, rtol=1e-4, atol=1e-7)
        middle = found[:, 31:33, 31:33].mean((1, 2))
        np.testing.assert_allclose(middle, cam.mean((1, 2)), rtol=1e-3, atol=1e-7)
    densenet.networks["classifier"].get_layer("head").trainable_weights[0].assign(kernel)


# ---- as an answer


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("kind", MAPS)
def test_the_largest_value_is_the_disease_probability(dcls, kind):
    x = images(3, seed=4)
    found = tf.function(explained(dcls, kind, input_gradient).predict)(tf.constant(x))
    raw = np.maximum(explain(kind, dcls, x), 0)
    p = np.asarray(dcls.predict(x).class_probabilities)[:, 1]
    assert raw.max((1, 2, 3)).min() > 0
    expected = raw / raw.max((1, 2, 3), keepdims=True) * p[:, None, None, None]
    np.testing.assert_allclose(np.asarray(found.anomaly_map), expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(np.asarray(found.class_probabilities)[:, 1], p, rtol=1e-5)
    assert found.healthy_image is None
    assert found.anomaly_score is None
    assert dcls.predict(x).anomaly_map is None  # the method itself is as it was


@pytest.mark.usefixtures("few_steps")
def test_an_image_that_is_called_healthy_has_a_dark_map():
    found = explained(Linear(bias=-30.0), "occlusion", input_gradient).predict(tf.constant(images(2, SIZE)))
    assert 0 < np.asarray(found.anomaly_map).max() < 1e-6


@pytest.mark.usefixtures("few_steps")
def test_nothing_to_explain_is_a_map_of_zeros():
    for kind in MAPS:
        found = explained(Linear(size=0.0), kind, input_gradient).predict(tf.constant(images(2, SIZE)))
        np.testing.assert_array_equal(np.asarray(found.anomaly_map), 0)


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("kind", MAPS)
def test_a_saved_model_explains_each_image_by_itself(dcls, kind, tmp_path):
    explaining = explained(dcls, kind, input_gradient)
    module = tf.Module()
    module.variables_ = [variable.value for variable in dcls.networks["classifier"].variables]
    signature = [tf.TensorSpec((None, 64, 64, 1))]
    module.answer = tf.function(lambda x: explaining.predict(x).anomaly_map, input_signature=signature)
    tf.saved_model.save(module, str(tmp_path))
    x = images(2, seed=5)
    loaded = tf.saved_model.load(str(tmp_path))
    found = np.asarray(loaded.answer(tf.constant(x)))
    expected = [np.asarray(module.answer(tf.constant(x[i : i + 1])))[0] for i in range(2)]
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert found.max() > 0.1


# ---- in an evaluation


def make_split(seed):
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], 5).astype(np.int32)
    r = rng.uniform(-0.5, 0.5, (10, 32, 32, 1)).astype("f")
    truth = np.zeros_like(r)
    for i in range(5, 10):
        top, left = rng.integers(0, 20, 2)
        truth[i, top : top + 10, left : left + 8] = 0.4
    return Split(r, labels, truth, [f"{i}.npy" for i in range(10)])


def predict(split, scale=1.0):
    """A saliency that is 0.6 inside of the truth and up to 0.55 outside of it."""
    rng = np.random.default_rng(9)
    saliency = np.where(split.ground_truth > 0, 0.6, rng.uniform(0, 0.55, split.images.shape)).astype("f")
    p = split.labels.astype("f")
    return Prediction(saliency * np.float32(scale), None, None, np.stack([1 - p, p], 1))


@pytest.fixture(scope="module")
def splits():
    return make_split(1), make_split(2)


def evaluate(splits, scale=1.0):
    thresholds = evaluator.calibrate(splits[0], prediction=predict(splits[0], scale))
    return evaluator.evaluate_split(predict(splits[1], scale), splits[1], thresholds, seed=0)


def test_the_best_threshold_has_the_largest_dice_of_all():
    rng = np.random.default_rng(3)
    gt = (rng.uniform(size=(3, 8, 8, 1)) > 0.6) * 0.5
    maps = np.abs(gt * 0.3 + rng.normal(0, 0.1, gt.shape))
    candidates = np.linspace(0.01, 0.5, 30)
    found = metrics.best_dice_threshold(maps, gt, 0.25, candidates)

    def mean_dice(t):
        a, b = maps > t, gt > 0.25
        return np.mean([2 * np.sum(x & y) / (x.sum() + y.sum()) for x, y in zip(a, b, strict=True)])

    values = [mean_dice(t) for t in candidates]
    assert found == candidates[np.argmax(values)]
    assert values[0] < max(values) > values[-1]


def test_a_saliency_is_judged_at_a_threshold_of_its_own(splits):
    result = evaluate(splits)
    threshold = result["threshold"]["image_units"]["map_value"]
    assert 0.45 < threshold < 0.6
    found, gt = predict(splits[1]).anomaly_map[5:] > threshold, splits[1].ground_truth[5:] > 0.2
    expected = 2 * (found & gt).sum((1, 2, 3)) / (found.sum((1, 2, 3)) + gt.sum((1, 2, 3)))
    assert result["metrics"]["image_units"]["dice"]["mean"] == pytest.approx(expected.mean())
    assert result["metrics"]["image_units"]["auroc_pixel"]["mean"] == 1.0
    for protocol in PROTOCOLS:
        scores = result["metrics"][protocol]
        assert scores["dice"]["num_images"] == 5
        for name in ("mse_d_gt", "ssim"):
            assert scores[name]["mean"] is None
            assert scores[name]["reason"] == "not applicable: the map is a saliency, which has no image units"
        assert scores["mse_healthy"]["reason"] == "not available: the method gives no healthy image"
    assert all(row["mse"] is None for row in result["per_image"])


def test_the_unit_of_a_saliency_does_not_matter(splits):
    # Candidates of the threshold are 12 % apart, so the factor is a number of such steps.
    factor = (0.001 / 0.9) ** (20 / 59)
    one, other = (evaluate(splits, scale)["metrics"]["image_units"] for scale in (1.0, factor))
    for name in ("dice", "auroc_pixel", "dice_pooled", "auroc_pixel_pooled"):
        assert other[name]["mean"] == pytest.approx(one[name]["mean"], abs=1e-4)


def test_without_ground_truth_there_is_no_threshold_of_the_maps(splits):
    blind = [split._replace(ground_truth=None) for split in splits]
    thresholds = evaluator.calibrate(blind[0], prediction=predict(splits[0]))
    assert thresholds["image_units"]["map_value"] is None
    result = evaluator.evaluate_split(predict(splits[1]), blind[1], thresholds, seed=0)
    assert result["metrics"]["image_units"]["dice"]["reason"] == "not available: no ground truth"
    assert result["metrics"]["image_units"]["accuracy"]["mean"] == 1.0


def test_figures_and_report_say_what_a_saliency_is(splits, tmp_path):
    result = evaluate(splits)
    pictures = figures.draw_all(tmp_path / "figures", predict(splits[1]), splits[1], 0.2)
    names = {picture.path.name: picture for picture in pictures}
    assert set(names) == {"samples.png", "healthy.png", "roc.png", "calibration.png", "dataset.png"}
    for name in ("samples.png", "healthy.png"):
        assert "it is no difference of images" in names[name].caption
    assert "Histogram" not in names["roc.png"].caption
    report.write_report(tmp_path, result, pictures, {"method": "dcls", "saliency": "gradcam"})
    text = (tmp_path / "report.md").read_text()
    value = result["threshold"]["image_units"]["map_value"]
    assert f"Image units, maps: {value:.5f}, the threshold of the saliency maps with the largest mean Dice" in text
    assert "its maps are saliencies (gradcam)" in text
    assert "not applicable: the map is a saliency" in text
    assert "MSE(d, GT) is" not in text


# ---- through the program


@pytest.mark.parametrize("name", METHODS)
def test_methods_with_maps_of_their_own_are_refused(name):
    config = Config(mode="generate", method=name, image_size=64, saliency="gradcam", dense_blocks="1,1,1,1")
    if issubclass(METHODS[name].method, Classifier):
        if name == "dcls":
            assert run_folder.build_method(config).predict(images(1)).anomaly_map is None
        return
    expected = (
        "--saliency=gradcam is for methods that only classify (densenet169, dcls); "
        f"--method={name} has maps of its own: leave it out."
    )
    with pytest.raises(UserError, match=f"^{re.escape(expected)}$"):
        run_folder.build_method(config)


def test_an_unknown_kind_is_refused():
    with pytest.raises(UserError, match=re.escape("<none|gradcam|integrated_gradients|occlusion>")):
        configure(["main", "--mode=generate", "--saliency=cam"])


FLAGS = """--dataset=synthetic
--method=dcls
--discriminator_initializer=he_normal
--image_size=64
--num_train=4
--num_validate=4
--num_test=4
--batch_size=4
--discriminator_filters=2
--log_every_steps=1
--max_steps=2
"""


@pytest.mark.usefixtures("one_replica", "eager_rounds", "no_pictures", "few_steps")
def test_a_classifier_goes_the_whole_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.flags").write_text(FLAGS)
    assert main(["main", "--flagfile=tiny.flags"]) == 0
    run = tmp_path / "runs" / "tiny"

    def scores():
        found = json.loads((run / "report.json").read_text())
        return found, found["metrics"]["image_units"]

    assert main(["main", "--mode=evaluate", "--run_dir=runs/tiny"]) == 0
    assert scores()[1]["dice"]["reason"] == "not available: the method gives no anomaly map"
    accuracy = scores()[1]["accuracy"]["mean"]
    assert main(["main", "--mode=evaluate", "--run_dir=runs/tiny", "--saliency=occlusion"]) == 0
    found, with_maps = scores()
    assert found["saliency"] == "occlusion"
    assert "--saliency=occlusion" in found["command"]
    assert 0 <= with_maps["dice"]["mean"] <= 1
    assert 0 < with_maps["auroc_pixel"]["mean"] < 1
    assert with_maps["accuracy"]["mean"] == accuracy
    assert with_maps["mse_d_gt"]["reason"].startswith("not applicable: the map is a saliency")

    write_npy(tmp_path / "scan.npy", images(1)[0, ..., 0])
    arguments = ["--input=scan.npy", "--output_dir=out", "--saliency=integrated_gradients"]
    assert main(["main", "--mode=predict", "--run_dir=runs/tiny", *arguments]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "scan_map.npy",
        "scan_overlay.png",
        "predictions.csv",
    }
    with open(tmp_path / "out" / "predictions.csv") as file:
        (row,) = csv.DictReader(file)
    saliency = np.load(tmp_path / "out" / "scan_map.npy")
    assert saliency.min() >= 0
    assert saliency.max() == pytest.approx(float(row["disease_probability"]), abs=1e-5)
