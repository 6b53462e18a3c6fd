"""Masks through the program: trained and evaluated with folders as people have them."""

import json

import numpy as np
import pytest
from image_folders import SIZE, make_data_set

from descargan_tf.data.images import write_npy, write_png
from descargan_tf.main import main
from descargan_tf.types import SPLITS

pytestmark = pytest.mark.usefixtures("one_replica", "shallow", "eager_rounds", "no_pictures")
MASK = np.zeros((SIZE, SIZE), np.uint8)
MASK[20:36, 20:36] = 255


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A data folder with black masks for validation, and a run that was trained on it."""
    root = tmp_path_factory.mktemp("masks")
    make_data_set(root / "data", per_class=4)
    for split in SPLITS:
        (root / "data" / split / "ground_truth").mkdir()
        for index in range(4):
            write_png(root / "data" / split / "ground_truth" / f"{index}.png", MASK * (split != "validate"))
    flags = ("--method=vae", f"--image_size={SIZE}", "--batch_size=4", "--generator_filters=2", "--latent_units=4")
    flags += ("--max_steps=2", "--validate_every_steps=2", "--checkpoint_every_steps=2", "--dataset=folders")
    assert main(["main", *flags, f"--data_dir={root / 'data'}", f"--run_dir={root / 'run'}"]) == 0
    return root


def evaluated(folders, *flags):
    assert main(["main", "--mode=evaluate", f"--run_dir={folders / 'run'}", *flags]) == 0
    return json.loads((folders / "run" / "report.json").read_text())


def test_training_with_black_validation_masks_says_nothing_of_pixels(folders):
    lines = [json.loads(line) for line in (folders / "run" / "metrics.jsonl").read_text().splitlines()]
    (validation,) = (line for line in lines if line["group"] == "validate")
    assert {"mse_healthy", "map_contrast"} <= validation.keys()
    assert not {"dice", "auroc_pixel", "mse_d_gt"} & validation.keys()


def test_evaluation_does_what_it_can(folders, capsys):
    scores = evaluated(folders)["metrics"]["image_units"]
    said = capsys.readouterr().out
    assert "warning: every ground truth of validate is 0 everywhere: pixel measures are not available there" in said
    assert "ground truth of test: masks (8-bit files)" in said
    assert scores["dice"]["mean"] is None
    assert scores["auroc_score"]["mean"] is not None
    assert scores["mse_healthy"]["mean"] is not None


def test_faulty_masks_leave_the_others(folders, capsys):
    truths = {split: folders / "data" / split / "ground_truth" for split in SPLITS}
    write_png(truths["validate"] / "0.png", MASK)
    write_png(truths["validate"] / "1.png", MASK)
    truths["test"].joinpath("0.png").write_bytes(b"x")
    write_png(truths["test"] / "1.png", MASK[:32])
    truths["test"].joinpath("2.png").unlink()
    write_png(truths["test"] / "unknown.png", MASK)
    report = evaluated(folders)
    said = capsys.readouterr().out
    assert "2 of 4 masks of validate mark no pixel" in said
    assert "3 of 4 diseased images of test have no ground truth" in said
    entry = report["metrics"]["image_units"]["dice"]
    assert entry["mean"] is not None
    assert (entry["num_images"], entry["note"]) == (1, "3 of 4 diseased images have no usable ground truth")
    assert report["threshold"]["image_units"]["num_images"] == 4
    assert report["metrics"]["image_units"]["ssim"]["reason"] == "not available: masks"
    assert "--ground_truth" not in report["command"]


def test_the_flag_decides_and_is_in_the_command(folders):
    for split in SPLITS:
        for index in range(4):
            path = folders / "data" / split / "ground_truth" / f"{index}.png"
            path.unlink(missing_ok=True)
            write_npy(path.with_suffix(".npy"), MASK.astype(np.float32) / 3)
    report = evaluated(folders, "--ground_truth=difference")
    assert report["metrics"]["image_units"]["mse_d_gt"]["mean"] is not None
    assert report["split"]["ground_truth_kind"] == "difference"
    assert report["command"].endswith("--ground_truth=difference")
