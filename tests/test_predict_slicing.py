"""Prediction makes slices as the training's were made."""

import dataclasses

import pytest

from descargan_tf.commands.predict import slicing_of
from descargan_tf.config import Config
from descargan_tf.data.nifti_files import parse_range
from descargan_tf.errors import UserError

MADE = {"source": "nifti", "slice_axis": "coronal", "nifti_range": "1%,99%", "fit": "crop"}
PREDICT = Config(mode="predict", input="in", run_dir="runs/x")


def test_what_the_preparation_decided_is_repeated():
    config = dataclasses.replace(PREDICT, slices="0.2:0.4")
    made = slicing_of(config, {"preparation": MADE})
    assert made == ("coronal", (0.2, 0.4), parse_range("1%,99%"), "crop")


def test_other_data_leave_it_to_the_flags():
    config = dataclasses.replace(PREDICT, slice_axis="sagittal", nifti_range="-160,240", fit="stretch")
    for facts in ({}, {"preparation": {"source": "folder", "fit": "crop"}}):
        assert slicing_of(config, facts) == ("sagittal", (0.0, 1.0), parse_range("-160,240"), "stretch")


def test_a_flag_that_says_otherwise_is_refused():
    config = dataclasses.replace(PREDICT, slice_axis="sagittal")
    with pytest.raises(UserError, match=r"--slice_axis=sagittal: the model was trained on slices .* coronal; leave"):
        slicing_of(config, {"preparation": MADE})
