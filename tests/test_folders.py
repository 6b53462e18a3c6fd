import os

import numpy as np
import pytest
from PIL import Image

from descargan_tf.data.folders import check_data, list_images, load_split, threshold_accuracy
from descargan_tf.data.images import Scaling, write_npy, write_png
from descargan_tf.errors import UserError
from descargan_tf.types import DISEASED, HEALTHY, SPLITS

SIZE = 64
CLASSES = {HEALTHY: "healthy", DISEASED: "diseased"}


def picture(seed, dtype=np.uint8, low=0, high=256):
    """Noise that holds both ends of its range, so that no class can be told by it."""
    values = np.random.default_rng(seed).uniform(low, high, (SIZE, SIZE))
    values[0, 0], values[0, 1] = low, high if dtype == np.float32 else high - 1
    return values.astype(dtype)


def make_data_set(root, dtype=np.uint8, low=0, high=256, per_class=2, suffix=".png"):
    """Write `per_class` different images a class and split."""
    seed = 0
    for split in SPLITS:
        for class_name in CLASSES.values():
            folder = root / split / class_name
            folder.mkdir(parents=True)
            for index in range(per_class):
                write = write_png if suffix == ".png" else write_npy
                write(folder / f"{index}{suffix}", picture(seed, dtype, low, high))
                seed += 1
    return root


def check_error(root, **kwargs):
    with pytest.raises(UserError) as caught:
        check_data(root, SIZE, **kwargs)
    return str(caught.value)


def test_uint8_data_set(tmp_path):
    make_data_set(tmp_path)
    (tmp_path / "train" / "healthy" / ".hidden.png").touch()
    (tmp_path / "train" / "healthy" / "notes.txt").touch()
    (tmp_path / "train" / "healthy" / "more").mkdir()
    summary = check_data(tmp_path, SIZE)
    assert summary.scaling == (0, 255)
    assert summary.dtype == "uint8"
    assert summary.warnings == ()
    assert summary.ground_truth_kind is None
    assert [summary.count(split, label) for split in SPLITS for label in CLASSES] == [2] * 6
    assert [c.num_ignored for c in summary.classes] == [3, 0, 0, 0, 0, 0]
    assert summary.lines() == [
        f"data folder {tmp_path}",
        "labels: 0=healthy n=6, 1=diseased n=6",
        "scaling: file values 0 to 255 become -1 to 1, in every image",
        "split     label       images  values  dtype  size   ground truth  ignored",
        "train     0=healthy   n=2     0..255  uint8  64x64  none          3",
        "train     1=diseased  n=2     0..255  uint8  64x64  none          0",
        "validate  0=healthy   n=2     0..255  uint8  64x64  none          0",
        "validate  1=diseased  n=2     0..255  uint8  64x64  none          0",
        "test      0=healthy   n=2     0..255  uint8  64x64  none          0",
        "test      1=diseased  n=2     0..255  uint8  64x64  none          0",
    ]
    assert str(summary) == "\n".join(summary.lines())


def test_label_comes_from_the_folder_name_not_from_its_order(tmp_path):
    for split in SPLITS:
        for value, class_name in ((60, "diseased"), (200, "healthy")):  # written and sorted diseased first
            (tmp_path / split / class_name).mkdir(parents=True)
            for name in ("b.png", "a.png", "B.PNG"):
                write_png(
                    tmp_path / split / class_name / name, np.full((SIZE, SIZE), value + ord(name[0]) % 7, np.uint8)
                )
    loaded = load_split(tmp_path, "test", SIZE, Scaling(0, 255))
    np.testing.assert_array_equal(loaded.labels, [0, 0, 0, 1, 1, 1])
    assert loaded.labels.dtype == np.int32
    assert loaded.names == tuple(f"test/{c}/{n}" for c in ("healthy", "diseased") for n in ("B.PNG", "a.png", "b.png"))
    values = [200 + 3, 200 + 6, 200 + 0, 60 + 3, 60 + 6, 60 + 0]
    np.testing.assert_allclose(loaded.images[:, 5, 7, 0], np.array(values) / 127.5 - 1, rtol=1e-6)
    assert loaded.images.shape == (6, SIZE, SIZE, 1)
    assert loaded.images.dtype == np.float32
    assert loaded.ground_truth is None


@pytest.mark.parametrize(
    ("dtype", "low", "high", "scaling"),
    [
        (np.uint16, 0, 65536, (0, 65535)),
        (np.float32, 0, 1, (0, 1)),
        (np.float32, -1, 1, (-1, 1)),
        (np.float32, -0.5, 0.5, (-1, 1)),
    ],
)
def test_automatic_value_range(tmp_path, dtype, low, high, scaling):
    make_data_set(tmp_path, dtype, low, high, per_class=1, suffix=".npy")
    summary = check_data(tmp_path, SIZE)
    assert summary.scaling == scaling
    images = load_split(tmp_path, "train", SIZE, summary.scaling).images
    expected = np.stack([np.load(tmp_path / "train" / name / "0.npy") for name in CLASSES.values()]).astype(np.float64)
    expected = (expected - scaling[0]) / (scaling[1] - scaling[0]) * 2 - 1
    np.testing.assert_allclose(images[..., 0], expected, atol=1e-6)


def test_range_is_decided_over_all_splits_and_classes(tmp_path):
    make_data_set(tmp_path, np.float32, 0, 1, per_class=1, suffix=".npy")
    assert check_data(tmp_path, SIZE).scaling == (0, 1)
    for split, class_name in (("validate", "healthy"), ("validate", "diseased"), ("test", "healthy")):
        write_npy(tmp_path / split / class_name / "0.npy", picture(99, np.float32, -0.25, 1))
    write_npy(tmp_path / "test" / "diseased" / "0.npy", np.full((SIZE, SIZE), 0.5, np.float32))  # of no range
    assert check_data(tmp_path, SIZE, splits=("validate", "test")).scaling == (-1, 1)
    assert check_data(tmp_path, SIZE, splits=("train",)).scaling == (0, 1)
    assert check_error(tmp_path) == (
        f"data folder {tmp_path}: mixed ranges: 2 files within 0,1 (train/healthy/0.npy, train/diseased/0.npy) and 3 "
        "files beyond 0,1 (validate/healthy/0.npy, validate/diseased/0.npy, test/healthy/0.npy); scale all files of "
        "both classes alike, or, if they are, say so with --value_range=-1,1"
    )
    assert check_data(tmp_path, SIZE, value_range="-1,1").scaling == (-1, 1)


@pytest.mark.parametrize(
    ("dtype", "healthy", "diseased", "rule"),
    [
        (np.float32, (0, 1), (-1, 1), "0,1 .*--value_range=-1,1"),
        (np.uint16, (0, 65536), (0, 256), "0,255 .*--value_range=0,65535"),
        (np.uint8, (0, 2), (0, 256), "0,1 .*--value_range=0,255"),
    ],
)
def test_classes_of_one_type_in_two_ranges_are_refused(tmp_path, dtype, healthy, diseased, rule):
    ranges = {"healthy": healthy, "diseased": diseased}
    make_data_set(tmp_path, dtype, *healthy, suffix=".npy")
    for index, path in enumerate(sorted(tmp_path.glob("*/*/*.npy"))):
        write_npy(path, picture(index, dtype, *ranges[path.parent.name]))
    with pytest.raises(UserError, match=f"mixed ranges: 6 files within {rule}"):
        check_data(tmp_path, SIZE)


def test_floats_beyond_the_automatic_ranges_name_the_extremes(tmp_path):
    make_data_set(tmp_path, np.float32, 0, 1, per_class=1, suffix=".npy")
    write_npy(tmp_path / "validate" / "healthy" / "0.npy", picture(1, np.float32, -1024, 0))
    write_npy(tmp_path / "test" / "diseased" / "0.npy", picture(2, np.float32, 0, 3071))
    message = check_error(tmp_path)
    assert "float values are in neither [0, 1] nor [-1, 1]: lowest -1024 in validate/healthy/0.npy" in message
    assert "highest 3071 in test/diseased/0.npy; pass the range they come from as --value_range=low,high" in message
    assert check_data(tmp_path, SIZE, value_range="-1024,3071").scaling == (-1024, 3071)


def test_values_outside_an_explicit_range_name_file_and_value(tmp_path):
    make_data_set(tmp_path, np.uint16, 0, 4096)
    write_png(tmp_path / "train" / "diseased" / "1.png", picture(7, np.uint16, 3, 5001))
    message = check_error(tmp_path, value_range="0,4095")
    assert "1 file with values outside --value_range=0,4095: train/diseased/1.png (3 to 5000); pass one that" in message
    with pytest.raises(UserError, match=r"train/diseased/1.png \(3 to 5000\)"):
        load_split(tmp_path, "train", SIZE, (0, 4095))


def test_12_bit_files_get_a_hint(tmp_path):
    make_data_set(tmp_path, np.uint16, 0, 4096)
    (warning,) = check_data(tmp_path, SIZE).warnings
    assert "all values lie in 0 to 4095, 6.2% of the range 0 to 65535" in warning
    assert "pass --value_range=low,high" in warning
    assert check_data(tmp_path, SIZE, value_range="0,4095").warnings == ()


@pytest.mark.parametrize("value_range", ["auto", "0,65535"])
def test_mixed_ranges_are_refused(tmp_path, value_range):
    make_data_set(tmp_path)
    for split in SPLITS:
        for index in range(2):
            write_png(tmp_path / split / "diseased" / f"{index}.png", picture(index, np.uint16))
    assert (
        "mixed ranges: 6 uint16 (train/diseased/0.png, train/diseased/1.png, validate/diseased/0.png and 3 more) "
        "and 6 uint8 (train/healthy/0.png, train/healthy/1.png, validate/healthy/0.png and 3 more); save all files"
    ) in check_error(tmp_path, value_range=value_range)


def test_mixed_ranges_within_a_class_are_refused(tmp_path):
    make_data_set(tmp_path)
    write_npy(tmp_path / "train" / "healthy" / "x.npy", picture(0, np.float32, 0, 1))
    assert "mixed ranges: 1 float32 (train/healthy/x.npy) and 12 uint8" in check_error(tmp_path)


def test_signed_ground_truth_is_scaled_with_the_images(tmp_path):
    make_data_set(tmp_path)
    folder = tmp_path / "test" / "ground_truth"
    folder.mkdir()
    difference = np.zeros((SIZE, SIZE), np.float32)
    difference[3, 4], difference[5, 6] = 51, -102
    write_npy(folder / "0.npy", difference)
    write_npy(folder / "1.npy", np.zeros_like(difference))
    summary = check_data(tmp_path, SIZE)
    assert summary.ground_truth_kind == "signed"
    assert [c.num_ground_truths for c in summary.classes] == [0, 0, 0, 0, 2, 2]
    assert summary.lines()[-2].split() == ["test", "0=healthy", "n=2", "0..255", "uint8", "64x64", "2", "zero", "0"]
    assert summary.lines()[-1].split() == ["test", "1=diseased", "n=2", "0..255", "uint8", "64x64", "2", "signed", "0"]
    loaded = load_split(tmp_path, "test", SIZE, summary.scaling)
    expected = np.zeros((4, SIZE, SIZE, 1), np.float32)
    expected[2, 3, 4], expected[2, 5, 6] = 0.4, -0.8  # 51 * 2 / 255
    np.testing.assert_allclose(loaded.ground_truth, expected, rtol=1e-6)
    assert load_split(tmp_path, "train", SIZE, summary.scaling).ground_truth is None


def test_masks_become_zero_to_one_whatever_the_image_range(tmp_path):
    make_data_set(tmp_path, np.uint16, 0, 65536, per_class=1)
    (tmp_path / "test" / "ground_truth").mkdir()
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[10:20, 30:40] = 255
    write_png(tmp_path / "test" / "ground_truth" / "0.png", mask)
    assert check_data(tmp_path, SIZE).ground_truth_kind == "mask"
    ground_truth = load_split(tmp_path, "test", SIZE, (0, 65535)).ground_truth
    np.testing.assert_array_equal(ground_truth[1, ..., 0], mask == 255)
    assert not ground_truth[0].any()
    write_png(tmp_path / "test" / "ground_truth" / "0.png", mask // 255)
    assert "test/ground_truth/0.png: the mask holds 0 and 1, expected 0 and 255" in check_error(tmp_path)
    write_png(tmp_path / "test" / "ground_truth" / "0.png", mask.astype(np.uint16))
    assert "test/ground_truth/0.png: uint16, expected an 8-bit mask" in check_error(tmp_path)


def test_authors_files(tmp_path):
    """Sign of the ground truth, its scale, and zero for healthy files, which carry one too."""
    for split in SPLITS:
        for offset, class_name in enumerate(CLASSES.values()):
            (tmp_path / split / class_name).mkdir(parents=True)
            image = picture(offset + 2 * SPLITS.index(split), np.float32, 0, 1)
            np.save(tmp_path / split / class_name / "0.npy", np.stack([image, np.full_like(image, 0.25)]))
    summary = check_data(tmp_path, SIZE)
    assert summary.scaling == (0, 1)
    assert summary.ground_truth_kind == "signed"
    loaded = load_split(tmp_path, "train", SIZE, summary.scaling)
    np.testing.assert_array_equal(loaded.ground_truth[0], 0)
    np.testing.assert_array_equal(loaded.ground_truth[1], -0.5)  # -0.25 in [0, 1] is -0.5 in [-1, 1]
    np.testing.assert_allclose(loaded.images[1, ..., 0], picture(1, np.float32, 0, 1) * 2 - 1, atol=1e-6)
    (tmp_path / "train" / "ground_truth").mkdir()
    write_npy(tmp_path / "train" / "ground_truth" / "0.npy", np.zeros((SIZE, SIZE), np.float32))
    assert "train/ground_truth/0.npy: train/diseased/0.npy already holds a ground truth" in check_error(tmp_path)


def test_missing_ground_truths_are_named(tmp_path):
    make_data_set(tmp_path, per_class=8)
    (tmp_path / "test" / "ground_truth").mkdir()
    write_npy(tmp_path / "test" / "ground_truth" / "3.npy", np.zeros((SIZE, SIZE), np.float32))
    message = check_error(tmp_path)
    assert "7 of 8 diseased images of test have no ground truth: test/diseased/0.png, test/diseased/1.png, " in message
    assert "test/diseased/5.png and 2 more; add test/ground_truth/<same stem>.npy" in message
    with pytest.raises(UserError, match="7 of 8 diseased images of test have no ground truth"):
        load_split(tmp_path, "test", SIZE, (0, 255))


def test_ground_truth_that_cannot_be_right(tmp_path):
    make_data_set(tmp_path, per_class=2)
    folder = tmp_path / "test" / "ground_truth"
    folder.mkdir()
    zeros = np.zeros((SIZE, SIZE), np.float32)
    write_npy(folder / "0.npy", zeros + 300)
    write_npy(folder / "1.npy", zeros)
    message = check_error(tmp_path)
    assert "1 ground truths larger than any difference within 0 to 255: test/ground_truth/0.npy (300)" in message
    write_npy(folder / "0.npy", zeros + 2)
    (warning,) = check_data(tmp_path, SIZE).warnings
    assert "the largest ground truth is 2, under 1 % of the image range 0 to 255" in warning
    write_npy(folder / "0.npy", zeros[:32])
    assert "1 file not 64x64 (height x width): test/ground_truth/0.npy (32x64)" in check_error(tmp_path)
    os.remove(folder / "0.npy")
    write_png(folder / "0.png", zeros.astype(np.uint8))
    message = check_error(tmp_path)
    assert "ground truth is a mask in test/ground_truth/0.png but signed in test/ground_truth/1.npy" in message
    write_png(folder / "1.png", zeros.astype(np.uint8))
    assert f"1.npy and 1.png in {folder} are for the same image" in check_error(tmp_path)


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


def test_wrong_sizes_are_named(tmp_path):
    make_data_set(tmp_path, per_class=3)
    for index in range(3):
        write_png(tmp_path / "train" / "healthy" / f"{index}.png", picture(index)[:48])
        write_png(tmp_path / "train" / "diseased" / f"{index}.png", picture(index + 3)[:, :32])
    message = check_error(tmp_path)
    assert "6 files not 64x64 (height x width): train/healthy/0.png (48x64), " in message
    assert "train/diseased/1.png (64x32) and 1 more; resize the files or pass the --image_size they have" in message
    assert "a multiple of 64" in message
    with pytest.raises(UserError, match="6 files not 64x64"):
        load_split(tmp_path, "train", SIZE, (0, 255))


def test_all_of_another_size_suggests_that_size(tmp_path):
    make_data_set(tmp_path)
    with pytest.raises(UserError, match=r"12 files not 128x128.* resize the files or pass --image_size=64$"):
        check_data(tmp_path, 128)


def test_unreadable_files_are_all_named(tmp_path):
    make_data_set(tmp_path, per_class=13)
    for index in range(12):
        path = tmp_path / "train" / "healthy" / f"{index}.png"
        path.write_bytes(path.read_bytes()[:2000])
    write_npy(tmp_path / "test" / "diseased" / "nan.npy", np.full((SIZE, SIZE), np.nan))
    message = check_error(tmp_path)
    assert "13 files cannot be used: train/healthy/0.png: cannot be read: image file is truncated" in message
    assert message.count("truncated") == 10
    assert message.endswith("; and 3 more")
    message = check_error(tmp_path, splits=("test",))
    assert "1 file cannot be used: test/diseased/nan.npy: 4096 values are NaN or infinite" in message


def test_all_problems_come_in_one_message(tmp_path):
    make_data_set(tmp_path)
    (tmp_path / "train" / "healthy" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    write_png(tmp_path / "train" / "diseased" / "0.png", picture(0)[:32])
    write_png(tmp_path / "test" / "diseased" / "0.png", picture(0, np.uint16))
    for path in (tmp_path / "validate" / "healthy").iterdir():
        path.unlink()
    message = check_error(tmp_path)
    assert "\n" not in message
    parts = (
        f"data folder {tmp_path} has 4 problems: ",
        f"(1) no image in {tmp_path / 'validate' / 'healthy'}; expected files ending in .npy .png",
        "; (2) 1 file cannot be used: train/healthy/0.png: ",
        "; (3) 1 file not 64x64 (height x width): train/diseased/0.png (32x64)",
        "; (4) mixed ranges: 1 uint16 (test/diseased/0.png) and 8 uint8 (",
    )
    assert message.startswith(parts[0] + parts[1])
    assert sorted(parts, key=message.index) == list(parts)


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


def test_per_image_normalisation_of_one_class_is_a_leak(tmp_path):
    """Trap D1.6: the authors' healthy images reach -1, their diseased ones do not."""
    for split in SPLITS:
        for seed, class_name in enumerate(CLASSES.values()):
            (tmp_path / split / class_name).mkdir(parents=True)
            for index in range(20 if split == "train" else 2):
                image = picture(100 * index + 10 * seed + SPLITS.index(split), np.float32, -0.5 - index / 100, 1)
                if class_name == "healthy":
                    image = (image - image.min()) / (image.max() - image.min()) * 2 - 1
                np.save(tmp_path / split / class_name / f"{index}.npy", image)
    (warning,) = check_data(tmp_path, SIZE).warnings
    assert warning.startswith(
        "class leak: the minimum of an image alone tells its class (accuracy 100% in train, 100% over all splits)"
    )
    assert check_data(tmp_path, SIZE, splits=("test",)).warnings == ()  # too few images to say


def test_threshold_accuracy_by_hand():
    assert threshold_accuracy([1, 2], [3, 4]) == 1
    assert threshold_accuracy([3, 4], [1, 2]) == 1
    assert threshold_accuracy([1, 1], [1, 1]) == 0.5
    assert threshold_accuracy([1, 2, 3, 4], [2.5]) == 0.75  # balanced: half of the healthy, all of the diseased
    assert threshold_accuracy([0, 0, 0, 5], [5, 5, 5, 5]) == 0.875


def test_duplicates_are_warned_of_whatever_their_format(tmp_path):
    make_data_set(tmp_path)
    pixels = picture(500)
    write_png(tmp_path / "train" / "healthy" / "same.png", pixels)
    write_npy(tmp_path / "test" / "healthy" / "other_name.npy", pixels)
    (warning,) = check_data(tmp_path, SIZE).warnings
    assert "1 pictures lie, with identical content, in different splits" in warning
    assert warning.endswith("(train/healthy/same.png = test/healthy/other_name.npy)")
    write_png(tmp_path / "train" / "diseased" / "same.png", pixels)
    assert "in both classes; which of the two is right?" in check_data(tmp_path, SIZE).warnings[1]


def test_progress_and_threads_do_not_change_the_result(tmp_path):
    make_data_set(tmp_path, per_class=20)
    calls = []
    one = load_split(tmp_path, "train", SIZE, (0, 255), num_threads=1, progress=lambda *call: calls.append(call))
    assert calls == [(index + 1, 40) for index in range(40)]
    many = load_split(tmp_path, "train", SIZE, (0, 255), num_threads=8)
    np.testing.assert_array_equal(one.images, many.images)
    assert one.names == many.names
    calls.clear()
    check_data(tmp_path, SIZE, progress=lambda *call: calls.append(call))
    assert calls[-1] == (120, 120)


def test_list_images_ignores_what_is_no_image(tmp_path):
    for name in ("b.png", "a.TIFF", ".c.png", "d.txt", "e.npz"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    images, num_ignored = list_images(tmp_path)
    assert [path.name for path in images] == ["a.TIFF", "b.png"]
    assert num_ignored == 4
