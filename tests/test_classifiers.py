"""DenseNet-169 and D_cls alone: networks and losses against independent computations; what has no map says."""

import csv
import re

import keras
import numpy as np
import oracles
import program_starts
import pytest
import tensorflow as tf
from keras.src.applications import densenet as densenet_of_keras  # its public functions have depths of their own

from descargan_tf.data.images import Scaling, write_npy
from descargan_tf.errors import UserError
from descargan_tf.evaluation import evaluator, figures, report
from descargan_tf.evaluation.validation import validate
from descargan_tf.methods.dcls import DCls, DClsSettings
from descargan_tf.methods.densenet169 import DenseNet169, DenseNet169Settings
from descargan_tf.models.blocks import normalisations
from descargan_tf.models.densenet import build_densenet
from descargan_tf.models.discriminator import build_discriminator
from descargan_tf.prediction.files import predict_files
from descargan_tf.prediction.splits import predict_split
from descargan_tf.run_folder import configure
from descargan_tf.training.step import TrainStep, input_gradient
from descargan_tf.types import Batch, Split

pytestmark = pytest.mark.usefixtures("graphs_as_traced")


def count(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def randomise(model, seed=0):
    """Weights of a trained network's size everywhere, biases and normalisation too."""
    rng = np.random.default_rng(seed)
    for v in model.variables:
        spread = 0.3 if len(v.shape) == 1 else 1 / np.sqrt(np.prod(v.shape[:-1]))
        offset = 1.0 if "gamma" in v.path or "variance" in v.path else 0.0
        v.assign(offset + np.abs(rng.normal(0, spread, v.shape)) * (1 if offset else rng.choice([-1, 1], v.shape)))


def images(count, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 64, 64, 1)).astype("f")


def tiny(name, **changes):
    if name == "dcls":
        settings = {"discriminator_filters": 2, "discriminator_initializer": "he_normal", **changes}
        return DCls(DClsSettings(image_size=64, **settings))
    settings = {"discriminator_filters": 4, "dense_blocks": "1,2,1,1", **changes}
    return DenseNet169(DenseNet169Settings(image_size=64, **settings))


@pytest.fixture(scope="module")
def dcls():
    method = tiny("dcls")
    randomise(method.networks["classifier"])
    return method


@pytest.fixture(scope="module")
def densenet():
    method = tiny("densenet169")
    randomise(method.networks["classifier"])
    return method


# ---- networks


def test_parameter_counts_at_the_papers_size(shapes_alone):
    """Which hang on no image size."""
    settings = DenseNet169Settings()
    assert settings.dense_blocks == "6,12,32,32"
    assert count(build_densenet(image_size=64, filters=settings.discriminator_filters)) == 12_481_538
    filters = DClsSettings().discriminator_filters
    assert count(build_discriminator(image_size=256, filters=filters, critics=())) == 8_729_922


def test_densenet_is_that_of_keras_applications():
    """Which has fixed widths; of its layers in each block a few will do."""
    blocks = (2, 3, 2, 1)
    ours = build_densenet(image_size=64, filters=DenseNet169Settings().discriminator_filters, blocks=blocks)
    theirs = densenet_of_keras.DenseNet(
        blocks, weights=None, input_shape=(64, 64, 1), classes=2, classifier_activation=None, name="few"
    )
    randomise(ours)
    theirs.set_weights(ours.get_weights())
    x = images(2)
    np.testing.assert_allclose(np.asarray(ours(x, training=False)), np.asarray(theirs(x)), rtol=1e-3, atol=1e-4)


def test_dcls_is_the_classifier_of_the_discriminator(dcls):
    with_critics = build_discriminator(image_size=64, filters=2)
    for part in ("trunk", "classifier"):
        source = dcls.networks["classifier"].get_layer(part).get_weights()
        with_critics.get_layer(part).set_weights(source)
    x = images(1)
    expected = oracles.discriminator(with_critics, x[0])[2]
    np.testing.assert_allclose(np.asarray(dcls.logits(dcls.features(x)))[0], expected, rtol=1e-4, atol=1e-6)


def test_bfloat16_keeps_weights_and_logits_in_float32():
    for name in ("dcls", "densenet169"):
        network = tiny(name, precision="bfloat16").networks["classifier"]
        assert {str(w.dtype) for w in network.weights} == {"float32"}
        assert {str(v.dtype) for v in network.outputs} == {"float32"}
        assert network.get_layer("trunk").output.dtype == "bfloat16"


@pytest.mark.parametrize("value", ["6,12,32", "6,12,32,0", "6, 12, 32, 32", "a", "6,12,32,32,"])
def test_dense_blocks_that_cannot_be_are_refused(value):
    expected = f"--dense_blocks={value}: expected four numbers of layers, as in 6,12,32,32."
    with pytest.raises(UserError, match=f"^{re.escape(expected)}$"):
        configure(["main", "--mode=generate", f"--dense_blocks={value}"])


# ---- losses


def cross_entropy(logits, labels):
    shifted = logits - logits.max(1, keepdims=True)
    return -(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))[np.arange(len(labels)), labels]


def evaluate_losses(method, batch, draws):
    found = method.losses(method.phases[0], batch, draws, input_gradient)
    return {name: np.asarray(value) for name, value in found.items()}


def test_densenets_loss_is_the_cross_entropy_in_training_mode(densenet):
    batch = Batch(images(3), images(3, seed=1))
    network = densenet.networks["classifier"]
    before = network.get_weights()
    logits = np.asarray(network(np.concatenate(batch), training=True))
    network.set_weights(before)
    found = evaluate_losses(densenet, batch, {})
    moved = any(not np.array_equal(a, b) for a, b in zip(before, network.get_weights(), strict=True))
    network.set_weights(before)
    assert moved  # the moving averages
    assert found.keys() == {"classification"} == densenet.weights(densenet.phases[0]).keys()
    np.testing.assert_allclose(found["classification"], cross_entropy(logits, [0, 0, 0, 1, 1, 1]), rtol=1e-4)
    assert densenet.draws(densenet.phases[0], 6) == {}


def test_dcls_loss_has_dropout():
    method = tiny("dcls", classifier_dropout=0.4)
    randomise(method.networks["classifier"])
    shapes = method.draws(method.phases[0], 4)
    assert shapes == {"dropout": (4, 64)}
    rng = np.random.default_rng(0)
    draws = {name: rng.uniform(size=shape).astype("f") for name, shape in shapes.items()}
    batch = Batch(images(2), images(2, seed=1))
    x = np.concatenate(batch)
    keep = np.where(draws["dropout"] < 0.4, 0, 1 / 0.6).astype("f")
    assert 0 < np.mean(keep == 0) < 1
    logits = np.asarray(method.networks["classifier"]({"image": x, "keep": keep})["logits"])
    expected = cross_entropy(logits, [0, 0, 1, 1])
    np.testing.assert_allclose(evaluate_losses(method, batch, draws)["classification"], expected, rtol=1e-4)


def test_without_dropout_everything_is_kept(dcls):
    method = tiny("dcls", classifier_dropout=0.0)
    method.networks["classifier"].set_weights(dcls.networks["classifier"].get_weights())
    batch = Batch(images(1), images(1, seed=1))
    logits = np.asarray(dcls.logits(dcls.features(np.concatenate(batch))))
    found = evaluate_losses(method, batch, {"dropout": np.zeros((2, 64), "f")})
    np.testing.assert_allclose(found["classification"], cross_entropy(logits, [0, 1]), rtol=1e-4)


@pytest.mark.parametrize("name", ["dcls", "densenet169"])
def test_the_rate_is_the_discriminators(name):
    (phase,) = tiny(name, discriminator_learning_rate=3e-4).phases
    assert (phase.trains, phase.updates, phase.learning_rate) == ("classifier", 1, 3e-4)


# ---- training


def make_split(count=6, seed=3):
    """Diseased images are brighter in one corner."""
    labels = np.repeat([0, 1], count).astype(np.int32)
    r = 0.1 * images(2 * count, seed)
    truth = np.zeros_like(r)
    truth[count:, :24, :24] = -0.8
    return Split(r - truth, labels, truth, [f"{i}.npy" for i in range(2 * count)])


@pytest.fixture(scope="module", params=["dcls", "densenet169"])
def trained(request):
    """A method, its predictor's copy, after some rounds on a problem that a corner solves."""
    keras.utils.set_random_seed(0)
    changes = {"discriminator_learning_rate": 3e-3, "discriminator_filters": 4 if request.param == "dcls" else 8}
    if request.param == "densenet169":
        changes["dense_blocks"] = "1,2"
    with pytest.MonkeyPatch.context() as patch:
        program_starts.leave_layers_out(patch.setattr)
        method, predictor = tiny(request.param, **changes), tiny(request.param, **changes)
    step = TrainStep(method, predictor.networks["classifier"], tf.distribute.get_strategy(), seed=1, average_decay=0.8)
    split = make_split()
    batch = Batch(*(tf.constant(part) for part in np.split(split.images, 2)))
    for layer in normalisations(method.networks["classifier"]):
        layer.momentum = 0.9  # or the moving averages would forget their start in hundreds of rounds
    losses = [float(step.round((batch,))["classifier/total"]) for _ in range(60)]
    return predictor, losses


def test_it_learns_to_tell_classes_apart(trained):
    predictor, losses = trained
    assert losses[0] > 0.5
    assert losses[-1] < 0.1
    unseen = make_split(seed=4)
    probability = np.asarray(predictor.predict(unseen.images).class_probabilities)
    np.testing.assert_array_equal(probability.argmax(1), unseen.labels)


# ---- answers


def test_probabilities_are_the_only_answer(dcls, densenet):
    x = images(3)
    for method in (dcls, densenet):
        found = method.predict(x)
        assert found[:3] == (None, None, None)
        logits = np.asarray(method.logits(method.features(x)), np.float64)
        expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        np.testing.assert_allclose(np.asarray(found.class_probabilities), expected, rtol=1e-4)
        assert method.translate(x) == {"healthy": None}


def test_the_best_checkpoint_is_chosen_by_the_auroc(densenet):
    split = make_split()
    found = validate(tf.function(densenet.predict), densenet.monitor, densenet.translate, split, 0.1, 5)
    p = np.asarray(densenet.predict(split.images).class_probabilities)[:, 1]
    auroc = np.mean(p[6:, None] > p[None, :6])
    assert found.selection == pytest.approx(auroc)
    assert set(found.scalars) == {"accuracy", "auroc_image"}
    assert list(found.pictures) == ["1_input"]


def test_a_method_without_maps_is_evaluated_and_reported(trained, tmp_path):
    predictor, _ = trained
    split = make_split(seed=5)
    prediction = predict_split(predictor.predict, split.images, 5)
    thresholds = evaluator.calibrate(split)
    result = evaluator.evaluate_split(prediction, split, thresholds, seed=0)
    scores = result["metrics"]["image_units"]
    for name in ("accuracy", "kappa", "auroc_image"):
        assert scores[name]["mean"] == 1.0
    for name in ("dice", "auroc_pixel", "mse_d_gt", "ssim"):
        assert scores[name]["reason"] == "not available: the method gives no anomaly map"
    assert scores["mse_healthy"]["reason"] == "not available: the method gives no healthy image"
    assert scores["auroc_score"]["reason"] == "not available: the method gives no anomaly score"
    pictures = figures.draw_all(tmp_path / "figures", prediction, split, thresholds["image_units"]["value"])
    assert {picture.path.name for picture in pictures} == {"roc.png", "calibration.png", "dataset.png"}
    report.write_report(tmp_path, result, pictures, {"method": "a classifier", "saliency": "none"})
    text = (tmp_path / "report.md").read_text()
    assert "the method gives no anomaly map" in text
    assert "saliencies" not in text


def test_a_method_without_maps_predicts_files(dcls, tmp_path):
    x = images(2)
    for i in range(2):
        write_npy(tmp_path / f"scan{i}.npy", x[i, ..., 0])
    files = sorted(tmp_path.glob("*.npy"))
    out = tmp_path / "out"
    assert predict_files(dcls.predict, files, out, 64, Scaling(-1.0, 1.0), "float32", 2) == []
    assert [path.name for path in out.iterdir()] == ["predictions.csv"]
    p = np.asarray(dcls.predict(x).class_probabilities)[:, 1]
    with open(out / "predictions.csv") as file:
        rows = list(csv.DictReader(file))
    for i, row in enumerate(rows):
        assert float(row["disease_probability"]) == pytest.approx(p[i], abs=2e-6)
        assert row["anomaly_score"] == ""
        assert row["predicted_class"] == ("diseased" if p[i] > 0.5 else "healthy")
