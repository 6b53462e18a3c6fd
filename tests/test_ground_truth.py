"""What kind a split's ground truth is taken for and why, and that a faulty one stops nothing but pixel measures."""

import numpy as np
import pytest
from image_folders import SIZE, make_data_set, picture
from PIL import Image

from descargan_tf.data.folders import check_data, load_split
from descargan_tf.data.images import write_npy, write_png
from descargan_tf.types import DIFFERENCE, MASK, SPLITS

SQUARE = np.zeros((SIZE, SIZE), bool)
SQUARE[20:36, 20:36] = True


def add(root, arrays, splits=SPLITS):
    """A ground truth for each image in turn, .png where it can be one."""
    for split in splits:
        (root / split / "ground_truth").mkdir(exist_ok=True)
        for index, array in enumerate(arrays):
            is_integer = array.dtype in (np.uint8, np.uint16)
            write, suffix = (write_png, "png") if is_integer else (write_npy, "npy")
            write(root / split / "ground_truth" / f"{index}.{suffix}", array)
    return root


def square(value, dtype):
    return (SQUARE * np.asarray(value)).astype(dtype)


KINDS = {
    "8-bit": ([square(255, np.uint8)] * 2, MASK, "8-bit files"),
    "8-bit, of 1": ([square(1, np.uint8)] * 2, MASK, "8-bit files"),
    "8-bit, each of its own value": ([square(255, np.uint8), square(1, np.uint8)], MASK, "8-bit files"),
    "16-bit": ([square(65535, np.uint16)] * 2, MASK, "no values but 0 and 65535"),
    "float beside 8-bit images": ([square(255, np.float32)] * 2, MASK, "no values but 0 and 255"),
    "float of 1": ([square(1, np.float32)] * 2, MASK, "no values but 0 and 1"),
    "float, one empty": ([square(0, np.float32), square(1, np.float32)], MASK, "no values but 0 and 1"),
    "8-bit and float": ([square(255, np.uint8), square(1, np.float32)], MASK, "no values but 0 and 1"),
    "darker lesions": ([square(-80, np.float32)] * 2, DIFFERENCE, "more values than 0 and a positive one"),
    "two sizes": (
        [square(80, np.float32), square(60, np.float32)],
        DIFFERENCE,
        "more values than 0 and a positive one",
    ),
    "graded": ([square(80, np.float32) * np.linspace(0, 1, SIZE, dtype=np.float32)] * 2, DIFFERENCE, "more values"),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_split_knows_the_kind_of_its_ground_truth(tmp_path, name):
    arrays, kind, why = KINDS[name]
    add(make_data_set(tmp_path), arrays)
    summary = check_data(tmp_path, SIZE)
    title = {MASK: "masks", DIFFERENCE: "signed differences"}[kind]
    for split in SPLITS:
        truth = summary.ground_truths[split]
        assert truth.kind == kind
        assert len(truth.images) == 2
        assert any(line.startswith(f"ground truth of {split}: {title} ({why}") for line in summary.lines())
    loaded = load_split(tmp_path, "test", SIZE, (0, 255))
    assert loaded.ground_truth_kind == kind
    if kind == MASK:
        for own, array in zip(loaded.ground_truth[2:, ..., 0], arrays, strict=True):
            np.testing.assert_array_equal(own, array > 0)
    else:
        np.testing.assert_allclose(loaded.ground_truth[2, ..., 0], arrays[0] * 2 / 255, rtol=1e-6)


def test_float_masks_beside_float_images(tmp_path):
    add(make_data_set(tmp_path, np.float32, -1, 1, suffix=".npy"), [square(1, np.float32)] * 2)
    assert check_data(tmp_path, SIZE).ground_truths["test"].kind == MASK
    np.testing.assert_array_equal(load_split(tmp_path, "test", SIZE, (-1, 1)).ground_truth[2, ..., 0], SQUARE)


@pytest.mark.parametrize(("arrays", "asked"), [(square(1, np.float32), DIFFERENCE), (square(-80, np.float32), MASK)])
def test_the_flag_says_otherwise(tmp_path, arrays, asked):
    add(make_data_set(tmp_path), [arrays] * 2)
    summary = check_data(tmp_path, SIZE, asked_ground_truth=asked)
    assert str(summary.ground_truths["test"]).endswith(f"(--ground_truth={asked})")
    loaded = load_split(tmp_path, "test", SIZE, (0, 255), asked_ground_truth=asked)
    assert loaded.ground_truth_kind == asked
    expected = SQUARE if asked == MASK else arrays * 2 / 255
    np.testing.assert_allclose(loaded.ground_truth[3, ..., 0], expected, rtol=1e-6)


def test_bilevel_png_is_a_mask(tmp_path):
    make_data_set(tmp_path, per_class=1)
    (tmp_path / "test" / "ground_truth").mkdir()
    Image.fromarray(SQUARE).save(tmp_path / "test" / "ground_truth" / "0.png")
    np.testing.assert_array_equal(load_split(tmp_path, "test", SIZE, (0, 255)).ground_truth[1, ..., 0], SQUARE)


@pytest.mark.parametrize("dtype", [bool, np.int8, ">i4", np.int64, np.uint32])
def test_masks_of_any_integers_are_masks(tmp_path, dtype):
    make_data_set(tmp_path)
    for index in range(2):
        (tmp_path / "test" / "ground_truth").mkdir(exist_ok=True)
        np.save(tmp_path / "test" / "ground_truth" / f"{index}.npy", SQUARE.astype(dtype))
    summary = check_data(tmp_path, SIZE)
    assert summary.ground_truths["test"].kind == MASK
    assert not summary.warnings
    loaded = load_split(tmp_path, "test", SIZE, (0, 255))
    np.testing.assert_array_equal(loaded.ground_truth[2:, ..., 0], [SQUARE, SQUARE])


def test_differences_of_integers_keep_their_sign(tmp_path):
    make_data_set(tmp_path)
    (tmp_path / "test" / "ground_truth").mkdir()
    np.save(tmp_path / "test" / "ground_truth" / "0.npy", SQUARE.astype(np.int16) * -51)
    loaded = load_split(tmp_path, "test", SIZE, (0, 255))
    assert loaded.ground_truth_kind == DIFFERENCE
    np.testing.assert_allclose(loaded.ground_truth[2, ..., 0], SQUARE * -0.4, atol=1e-6)


LABELS = square(1, np.float32)
LABELS[0, :9] = 2


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ([square(0.5, np.float32), square(1, np.float32)], "0 and one positive value each"),
        ([LABELS, LABELS], "no values but whole numbers up to 2"),
    ],
)
def test_differences_that_are_probably_masks_are_warned_of(tmp_path, arrays, words):
    add(make_data_set(tmp_path, np.float32, -1, 1, suffix=".npy"), arrays, ("test",))
    (warning,) = check_data(tmp_path, SIZE).warnings
    assert warning == f"the signed differences of test hold {words}: are they masks? Then say --ground_truth=mask"
    assert not check_data(tmp_path, SIZE, asked_ground_truth=DIFFERENCE).warnings
    assert not any("are they masks" in line for line in check_data(tmp_path, SIZE, asked_ground_truth=MASK).warnings)


def test_nothing_is_said_of_files_that_nobody_could_read(tmp_path):
    make_data_set(tmp_path, per_class=1)
    (tmp_path / "test" / "ground_truth").mkdir()
    broken(tmp_path / "test" / "ground_truth" / "0.png")
    assert "ground truth of test: masks (none can be read)" in check_data(tmp_path, SIZE).lines()


def test_splits_of_two_kinds_are_named(tmp_path):
    add(make_data_set(tmp_path), [square(255, np.uint8)] * 2, ("validate",))
    add(tmp_path, KINDS["graded"][0], ("test",))
    (warning,) = check_data(tmp_path, SIZE).warnings
    assert warning.startswith("the splits have ground truths of two kinds (validate: masks (8-bit files), test: signed")


def test_masks_that_are_hardly_meant_so_are_warned_of(tmp_path):
    levels = square(255, np.uint8)
    levels[0, 0] = 3
    add(make_data_set(tmp_path, per_class=3), [square(255, np.uint8), square(0, np.uint8), levels], ("test",))
    add(tmp_path, [255 - square(255, np.uint8)] * 3, ("train",))
    inverted, several, empty = check_data(tmp_path, SIZE).warnings
    assert inverted == "the masks of train mark 94% of the pixels: are they inverted? Not 0 means diseased"
    assert several.startswith("1 masks of test hold more values than 0 and one other (test/ground_truth/2.png): every")
    assert empty == "1 of 3 masks of test mark no pixel: test/ground_truth/1.png"
    assert load_split(tmp_path, "test", SIZE, (0, 255)).ground_truth[5, 0, 0, 0] == 1


# ---- what is wrong with ground truth is a warning


def broken(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\nbroken")


FAULTS = {
    "wrong size": (lambda path: write_png(path, square(255, np.uint8)[:32]), "32x64, expected 64x64"),
    "damaged": (broken, "cannot be read"),
    "empty file": (lambda path: path.write_bytes(b""), "the file is empty"),
    "colour": (lambda path: write_png(path, picture(1)[..., None] * np.array([1, 0, 0], np.uint8)), "colour image"),
    "not finite": (
        lambda path: write_npy(path.with_suffix(".npy"), np.full((SIZE, SIZE), np.nan, np.float32)),
        "4096 values are NaN or infinite",
    ),
    "link to nowhere": (lambda path: path.symlink_to("nowhere.png"), "cannot be read"),
    "three dimensions": (lambda path: write_npy(path.with_suffix(".npy"), np.zeros((3, 8, 8), np.float32)), "shape"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_ground_truth_is_left_out(tmp_path, name):
    fault, words = FAULTS[name]
    add(make_data_set(tmp_path, per_class=3), [square(255, np.uint8)] * 3)
    (tmp_path / "test" / "ground_truth" / "1.png").unlink()
    fault(tmp_path / "test" / "ground_truth" / "1.png")
    unusable, missing = check_data(tmp_path, SIZE).warnings
    assert unusable.startswith("1 ground truths of test cannot be used: test/ground_truth/1.")
    assert words in unusable
    assert missing.startswith(
        "1 of 3 diseased images of test have no ground truth: test/diseased/1.png; pixel measures are over the 2 others"
    )
    loaded = load_split(tmp_path, "test", SIZE, (0, 255))
    assert loaded.has_ground_truth.tolist() == [True] * 4 + [False, True]
    np.testing.assert_array_equal(loaded.ground_truth[5, ..., 0], SQUARE)
    assert not loaded.ground_truth[4].any()


def test_a_split_without_any_ground_truth_that_can_be_used_has_none(tmp_path):
    add(make_data_set(tmp_path), [square(255, np.uint8)[:32]] * 2, ("validate",))
    _, warning = check_data(tmp_path, SIZE).warnings
    assert warning == (
        "no diseased image of validate has a usable ground truth: pixel measures are not available there"
    )
    assert load_split(tmp_path, "validate", SIZE, (0, 255)).ground_truth is None


def test_black_masks_are_warned_of(tmp_path):
    add(make_data_set(tmp_path), [square(0, np.uint8)] * 2, ("validate",))
    add(tmp_path, [square(0, np.float32)] * 2, ("test",))
    assert check_data(tmp_path, SIZE).warnings == tuple(
        f"every ground truth of {split} is 0 everywhere: pixel measures are not available there"
        for split in ("validate", "test")
    )


def test_masks_for_some_images_only_and_for_unknown_ones(tmp_path):
    add(make_data_set(tmp_path, per_class=8), [square(255, np.uint8)], ("test",))
    write_png(tmp_path / "test" / "ground_truth" / "other.png", square(255, np.uint8))
    unknown, missing = check_data(tmp_path, SIZE).warnings
    assert unknown == "test/ground_truth/other.png: ground truth of no diseased image, ignored"
    assert missing.startswith("7 of 8 diseased images of test have no ground truth: test/diseased/1.png, test/diseased")
    assert "and 2 more; pixel measures are over the 1 others (expected test/ground_truth/<same stem>.npy" in missing
    rows = [line.split() for line in check_data(tmp_path, SIZE).lines()]
    assert ["test", "1=diseased", "n=8", "0..255", "uint8", "64x64", "1", "mask", "0"] in rows


def test_two_masks_for_one_image_are_neither_used(tmp_path):
    add(make_data_set(tmp_path), [square(255, np.uint8)] * 2, ("test",))
    write_npy(tmp_path / "test" / "ground_truth" / "0.npy", square(1, np.float32))
    folder = tmp_path / "test" / "ground_truth"
    assert f"0.npy and 0.png in {folder} are for the same image: neither is used" in check_data(tmp_path, SIZE).warnings
    assert load_split(tmp_path, "test", SIZE, (0, 255)).has_ground_truth.tolist() == [True, True, False, True]


def test_differences_that_cannot_be_right_are_left_out(tmp_path):
    graded = KINDS["graded"][0][0]
    arrays = [graded, graded - 300, square(255, np.uint8), square([[3]], np.uint16) + np.uint16(2)]
    add(make_data_set(tmp_path, per_class=4), arrays, ("test",))
    unusable, missing = check_data(tmp_path, SIZE).warnings
    assert (
        "test/ground_truth/1.npy: 300 is larger than any difference within 0 to 255; give it in the units" in unusable
    )
    assert "test/ground_truth/2.png: an 8-bit mask among signed differences; --ground_truth=mask takes all" in unusable
    assert "test/ground_truth/3.png: 16-bit with more than two values; say what it is with --ground_truth" in unusable
    assert "are over the 1 others" in missing
    loaded = load_split(tmp_path, "test", SIZE, (0, 255))
    assert loaded.has_ground_truth.tolist() == [True] * 5 + [False] * 3
    np.testing.assert_allclose(loaded.ground_truth[4, ..., 0], graded * 2 / 255, rtol=1e-6)
    as_masks = load_split(tmp_path, "test", SIZE, (0, 255), asked_ground_truth=MASK)
    assert as_masks.has_ground_truth.all()


def test_differences_in_other_units_are_warned_of(tmp_path):
    add(make_data_set(tmp_path), [KINDS["graded"][0][0] / 40] * 2, ("test",))
    (warning,) = check_data(tmp_path, SIZE).warnings
    assert "the largest ground truth is 1.11111, under 1 % of the image range 0 to 255; is it in the units" in warning


# ---- a leak is what tells the classes apart beside the disease


@pytest.mark.parametrize("kind", [MASK, DIFFERENCE])
def test_bright_disease_is_no_leak_where_it_is_known(tmp_path, kind):
    make_data_set(tmp_path, high=200, per_class=20)
    for split in SPLITS:
        for path in (tmp_path / split / "diseased").iterdir():
            pixels = np.array(Image.open(path))
            write_png(path, np.where(SQUARE, 255, pixels).astype(np.uint8))
    leak = "class leak: the maximum of an image alone tells its class"
    assert any(warning.startswith(leak) for warning in check_data(tmp_path, SIZE).warnings)
    add(tmp_path, [square(255, np.uint8) if kind == MASK else square(-80.5, np.float32)] * 20)
    assert check_data(tmp_path, SIZE).warnings == ()


def test_a_leak_beside_the_disease_is_still_one(tmp_path):
    make_data_set(tmp_path, high=200, per_class=20)
    for split in SPLITS:
        for path in (tmp_path / split / "diseased").iterdir():
            write_png(path, np.array(Image.open(path)) + np.uint8(20))
    add(tmp_path, [square(255, np.uint8)] * 20)
    warnings = check_data(tmp_path, SIZE).warnings
    assert any("the maximum of an image outside its ground truth alone tells its class" in text for text in warnings)
