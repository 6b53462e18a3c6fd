"""The two doors to a data set in folders: what is said of it, and what is loaded."""

import numpy as np
import pytest
from image_folders import CLASSES, SIZE, make_data_set, picture

from descargan_tf.data.folders import check_data, load_split
from descargan_tf.data.images import Scaling, write_npy, write_png
from descargan_tf.types import SPLITS


def test_uint8_data_set(tmp_path):
    make_data_set(tmp_path)
    (tmp_path / "train" / "healthy" / ".hidden.png").touch()
    (tmp_path / "train" / "healthy" / "notes.txt").touch()
    (tmp_path / "train" / "healthy" / "more").mkdir()
    summary = check_data(tmp_path, SIZE)
    assert summary.scaling == (0, 255)
    assert summary.dtype == "uint8"
    assert summary.warnings == ()
    assert summary.ground_truths == dict.fromkeys(SPLITS)
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


def test_signed_ground_truth_is_scaled_with_the_images(tmp_path):
    make_data_set(tmp_path)
    folder = tmp_path / "test" / "ground_truth"
    folder.mkdir()
    difference = np.zeros((SIZE, SIZE), np.float32)
    difference[3, 4], difference[5, 6] = 51, -102
    write_npy(folder / "0.npy", difference)
    write_npy(folder / "1.npy", np.zeros_like(difference))
    summary = check_data(tmp_path, SIZE)
    assert summary.ground_truths["test"].kind == "difference"
    assert [c.num_ground_truths for c in summary.classes] == [0, 0, 0, 0, 2, 2]
    assert summary.lines()[-2].split() == ["test", "0=healthy", "n=2", "0..255", "uint8", "64x64", "2", "zero", "0"]
    assert "ground truth of test: signed differences (more values than 0 and a positive one)" in summary.lines()
    assert summary.lines()[-1].split() == [
        "test",
        "1=diseased",
        "n=2",
        "0..255",
        "uint8",
        "64x64",
        "2",
        "difference",
        "0",
    ]
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
    assert check_data(tmp_path, SIZE).ground_truths["test"].kind == "mask"
    ground_truth = load_split(tmp_path, "test", SIZE, (0, 65535)).ground_truth
    np.testing.assert_array_equal(ground_truth[1, ..., 0], mask == 255)
    assert not ground_truth[0].any()
    for other in (mask // 255, mask.astype(np.uint16), mask.astype(np.uint16) * 257):
        write_png(tmp_path / "test" / "ground_truth" / "0.png", other)
        assert check_data(tmp_path, SIZE).ground_truths["test"].kind == "mask"
        np.testing.assert_array_equal(load_split(tmp_path, "test", SIZE, (0, 65535)).ground_truth, ground_truth)


def test_authors_files(tmp_path):
    """Sign of the ground truth, its scale, and zero for healthy files, which carry one too."""
    for split in SPLITS:
        for offset, class_name in enumerate(CLASSES.values()):
            (tmp_path / split / class_name).mkdir(parents=True)
            image = picture(offset + 2 * SPLITS.index(split), np.float32, 0, 1)
            np.save(tmp_path / split / class_name / "0.npy", np.stack([image, np.full_like(image, 0.25)]))
    summary = check_data(tmp_path, SIZE)
    assert summary.scaling == (0, 1)
    assert summary.ground_truths["test"].kind == "difference"
    loaded = load_split(tmp_path, "train", SIZE, summary.scaling)
    np.testing.assert_array_equal(loaded.ground_truth[0], 0)
    np.testing.assert_array_equal(loaded.ground_truth[1], -0.5)  # -0.25 in [0, 1] is -0.5 in [-1, 1]
    np.testing.assert_allclose(loaded.images[1, ..., 0], picture(1, np.float32, 0, 1) * 2 - 1, atol=1e-6)
    (tmp_path / "train" / "ground_truth").mkdir()
    write_npy(tmp_path / "train" / "ground_truth" / "0.npy", np.zeros((SIZE, SIZE), np.float32))
    warnings = " ".join(check_data(tmp_path, SIZE).warnings)
    assert "train/ground_truth/0.npy: train/diseased/0.npy already holds a ground truth of its own" in warnings
    assert load_split(tmp_path, "train", SIZE, summary.scaling).ground_truth is None


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
