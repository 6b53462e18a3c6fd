"""From a method to a published version: complete, described, held to the live model, or not there at all."""

import copy
import functools
import json
import os
import signal
import sys
import types

import numpy as np
import program_starts
import pytest
import tensorflow as tf
from exports import SIZE, UINT8, OnlyClasses, lively_method

from descargan_tf import signals
from descargan_tf.errors import UserError
from descargan_tf.export import exporter, formats, reference, warmup
from descargan_tf.export.card import CARD, JSON, description, write_card
from descargan_tf.export.publish import publish, versions
from descargan_tf.export.verify import REFERENCE
from descargan_tf.measures import TABLE_1, TABLE_2
from descargan_tf.prediction.outputs import named_outputs

pytestmark = pytest.mark.usefixtures("shallow", "graphs_as_traced")

ENTRY = {"mean": 0.25, "ci95": [0.2, 0.3125], "var": None}
REPORT = {
    "split": {"name": "test", "num_healthy": 3, "num_diseased": 5},
    "data_digest": "d1",
    "threshold": {
        "image_units": {"value": 0.125, "rule": "Otsu", "num_images": 7, "split": "validate"},
        "authors": {"value": 0.5},
    },
    "metrics": {"image_units": dict.fromkeys((*TABLE_1, *TABLE_2), ENTRY)},
}


def written(folder, text="whole"):
    (folder / "saved_model.pb").write_text(text)


# ---- publishing


def test_versions_are_numbered_on(tmp_path):
    base = tmp_path / "base"
    (base / "7").mkdir(parents=True)
    (base / "notes").mkdir()
    assert publish(base, 0, written) == base / "8"
    assert publish(base, 3, written) == base / "3"
    assert versions(base) == [3, 7, 8]
    assert versions(tmp_path / "none") == []


def test_a_number_appears_when_all_is_written(tmp_path):
    seen = []

    def fill(folder):
        written(folder)
        seen.append((folder.parent, versions(tmp_path)))

    publish(tmp_path, 0, fill)
    assert seen == [(tmp_path, [])]  # written beside its place, on the same disk
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert (tmp_path / "1" / "saved_model.pb").read_text() == "whole"


def test_a_number_in_use_is_refused_before_anything_is_written(tmp_path):
    publish(tmp_path, 2, written)
    with pytest.raises(UserError) as caught:
        publish(tmp_path, 2, lambda folder: pytest.fail("nothing to write"))
    assert "--export_version=2 exists" in str(caught.value)
    assert "(there are 2)" in str(caught.value)


def test_an_export_beside_this_one_may_take_the_number(tmp_path):
    def fill(folder):
        written(folder)
        if not versions(tmp_path):
            (tmp_path / "1").mkdir()
            written(tmp_path / "1", "theirs")

    assert publish(tmp_path, 0, fill) == tmp_path / "2"
    assert (tmp_path / "1" / "saved_model.pb").read_text() == "theirs"


@pytest.mark.parametrize("number", signals.ENDINGS)
def test_a_signal_leaves_nothing(tmp_path, number):
    before = signal.getsignal(number)

    def fill(folder):
        written(folder)
        signal.raise_signal(number)

    with pytest.raises(signals.Stopped) as caught:
        publish(tmp_path, 0, fill)
    assert caught.value.status == 128 + number
    assert list(tmp_path.iterdir()) == []
    assert str(caught.value) == f"{signal.Signals(number).name}: stopped; nothing was published"
    assert signal.getsignal(number) is before


def test_a_failure_leaves_nothing(tmp_path):
    def fill(folder):
        written(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        publish(tmp_path, 0, fill)
    assert list(tmp_path.iterdir()) == []


# ---- a whole export


live = functools.cache(lively_method)  # nothing here changes one


def an_export(**changes):
    method = live()
    return exporter.Export("descargan", method, method, SIZE, UINT8, "float32", largest_batch=3)._replace(**changes)


def described(_):
    return {"report": REPORT, "checkpoint": "best (step 9)", "versions": {"keras": "3"}, "git_commit": "c0ffee"}


@pytest.fixture(scope="module", autouse=True)
def one_predictor():
    """Of the one method that is exported here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "Predictor", functools.cache(exporter.Predictor))
        yield


@pytest.fixture(scope="module")
def exported(tmp_path_factory, forked):
    base = tmp_path_factory.mktemp("base")
    return exporter.export_version(base, 0, an_export(), described)


def test_a_version_holds_all_that_is_documented(exported):
    files = {str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()}
    assert files >= {"saved_model.pb", str(CARD), str(JSON), str(REFERENCE), str(warmup.FILE)}
    assert [path.name for path in exported.parent.iterdir()] == ["1"]


def test_it_warms_up_both_signatures_with_one_image_and_the_largest_batch(exported):
    requests = warmup.read_requests(exported)
    found = {(r.model, r.signature, *(f"{k} {len(v)}" for k, v in r.inputs.items())) for r in requests}
    assert found == {
        ("descargan", "serving_default", "image 1"),
        ("descargan", "serving_default", "image 3"),
        ("descargan", "serving_bytes", "image_bytes 1"),
        ("descargan", "serving_bytes", "image_bytes 3"),
    }


def test_a_program_can_read_what_it_is(exported):
    facts = json.loads((exported / JSON).read_text())
    assert facts["labels"] == {"0": "healthy", "1": "diseased"}
    assert facts["image"] == {"shape": [SIZE, SIZE, 1], "range": [-1, 1], "not_finite": "is taken as 0"}
    assert (facts["files"]["training_dtype"], facts["files"]["training_range"]) == ("uint8", [0, 255])
    assert facts["thresholds"] == REPORT["threshold"]
    assert facts["metrics"] == REPORT["metrics"]
    assert (facts["git_commit"], facts["versions"], facts["data_digest"]) == ("c0ffee", {"keras": "3"}, "d1")
    assert (facts["precision"], facts["folded_normalisations"], facts["not_evaluated"]) == ("float32", 8, None)
    checked = facts["verification"]
    assert (checked["num_images"], checked["num_warmup_requests"], checked["bound"]) == (4, 4, 1e-4)
    assert 0 < checked["differences"]["serving_default"]["anomaly_map"] <= 1e-4
    assert "Conv2D" in checked["operations"]


def test_people_can_read_what_it_is(exported):
    card = (exported / CARD).read_text()
    for words in (
        "**Not a medical device.**",
        "3 healthy and 5 diseased images of the test split; 95 % bootstrap intervals",
        "| Dice | 0.25 | 0.2 to 0.3125 |",
        "A pixel is called anomalous where |map| > 0.1250: Otsu, over 7 images of the validate split.",
        "`disease_probability`: of the classifier, 0 to 1; not calibrated",
        "| git commit | c0ffee |",
        "must not guide the care of a patient",
    ):
        assert words in card


def test_without_an_evaluation_it_says_so(exported, tmp_path):
    checked = json.loads((exported / JSON).read_text())["verification"]
    words = "not evaluated when it was exported."
    facts = description("descargan", SIZE, UINT8, "float32", checked, report=None, no_report=words)
    write_card(tmp_path, facts)
    assert f"No metrics and no thresholds: {words}" in (tmp_path / CARD).read_text()
    written_facts = json.loads((tmp_path / JSON).read_text())
    assert (written_facts["metrics"], written_facts["thresholds"]) == (None, None)
    assert written_facts["not_evaluated"] == words
    assert "raw files" not in (tmp_path / CARD).read_text()


def test_a_folder_whose_name_is_no_text_is_in_it(exported, tmp_path):
    checked = json.loads((exported / JSON).read_text())["verification"]
    words = f"`python -m descargan_tf.main --run_dir={os.fsdecode(b'R%c' % 0xFE)}` does it"
    write_card(tmp_path, description("descargan", SIZE, UINT8, "float32", checked, report=None, no_report=words))
    assert r"--run_dir=R\udcfe` does it" in (tmp_path / CARD).read_text(encoding="utf-8")
    assert json.loads((tmp_path / JSON).read_text())["not_evaluated"] == words


def test_what_was_prepared_is_to_be_prepared_before_it_is_sent(exported, tmp_path):
    checked = json.loads((exported / JSON).read_text())["verification"]
    made = {"source": "chexpert", "fit": "pad"}
    facts = description("descargan", SIZE, UINT8, "float32", checked, None, "not evaluated", preparation=made)
    write_card(tmp_path, facts)
    assert (
        "prepared from raw files (`--source=chexpert --fit=pad`), which the export does not"
        in (tmp_path / CARD).read_text()
    )
    assert json.loads((tmp_path / JSON).read_text())["preparation"] == made


def test_what_does_not_answer_as_the_live_model_is_not_published(forked, tmp_path):
    other = copy.copy(live())
    other.predict = lambda images: live().predict(0.9 * images)
    export = an_export(live_float32=other)
    with pytest.raises(UserError) as caught:
        exporter.export_version(tmp_path, 0, export, lambda _: pytest.fail("must not be described"))
    assert "does not answer as the live model and was not published: serving_bytes: " in str(caught.value)
    assert "differs from the live model by" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_verification_that_ends_by_itself_is_not_taken_for_a_good_one(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", program_starts._Popen)  # where `forked` left another: numpy is to be loaded
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "numpy.py").write_text("raise SystemExit('no numpy today')\n")
    with pytest.raises(UserError, match="was not published: no numpy today"):
        exporter.verify_apart(tmp_path)


# ---- other engines' files


@pytest.fixture(scope="module")
def of_all_formats(tmp_path_factory):
    """The folder of a file for each engine, and how far they are from the live model."""
    formats.check_formats(tuple(formats.FORMATS))  # all of them are in requirements-dev.txt
    folder = tmp_path_factory.mktemp("engines") / "formats"
    predictor = exporter.Predictor(live(), SIZE)
    return folder, formats.write_formats(tuple(formats.FORMATS), folder, predictor, live())


@pytest.mark.parametrize("name", formats.FORMATS)
def test_a_file_of_another_engine_answers_as_the_live_model(of_all_formats, name):
    folder, found = of_all_formats
    assert set(found[name]) == {"anomaly_map", "healthy_image", "anomaly_score", "disease_probability"}
    assert all(difference <= 1e-4 for difference in found[name].values())
    # Once more, by hand, alone, and with images that were not looked at.
    path = folder / formats.FORMATS[name].file
    images = reference.drawn_images(3, SIZE, seed=8)
    expected = live().predict(tf.constant(images))
    answers = formats.FORMATS[name].run(path, images[:1])
    np.testing.assert_allclose(answers["healthy_image"], expected.healthy_image[:1], atol=1e-4)
    assert formats.FORMATS[name].run(path, images)["anomaly_map"].shape == (3, SIZE, SIZE, 1)


def test_no_engine_tells_anybody_that_it_was_used(of_all_formats):
    """OpenVINO's package for it reports from a process of its own, which the fixture `no_network` does not see."""
    assert sys.modules["openvino_telemetry"] is None
    assert "openvino.tools.ovc.telemetry_stub" in sys.modules


def test_every_file_is_compared_on_32_images(tmp_path, monkeypatch):
    sizes = []

    def write(name, path, predictor):
        path.write_text(name)

    def run(path, images):
        sizes.append(len(images))
        answers = named_outputs(method.predict(tf.constant(images)))
        return {name: np.asarray(value) + wrong for name, value in answers.items()}

    method, predictor = OnlyClasses(), types.SimpleNamespace(shape=(None, SIZE, SIZE, 1))
    monkeypatch.setattr(formats, "write_format", write)
    monkeypatch.setattr(formats, "FORMATS", {"onnx": formats.FORMATS["onnx"]._replace(run=run)})
    wrong = 0
    formats.write_formats(("onnx",), tmp_path, predictor, method)
    wrong = 2e-4
    with pytest.raises(UserError, match=r"--export_formats=onnx: \w+ differs from the live model by 0.0002"):
        formats.write_formats(("onnx",), tmp_path, predictor, method)
    assert sizes == [32, 32]


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        formats.check_formats(("litert", "openvino"))
    assert str(caught.value) == (
        "--export_formats=openvino needs the packages openvino, which are not installed: "
        "pip install -r requirements-formats.txt"
    )
    formats.check_formats(("litert",))
