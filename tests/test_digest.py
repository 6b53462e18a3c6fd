"""A run belongs to the images that it reads: what names them, and how a difference is said."""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from image_folders import SIZE, make_data_set, picture
from PIL import Image

from descargan_tf.config import Config
from descargan_tf.data import digest
from descargan_tf.data.dataset import Dataset
from descargan_tf.data.images import write_npy, write_png


def data_set(root):
    data = Dataset(Config(mode="check_data", dataset="folders", data_dir=str(root), image_size=SIZE))
    return data, data.check()


def facts_of(root):
    data, summary = data_set(root)
    return json.loads(json.dumps(data.training_facts(summary)))  # as a run keeps them


def differences(before, root):
    data, summary = data_set(root)
    now = data.training_facts(summary)
    before = {**before, "scaling": summary.scaling.__class__(*before["scaling"])}
    return data.differences(before, now)


@pytest.fixture
def root(tmp_path):
    root = make_data_set(tmp_path / "data")
    for split in ("validate", "train"):
        (root / split / "ground_truth").mkdir()
        for index in range(2):
            mask = np.zeros((SIZE, SIZE), np.uint8)
            mask[index : index + 9, :9] = 255
            write_png(root / split / "ground_truth" / f"{index}.png", mask)
    return root


@pytest.mark.parametrize(
    "name",
    [
        "train/.DS_Store",
        "train/healthy/Thumbs.db",
        "train/healthy/._0.png",
        "desktop.ini",
        "run/checkpoints/10/state.npz",
        "train/healthy/run/figures/a.png",
        "train/@eaDir/0.png",
        "validate/ground_truth/of_none.png",
    ],
)
def test_what_is_not_read_is_no_difference(root, name):
    before = facts_of(root)
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    write_png(root / "x.png", picture(9))
    (root / "x.png").rename(root / name)
    assert differences(before, root) == []
    assert facts_of(root)["digest"] == before["digest"]


def test_the_same_pictures_written_again_elsewhere_are_the_same(root, tmp_path):
    before = facts_of(root)
    path = root / "train" / "healthy" / "0.png"
    size = path.stat().st_size
    Image.open(path).save(path, "TIFF")  # the content decides, not the name
    assert path.stat().st_size != size
    root.rename(tmp_path / "moved")
    (tmp_path / "link").symlink_to(tmp_path / "moved")
    assert differences(before, tmp_path / "link") == []


def test_test_images_and_masks_that_teach_nothing_are_no_difference(root):
    before = facts_of(root)
    write_png(root / "test" / "healthy" / "more.png", picture(77))
    shutil.rmtree(root / "train" / "ground_truth")
    write_png(root / "validate" / "ground_truth" / "0.png", np.eye(SIZE, dtype=np.uint8) * 255)
    assert differences(before, root) == []


@pytest.mark.parametrize("linked", ["", "train", "train/healthy"])
def test_added_removed_and_changed_files_are_named_even_behind_a_link(root, tmp_path, linked):
    before = facts_of(root)
    for index in range(7, 12):
        write_png(root / "train" / "healthy" / f"{index}.png", picture(index))
    (root / "validate" / "healthy" / "1.png").unlink()
    write_png(root / "train" / "diseased" / "0.png", picture(99))  # of the same size, as arrays always are
    shutil.copystat(root / "train" / "diseased" / "1.png", root / "train" / "diseased" / "0.png")
    if linked:
        shutil.move(root / linked, tmp_path / "elsewhere")
        (root / linked).symlink_to(tmp_path / "elsewhere")
    assert differences(before, root) == [
        "5 files added (train/healthy/10.png, train/healthy/11.png, train/healthy/7.png and 2 more), "
        "1 file removed (validate/healthy/1.png), "
        "1 file changed (train/diseased/0.png)"
    ]


def test_another_scaling_is_named(root):
    before = {**facts_of(root), "scaling": [0, 100], "dtype": "uint16"}
    assert differences(before, root) == [
        "scaling is 0,100 there and 0,255 here",
        "dtype is uint16 there and uint8 here",
    ]


def test_a_name_that_is_no_text_is_kept_and_shown(root):
    os.rename(root / "train" / "healthy" / "0.png", os.fsencode(root / "train" / "healthy") + b"/M\xfc.png")
    before = facts_of(root)
    assert differences(before, root) == []
    os.remove(os.fsencode(root / "train" / "healthy") + b"/M\xfc.png")
    assert differences(before, root) == [r"1 file removed (train/healthy/M\xfc.png)"]


def test_names_and_contents_alone_make_the_digest():
    contents = {"b": "2", "a": "1"}
    assert digest.of_contents(contents) == digest.of_contents(dict(reversed(contents.items())))
    assert len({digest.of_contents(c) for c in (contents, {"a": "1"}, {"a": "1", "b": "1"}, {"a": "1", "c": "2"})}) == 4


def test_the_ground_truth_in_an_images_own_file_counts_by_itself(tmp_path):
    root = make_data_set(tmp_path / "data", np.float32, 0, 1, suffix=".npy")
    for path in (root / "validate" / "diseased").iterdir():
        write_npy(path, np.stack([np.load(path), np.full((SIZE, SIZE), 0.25, np.float32)]))
    before = data_set(root)[1].contents
    write_npy(path, np.stack([np.load(path)[0], np.full((SIZE, SIZE), 0.5, np.float32)]))
    assert digest.changes(before, data_set(root)[1].contents) == (
        f"1 file changed (validate/diseased/{path.name}#ground_truth)"
    )


# ---- runs of older versions


def older_digest(root):
    names = sorted((str(p.relative_to(root)), p.stat().st_size) for p in root.rglob("*.*"))
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def test_a_run_of_an_older_version_goes_on_with_its_images(root):
    before = {"scaling": [0, 255], "dtype": "uint8", "digest": older_digest(root)}
    assert differences(before, root) == []
    (root / "train" / ".DS_Store").touch()  # which made other data of it
    assert differences(before, root) == []
    write_png(root / "train" / "healthy" / "new.png", picture(5))
    (found,) = differences(before, root)
    assert "of an older version, which kept one sum over the whole folder" in found


def test_a_report_of_an_older_version_is_known_again(root):
    older = older_digest(root)
    data, _ = data_set(root)
    assert data.is_known_as(older, "test")
    assert data.is_known_as(data.digest("test"), "test")
    assert not data.is_known_as("0" * 64, "test")


def test_generated_data_keep_the_name_that_their_manifest_gives(synthetic_data):
    folder, _ = synthetic_data
    counts = {"num_train": 12, "num_validate": 6, "num_test": 6, "data_seed": 3}
    data = Dataset(Config(mode="check_data", dataset="synthetic", data_dir=str(folder), image_size=SIZE, **counts))
    summary = data.check()
    assert data.digest("test") == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert len(data.training_facts(summary)["files"]) == 2 * 12 + 2 * 6
