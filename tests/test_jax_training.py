"""Runs of the program with --backend=jax, in processes that have no TensorFlow, and what TensorFlow makes of them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image
from raw_files import class_folders
from step_cases import COMPILED_QUICKLY

from descargan_tf.data.images import write_png
from descargan_tf.main import main
from descargan_tf.training import checkpoint
from descargan_tf.training.loop import LoopSettings, Trainer
from descargan_tf.training.step import TrainStep
from descargan_tf.training.workers import ALONE

ROOT = Path(__file__).resolve().parent.parent
ENDLESS = 300  # seconds after which a process is taken to hang
FLAGS = """# A VAGAN of a few thousand weights
--dataset=synthetic
--image_size=64
--num_train=6
--num_validate=4
--num_test=4
--batch_size=4
--method=vagan
--generator_filters=2
--discriminator_filters=2
--critic_updates=1
--precision=auto
--average_decay=0.9
--clip_norm=10
--decay_steps=8
--fixed_statistics_from=0.45
--log_every_steps=4
--validate_every_steps=20
--checkpoint_every_steps=10
--max_steps=20
"""

QUICKER = ("one_replica", "eager_rounds", "graphs_as_traced", "no_pictures", "shallow")
pytestmark = pytest.mark.usefixtures(*QUICKER)


def in_jax(folder, *commands):
    """Commands of the program, one after the other, in a process without TensorFlow; what they print."""
    arguments = [flag for command in commands for flag in (*command.split(), "--backend=jax", "--")][:-1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder), **COMPILED_QUICKLY}
    environment["MPLCONFIGDIR"] = matplotlib.get_cachedir()  # else it looks at every font of the machine for each HOME
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # compiled code is kept below HOME
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "without_tensorflow.py", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=ENDLESS,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def stopped_in_its_first_round(patch):
    """As a user would, with SIGTERM; the round is done."""
    whole = TrainStep._round

    def stopped(step, *arguments):
        signal.raise_signal(signal.SIGTERM)
        return whole(step, *arguments)

    patch.setattr(TrainStep, "_round", stopped)


@pytest.fixture(scope="module")
def there_and_back(tmp_path_factory, shallow, one_replica, eager_rounds, graphs_as_traced, no_pictures):
    """A run (runs/tiny) of one round in TensorFlow, taken on in JAX to round twenty; then by TensorFlow to 21.

    All that is done in JAX is done in one process: before, pictures with masks are prepared, trained on for two rounds
    and evaluated (runs/prepared), as much as that compiles; afterwards a run like the first, stopped at round ten, is
    resumed (runs/resumed), and the first is evaluated at round twenty, as TensorFlow does it later.
    """
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "tiny.flags").write_text(FLAGS)
    (folder / "raw" / "ground_truth").mkdir(parents=True)
    for path in (class_folders(folder / "raw", 10) / "diseased").iterdir():
        mask = np.zeros(np.asarray(Image.open(path)).shape, np.uint8)
        mask[10:20, 5:25] = 255
        write_png(folder / "raw" / "ground_truth" / path.name, mask)
    prepared = "--dataset=prepared --data_dir=data/prepared --run_dir=runs/prepared --max_steps=2 --log_every_steps=1"
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        stopped_in_its_first_round(patch)
        statuses = [main(["main", "--flagfile=tiny.flags"])]
    first = arrays(folder, "tiny", "1")  # which is not kept
    printed = in_jax(
        folder,
        "--mode=prepare --input=raw --data_dir=data/prepared --image_size=64 --num_validate=2 --num_test=2",
        f"--flagfile=tiny.flags {prepared} --validate_every_steps=2",
        "--mode=evaluate --run_dir=runs/prepared",
        "--flagfile=tiny.flags",
        "copy runs/tiny runs/resumed 20",
        "--flagfile=tiny.flags --run_dir=runs/resumed",
        "--mode=evaluate --run_dir=runs/tiny --checkpoint=20",
        "--mode=predict --run_dir=runs/tiny --checkpoint=20 --input=data/synthetic_64/test/diseased --output_dir=found",
    )
    report = json.loads((folder / "runs" / "tiny" / "report.json").read_text())
    exported = []

    def export(base, version, what, describe):
        exported.append((what, describe(None)))
        return base / "1"

    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr("descargan_tf.export.exporter.export_version", export)  # which knows of no backend
        statuses += [
            main(["main", *command.split(), "--run_dir=runs/tiny"])
            for command in (
                "--mode=evaluate --checkpoint=20",
                "--mode=export --checkpoint=20 --export_dir=exports",
                "--flagfile=tiny.flags --max_steps=21",
            )
        ]
    return folder, (statuses, first, *exported), report, printed


def arrays(folder, run, name):
    return checkpoint.load(folder / "runs" / run / "checkpoints" / name)[0]


def lines(folder, run, group):
    text = (folder / "runs" / run / "metrics.jsonl").read_text()
    return [line for line in map(json.loads, text.splitlines()) if line["group"] == group]


def test_a_run_in_jax_leaves_what_every_run_leaves(there_and_back):
    folder, *_, printed = there_and_back
    run = folder / "runs" / "tiny"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["20", "21", "best"]
    assert [line["step"] for line in lines(folder, "tiny", "train")] == [4, 8, 12, 16, 20, 21]
    assert [line["step"] for line in lines(folder, "tiny", "validate")] == [20, 21]
    assert "step       9  from here on normalisation uses fixed statistics" in printed
    assert "step      20  validation  mse_healthy" in (run / "train.log").read_text()
    begun_in_jax = folder / "runs" / "prepared"
    assert all(any(begun_in_jax.glob(f"{group}/*tfevents*")) for group in ("train", "validate"))
    assert "--precision=float32\n" in (begun_in_jax / "flags.txt").read_text()  # auto, on any processor


def test_pace_and_share_of_the_device_are_logged(there_and_back):
    folder, *_, printed = there_and_back
    (last,) = [line for line in lines(folder, "tiny", "train") if line["step"] == 20]
    assert last["images_per_second"] > 0
    assert 0 < last["share_of_matrix_product_speed"] < 1
    assert "images/s  share of matrix product speed" in printed


def test_compiled_code_is_kept_in_the_users_cache(there_and_back):
    folder, *_ = there_and_back
    assert any((folder / ".cache" / "descargan_tf" / "jax").iterdir())


def test_a_resumed_run_in_jax_is_the_uninterrupted_one(there_and_back):
    folder, *_, printed = there_and_back
    assert "resuming at step 10" in printed
    resumed = arrays(folder, "resumed", "20")
    for key, value in arrays(folder, "tiny", "20").items():
        np.testing.assert_array_equal(resumed[key], value, err_msg=key)
    for step in (16, 20):
        (whole,), (again,) = (
            [line for line in lines(folder, run, "train")[-3:] if line["step"] == step] for run in ("tiny", "resumed")
        )
        assert {name: whole[name] for name in whole if "/" in name} == {
            name: again[name] for name in again if "/" in name
        }


def test_a_round_in_tensorflow_goes_on_in_jax_and_back(there_and_back):
    folder, (statuses, first, (export, described)), _, printed = there_and_back
    assert statuses == [143, 0, 0, 0]
    assert "resuming at step 1\n" in printed
    assert "resuming at step 20" in (folder / "runs" / "tiny" / "train.log").read_text()
    ours, last = (arrays(folder, "tiny", name) for name in ("20", "21"))
    for i, weight in enumerate(export.live.networks["generator"].get_weights()):
        np.testing.assert_array_equal(weight, ours[f"averaged/{i:03d}"])
    assert described["checkpoint"].endswith("(step 20)")
    assert described["report"]["checkpoint"] == described["checkpoint"]
    for theirs in (first, last):
        assert {key: (a.shape, a.dtype) for key, a in ours.items()} == {
            key: (a.shape, a.dtype) for key, a in theirs.items()
        }
    counters = [key for key, value in ours.items() if key.startswith("optimizers/") and value.dtype == np.int64]
    assert [(int(ours[key] - first[key]), int(last[key] - ours[key])) for key in counters] == [(19, 1), (19, 1)]


def test_both_backends_measure_the_same(there_and_back):
    folder, _, report, _ = there_and_back
    again = json.loads((folder / "runs" / "tiny" / "report.json").read_text())
    assert again["checkpoint"] == report["checkpoint"]
    assert report["checkpoint"].endswith("(step 20)")
    assert "jax" in report["versions"]
    assert "tensorflow" in again["versions"]
    for protocol, metrics in report["metrics"].items():
        measured = {name: found["mean"] for name, found in metrics.items() if found["mean"] is not None}
        assert {"dice", "auroc_pixel", "mse_healthy"} <= measured.keys()
        for name, mean in measured.items():
            assert again["metrics"][protocol][name]["mean"] == pytest.approx(mean, rel=1e-3, abs=1e-4), name


def test_a_prepared_data_set_is_trained_on_and_evaluated_in_jax(there_and_back):
    folder, _, _, printed = there_and_back
    assert "data/prepared train: 6 healthy, 6 diseased" in printed
    rounds = lines(folder, "prepared", "train")
    assert [line["step"] for line in rounds] == [1, 2]
    losses = [{name: line[name] for name in line if "/" in name} for line in rounds]
    assert losses[0].keys() == losses[1].keys() != set()
    assert all(np.isfinite([*line.values()]).all() for line in losses)
    assert losses[0] != losses[1]
    (validation,) = lines(folder, "prepared", "validate")
    report = json.loads((folder / "runs" / "prepared" / "report.json").read_text())
    assert "jax" in report["versions"]
    assert (report["split"]["num_healthy"], report["split"]["num_diseased"]) == (2, 2)
    for found in (validation["dice"], report["metrics"]["image_units"]["dice"]["mean"]):
        assert 0 <= found <= 1
    assert report["metrics"]["image_units"]["ssim"]["reason"] == "not available: masks"
    assert (folder / "runs" / "prepared" / "figures" / "samples.png").stat().st_size > 0


def test_a_call_of_many_rounds_ends_where_something_is_to_be_done(tmp_path):
    settings = LoopSettings(
        batch_size=4,
        seed=0,
        max_steps=100,
        fixed_statistics_from=0.295,
        log_every_steps=40,
        validate_every_steps=64,
        checkpoint_every_steps=1000,
    )
    engine = types.SimpleNamespace(chunk=35, workers=ALONE, method=types.SimpleNamespace(critic_scores=None))
    training = Trainer(tmp_path, engine, settings, None)
    step, ends = 0, []
    while step < 100:
        if step == 30:
            training._fixed_at = step
        step += training._chunk(step)
        ends.append(step)
    assert ends == [30, 40, 64, 80, 100]


def test_files_are_predicted_in_jax(there_and_back):
    folder, *_ = there_and_back
    maps = sorted((folder / "found").glob("*_map.npy"))
    assert len(maps) == 4
    assert all(np.ptp(np.load(path)) > 0 for path in maps)
