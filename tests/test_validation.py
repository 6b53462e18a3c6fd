"""Validation with stand-ins for a model: what is measured, which checkpoint wins, when it warns."""

import numpy as np
import pytest

from descargan_tf.evaluation.validation import validate
from descargan_tf.prediction.overlay import NEGATIVE_COLOUR, POSITIVE_COLOUR, overlay
from descargan_tf.types import DISEASED, HEALTHY, Prediction, Split

SIZE = 16


class Stand:
    """A model whose answers are set: map 0.2 on diseased images and 0.1 on healthy ones, told apart by their corner."""

    def __init__(self, probability=None, success=1.0, effect=0.2, healthy_map=0.1, diseased_map=0.2):
        self.wrong, self.success, self.effect = probability, success, effect
        self.maps = {HEALTHY: healthy_map, DISEASED: diseased_map}
        self.monitored = []

    @staticmethod
    def labels(images):
        return (np.asarray(images)[:, 0, 0, 0] > 0).astype(int)

    def predict(self, images):
        labels = self.labels(images)
        d = np.stack([np.full((SIZE, SIZE, 1), self.maps[label], np.float32) for label in labels])
        p = np.where(labels, 0.8, 0.3) if self.wrong is None else np.full(len(labels), self.wrong)
        return Prediction(d, images + d, np.abs(d).mean((1, 2, 3)), np.stack([1 - p, p], 1).astype(np.float32))

    def monitor(self, batch):
        assert (self.labels(batch.healthy) == HEALTHY).all()
        assert (self.labels(batch.diseased) == DISEASED).all()
        self.monitored.append(len(batch.healthy))
        count = len(batch.healthy)
        success = batch.diseased[:, 0, 1, 0] if self.success is None else np.full(count, self.success, np.float32)
        return {"translation_success": success, "label_effect": np.full(2 * count, self.effect, np.float32)}

    def translate(self, images):
        return {"healthy": images + np.float32(0.5), "diseased": images - np.float32(3)}

    def validate(self, split, threshold=0.15, batch_size=4):
        return validate(self.predict, self.monitor, self.translate, split, threshold, batch_size)


def make_split(num_healthy=6, num_diseased=6, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat([HEALTHY, DISEASED], [num_healthy, num_diseased]).astype(np.int32)
    images = rng.uniform(-0.9, 0.9, (len(labels), SIZE, SIZE, 1)).astype(np.float32)
    images[:, 0, 0, 0] = np.where(labels == DISEASED, 0.5, -0.5)
    truth = np.zeros_like(images)
    truth[labels == DISEASED, :8] = 0.3
    return Split(images, labels, truth, [f"{i}.npy" for i in range(len(labels))])


@pytest.fixture
def split():
    return make_split()


# ---- the rule


@pytest.mark.parametrize("success", [0.0, 0.5, 1.0])
def test_the_best_is_chosen_by_success_and_contrast(split, success):
    found = Stand(success=success).validate(split)
    assert found.scalars["translation_success"] == pytest.approx(success)
    assert found.scalars["map_contrast"] == pytest.approx(4.0, rel=1e-5)  # 0.2^2 over 0.1^2
    assert found.selection == pytest.approx(4.0 * success, rel=1e-5)


def test_clean_maps_on_healthy_images_beat_a_little_more_success():
    split = make_split()
    clean = Stand(success=0.75, healthy_map=0.1, diseased_map=0.2).validate(split)
    assert clean.selection > Stand(success=1.0, healthy_map=0.2, diseased_map=0.2).validate(split).selection


@pytest.mark.parametrize("probability", [0.1, 0.9])
def test_a_classifier_that_calls_all_the_same_makes_no_success(split, probability):
    found = Stand(probability=probability, success=1.0).validate(split)
    assert found.scalars["accuracy"] == 0.5
    assert found.selection == 0.0


def test_success_counts_by_what_the_classifier_knows(split, monkeypatch):
    told = split.labels.copy()
    told[[0, 6]] = told[[6, 0]]  # one of six wrong in each class: kappa 2/3
    stand = Stand(success=0.5)
    predict = stand.predict

    def confused(images):
        found = predict(images)
        return found._replace(class_probabilities=np.eye(2, dtype=np.float32)[told[: len(images)]])

    monkeypatch.setattr(stand, "predict", confused)
    found = stand.validate(split, batch_size=12)
    assert found.selection == pytest.approx(0.5 * 2 / 3 * found.scalars["map_contrast"], rel=1e-5)


def test_a_generator_that_changes_nothing_gains_nothing_by_it(split):
    found = Stand(healthy_map=0.0, diseased_map=0.0).validate(split)
    assert found.selection == 0.0
    assert np.isfinite(list(found.scalars.values())).all()


def test_the_rule_looks_at_labels_alone(split):
    truth = np.random.default_rng(1).normal(size=split.ground_truth.shape).astype(np.float32)
    truth[split.labels == HEALTHY] = 0
    for stand in (Stand(), Stand(success=0.4)):
        own = stand.validate(split)
        other = stand.validate(split._replace(ground_truth=truth))
        none = stand.validate(split._replace(ground_truth=None), None)
        assert own.selection == other.selection == none.selection
        assert own.scalars["dice"] != other.scalars["dice"]
        assert own.warnings == other.warnings == none.warnings


# ---- the numbers


def test_scalars_by_hand(split):
    scalars = Stand(success=1.0, effect=0.25).validate(split).scalars
    assert scalars["accuracy"] == 1.0
    assert scalars["auroc_image"] == 1.0
    assert scalars["mse_healthy"] == pytest.approx(0.01, rel=1e-5)
    assert scalars["label_effect"] == pytest.approx(0.25)
    # |d| = 0.2 > 0.15 everywhere, |GT| in half of the pixels: 2 * 128 / (256 + 128).
    assert scalars["dice"] == pytest.approx(2 / 3)
    assert scalars["auroc_pixel"] == pytest.approx(0.5)
    assert scalars["mse_d_gt"] == pytest.approx((0.1**2 + 0.2**2) / 2, rel=1e-4)


def test_a_classifier_that_says_healthy_always_is_right_half_the_time(split):
    scalars = Stand(probability=0.2).validate(split).scalars
    assert scalars["accuracy"] == 0.5
    assert scalars["auroc_image"] == 0.5


@pytest.mark.parametrize("threshold", [None, 0.15])
def test_without_ground_truth_nothing_is_said_of_pixels(split, threshold):
    scalars = Stand().validate(split._replace(ground_truth=None), threshold).scalars
    assert set(scalars) == {
        "accuracy",
        "auroc_image",
        "mse_healthy",
        "map_contrast",
        "translation_success",
        "label_effect",
    }


def test_without_a_threshold_nothing_is_said_of_pixels(split):
    assert "dice" not in Stand().validate(split, None).scalars


@pytest.mark.parametrize(("num_healthy", "num_diseased"), [(6, 6), (3, 7), (7, 3), (1, 1), (120, 110)])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_success_is_the_share_of_as_many_diseased_images_as_said(num_healthy, num_diseased, batch_size):
    split = make_split(num_healthy, num_diseased)
    flags = (np.arange(num_diseased) % 3 == 0).astype(np.float32)
    split.images[num_healthy:, 0, 1, 0] = flags
    stand = Stand(success=None)
    found = stand.validate(split, batch_size=batch_size)
    count = min(num_healthy, num_diseased, 100)
    assert found.scalars["translation_success"] == pytest.approx(flags[:count].mean(), rel=1e-5)
    assert len(set(stand.monitored)) == 1  # one batch shape, one compilation


def test_a_method_without_maps_is_chosen_by_its_classifier(split):
    def predict(images):
        labels = Stand.labels(images)
        p = np.where(labels, 0.6, np.where(np.arange(len(labels)) % 3 == 0, 0.7, 0.1))
        return Prediction(None, None, None, np.stack([1 - p, p], 1))

    def refuse(_):
        raise AssertionError("a method without maps translates nothing")

    # Method.translate of a method without a healthy image, as base.py has it.
    found = validate(predict, refuse, lambda images: {"healthy": None}, split, 0.15, 6)
    assert set(found.scalars) == {"accuracy", "auroc_image"}
    assert found.selection == found.scalars["auroc_image"]
    assert 0.5 < found.selection < 1
    assert found.warnings == ()


# ---- warnings


def test_a_generator_that_ignores_its_label_is_reported(split):
    warnings = Stand(effect=0.004).validate(split).warnings
    assert len(warnings) == 1
    assert warnings[0].startswith("the generator ignores its label: mean |G_p - G_h| is 0.00400.")
    assert "--lambda_adv_g" in warnings[0]
    assert Stand(effect=0.006).validate(split).warnings == ()


def test_translations_that_do_not_convince_are_reported(split):
    warnings = Stand(success=0.25).validate(split).warnings
    assert len(warnings) == 1
    assert warnings[0].startswith("only 25% of the diseased validation images are called healthy after translation.")
    assert Stand(success=0.55).validate(split).warnings == ()


def test_a_classifier_that_knows_nothing_has_no_opinion_of_translations(split):
    assert Stand(success=0.0, probability=0.9).validate(split).warnings == ()


def test_both_warnings_can_come_together(split):
    assert len(Stand(success=0.0, effect=0.0).validate(split).warnings) == 2


# ---- pictures


@pytest.mark.parametrize(("num_diseased", "shown"), [(6, 4), (2, 2)])
def test_pictures_are_the_first_diseased_images_in_range(num_diseased, shown):
    split = make_split(3, num_diseased)
    pictures = Stand().validate(split).pictures
    assert list(pictures) == [
        "1_input",
        "2_healthy_translation",
        "3_diseased_translation",
        "4_signed_difference",
        "5_overlay",
    ]
    for name, value in pictures.items():
        assert value.shape == (shown, SIZE, SIZE, 3 if name[0] in "45" else 1), name
        assert value.dtype == np.float32, name
        assert value.min() >= 0, name
        assert value.max() <= 1, name
    r = split.images[3 : 3 + shown]
    np.testing.assert_allclose(pictures["1_input"], (r + 1) / 2, atol=1e-6)
    np.testing.assert_allclose(pictures["2_healthy_translation"], np.minimum((r + 1.5) / 2, 1), atol=1e-6)
    assert (pictures["3_diseased_translation"] == 0).all()  # far below -1


def test_differences_have_the_colours_and_the_fixed_scale_of_the_report(split):
    stand = Stand()
    stand.translate = lambda images: {"healthy": images + np.where(np.arange(SIZE) < 8, 1, -1)[:, None]}
    pictures = stand.validate(split).pictures
    signed = np.rint(255 * pictures["4_signed_difference"][0])
    assert (signed[:, :8] == POSITIVE_COLOUR).all()
    assert (signed[:, 8:] == NEGATIVE_COLOUR).all()
    stand.translate = lambda images: {"healthy": images + np.float32(0.25)}
    r = split.images[6, ..., 0]
    wanted = overlay(r, np.full_like(r, 0.25), 1.0)
    np.testing.assert_allclose(stand.validate(split).pictures["5_overlay"][0], wanted / 255, atol=1.01 / 255)


def test_nothing_depends_on_the_order_or_the_batch_size(split):
    order = np.random.default_rng(2).permutation(12)
    shuffled = Split(split.images[order], split.labels[order], split.ground_truth[order], split.names)
    a, b = Stand().validate(split, batch_size=4), Stand().validate(shuffled, batch_size=5)
    assert a.selection == pytest.approx(b.selection, rel=1e-6)
    for name, value in a.scalars.items():
        assert b.scalars[name] == pytest.approx(value, rel=1e-6), name
