"""`descargan_tf.load`: a trained model from Python, wherever it lies."""

import json
import subprocess
import sys
from pathlib import Path

import exports
import numpy as np
import pytest
import tensorflow as tf

import descargan_tf
from descargan_tf.data.images import Scaling
from descargan_tf.errors import UserError
from descargan_tf.export import card
from descargan_tf.export.bytes_input import FileRule
from descargan_tf.export.saved_model import BYTES_SIGNATURE

pytestmark = pytest.mark.usefixtures("shallow", "graphs_as_traced")

ROOT = Path(__file__).resolve().parent.parent
SIZE = exports.SIZE
NAMES = {"anomaly_map", "healthy_image", "anomaly_score", "disease_probability", "predicted_class"}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(-1, 1, (3, SIZE, SIZE)).astype("float32")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(method, folder of its run, folder with an exported version of it)"""
    folder = tmp_path_factory.mktemp("trained")
    method = exports.make_run(folder / "run")
    rule = FileRule(Scaling(-1, 1), "float32")
    exports.write_export(folder / "export" / "2", method, rule)
    verification = {"differences": {BYTES_SIGNATURE: dict.fromkeys(sorted(NAMES), 0.0)}}
    facts = card.description("descargan", SIZE, rule, "float32", verification, None)
    (folder / "export" / "2" / card.JSON).parent.mkdir(exist_ok=True)
    (folder / "export" / "2" / card.JSON).write_text(json.dumps(facts))
    return method, folder / "run", folder / "export"


@pytest.fixture(scope="module")
def model(run):
    return descargan_tf.load(run[1])


def test_a_run_answers_as_its_method_does(run, model, images):
    found = model.predict(images)
    expected = run[0].predict(tf.constant(images[..., None]))
    assert set(found) == NAMES
    np.testing.assert_allclose(found["anomaly_map"], np.asarray(expected.anomaly_map)[..., 0], atol=1e-5)
    np.testing.assert_allclose(found["healthy_image"], images + found["anomaly_map"], atol=1e-5)
    np.testing.assert_allclose(found["disease_probability"], np.asarray(expected.class_probabilities)[:, 1], atol=1e-5)
    np.testing.assert_array_equal(found["predicted_class"], found["disease_probability"] > 0.5)
    assert found["anomaly_score"].shape == (3,)


def test_shapes_and_batches_change_nothing(model, images):
    whole = model.predict(images)["anomaly_map"]
    np.testing.assert_allclose(model.predict(images[..., None], batch_size=2)["anomaly_map"], whole, atol=1e-5)
    np.testing.assert_allclose(model.predict(images[1])["anomaly_map"], whole[1:2], atol=1e-5)


def test_networks_are_those_that_answer(model, images):
    assert set(model.networks) == {"generator", "discriminator"}
    target = np.zeros((1, 2), "float32")  # its planes carry no class
    healthy = model.networks["generator"]({"image": images[:1, ..., None], "target": target})["healthy"]
    np.testing.assert_allclose(np.asarray(healthy)[..., 0], model.predict(images[:1])["healthy_image"], atol=1e-4)


def test_an_export_answers_as_its_run_does(run, model, images):
    exported = descargan_tf.load(run[2])
    assert (exported.name, exported.image_size, exported.dtype) == ("descargan", SIZE, "float32")
    assert exported.networks == {}
    ours, theirs = model.predict(images), exported.predict(images)
    assert set(theirs) == NAMES
    for name in NAMES:
        np.testing.assert_allclose(theirs[name], ours[name], atol=1e-4, err_msg=name)
    assert repr(descargan_tf.load(run[2] / "2")) == "<descargan_tf model descargan: 64x64 float32, -1 to 1>"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda images: images[:, :32], "images have shape (3, 32, 64); the model takes [64, 64]"),
        (lambda images: images[:0], "images have shape (0, 64, 64"),
        (lambda images: (images * 100).astype("uint8"), "hold uint8 and the model was trained on float32 files"),
        (lambda images: images * 3, "image 0: values from"),
    ],
)
def test_other_images_than_the_trainings_are_refused(model, images, change, part):
    with pytest.raises(UserError) as error:
        model.predict(change(images))
    assert part in str(error.value)


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"is no trained model: expected the folder of a run \(flags.txt\)"):
        descargan_tf.load(tmp_path)


def test_importing_the_package_loads_no_library():
    code = "import sys, descargan_tf; print(sorted({'keras', 'tensorflow', 'numpy', 'absl'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
