"""Which files of a data folder are found, and what is said of a folder that is laid out otherwise."""

import errno
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from image_folders import SIZE, check_error, make_data_set, picture
from PIL import Image

from descargan_tf.data.folders import check_data, load_split
from descargan_tf.data.images import write_png
from descargan_tf.data.listing import list_data_set, list_images
from descargan_tf.errors import UserError
from descargan_tf.prediction.files import find_inputs
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
    warnings = check_data(tmp_path, SIZE).warnings
    assert "0.png is the ground truth of several images, test/*/0.*: of none, then" in warnings
    assert load_split(tmp_path, "test", SIZE, (0, 255)).has_ground_truth.tolist() == [True, True, False, False, True]


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


# ---- what the system refuses, and links


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    make_data_set(tmp_path)
    refused = tmp_path / "train" / "healthy"
    iterdir = Path.iterdir

    def refuse(path):  # as the system does, but for whom it lets read everything
        if path == refused:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    for use in (check_data, lambda root, size: load_split(root, "train", size, (0, 255))):
        with pytest.raises(UserError) as caught:
            use(tmp_path, SIZE)
        assert str(caught.value) == f"{refused}: cannot be read: Permission denied"
    with pytest.raises(UserError, match="healthy: cannot be read: Permission denied"):
        find_inputs(refused)


def test_what_lies_in_a_folder_that_cannot_be_entered_is_named(tmp_path, monkeypatch):
    make_data_set(tmp_path)

    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "is_dir", refuse)
    assert check_error(tmp_path) == f"--data_dir={tmp_path} cannot be read: Permission denied: {tmp_path}"
    with pytest.raises(UserError, match=f"--input={tmp_path}: cannot be read: Permission denied"):
        find_inputs(tmp_path)


def test_links_that_lead_nowhere_are_said_to(tmp_path):
    make_data_set(tmp_path / "d")
    (tmp_path / "d" / "train" / "healthy" / "x.png").symlink_to("/nowhere/x.png")
    (tmp_path / "d" / "train" / "healthy" / "y.png").symlink_to("y.png")
    message = check_error(tmp_path / "d")
    assert "train/healthy/x.png: cannot be read: No such file or directory: it is a link to /nowhere/x.png" in message
    assert "train/healthy/y.png: cannot be read: Too many levels of symbolic links: it is a link to y.png" in message
    (tmp_path / "link").symlink_to("/nowhere/d")
    assert (
        check_error(tmp_path / "link")
        == f"--data_dir={tmp_path / 'link'} is a link to /nowhere/d, which does not exist"
    )
    with pytest.raises(UserError, match=r"--input=.*link is a link to /nowhere/d, which does not exist: name an image"):
        find_inputs(tmp_path / "link")
    (tmp_path / "d" / "test").rename(tmp_path / "elsewhere")
    (tmp_path / "d" / "test").symlink_to("/nowhere/test")
    (tmp_path / "d" / "validate" / "ground_truth").symlink_to("/nowhere/masks")
    message = check_error(tmp_path / "d")
    assert "found: train, validate; test is a link to /nowhere/test, which is no folder" in message
    (tmp_path / "d" / "test").unlink()
    (tmp_path / "elsewhere").rename(tmp_path / "d" / "test")
    masks = tmp_path / "d" / "validate" / "ground_truth"
    assert list_data_set(tmp_path / "d", ("validate",)).warnings == [
        f"{masks} is a link to /nowhere/masks, which is no folder: no ground truth"
    ]


@pytest.mark.parametrize("make", [lambda path: path.write_text("none"), lambda path: path.symlink_to(path.name)])
def test_a_ground_truth_folder_that_is_none_stops_nothing(tmp_path, make):
    make_data_set(tmp_path / "d")
    make(tmp_path / "d" / "test" / "ground_truth")
    (warning,) = check_data(tmp_path / "d", SIZE).warnings
    assert warning.startswith(f"{tmp_path / 'd' / 'test' / 'ground_truth'} is ")
    assert warning.endswith("no folder: no ground truth")


def test_a_ground_truth_folder_that_cannot_be_read_stops_nothing(tmp_path, monkeypatch):
    make_data_set(tmp_path / "d")
    folder = tmp_path / "d" / "test" / "ground_truth"
    folder.mkdir()
    iterdir = type(folder).iterdir

    def refuse(path):
        if path == folder:
            raise PermissionError(errno.EACCES, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(type(folder), "iterdir", refuse)
    (warning,) = check_data(tmp_path / "d", SIZE).warnings
    assert "Permission denied" in warning
    assert warning.endswith(": no ground truth")


def test_folders_behind_links_are_read(tmp_path):
    make_data_set(tmp_path / "d")
    (tmp_path / "d" / "train" / "healthy").rename(tmp_path / "healthy")
    (tmp_path / "d" / "train" / "healthy").symlink_to(tmp_path / "healthy")
    (tmp_path / "link").symlink_to(tmp_path / "d")
    assert check_data(tmp_path / "link", SIZE).count("train", HEALTHY) == 2


# ---- names of files


FORMS = [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")]


@pytest.mark.parametrize(("image_form", "truth_form"), FORMS)
def test_masks_are_found_whatever_the_unicode_form_of_their_names(tmp_path, image_form, truth_form):
    make_data_set(tmp_path, per_class=1)
    names = [f"{unicodedata.normalize(form, 'Größe é')}.png" for form in (image_form, truth_form)]
    folder = tmp_path / "test" / "diseased"
    (folder / "0.png").rename(folder / names[0])
    (tmp_path / "test" / "ground_truth").mkdir()
    write_png(tmp_path / "test" / "ground_truth" / names[1], np.eye(SIZE, dtype=np.uint8))
    summary = check_data(tmp_path, SIZE)
    assert summary.warnings == ()
    assert [c.num_ground_truths for c in summary.classes] == [0, 0, 0, 0, 1, 1]


def test_an_image_keeps_the_mask_of_its_very_name(tmp_path):
    make_data_set(tmp_path, per_class=2)
    (tmp_path / "test" / "ground_truth").mkdir()
    for index, form in enumerate(("NFC", "NFD")):
        name = f"{unicodedata.normalize(form, 'é')}.png"
        (tmp_path / "test" / "diseased" / f"{index}.png").rename(tmp_path / "test" / "diseased" / name)
        write_png(tmp_path / "test" / "ground_truth" / name, np.full((SIZE, SIZE), 255 * index, np.uint8))
    for file in list_data_set(tmp_path, ("test",)).files[2:]:
        assert file.ground_truth.name == file.path.name
    os.remove(tmp_path / "test" / "ground_truth" / f"{unicodedata.normalize('NFD', 'é')}.png")
    assert "1 of 2 diseased images of test have no ground truth" in " ".join(check_data(tmp_path, SIZE).warnings)


def test_names_that_are_not_utf8_are_read_and_match(tmp_path):
    make_data_set(tmp_path, per_class=1)
    name = os.fsdecode(b"M\xfc.png")
    (tmp_path / "test" / "diseased" / "0.png").rename(tmp_path / "test" / "diseased" / name)
    (tmp_path / "test" / "ground_truth").mkdir()
    write_png(tmp_path / "test" / "ground_truth" / name, np.full((SIZE, SIZE), 255, np.uint8))
    assert check_data(tmp_path, SIZE).classes[-1].num_ground_truths == 1
    assert load_split(tmp_path, "test", SIZE, (0, 255)).names == ("test/healthy/0.png", f"test/diseased/{name}")
