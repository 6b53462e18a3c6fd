"""What tells the classes, or knows test images, without the disease."""

import numpy as np
import pytest
from image_folders import CLASSES, make_data_set, picture
from scipy.ndimage import gaussian_filter

from descargan_tf.data import leaks
from descargan_tf.data.folders import check_data
from descargan_tf.data.generation import generate
from descargan_tf.data.images import write_npy, write_png
from descargan_tf.data.synthetic import SyntheticSettings, draw_image, sample_geometry
from descargan_tf.preparation.fitting import STRETCH, fit, fit_mask
from descargan_tf.types import CLASS_NAMES, DISEASED, HEALTHY, SPLITS

SIZE = 64


# ---- numbers of an image


def test_statistics_are_those_of_numpy():
    image = np.random.default_rng(0).normal(1000, 3, (130, 96)).astype(np.float32)
    found = leaks.statistics_of(image)
    rim = 3  # 96 / 32
    inner = np.zeros(image.shape, bool)
    inner[rim:-rim, rim:-rim] = True
    edge = image[~inner].astype(np.float64)
    assert (found.minimum, found.maximum) == (image.min(), image.max())
    wide = image.astype(np.float64)
    np.testing.assert_allclose(found[2:6], (wide.mean(), wide.std(), edge.mean(), edge.std()), rtol=1e-6)
    # Independent normal pixels: the high-pass has a variance of 36 and a mean size of sqrt(2 / pi) times its root.
    assert found.noise == pytest.approx(3 * 6 * np.sqrt(2 / np.pi), rel=0.05)


def test_noise_energy_by_hand():
    spike = np.zeros((5, 5), np.uint8)
    spike[2, 2] = 1
    assert leaks.statistics_of(spike).noise == 16 / 9  # 1 2 1, 2 4 2, 1 2 1 in the nine places that have neighbours
    slope = np.add.outer(np.arange(70), 2 * np.arange(70)).astype(np.uint16)
    assert leaks.statistics_of(slope).noise == 0
    assert leaks.statistics_of(slope[:2]) is None


def test_chosen_pixels_alone_count():
    image = np.arange(100, dtype=np.float32).reshape(10, 10)
    chosen = image < 50
    found = leaks.statistics_of(image, chosen)
    assert (found.minimum, found.maximum, found.mean) == (0, 49, 24.5)
    assert leaks.statistics_of(image, image < 0) is None


def test_disease_is_left_out_by_a_mask_and_by_a_difference():
    healthy = picture(0, np.float32, 0, 1)
    difference = np.zeros_like(healthy)
    difference[20:40, 20:40] = -0.5
    outside, healed = leaks.without_disease(healthy - difference, difference)
    assert healed.mean == pytest.approx(healthy.mean(), abs=1e-6)
    away = np.ones_like(healthy, bool)
    away[18:42, 18:42] = False  # two pixels more
    assert outside.mean == pytest.approx(healthy[away].mean(), abs=1e-6)


def test_the_soft_edge_of_a_lesion_is_no_leak():
    """A lesion that is brighter than all else, in an image that was made smaller, as its mask was."""
    healthy = picture(0, np.float32, 0, 1)
    fine = np.zeros((SIZE * 3, SIZE * 3), np.float32)
    fine[61:122, 64:124] = 1
    share = fit(fine, SIZE, STRETCH)
    diseased = healthy * (1 - share) + 3 * share
    (outside,) = leaks.outside_disease(diseased, fit_mask(fine > 0, SIZE, STRETCH))
    assert ((share > 0) & (share < 0.5)).any()
    assert outside.maximum <= 1
    assert outside.noise == pytest.approx(leaks.statistics_of(healthy).noise, rel=0.05)


# ---- judging


def test_thresholds_by_hand():
    assert leaks.fit_threshold(np.array([1.0, 2, 3, 4]), np.array([False, False, True, True])) == (2.5, True)
    assert leaks.fit_threshold(np.array([3.0, 4, 1, 2]), np.array([False, False, True, True])) == (2.5, False)
    # Balanced: 1 of 1 and 3 of 4, though a threshold below all would be right four times of five.
    assert leaks.fit_threshold(np.array([1.0, 2, 3, 9, 4]), np.array([False, False, False, False, True])) == (3.5, True)
    # None lies between equals.
    values = np.array([0.0, 5, 5, 5, 5])
    assert leaks.fit_threshold(values, np.array([False, False, True, True, True]))[0] == 2.5


def test_scores_by_hand():
    truth = np.array([True] * 4 + [False] * 4)
    assert leaks.score(truth, truth) == pytest.approx((1, 1 / 70))  # one of the 8 over 4 ways to choose 4 of 8
    assert leaks.score(truth, ~truth) == pytest.approx((0, 1))
    said = np.array([True, True, True, False, True, False, False, False])
    assert leaks.score(truth, said) == pytest.approx((0.75, 17 / 70))


@pytest.mark.parametrize(("per_class", "is_leak"), [(20, False), (400, True)])
def test_65_percent_of_few_images_is_luck(per_class, is_leak):
    truth = np.repeat([True, False], per_class)
    said = np.tile(np.arange(per_class) < per_class * 0.65, 2)
    said[per_class:] = ~said[per_class:]
    assert leaks.score(truth, said).accuracy == pytest.approx(0.65)
    assert leaks.score(truth, said).is_leak == is_leak


def test_useless_numbers_are_no_leak_however_often_one_asks():
    rng = np.random.default_rng(0)
    diseased = np.arange(60) % 2 == 0
    scores = [leaks.score_values(rng.normal(size=60), diseased) for _ in range(300)]
    assert not any(score.is_leak for score in scores)
    assert any(score.accuracy > 0.6 for score in scores)  # accuracy alone would have said so
    assert leaks.score_values(rng.normal(size=39), diseased[:39]) is None  # 19 healthy ones


@pytest.mark.parametrize(
    ("hits", "per_class", "sampled", "is_undecided"),
    [
        (0.60, 300, ["train"], True),
        (0.57, 300, ["train"], True),
        (0.64, 300, ["train"], True),
        (0.53, 300, ["train"], False),  # 60 % of all would be more than three standard errors away
        (0.70, 300, ["train"], False),
        (0.64, 5000, ["train"], False),  # of many, the same is certain
        (0.60, 300, [], False),  # these are all
        (0.55, 60, ["train"], False),  # luck
    ],
)
def test_near_the_limit_a_sample_decides_nothing(hits, per_class, sampled, is_undecided):
    labels = np.repeat([HEALTHY, DISEASED], per_class)
    says = np.tile(np.arange(per_class) < hits * per_class, 2)
    values = np.where(says, labels, 1 - labels).astype(float)
    # The other numbers are of one value, and tell nothing.
    whole = np.where(np.arange(7) == 6, values[:, None], 0.0)
    found = leaks.Measured(np.full(2 * per_class, "train"), labels, whole, np.full((2, *whole.shape), np.nan))
    assert leaks.statistics_scores(found)["noise"]["in train"].accuracy == pytest.approx(hits, abs=0.02)
    assert leaks.is_undecided(found, sampled) == is_undecided


def test_a_threshold_is_scored_on_other_images():
    diseased = np.arange(80) % 2 == 0
    shifted = leaks.score_values(diseased * 1.0, diseased, diseased * 1.0 + 5, diseased)
    assert shifted.accuracy == 0.5  # all of them are above it
    assert leaks.score_values(diseased * 1.0, diseased, diseased * 1.0, diseased).is_leak


# ---- whole data sets


@pytest.mark.parametrize("seed", range(2))
def test_the_synthetic_images_have_no_leak(tmp_path, seed):
    counts = {"num_train": 100, "num_validate": 40, "num_test": 40}
    generate(tmp_path / "d", SyntheticSettings(seed=seed, image_size=SIZE, **counts), num_workers=1)
    summary = check_data(tmp_path / "d", SIZE)
    assert summary.findings == ()
    scores = leaks.statistics_scores(summary.measured)
    assert max(found["over all splits"].accuracy for found in scores.values()) < 0.6


def test_the_leak_of_the_authors_script_is_found(tmp_path):
    """Its rules, traps D1.6 to D1.9 and D1.19: healthy images each stretched to [-1, 1], diseased ones left raw."""
    rng = np.random.default_rng(0)
    for split in SPLITS:
        for label, name in enumerate(CLASS_NAMES):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(24 if split == "train" else 4):
                geometry = sample_geometry(rng)
                images = [draw_image(geometry, SIZE, diseased=is_diseased) for is_diseased in (False, True)]
                healthy, diseased = (gaussian_filter((image + 1) * 0.9 - 0.8, 0.5, mode="constant") for image in images)
                stretched = (healthy - healthy.min()) / (healthy.max() - healthy.min()) * 2 - 1
                image = stretched if label == HEALTHY else diseased
                write_npy(tmp_path / split / name / f"{index}.npy", np.stack([image, diseased - healthy]))
    found = "\n".join(check_data(tmp_path, SIZE).findings)
    assert "the minimum of an image outside its ground truth alone tells its class (accuracy 100% in train" in found
    for path in tmp_path.glob("*/*/*.npy"):  # as PNG and DICOM tools would have it: no ground truth
        write_npy(path, np.load(path)[0])
    found = "\n".join(check_data(tmp_path, SIZE).findings)
    assert "the minimum of an image alone tells its class (accuracy 100% in train" in found


def alter(root, change):
    for path in root.glob("*/diseased/*.png"):
        write_png(path, change(np.array(picture(int(path.stem) + 7000, low=60, high=160), np.float64)))
    for path in root.glob("*/healthy/*.png"):
        write_png(path, picture(int(path.stem) + len(path.parts[-3]) * 500, low=60, high=160))
    return check_data(root, SIZE).findings


def test_brightness_is_named_and_may_be_the_disease(tmp_path):
    make_data_set(tmp_path, per_class=30)
    found = alter(tmp_path, lambda image: np.clip(image + 3, 60, 159).astype(np.uint8))
    mean = next(text for text in found if "the mean of an image" in text)
    assert "this may be the disease itself, if that is bright, dark or large" in mean
    assert not any("the minimum of an image" in text for text in found if "may be the disease" in text)


def test_noise_is_named(tmp_path):
    make_data_set(tmp_path, per_class=30)

    def smooth(image):
        blurred = gaussian_filter(image, 0.4)
        blurred = (blurred - blurred.mean()) * (image.std() / blurred.std()) + image.mean()
        blurred[0, :2] = 60, 159
        return np.clip(blurred, 60, 159).astype(np.uint8)

    found = alter(tmp_path, smooth)
    noise = next(text for text in found if "the noise energy of an image" in text)
    assert noise.endswith("a network will learn that in place of the disease. Are they from other devices?")


def test_file_formats_that_tell_the_class(tmp_path):
    make_data_set(tmp_path, per_class=20)
    for index, path in enumerate(sorted(tmp_path.glob("train/diseased/*.png"))):
        path.unlink()
        write_npy(path.with_suffix(".npy"), picture(index + 900))
    (finding,) = check_data(tmp_path, SIZE).findings
    assert finding == (
        "class leak: the file format of an image alone tells its class (accuracy 100% in train, 67% over all splits; "
        "npy are 0% of the healthy and 100% of the diseased images); a network may learn what comes with it in place "
        "of the disease. Take both classes from the same sources"
    )


def test_constant_images_are_named(tmp_path):
    make_data_set(tmp_path)
    write_png(tmp_path / "train" / CLASSES[DISEASED] / "black.png", np.zeros((SIZE, SIZE), np.uint8))
    (finding,) = check_data(tmp_path, SIZE).findings
    assert finding.startswith("1 image holds one value alone (train/diseased/black.png)")


# ---- rows of a manifest


def row(number, **changes):
    place = {"split": "train", "label": CLASS_NAMES[number % 2], "source": f"{number}.dcm", "sha256": str(number)}
    taken = {"height": "512", "width": "400", "dtype": "uint16", "view": "PA", "device": "A"}
    return {**place, **taken, "patient": f"p{number}", **changes}


def test_patients_in_two_splits():
    rows = [row(0), row(1), row(2, split="test", patient="p0"), row(3, split="validate", patient="")]
    rows.append(row(4, patient=""))  # of whom nothing is known
    (finding,) = leaks.patient_findings(rows)
    assert finding.startswith("1 of 2 patients is in several splits (p0 in train and test); ")
    assert not list(leaks.patient_findings(rows[:2] + rows[3:]))


def test_identical_files():
    same = [row(0), row(2, split="test", sha256="0")]
    (finding,) = leaks.identical_file_findings(same)
    assert "1 file lies, with identical content, in different splits" in finding
    assert "(0.dcm = 2.dcm)" in finding
    (finding,) = leaks.identical_file_findings([row(0), row(1, sha256="0")])
    assert "both classes; which of the two is right?" in finding
    slices = [row(number, sha256="v", source=f"v.nii#slice={number}") for number in range(4)]
    assert not list(leaks.identical_file_findings(slices))


@pytest.mark.parametrize(
    ("field", "value", "name", "said"),
    [
        ("view", "AP", "view", "AP are 0% of the healthy and 100% of the diseased"),
        ("device", "B", "device", "A are 100% of the healthy and 0% of the diseased"),
        ("height", "600", "size", "512x400 are 100% of the healthy and 0% of the diseased"),
        ("dtype", "uint8", "dtype", "uint16 are 100% of the healthy and 0% of the diseased"),
    ],
)
def test_acquisition_that_tells_the_class(field, value, name, said):
    rows = [row(number, **({field: value} if number % 2 else {})) for number in range(60)]
    (finding,) = leaks.acquisition_findings(rows)
    assert f"class leak: the {name} of an image alone tells its class (accuracy 100% in train, 100% over all" in finding
    assert said in finding
    assert not list(leaks.acquisition_findings([row(number) for number in range(60)]))


def test_many_sizes_are_no_leak_by_themselves():
    rng = np.random.default_rng(0)
    rows = [row(number, height=str(rng.integers(300, 900))) for number in range(400)]
    assert not list(leaks.acquisition_findings(rows))
