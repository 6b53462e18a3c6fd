"""Splits are drawn by patient: nobody on two sides, as many as were asked for, the same again from the same seed."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from descargan_tf.errors import UserError
from descargan_tf.preparation.sources import RawImage
from descargan_tf.preparation.splitting import patient_of, split_by_patient
from descargan_tf.types import DISEASED, HEALTHY


def raw(number, label, patient="", split=None):
    return RawImage(Path(f"/raw/{number}.png"), f"{number}.png", label, patient=patient, split=split)


def many(per_class, images_of_a_patient=1):
    return [
        raw(f"{label}-{number:04d}", label, f"p{label}-{number // images_of_a_patient}")
        for label in (HEALTHY, DISEASED)
        for number in range(per_class)
    ]


def counts(splitting):
    return Counter((image.split, image.label) for image in splitting.images)


def assert_nobody_is_on_two_sides(splitting):
    pairs = {(patient_of(image), image.split) for image in splitting.images}
    assert len(pairs) == len({patient for patient, _ in pairs})


def refusal(images, validate, test):
    with pytest.raises(UserError) as caught:
        split_by_patient(images, {"validate": validate, "test": test}, 0)
    return str(caught.value)


def test_as_many_as_asked_of_each_class_and_nobody_twice():
    splitting = split_by_patient(many(60, images_of_a_patient=3), {"validate": 10, "test": 11}, 0)
    found = counts(splitting)
    for label in (HEALTHY, DISEASED):
        assert (found["validate", label], found["test", label]) == (10, 11)
    assert_nobody_is_on_two_sides(splitting)
    assert len(splitting.images) + len(splitting.left_out) == 120
    assert found["train", HEALTHY] + found["train", DISEASED] >= 120 - 2 * 21 - 2 * 2 * 2


def test_the_draw_hangs_on_names_and_seed_alone():
    images = many(40, images_of_a_patient=2)
    wanted = {"validate": 6, "test": 6}
    first = {image.source: image.split for image in split_by_patient(images, wanted, 5).images}
    shuffled = [images[position] for position in np.random.default_rng(0).permutation(len(images))]
    renamed = [image._replace(patient=f"another key {image.patient}") for image in shuffled]
    assert {image.source: image.split for image in split_by_patient(renamed, wanted, 5).images} == first
    assert {image.source: image.split for image in split_by_patient(images, wanted, 6).images} != first


def test_without_patients_a_file_is_its_own():
    images = [raw(f"{label}{number}", label) for label in (HEALTHY, DISEASED) for number in range(10)]
    splitting = split_by_patient(images, {"validate": 2, "test": 3}, 0)
    assert sorted(counts(splitting).values()) == [2, 2, 3, 3, 5, 5]
    assert not splitting.left_out


def test_slices_of_a_file_without_patient_stay_together():
    images = [
        RawImage(Path("/raw/v"), f"{label}-{volume}.nii#slice={index}", label, index=index)
        for label in (HEALTHY, DISEASED)
        for volume in range(6)
        for index in range(4)
    ]
    splitting = split_by_patient(images, {"validate": 4, "test": 4}, 0)
    by_volume = {}
    for image in splitting.images:
        by_volume.setdefault(image.source.partition("#")[0], set()).add(image.split)
    assert all(len(splits) == 1 for splits in by_volume.values())
    assert not splitting.left_out


def test_what_the_source_says_stays_and_the_rest_is_drawn_from_training():
    images = [*many(10), raw("t0", HEALTHY, "a", "test"), raw("t1", DISEASED, "b", "test")]
    splitting = split_by_patient(images, {"validate": 3, "test": 200}, 0)
    assert counts(splitting) == {
        ("train", HEALTHY): 7,
        ("train", DISEASED): 7,
        ("validate", HEALTHY): 3,
        ("validate", DISEASED): 3,
        ("test", HEALTHY): 1,
        ("test", DISEASED): 1,
    }


def test_too_few_says_how_many_there_are():
    assert refusal(many(10, images_of_a_patient=2), 3, 8) == (
        "--num_validate=3 of each class, but too few are healthy: 10 images of 5 patients for all splits that are to "
        "be drawn: ask for fewer, or give more images."
    )
    assert refusal(many(6), 3, 3) == (
        "no image of class healthy is in split train; --num_validate=3 --num_test=3 of each class left none: there "
        "must be one at least."
    )


def test_a_patient_in_two_given_splits_is_refused():
    images = [*many(4), raw("x", HEALTHY, "same", "train"), raw("y", HEALTHY, "same", "test")]
    assert refusal(images, 1, 1) == (
        "patient same is in two splits, train (x.png) and test (y.png): what is tested on must not be trained with."
    )


def fits(images, validate, test):
    """Whether splits of these images can be drawn; the error says why not."""
    try:
        return split_by_patient(images, {"validate": validate, "test": test}, 1), ""
    except UserError as error:
        return None, str(error)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 1)), max_size=60), st.integers(0, 5), st.integers(1, 5))
def test_whatever_patients_have_nobody_is_on_two_sides(pairs, validate, test):
    images = [raw(f"{number:03d}", label, f"p{patient}") for number, (patient, label) in enumerate(pairs)]
    splitting, problem = fits(images, validate, test)
    if splitting is None:
        assert "of each class" in problem or "no image of class" in problem
        return
    found = counts(splitting)
    for label in (HEALTHY, DISEASED):
        assert (found["validate", label], found["test", label]) == (validate, test)
        assert found["train", label] >= 1
    assert_nobody_is_on_two_sides(splitting)
    assert {image.source for image in splitting.images}.isdisjoint(splitting.left_out)
    assert len(splitting.images) + len(splitting.left_out) == len(images)
