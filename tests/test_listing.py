"""Which files of a data folder are found, and what is said of a folder that is laid out otherwise."""

import numpy as np
import pytest
from image_folders import SIZE, check_error, make_data_set, picture
from PIL import Image

from descargan_tf.data.folders import check_data, load_split
from descargan_tf.data.images import write_png
from descargan_tf.data.listing import list_images
from descargan_tf.errors import UserError
from descargan_tf.types import HEALTHY


def test_ambiguous_and_unused_ground_truth(tmp_path):
    make_data_set(tmp_path)
    folder = tmp_path / "test" / "ground_truth"
    folder.mkdir()
    write_png(folder / "7.png", np.zeros((SIZE, SIZE), np.uint8))
    Image.fromarray(np.zeros((SIZE, SIZE), np.uint8)).save(folder / "0.jpg")
    assert check_data(tmp_path, SIZE).warnings == (
        "test/ground_truth/0.jpg: ignored, a ground truth ends in .npy .png .tif .tiff",
        "test/ground_truth/7.png: ground truth of no diseased image, ignored",
    )
    write_png(folder / "0.png", np.zeros((SIZE, SIZE), np.uint8))
    write_png(folder / "1.png", np.zeros((SIZE, SIZE), np.uint8))
    Image.fromarray(picture(77)).save(tmp_path / "test" / "diseased" / "0.tif")
    assert "0.png is the ground truth of several images: test/*/0.*" in check_error(tmp_path)


def test_missing_root_and_file_as_root(tmp_path):
    assert check_error(tmp_path / "nowhere") == f"--data_dir={tmp_path / 'nowhere'} does not exist"
    (tmp_path / "file").touch()
    assert check_error(tmp_path / "file") == f"--data_dir={tmp_path / 'file'} is not a folder"
    assert "split folders train, validate, test missing" in check_error(tmp_path)
    assert "found: no folder" in check_error(tmp_path)


def test_missing_split_says_what_was_found(tmp_path):
    make_data_set(tmp_path)
    (tmp_path / "validate").rename(tmp_path / "Val")
    assert check_error(tmp_path) == (
        f"data folder {tmp_path}: split folder validate missing in {tmp_path}; found: Val, test, train; "
        "names are exact and case-sensitive: rename Val to validate"
    )
    with pytest.raises(UserError, match="split folder validate missing"):
        load_split(tmp_path, "validate", SIZE, (0, 255))
    assert check_data(tmp_path, SIZE, splits=("train", "test")).count("train", HEALTHY) == 2


def test_root_at_the_wrong_level(tmp_path):
    root = make_data_set(tmp_path / "above" / "data")
    assert f"one level too high, try --data_dir={root}" in check_error(tmp_path / "above")
    assert f"one level too low, try --data_dir={root}" in check_error(root / "train")
    assert f"two levels too low, try --data_dir={root}" in check_error(root / "train" / "healthy")
    (tmp_path / "classes" / "healthy").mkdir(parents=True)
    message = check_error(tmp_path / "classes")
    assert "it holds classes but no splits: move them into" in message
    assert "found: healthy" in message


def test_missing_class_says_what_was_found(tmp_path):
    make_data_set(tmp_path)
    (tmp_path / "test" / "healthy").rename(tmp_path / "test" / "Healthy")
    (tmp_path / "train" / "diseased").rename(tmp_path / "train" / "pleural_effusion")
    message = check_error(tmp_path)
    assert (
        f"class folder healthy missing in {tmp_path / 'test'}; found: Healthy, diseased; expected test/healthy and "
        "test/diseased; names are exact and case-sensitive: rename Healthy to healthy"
    ) in message
    assert f"class folder diseased missing in {tmp_path / 'train'}; found: healthy, pleural_effusion" in message


def test_images_one_folder_too_deep(tmp_path):
    make_data_set(tmp_path)
    (tmp_path / "train" / "healthy").rename(tmp_path / "train" / "deep")
    (tmp_path / "train" / "healthy").mkdir()
    (tmp_path / "train" / "deep").rename(tmp_path / "train" / "healthy" / "deep")
    message = check_error(tmp_path)
    assert f"no image in {tmp_path / 'train' / 'healthy'}" in message
    assert "directly in it and not in its subfolders (deep)" in message


def test_list_images_ignores_what_is_no_image(tmp_path):
    for name in ("b.png", "a.TIFF", ".c.png", "d.txt", "e.npz"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    images, num_ignored = list_images(tmp_path)
    assert [path.name for path in images] == ["a.TIFF", "b.png"]
    assert num_ignored == 4
