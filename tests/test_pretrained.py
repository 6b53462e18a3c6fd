"""Published weights: written from a run, loaded in its place, trained on from."""

import csv
import json
import os
import shutil
from pathlib import Path

import exports
import numpy as np
import pytest
import tensorflow as tf
from exports import SPLITS, TINY, statistics_of
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from descargan_tf import pretrained, run_folder
from descargan_tf.data import generation
from descargan_tf.data.synthetic import SyntheticSettings
from descargan_tf.errors import UserError
from descargan_tf.evaluation import pages
from descargan_tf.main import main
from descargan_tf.methods import METHODS
from descargan_tf.run_folder import configure
from descargan_tf.training import checkpoint

NAME = "pretrained/tiny"


pytestmark = pytest.mark.usefixtures(
    "one_replica", "eager_rounds", "graphs_as_traced", "forked", "no_pictures", "shallow"
)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Where a user works: runs of both kinds, evaluated and published."""
    folder = tmp_path_factory.mktemp("workplace")
    before = Path.cwd()
    os.chdir(folder)
    try:
        settings = SyntheticSettings(image_size=64, num_train=4, num_validate=3, num_test=3)
        generation.generate("data/synthetic_64", settings, num_workers=1)
        for name, kind in (("tiny", "moving"), ("plain", "per_image")):
            exports.make_run(Path("runs") / name, f"--batch_norm={kind}", "--lambda_id=3")
            assert main(["main", "--mode=evaluate", f"--run_dir=runs/{name}"]) == 0
            note = "--publish_note=Made for a test."
            assert main(["main", "--mode=publish", f"--run_dir=runs/{name}", note]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def inside(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    return workplace


@pytest.fixture
def refused(inside, capsys):
    """Run `main` on bad input: status 2 and one line, which is returned."""

    def run(*arguments):
        capsys.readouterr()
        assert main(["main", *arguments]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return run


def report(folder):
    return json.loads((Path(folder) / "report.json").read_text())


# ---- as arrays


@given(
    hnp.arrays(np.float32, (3, 2, 4), elements=st.floats(-50, 50, width=32)), st.sampled_from([(), ("classifier/",)])
)
def test_rounding_is_bounded(weight, in_eight_bits):
    stored = pretrained.pack({"classifier/kernel": weight, "classifier/bias": weight[0, 0]}, in_eight_bits)
    found = pretrained.unpack(stored)
    np.testing.assert_array_equal(found["classifier/bias"], weight[0, 0])
    # Half a step: of 127 to a channel's largest weight, or of float16's eleven bits (2^-25 where they are fewer).
    step = np.abs(weight).max((0, 1)) / 127 if in_eight_bits else np.maximum(np.abs(weight) / 1024, 2**-24)
    assert (np.abs(found["classifier/kernel"] - weight) <= step * 0.501 + 2e-36).all()


def test_equal_arrays_are_stored_once_and_come_back_twice():
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    stored = pretrained.pack({"a/kernel": kernel, "b/kernel": kernel.copy(), "b/bias": kernel[0]})
    assert sorted(stored) == ["a/kernel.float16", "b/bias", "b/kernel.same_as"]
    found = pretrained.unpack(stored)
    assert sorted(found) == ["a/kernel", "b/bias", "b/kernel"]
    np.testing.assert_array_equal(found["b/kernel"], kernel)


def test_what_sixteen_bits_cannot_hold_stays_as_it_is():
    large = np.full((2, 2), 1e6, np.float32)
    np.testing.assert_array_equal(pretrained.unpack(pretrained.pack({"a/kernel": large}))["a/kernel"], large)


@pytest.mark.usefixtures("shapes_alone")
@pytest.mark.parametrize("name", METHODS)
def test_weights_have_the_same_names_in_every_process(name):
    """Which begin counting their layers at different numbers."""
    small = {"image_size": 64, "generator_filters": 2, "discriminator_filters": 2, "dense_blocks": "1,1,1,1"}
    own = METHODS[name].setting_names
    flags = (f"--{key}={value}" for key, value in small.items() if key in own)
    config = configure(["main", "--mode=generate", f"--method={name}", *flags])
    first, second = (run_folder.build_method(config).networks for _ in range(2))
    named = pretrained.named_weights(first)
    assert list(named) == list(pretrained.named_weights(second))
    every = [id(weight) for network in first.values() for weight in network.weights]
    assert sorted(map(id, named.values())) == sorted(every)


# ---- as a folder


def test_a_published_folder_holds_what_is_documented(inside):
    assert {path.name for path in Path(NAME).iterdir()} == {
        "weights.npz",
        "published.json",
        "flags.txt",
        "data.json",
        "report.json",
        "README.md",
    }
    about = json.loads(Path(NAME, "published.json").read_text())
    assert (about["step"], about["trained_seconds"], about["machine"]) == (7, 90, "a machine")
    assert about["largest_change"]["class_probabilities"] <= 0.01
    with np.load(Path(NAME, "weights.npz")) as file:
        names = file.files
    assert not any("critic" in name for name in names)
    assert any(name.startswith("discriminator/classifier/") for name in names)
    text = Path(NAME, "flags.txt").read_text()
    assert "--lambda_id=3.0\n" in text
    assert "--batch_norm=moving\n" in text
    assert "dir=" not in text
    assert "--latent_units" not in text  # no setting of the method


def test_a_command_that_is_no_text_is_published(inside, tmp_path):
    about = json.loads(Path(NAME, "published.json").read_text()) | {"command": os.fsdecode(b"train --run_dir=R\xfe")}
    files = {name: Path(NAME, name).read_text() for name in ("flags.txt", "data.json", "report.json")}
    pretrained.write(tmp_path / "published", {"bias": np.zeros(1)}, about, files)
    assert pretrained.describe(tmp_path / "published")["command"] == about["command"]
    assert r"--run_dir=R\udcfe" in (tmp_path / "published" / "README.md").read_text(encoding="utf-8")


def test_what_rounding_changes_is_measured(inside):
    """By answers of the run and of what was published of it to the same images."""
    files = [
        *Path("data/synthetic_64/validate/healthy").glob("*"),
        *Path("data/synthetic_64/validate/diseased").glob("*"),
    ]
    images = tf.constant(np.stack([np.load(file) for file in files])[..., None])
    live, published = (
        run_folder.restore(configure(["main", "--mode=evaluate", where]))[0].predict(images)
        for where in ("--run_dir=runs/tiny", f"--checkpoint={NAME}")
    )
    changes = json.loads(Path(NAME, "published.json").read_text())["largest_change"]
    assert (changes["num_images"], changes["num_maps"]) == (6, 6)
    for name in ("class_probabilities", "anomaly_map"):
        difference = np.abs(getattr(live, name) - getattr(published, name)).max()
        assert difference > 0
        assert changes[name] == pytest.approx(difference, rel=0.05, abs=2e-6)


def test_the_card_says_what_the_files_say(inside):
    found, text = report(NAME), Path(NAME, "README.md").read_text()
    about = json.loads(Path(NAME, "published.json").read_text())
    assert "Made for a test." in text
    assert f"sha256 {about['sha256']}" in text
    assert "| Minutes | 1.5 |" in text
    assert "| Code | c0ffee |" in text
    for key, title in (("dice", "Dice"), ("mse_d_gt", "MSE(d, GT)"), ("accuracy", "Accuracy")):
        entry = found["metrics"]["image_units"][key]
        low, high = (pages.number(key, value) for value in entry["ci95"])
        assert f"| {title} | {pages.number(key, entry['mean'])} | {low} to {high} |" in text
    assert "3 healthy and 3 diseased images of the test split" in text


def test_evaluating_published_weights_finds_what_was_published(inside, capsys):
    assert main(["main", "--mode=evaluate", f"--checkpoint={NAME}", "--run_dir=runs/again"]) == 0
    found, before = report("runs/again"), report("runs/tiny")
    for name, entry in before["metrics"]["image_units"].items():
        assert found["metrics"]["image_units"][name]["mean"] == pytest.approx(entry["mean"], abs=0.01), name
    assert found["threshold"]["image_units"] == before["threshold"]["image_units"]
    assert (found["checkpoint"], found["batch_norm_inference"]) == (f"{NAME} (step 7)", "moving")
    assert (found["training"]["rounds"], found["training"]["seconds"]) == (7, 90)
    assert found["command"] == (
        f"python -m descargan_tf.main --mode=evaluate --run_dir=runs/again --checkpoint={NAME} --batch_norm=moving "
        "--saliency=none"
    )


def test_without_a_validation_split_the_threshold_is_the_published_one(inside, capsys):
    flags = ("--num_train=0", "--num_validate=0", "--num_test=2", "--data_dir=data/few", "--run_dir=runs/few")
    assert main(["main", "--mode=evaluate", f"--checkpoint={NAME}", *flags]) == 0
    assert f"no validation split: thresholds are those of {NAME}" in capsys.readouterr().out
    found = report("runs/few")
    assert found["split"]["num_images"] == 4
    for protocol, entry in report(NAME)["threshold"].items():
        assert found["threshold"][protocol] == {**entry, "published_with": NAME}
    assert f"as published with {NAME}" in Path("runs/few/report.md").read_text()
    assert found["operating_points"]["points"] == []
    reason = "not available: the data have no validation split, and a threshold chosen on other images says nothing of"
    assert reason in found["operating_points"]["reason"]
    assert f"Operating points: {reason}" in Path("runs/few/report.md").read_text()
    assert "--data_dir=data/few --num_train=0" in found["command"]


def test_published_weights_on_images_of_ones_own(inside):
    data = Path("mine")
    for name in ("healthy", "diseased"):
        shutil.copytree(f"data/synthetic_64/test/{name}", data / "test" / name)
    flags = ("--dataset=folders", f"--data_dir={data}", "--run_dir=runs/mine")
    assert main(["main", "--mode=evaluate", f"--checkpoint={NAME}", *flags]) == 0
    found, before = report("runs/mine"), report("runs/tiny")
    assert found["metrics"]["image_units"]["dice"]["reason"] == "not available: no ground truth"
    name = "mse_healthy"
    entries = [x["metrics"]["image_units"][name]["mean"] for x in (found, before)]
    assert entries[0] == pytest.approx(entries[1], rel=0.01)


def test_predicting_with_published_weights(inside):
    file = sorted(Path("data/synthetic_64/test/diseased").glob("*.npy"))[0]
    for arguments in ((f"--checkpoint={NAME}", "--output_dir=a"), ("--run_dir=runs/tiny", "--output_dir=b")):
        assert main(["main", "--mode=predict", f"--input={file}", *arguments]) == 0
    published, live = (np.load(Path(folder) / f"{file.stem}_map.npy") for folder in "ab")
    np.testing.assert_allclose(published, live, atol=0.02)
    with open("a/predictions.csv", newline="") as rows:
        assert len(list(csv.reader(rows))) == 2


def test_serving_published_weights_exports_them_once_and_anew_when_they_are_others(inside, monkeypatch):
    served = []
    monkeypatch.setattr("descargan_tf.export.embedded.server.serve", lambda settings: served.append(settings) or 0)
    shutil.copytree(NAME, "pretrained/served")
    flags = ["main", "--mode=serve", "--checkpoint=pretrained/served", "--export_largest_batch=1"]
    base = Path("runs/pretrained/served/export")
    assert main(flags) == 0
    assert [path.name for path in base.iterdir()] == ["1"]
    exported = []
    monkeypatch.setattr("descargan_tf.commands.serve.export", exported.append)
    assert main(flags) == 0
    assert exported == []
    facts = json.loads((base / "1" / "assets.extra" / "model.json").read_text())
    about = json.loads(Path(NAME, "published.json").read_text())
    assert (facts["weights_sha256"], facts["checkpoint"]) == (about["sha256"], "pretrained/served (step 7)")
    assert facts["metrics"] == report(NAME)["metrics"]
    assert facts["folded_normalisations"] == len(statistics_of(exports.lively_method().networks["generator"]))
    (base / "1" / "assets.extra" / "model.json").write_text(json.dumps({**facts, "weights_sha256": "of others"}))
    assert main(flags) == 0
    assert [config.checkpoint for config in exported] == ["pretrained/served"]
    assert [settings.models[0].base_path for settings in served] == [base] * 3


# ---- refusals


def test_publishing_twice_is_refused(refused, inside):
    before = Path(NAME, "weights.npz").stat()
    assert f"--publish_dir={NAME} exists" in refused("--mode=publish", "--run_dir=runs/tiny")
    assert Path(NAME, "weights.npz").stat().st_mtime_ns == before.st_mtime_ns
    assert sorted(path.name for path in Path("pretrained").glob(".*")) == []


def test_publishing_without_an_evaluation_is_refused(refused, inside):
    exports.make_run(Path("runs/young"))
    message = refused("--mode=publish", "--run_dir=runs/young")
    assert "not evaluated when it was published" in message
    assert "--mode=evaluate --run_dir=runs/young --checkpoint=7" in message
    assert not Path("pretrained/young").exists()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: content[:-10], "bytes of"),
        (lambda content: content[:-1] + b"?", "as long, and other bytes"),
        (lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
    ],
)
def test_a_file_that_is_not_the_published_one_is_refused(refused, inside, damage, words):
    folder = Path("pretrained/damaged")
    shutil.copytree(NAME, folder)
    try:
        path = folder / "weights.npz"
        path.write_bytes(damage(path.read_bytes()))
        message = refused("--mode=evaluate", f"--checkpoint={folder}")
        assert f"{path} is not the file that was published" in message
        assert words in message
        path.unlink()
        assert f"{path} cannot be read" in refused("--mode=evaluate", f"--checkpoint={folder}")
    finally:
        shutil.rmtree(folder)


def test_an_unknown_name_lists_what_there_is(refused):
    message = refused("--mode=predict", "--checkpoint=pretrained/none", "--input=x.png")
    assert "there are no weights in pretrained/none; pretrained holds plain, " in message
    assert "tiny" in message
    train = ("--flagfile=runs/plain/flags.txt", "--run_dir=runs/never")
    assert "pretrained holds plain, " in refused(*train, "--init_from=pretrained/none")
    assert "--init_from=runs/plain holds no published.json" in refused(*train, "--init_from=runs/plain")
    assert not Path("runs/never").exists()


def test_results_do_not_go_into_another_run(refused):
    message = refused("--mode=evaluate", f"--checkpoint={NAME}", "--run_dir=runs/plain")
    assert "--run_dir=runs/plain is a run of its own" in message


def test_other_networks_than_the_published_ones_are_refused(refused):
    message = refused("--mode=evaluate", f"--checkpoint={NAME}", "--generator_filters=4")
    assert "pretrained/tiny was made with other settings: --generator_filters is 3 there and 4" in message


@pytest.mark.parametrize(
    ("there", "here", "whose"), [(1, 2, "this configuration has it"), (2, 1, "they have it alone")]
)
def test_weights_of_other_layers_are_refused(there, here, whose):
    names = ["generator/00_Conv2D/kernel", "generator/01_Conv2D/kernel"]
    with pytest.raises(UserError, match=f"weights in x are not of this configuration: of {names[1]}, {whose}"):
        pretrained.assign(dict.fromkeys(names[:here]), dict.fromkeys(names[:there]), Path("x"))


def test_publishing_what_is_published_is_refused(refused):
    assert "is published already" in refused("--mode=publish", f"--checkpoint={NAME}")


def test_eight_bits_that_change_a_probability_are_given_up(inside, monkeypatch, capsys):
    monkeypatch.setattr(pretrained, "MAX_CHANGE", -1.0)
    assert main(["main", "--mode=publish", "--run_dir=runs/plain", "--publish_dir=pretrained/wide"]) == 0
    assert "eight bits change a probability by more than" in capsys.readouterr().out
    with np.load("pretrained/wide/weights.npz") as file:
        assert not any(file[name].dtype == np.int8 for name in file.files)
    assert json.loads(Path("pretrained/wide/published.json").read_text())["in_eight_bits"] == []


# ---- training on


def first_state(run_dir):
    """Of a training that ended after its first round, whose rates were so small that nothing moved."""
    arrays, _ = checkpoint.load(Path(run_dir) / "checkpoints" / "1")
    return arrays


STILL = ("--generator_learning_rate=1e-30", "--discriminator_learning_rate=1e-30", "--batch_size=4", "--max_steps=1")


def test_a_training_begins_with_published_weights(inside, capsys):
    flags = (
        *TINY,
        *SPLITS,
        *STILL,
        f"--init_from={NAME}",
        "--run_dir=runs/further",
        "--critic_updates=1",
    )
    assert main(["main", *flags]) == 0
    out = capsys.readouterr().out
    assert f"begins with {NAME}, all but discriminator/critic_" in out
    assert "classifier" not in out.partition("all but")[2].partition("\n")[0]
    arrays, weights = first_state("runs/further"), pretrained.load(Path(NAME))
    config = configure(["main", "--mode=generate", *TINY])
    for network_name, network in run_folder.build_method(config).networks.items():
        for i, weight in enumerate(network.weights):
            weight.assign(arrays[f"networks/{network_name}/{i:03d}"])
        found = pretrained.named_weights({network_name: network})
        for key, weight in found.items():
            if key in weights and "moving" not in key:
                np.testing.assert_allclose(weight, weights[key], atol=1e-7, err_msg=key)


def test_at_another_size_the_dense_layers_begin_anew(inside, capsys):
    config = configure(
        [
            "main",
            *TINY,
            *SPLITS,
            "--image_size=128",
            "--init_from=pretrained/tiny",
            "--run_dir=runs/larger",
        ]
    )
    method, fresh = run_folder.begun(config)
    assert {name for name in fresh if "critic" not in name} == {
        "discriminator/classifier/00_Dense",
        "discriminator/classifier/01_Dense",
    }
    weights, named = pretrained.load(Path(NAME)), pretrained.named_weights(method.networks)
    for key in ("generator/healthy/00_Conv2D/kernel", "discriminator/trunk/00_Conv2D/kernel"):
        np.testing.assert_array_equal(named[key], weights[key])
    last = "discriminator/classifier/01_Dense/kernel"
    assert named[last].shape == weights[last].shape
    assert np.abs(named[last] - weights[last]).max() > 1e-3


def test_networks_of_other_widths_are_refused_with_both_numbers(refused):
    flags = (*TINY, *SPLITS, "--batch_size=4", "--init_from=pretrained/tiny", "--run_dir=runs/never")
    message = refused(*flags, "--generator_filters=5")
    assert "--generator_filters is 3 there and 5 here" in message
    assert "--method=descargan, this is stargan" in refused(*flags, "--method=stargan")
    assert not Path("runs/never").exists()
