"""What check_data refuses, and what it warns of."""

import numpy as np
import pytest
from image_folders import CLASSES, SIZE, check_error, make_data_set, picture

from descargan_tf.data.folders import check_data, load_split
from descargan_tf.data.images import write_npy, write_png
from descargan_tf.errors import UserError
from descargan_tf.types import SPLITS


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
    warning, *_ = check_data(tmp_path, SIZE).findings
    assert warning.startswith(
        "class leak: the minimum of an image alone tells its class (accuracy 100% in train, 100% over all splits)"
    )
    assert check_data(tmp_path, SIZE, splits=("test",)).warnings == ()  # too few images to say


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
