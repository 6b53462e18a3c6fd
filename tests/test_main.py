"""The program as its users start it: the whole way once, and every refusal.

A training that is stopped runs in processes of its own, as signals and exit statuses are theirs; the rest runs in this.
Only that one loads, traces and optimises all that a user's does; tests/test_notebook.py goes the whole way with the
paper's networks.
"""

import contextlib
import csv
import dataclasses
import errno
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import program_starts
import pytest
import tensorflow as tf
from PIL import Image
from program_starts import start

from descargan_tf import run_folder
from descargan_tf.commands import COMMANDS
from descargan_tf.config import Config
from descargan_tf.export.verify import verify
from descargan_tf.main import main
from descargan_tf.methods import METHODS
from descargan_tf.run_folder import configure
from descargan_tf.training import checkpoint

ROOT = Path(__file__).resolve().parent.parent
OF_BOTH = """
--dataset=synthetic
--image_size=64
--num_train=6
--num_validate=4
--num_test=4
--batch_size=4
--discriminator_filters=2
--discriminator_activation=leaky_relu
--log_every_steps=1
--validate_every_steps=1000000
"""
FLAGS = f"""# A DeScarGAN of a few thousand weights{OF_BOTH}
--generator_filters=2
--critic_updates=1
--average_decay=0.9
--checkpoint_every_steps=1
--max_steps=2
"""
ENDLESS_FLAGS = f"""# A classifier, which is traced in a second{OF_BOTH}
--method=dcls
--checkpoint_every_steps=1000000
--max_steps=1000000
"""
ENDLESS = 240  # seconds after which a process is taken to hang
NAMES = ("dice", "auroc_pixel", "mse_d_gt", "ssim", "mse_healthy", "accuracy", "kappa", "auroc_image")

QUICKER = ("one_replica", "shallow", "eager_rounds", "graphs_as_traced", "forked", "no_pictures")
pytestmark = pytest.mark.usefixtures(*QUICKER)


def end(process):
    try:
        out, err = process.communicate(timeout=ENDLESS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


def tiny_method(generator_filters=2, **changes):
    small = {"image_size": 64, "generator_filters": generator_filters, "discriminator_filters": 2, "critic_updates": 1}
    return run_folder.build_method(Config(mode="generate", dataset="synthetic", **small, **changes))


def listing(folder):
    """Every path below a folder with what changes when somebody writes there."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        about = path.stat()
        found[str(path.relative_to(folder))] = about.st_ino, about.st_size, about.st_mtime_ns
    return found


# ---- the whole way


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Where a user works: flagfiles and generated data."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "tiny.flags").write_text(FLAGS)
    (folder / "endless.flags").write_text(ENDLESS_FLAGS)
    run_in(folder, "--mode=generate", "--flagfile=tiny.flags")
    return folder


def run_in(folder, *arguments):
    """The program in this process, where nothing is to be wrong; what it prints."""
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["main", *arguments]) == 0
    return out.getvalue()


@pytest.fixture(scope="module")
def stopped(workplace):
    """Training stopped by SIGTERM: exit status, standard error, and the names of the checkpoints then."""
    process = start(workplace, "--flagfile=endless.flags", anew=True)
    log = workplace / "runs" / "endless" / "train.log"
    for _ in range(4 * ENDLESS):
        if process.poll() is not None or (log.exists() and "step       2 " in log.read_text()):
            break
        time.sleep(0.25)
    process.send_signal(signal.SIGTERM)
    status, _, err = end(process)
    return status, err, checkpoint.steps(workplace / "runs" / "endless" / "checkpoints")


@pytest.fixture(scope="module")
def trained(workplace):
    """A DeScarGAN after two rounds: its folder, how many, what was printed."""
    return workplace / "runs" / "tiny", 2, run_in(workplace, "--flagfile=tiny.flags")


@pytest.fixture(scope="module")
def evaluated(workplace, trained):
    return trained[0], run_in(workplace, "--mode=evaluate", "--run_dir=runs/tiny")


@pytest.fixture
def inside(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    return workplace


def test_generated_data_pass_their_check(inside, capsys):
    assert main(["main", "--mode=check_data", "--flagfile=tiny.flags"]) == 0
    out = capsys.readouterr().out
    assert "labels: 0=healthy n=14, 1=diseased n=14" in out
    assert "all 42 files are as they were generated" in out


def test_sigterm_saves_and_ends_with_143(stopped):
    status, err, steps = stopped
    assert status == 143
    assert len(steps) == 1
    assert f"SIGTERM at step {steps[0]}: saved; run the same command to go on" in err
    assert "Traceback" not in err
    assert "remapper failed" not in err  # TensorFlow's, for leaky rectifiers whose gradient is taken


def test_the_same_command_resumes(workplace, stopped, monkeypatch):
    monkeypatch.delenv(program_starts.SHALLOW)  # as what it takes up began
    run_dir, last = workplace / "runs" / "endless", stopped[2][-1] + 2
    status, out, err = end(start(workplace, "--flagfile=endless.flags", f"--max_steps={last}"))
    assert status == 0, err
    assert f"resuming at step {stopped[2][0]}" in out
    assert checkpoint.steps(run_dir / "checkpoints") == [stopped[2][0], last]
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["group"] == "train"] == list(range(1, last + 1))
    assert lines[-1]["group"] == "validate"
    assert {"selection", "accuracy"} < set(lines[-1])


def test_a_run_folder_holds_what_is_documented(trained):
    run_dir, last, out = trained
    line = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"selection", "translation_success", "label_effect", "accuracy", "dice"} < set(line)
    assert {"flags.txt", "metrics.jsonl", "train", "validate", "checkpoints"} <= {p.name for p in run_dir.iterdir()}
    assert (run_dir / "checkpoints" / "best" / "state.npz").exists()
    assert f"--max_steps={last}\n" in (run_dir / "flags.txt").read_text()
    assert re.search(r"^generator: [\d,]+ trainable parameters$", out, re.MULTILINE)
    assert re.search(r"^discriminator: [\d,]+ trainable parameters$", out, re.MULTILINE)


def test_the_flags_of_a_run_folder_rerun_it(trained, inside):
    again = configure(["main", "--flagfile=runs/tiny/flags.txt"])
    assert again == configure(["main", "--flagfile=tiny.flags"])


def test_evaluation_writes_the_documented_report(evaluated, inside):
    run_dir, out = evaluated
    report = json.loads((run_dir / "report.json").read_text())
    for protocol in ("image_units", "authors"):
        for part in ("metrics", "baseline_zero_map"):
            for name in NAMES:
                assert {"mean", "ci95", "var"} <= set(report[part][protocol][name]), (part, protocol, name)
        assert report["threshold"][protocol]["split"] == "validate"
        assert report["threshold"][protocol]["value"] > 0
    points = report["operating_points"]
    assert [point["target_sensitivity"] for point in points["points"]] == [0.9, 0.95]
    assert points["split"] == "validate"
    assert points["data_checksum"] == report["threshold"]["image_units"]["data_checksum"]
    assert sum(each["num_images"] for each in report["calibration"]["bins"]) == 8
    dice = report["metrics"]["image_units"]["dice"]
    assert 0 <= dice["ci95"][0] <= dice["mean"] <= dice["ci95"][1] <= 1
    assert report["baseline_zero_map"]["image_units"]["dice"]["mean"] == 0
    assert report["config"]["generator_filters"] == 2
    assert report["versions"]["keras"]
    assert "git_commit" in report
    for name in ("report.md", "report.html", "per_image.csv"):  # figures: test_jax_training.py
        assert (run_dir / name).stat().st_size > 0, name
    with open(run_dir / "per_image.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert "Dice" in out
    assert "report.html" in out


def test_prediction_lists_the_broken_file_and_does_the_others(trained, workplace):
    scans = workplace / "scans"
    scans.mkdir()
    for name in ("a", "c"):
        source = sorted((workplace / "data" / "synthetic_64" / "test" / "diseased").iterdir())[0]
        shutil.copy(source, scans / f"{name}.npy")
    (scans / "b.png").write_bytes(b"broken")
    (scans / "d.doc").touch()
    status, out, err = end(
        start(workplace, "--mode=predict", "--run_dir=runs/tiny", "--input=scans", "--output_dir=out")
    )
    assert status == 1
    assert "2 of 3 images done: out/predictions.csv" in out
    assert "passed over: 1 subfolders, hidden files and files that do not end in .npy .png" in out
    assert "Traceback" not in err
    assert [line for line in err.splitlines() if "b.png" in line][-1].startswith("not done: scans/b.png: ")
    wanted = [f"{stem}_{what}" for stem in "ac" for what in ("healthy.npy", "map.npy", "overlay.png")]
    assert sorted(p.name for p in (workplace / "out").iterdir()) == sorted([*wanted, "predictions.csv"])
    with open(workplace / "out" / "predictions.csv", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["file", "disease_probability", "anomaly_score", "predicted_class"]
    assert [row[0] for row in rows] == ["a.npy", "c.npy"]
    assert rows[0][1:] == rows[1][1:]
    healthy, signed = (np.load(workplace / "out" / f"a_{name}.npy") for name in ("healthy", "map"))
    np.testing.assert_allclose(signed, healthy - np.load(scans / "a.npy"), atol=1e-6)
    assert float(rows[0][2]) == pytest.approx(np.abs(signed).mean(), abs=1e-5)
    assert 0 <= float(rows[0][1]) <= 1
    assert np.asarray(Image.open(workplace / "out" / "a_overlay.png")).shape == (64, 64, 3)


def test_export_publishes_the_next_version_described_by_the_evaluation(evaluated, refused, inside, capsys, monkeypatch):
    """In float32, which is that of the evaluation: test_whole_way.py."""
    monkeypatch.setattr("descargan_tf.export.exporter.verify_apart", verify)  # another process takes longer
    report = json.loads(Path("runs/tiny/report.json").read_text())
    Path("exports/1").mkdir(parents=True)
    flags = ["--run_dir=runs/tiny", "--export_dir=exports", "--export_precision=bfloat16"]
    assert main(["main", "--mode=export", *flags]) == 0
    assert "exported:     exports/2 (model card: exports/2/assets.extra/README.md)" in capsys.readouterr().out
    facts = json.loads(Path("exports/2/assets.extra/model.json").read_text())
    assert (facts["metrics"], facts["thresholds"]) == (report["metrics"], report["threshold"])
    assert (facts["precision"], facts["method"]) == ("bfloat16", "descargan")
    assert (facts["data_digest"], facts["checkpoint"]) == (report["data_digest"], report["checkpoint"])
    assert facts["versions"]["tensorflow"] == tf.__version__
    assert len(facts["git_commit"].removesuffix("-dirty")) == 40
    # What bfloat16 does to the measures stands beside them.
    pairs = facts["other_precision"]["metrics"]
    assert set(pairs) >= {"dice", "mse_healthy", "accuracy"}
    assert pairs["mse_healthy"][0] == report["metrics"]["image_units"]["mse_healthy"]["mean"]
    assert pairs["mse_healthy"][1] == pytest.approx(pairs["mse_healthy"][0], rel=0.2)
    assert pairs["mse_healthy"][1] != pairs["mse_healthy"][0]
    card = Path("exports/2/assets.extra/README.md").read_text()
    assert "Those are in float32. This export computes in bfloat16; on the same images:" in card
    message = refused("--mode=export", "--run_dir=runs/tiny", "--export_dir=exports", "--export_version=2")
    assert "--export_version=2 exists" in message
    assert sorted(path.name for path in Path("exports").iterdir()) == ["1", "2"]


def test_dry_run_says_how_large_it_is_and_writes_nothing(inside, capsys):
    before = listing(inside)
    flags = ["--run_dir=runs/other", "--data_dir=data/none", "--max_steps=2", "--dry_run"]
    assert main(["main", "--flagfile=endless.flags", *flags]) == 0
    assert listing(inside) == before
    out = capsys.readouterr().out
    config = configure(["main", "--flagfile=endless.flags"])
    ((name, network),) = run_folder.build_method(config).networks.items()
    count = sum(int(np.prod(v.shape)) for v in network.trainable_variables)
    assert f"{name}: {count:,} trainable parameters" in out
    assert "train: 0=healthy n=6, 1=diseased n=6" in out
    assert "test: 0=healthy n=4, 1=diseased n=4" in out
    assert re.search(r"s a round: 2 rounds in about [\d.]+ hours", out)
    assert "--discriminator_filters=2\n" in out
    assert "WARNING" not in out


# ---- flags reach what they name


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_of_a_method_is_a_flag(name):
    flags = {field.name for field in dataclasses.fields(Config)}
    assert {field.name for field in dataclasses.fields(METHODS[name].settings)} <= flags


def test_batch_norm_changes_what_is_predicted():
    moving, per_image = (tiny_method(batch_norm=kind) for kind in ("moving", "per_image"))
    for name, network in moving.networks.items():
        per_image.networks[name].set_weights(network.get_weights())
    images = tf.constant(np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 1)), tf.float32)
    maps = [np.asarray(method.predict(images).anomaly_map) for method in (moving, per_image)]
    assert np.abs(maps[0] - maps[1]).max() > 1e-3


# ---- refusals


@pytest.fixture
def refused(inside, capsys):
    """Run `main` on bad input: status 2, one line, nothing changed below the folder. Returns that line."""

    def run(*arguments):
        before = listing(inside)
        capsys.readouterr()
        status = main(["main", *arguments])
        err = capsys.readouterr().err
        assert status == 2
        assert err.startswith("error: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        assert listing(inside) == before
        return err

    return run


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--nonsense=1"], ["nonsense"]),
        (["--batch_size=7"], ["--batch_size=7", "multiple of 2"]),
        (["--distance=l7"], ["--distance", "l7"]),
        (["--mode=generate", "--image_size=1000000", "--data_dir=new"], ["--image_size", "8192"]),
        (["go"], ["'go'"]),
        (["--method=stargun", "--run_dir=runs/new"], ["--method=stargun", "descargan"]),
        (
            ["--num_train=7", "--run_dir=runs/new"],
            ["--data_dir=data/synthetic_64", "--num_train is 6 there and 7 here"],
        ),
        (["--data_dir=.", "--run_dir=runs/new"], ["--data_dir=.", "not generated here", "--dataset=folders"]),
        (["--dataset=folders", "--data_dir=none", "--run_dir=runs/new"], ["--data_dir=none does not exist"]),
        (
            ["--dataset=folders", "--data_dir=tiny.flags", "--run_dir=runs/new"],
            ["--data_dir=tiny.flags is not a folder"],
        ),
        (
            ["--dataset=folders", "--data_dir=data/synthetic_64", "--value_range=3,1", "--run_dir=runs/new"],
            ["--value_range=3,1"],
        ),
        (["--run_dir=data"], ["--run_dir=data holds something that is not a run"]),
        (["--run_dir=tiny.flags"], ["--run_dir=tiny.flags"]),
        (["--run_dir=tiny.flags/below"], ["--run_dir=tiny.flags/below"]),
        (["--mode=generate"], ["--data_dir=data/synthetic_64 already holds something"]),
    ],
)
def test_bad_input_is_refused_in_one_line_and_nothing_is_touched(refused, arguments, parts):
    message = refused("--flagfile=tiny.flags", *arguments)
    for part in parts:
        assert part in message


@pytest.mark.parametrize("mode", ["evaluate", "predict"])
def test_a_folder_without_a_run_cannot_be_used(refused, mode):
    for folder in ("runs/none", "data"):
        assert f"--run_dir={folder} is not a run" in refused(
            f"--mode={mode}", f"--run_dir={folder}", "--input=scan.png"
        )


def test_a_batch_that_cannot_be_split_is_refused_before_there_is_a_run(refused, monkeypatch, two_replicas):
    monkeypatch.setattr("descargan_tf.training.step.all_devices", lambda: two_replicas)
    message = refused("--flagfile=tiny.flags", "--run_dir=runs/new", "--batch_size=6")
    assert "--batch_size=6 cannot be split over 2 devices" in message


def test_own_images_without_a_folder_are_refused(refused):
    assert "--data_dir is missing" in refused("--run_dir=runs/new")


def test_no_arguments_at_all_are_refused(refused, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main"])
    assert "--data_dir is missing" in refused()


def test_a_run_made_with_other_settings_is_refused_by_their_names(trained, refused):
    message = refused("--flagfile=tiny.flags", "--generator_filters=3", "--seed=4")
    assert "--run_dir=runs/tiny was made with other settings" in message
    assert "--generator_filters is 2 there and 3 here" in message
    assert "--seed is 0 there and 4 here" in message


@pytest.mark.parametrize("mode", ["evaluate", "predict"])
def test_an_unknown_checkpoint_lists_those_there_are(trained, refused, mode):
    message = refused(f"--mode={mode}", "--run_dir=runs/tiny", "--checkpoint=777", "--input=tiny.flags")
    steps = checkpoint.steps(trained[0] / "checkpoints")
    assert (
        f"--checkpoint=777: no such checkpoint in runs/tiny/checkpoints (steps there: {steps[0]}, {steps[1]})"
        in message
    )


@pytest.fixture(scope="module")
def wide(trained, tmp_path_factory):
    """A checkpoint of the run as if its generator's first array had another channel."""
    arrays, about = checkpoint.load(trained[0] / "checkpoints" / "best")
    name = next(name for name in arrays if name.startswith("averaged/"))
    arrays[name] = np.concatenate([arrays[name], arrays[name][..., :1]], -1)
    folder = tmp_path_factory.mktemp("wide") / "wide"
    checkpoint.save(folder, arrays, about)
    return folder


@pytest.mark.parametrize("mode", ["evaluate", "predict"])
def test_a_checkpoint_of_another_size_is_refused(wide, refused, mode):
    message = refused(f"--mode={mode}", "--run_dir=runs/tiny", f"--checkpoint={wide}", "--input=tiny.flags")
    assert f"checkpoint {wide} was made with another size" in message
    assert "--generator_filters" in message


def test_a_damaged_checkpoint_is_refused(trained, refused, inside):
    shutil.copytree(trained[0], inside / "runs" / "damaged")
    state = inside / "runs" / "damaged" / "checkpoints" / "best" / "state.npz"
    state.write_bytes(state.read_bytes()[:5000])
    message = refused("--mode=evaluate", "--run_dir=runs/damaged")
    assert "runs/damaged/checkpoints/best is not a readable checkpoint" in message


def test_a_run_is_not_taken_up_on_other_data(trained, refused, inside):
    run_dir = inside / "runs" / "elsewhere"
    shutil.copytree(trained[0], run_dir)
    facts = json.loads((run_dir / "data.json").read_text())
    (run_dir / "data.json").write_text(json.dumps({**facts, "dtype": "uint16"}))
    message = refused("--flagfile=tiny.flags", "--run_dir=runs/elsewhere")
    assert "the run in --run_dir=runs/elsewhere was trained on other data" in message
    assert "dtype is uint16 there and float32 here" in message


def test_ctrl_c_before_training_is_one_line(monkeypatch, inside, capsys):
    def interrupt(config):
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "check_data", interrupt)
    assert main(["main", "--mode=check_data", "--flagfile=tiny.flags"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "SIGINT: stopped"


def test_nowhere_to_write_is_one_line(monkeypatch, inside, capsys):
    def full(*_, **__):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    assert main(["main", "--mode=check_data", "--flagfile=tiny.flags"]) == 2
    assert capsys.readouterr().err.startswith("error: no temporary file can be written: No usable temporary directory")


@pytest.mark.parametrize("content", [None, "{", "{}", '{"scaling": [0], "dtype": "uint8"}'])
def test_a_run_without_the_facts_of_its_data_cannot_predict(trained, refused, inside, content):
    run_dir = inside / "runs" / "factless"
    shutil.rmtree(run_dir, ignore_errors=True)
    shutil.copytree(trained[0], run_dir)
    (run_dir / "data.json").unlink()
    if content is not None:
        (run_dir / "data.json").write_text(content)
    message = refused("--mode=predict", "--run_dir=runs/factless", "--input=tiny.flags")
    assert "runs/factless/data.json cannot be read" in message


@pytest.mark.parametrize(("given", "part"), [("none", "--input=none does not exist"), ("runs", "holds no image file")])
def test_nothing_to_predict_is_said_before_anything_is_loaded(trained, refused, given, part):
    assert part in refused("--mode=predict", "--run_dir=runs/tiny", f"--input={given}")
    assert "--input" in refused("--mode=predict", "--run_dir=runs/tiny")


def test_an_output_folder_that_cannot_be_is_named(trained, refused, inside):
    image = sorted((inside / "data" / "synthetic_64" / "test" / "diseased").iterdir())[0]
    message = refused("--mode=predict", "--run_dir=runs/tiny", f"--input={image}", "--output_dir=tiny.flags")
    assert "--output_dir=tiny.flags cannot be written: File exists" in message


def test_a_report_that_cannot_be_written_is_the_users_error(trained, refused, inside):
    run_dir = inside / "runs" / "blocked"
    shutil.copytree(trained[0], run_dir, ignore=shutil.ignore_patterns("figures", "report.*"))
    (run_dir / "figures").write_text("a file in the way")
    assert "runs/blocked" in refused("--mode=evaluate", "--run_dir=runs/blocked")


def test_data_of_a_run_that_are_gone_or_changed_are_refused(trained, refused, inside):
    message = refused("--mode=evaluate", "--run_dir=runs/tiny", "--data_dir=runs")
    assert "--data_dir=runs" in message
    shutil.copytree(inside / "data" / "synthetic_64", inside / "data" / "damaged")
    victim = sorted((inside / "data" / "damaged" / "test" / "healthy").iterdir())[0]
    np.save(victim, np.zeros((64, 64), np.float32))
    message = refused("--mode=check_data", "--flagfile=tiny.flags", "--data_dir=data/damaged")
    assert f"1 files of --data_dir=data/damaged are not what was generated: test/healthy/{victim.name}" in message
    victim.unlink()
    message = refused("--mode=check_data", "--flagfile=tiny.flags", "--data_dir=data/damaged")
    assert "--data_dir=data/damaged lacks 1 of its 42 files" in message
