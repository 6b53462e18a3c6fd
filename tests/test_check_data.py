"""--mode=check_data as a whole: what it says, its exit status, its page."""

import re

import numpy as np
import pytest
from image_folders import SIZE, make_data_set, picture
from PIL import Image

from descargan_tf.data import prepared
from descargan_tf.data.images import write_png
from descargan_tf.data.near_duplicates import fingerprint_of, near_duplicates
from descargan_tf.data.synthetic import draw_example
from descargan_tf.main import main
from descargan_tf.types import CLASS_NAMES, SPLITS


def check(root, *flags, dataset="folders"):
    return main(
        ["main", "--mode=check_data", f"--dataset={dataset}", f"--data_dir={root}", f"--image_size={SIZE}", *flags]
    )


def structured(seed):
    """A picture with structure, uint8."""
    image, _, _ = draw_example(seed, "train", 0, SIZE)
    return np.rint((image + 1) * 127.5).astype(np.uint8)


def prepare(root, per_class=3, **changes):
    """A prepared data set whose rows `changes` gives other values, by split and number: {("test", 0): {...}}."""
    seed = 0
    for split in SPLITS:
        for label, name in enumerate(CLASS_NAMES):
            images, rows = [], []
            for number in range(per_class):
                seed += 1
                images.append(structured(seed).astype(np.uint16) * 257)
                row = {"source": f"{seed}.dcm", "patient": f"p{seed}", "study": "s", "view": "PA", "device": "A"}
                row |= {"sha256": f"{seed}", "height": SIZE, "width": SIZE, "dtype": "uint16", "minimum": 0}
                row |= {"maximum": 65535, "fit": "pad", "ground_truth": prepared.NONE}
                rows.append(row | changes.get(f"{split}_{name}_{number}", {}))
            prepared.write_shard(root, split, label, 0, np.stack(images), None, rows)
    prepared.finish(root, {"failed": 0} | changes.get("decisions", {}))
    return root


# ---- the command


def test_clean_folders(tmp_path, capsys):
    root = make_data_set(tmp_path / "own data")
    assert check(root) == 0
    out = capsys.readouterr().out
    assert "nothing suspicious was found" in out
    assert "note: patients are not known of 12 images: whether one is in two splits was not checked there" in out
    report = tmp_path / "own data_check_report.html"
    assert f"report: {report} (it holds pictures of the data)" in out
    page = report.read_text()
    assert "Nothing suspicious was found." in page
    assert page.count("data:image/png;base64,") == 6  # a sheet per split and class
    assert not re.search(r'(src|href)="(?!data:)', page)  # nothing from outside
    assert sorted(path.name for path in root.iterdir()) == sorted(SPLITS)  # nothing was written into it


def test_near_duplicates_are_a_finding(tmp_path, capsys):
    root = make_data_set(tmp_path / "d")
    original = structured(7)
    write_png(root / "train" / "healthy" / "a.png", original)
    brighter = np.clip(original * 0.8 + 40, 0, 255).astype(np.uint8)
    Image.fromarray(brighter).save(root / "test" / "diseased" / "b.jpg", quality=85)
    assert check(root, f"--output_dir={tmp_path / 'new' / 'place'}") == 1
    out = capsys.readouterr().out
    assert (
        "warning: 1 pair of nearly the same picture in different splits (train/healthy/a.png = test/diseased/b.jpg (0.9"
    ) in out
    assert out.endswith("1 finding\n")
    page = (tmp_path / "new" / "place" / "check_report.html").read_text()
    assert "<strong>1 finding.</strong>" in page
    assert "train/healthy/a.png" in page
    assert list(tmp_path.glob("*.html")) == []


def test_what_is_refused_stays_2(tmp_path, capsys):
    root = make_data_set(tmp_path / "d")
    assert check(root, f"--output_dir={root / 'train'}") == 2
    assert "lies within --data_dir, where nothing is written: name another folder." in capsys.readouterr().err
    (root / "train" / "healthy" / "0.png").write_bytes(b"broken")
    assert check(root) == 2
    assert "1 file cannot be used: train/healthy/0.png" in capsys.readouterr().err
    assert list(tmp_path.glob("*.html")) == []


def test_a_place_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    root = make_data_set(tmp_path / "d")
    (tmp_path / "d_check_report.html").mkdir()  # also root may not write over a folder
    assert check(root) == 0
    assert "note: no report was written" in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    assert check(root, f"--output_dir={tmp_path / 'file' / 'x'}") == 2
    assert "cannot be written: Not a directory" in capsys.readouterr().err


# ---- prepared data


def test_clean_prepared_data(tmp_path, capsys):
    root = prepare(tmp_path / "p")
    assert check(root, dataset="prepared") == 0
    out = capsys.readouterr().out
    assert "nothing suspicious was found" in out
    assert "not known" not in out


def test_a_patient_in_two_splits_of_prepared_data(tmp_path, capsys):
    root = prepare(tmp_path / "p", train_healthy_0={"patient": "x"}, test_diseased_1={"patient": "x"})
    assert check(root, dataset="prepared") == 1
    assert "warning: 1 of 17 patients is in several splits (x in train and test)" in capsys.readouterr().out


def test_the_same_pixels_and_the_same_file_in_prepared_data(tmp_path, capsys):
    root = prepare(tmp_path / "p", train_healthy_0={"sha256": "same"}, validate_healthy_1={"sha256": "same"})
    shard = root / "shards" / "test-healthy-00000.npy"
    images = np.load(shard)
    images[2] = np.load(root / "shards" / "train-healthy-00000.npy")[1]
    np.save(shard, images)
    assert check(root, dataset="prepared") == 1
    out = capsys.readouterr().out
    assert "1 file lies, with identical content, in different splits; results on them say nothing" in out
    assert (
        "1 pair of nearly the same picture in different splits (train/healthy/2.dcm = test/healthy/15.dcm (1.000))"
        in out
    )
    assert out.endswith("2 findings\n")


def test_the_same_pixels_in_both_classes_of_a_split_of_prepared_data(tmp_path, capsys):
    root = prepare(tmp_path / "p")
    shards = {name: root / "shards" / f"train-{name}-00000.npy" for name in CLASS_NAMES}
    images = np.load(shards["diseased"])
    images[2] = np.load(shards["healthy"])[1]
    np.save(shards["diseased"], images)
    assert check(root, dataset="prepared") == 1
    out = capsys.readouterr().out
    said = "1 picture lies, in files that differ, in both classes; which of the two is right? (2.dcm = 6.dcm)"
    assert f"warning: {said}\n" in out
    assert out.endswith("1 finding\n")


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        (
            "value_range",
            "; if the files have fewer bits (12-bit: 0,4095), prepare them again with --value_range=low,high",
        ),
        ("nifti_range", "; prepare the volumes again with another --nifti_range"),
        ("finding", ""),
    ],
)
def test_unlike_ranges_of_prepared_data(tmp_path, capsys, asked, hint):
    root = prepare(tmp_path / "p", train_healthy_0={"patient": ""}, decisions={asked: ""})
    for shard in (root / "shards").glob("*.npy"):
        np.save(shard, np.load(shard) // 16)
    assert check(root, dataset="prepared") == 1
    out = capsys.readouterr().out
    assert f"% of the range that the data were prepared with{hint}\n" in out
    assert "note: patients are not known of 1 image: " in out


# ---- near duplicates


CHANGES = {
    "the same": lambda image: image,
    "brighter": lambda image: image * 0.8 + 0.1,
    "gamma": lambda image: ((image + 1) / 2) ** 0.8,
    "noise": lambda image: image + np.random.default_rng(0).normal(0, 0.05, image.shape),
    "smaller": lambda image: image.reshape(64, 2, 64, 2).mean((1, 3)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_saved_again_is_found(change):
    images = [draw_example(3, "train", index, 128)[0] for index in range(40)]
    fingerprints = [fingerprint_of(image) for image in images] + [fingerprint_of(CHANGES[change](images[17]))]
    (pair,) = near_duplicates(fingerprints, ["train"] * 40 + ["test"])
    assert pair[:2] == (17, 40)
    assert near_duplicates(fingerprints, ["train"] * 41) == []  # all in one split


def test_different_synthetic_images_are_not_flagged():
    images = [draw_example(seed, "train", index, SIZE)[0] for seed in range(3) for index in range(60)]
    fingerprints = [fingerprint_of(image) for image in images]
    assert near_duplicates(fingerprints, [SPLITS[index % 3] for index in range(180)]) == []


def test_each_pair_of_three_splits_is_found_once():
    one = fingerprint_of(picture(0, np.float32, -1, 1))
    pairs = near_duplicates([one, None, one, one], ["train", "train", "validate", "test"])
    assert sorted(pair[:2] for pair in pairs) == [(0, 2), (0, 3), (2, 3)]


def test_images_without_structure_are_like_none():
    assert fingerprint_of(np.full((SIZE, SIZE), 0.3, np.float32)) is None
    assert near_duplicates([None, None], ["train", "test"]) == []


def test_a_data_set_of_copies_ends(monkeypatch):
    monkeypatch.setattr("descargan_tf.data.near_duplicates.MAX_PAIRS", 50)
    one = fingerprint_of(picture(0, np.float32, -1, 1))
    assert len(near_duplicates([one] * 40, ["train", "test"] * 20)) == 50


def test_a_manifest_of_the_users_own_is_none_of_ours(tmp_path):
    make_data_set(tmp_path / "data", per_class=3)
    (tmp_path / "data" / "manifest.json").write_text('{"name": "my study"}')
    given = ["--mode=check_data", "--dataset=folders", "--image_size=64", f"--data_dir={tmp_path}/data"]
    assert main(["main", *given]) in (0, 1)  # what is found of the pictures is no matter here
