"""Readers of raw files under whatever bytes: an answer, or one line that names the file."""

import csv
import gzip
import io
import os

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nifti_volumes import noise
from PIL import Image
from raw_files import listed

from descargan_tf.data.nifti_files import AXES, SUFFIXES, Volume, parse_range
from descargan_tf.errors import UserError
from descargan_tf.names import one_line
from descargan_tf.preparation import folder
from descargan_tf.preparation.tables import read_table

TRIES = int(os.environ.get("FUZZ_TRIES", "150"))  # of each test; raise it for a search
FUZZ = settings(max_examples=TRIES, deadline=None, suppress_health_check=list(HealthCheck), database=None)


def encoded(format, mode="L"):
    file = io.BytesIO()
    array = np.random.default_rng(0).integers(0, 256, (9, 7, 3) if mode == "RGB" else (9, 7)).astype(np.uint8)
    if format == "NPY":
        np.save(file, array)
    else:
        Image.fromarray(array).save(file, format)
    return file.getvalue()


SEEDS = {
    "a.png": [encoded("PNG"), encoded("PNG", "RGB")],
    "a.jpg": [encoded("JPEG"), encoded("JPEG", "RGB")],
    "a.tif": [encoded("TIFF"), encoded("TIFF", "RGB")],
    "a.npy": [encoded("NPY")],
}


@st.composite
def damaged(draw, seeds):
    """A sound file with some bytes changed, taken out or put in, or cut off."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        position = draw(st.integers(0, len(content)))
        content[position : position + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged files
@pytest.mark.parametrize("name", SEEDS)
def test_a_picture_is_read_or_named(tmp_path_factory, name):
    path = tmp_path_factory.mktemp("fuzz") / name
    seen = {"read": 0, "named": 0}

    @FUZZ
    @given(st.one_of(damaged(SEEDS[name]), st.binary(max_size=200)))
    def attempt(content):
        path.write_bytes(content)
        try:
            values, low, high = folder.read_pixels(path, "auto")
        except UserError as error:
            seen["named"] += 1
            text = one_line(error)
        else:
            seen["read"] += 1
            assert values.ndim == 2
            assert values.size
            assert values.dtype in (np.uint8, np.uint16, np.float32)
            assert np.isfinite(values).all()
            assert low < high
            return
        assert text.startswith(f"{path}: ")

    attempt()
    assert seen["read"]
    assert seen["named"]


VOLUMES = [
    (kind(noise((3, 4, 5)), np.diag([1, 2, 3, 1])).to_bytes(), header)
    for kind, header in ((nibabel.Nifti1Image, 348), (nibabel.Nifti2Image, 540))
]
NUMBERS = [np.float32(number).tobytes() for number in (np.nan, np.inf, 1e38, -1, 0, 1e-40)]


@st.composite
def damaged_volume(draw):
    """A sound volume with some numbers of its header changed, or cut off."""
    sound, header = draw(st.sampled_from(VOLUMES))
    content = bytearray(sound)
    for _ in range(draw(st.integers(1, 4))):
        position = draw(st.integers(0, header - 4))
        some = draw(st.one_of(st.binary(min_size=1, max_size=4), st.sampled_from(NUMBERS)))
        content[position : position + len(some)] = some
    return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_volume_is_read_and_written_or_named(tmp_path_factory, suffix):
    path = tmp_path_factory.mktemp("fuzz") / f"a{suffix}"
    seen = {"read": 0, "named": 0}

    @FUZZ
    @given(damaged_volume())
    def attempt(content):
        path.write_bytes(gzip.compress(content, 1) if suffix == ".nii.gz" else content)
        try:
            volume = Volume(path)
            for axis in AXES:
                plane = volume.plane(axis, volume.count(axis) - 1)
                assert plane.ndim == 2
                assert np.isfinite(plane).all()
            low, high = volume.value_range(parse_range("0.5%,99.5%"))
        except UserError as error:
            seen["named"] += 1
            text = one_line(error)
        else:
            seen["read"] += 1
            assert low < high
            volume.write(path.with_name("out.nii.gz"), np.zeros(volume.shape, np.float32))
            assert Volume(path.with_name("out.nii.gz")).lies_on(volume)
            return
        assert text.startswith(f"{path}: ")

    attempt()
    assert seen["read"]
    assert seen["named"]


TEXTS = st.text(st.sampled_from('path,label;"\r\n\t healthydiseased01.png/\\\0é\ufeff'), max_size=120)


@pytest.mark.parametrize("header", ["", "path,label\n", '\ufeff"path";"label"\r\n', "path,label,split,patient\r\n"])
def test_a_table_is_read_or_named(tmp_path_factory, header):
    root = tmp_path_factory.mktemp("fuzz")
    (root / "a.png").write_bytes(SEEDS["a.png"][0])
    path = root / "labels.csv"
    seen = {"read": 0, "named": 0}

    @FUZZ
    @given(st.one_of(TEXTS.map(str.encode), st.binary(max_size=120)))
    def attempt(content):
        path.write_bytes(header.encode() + content)
        try:
            listing = listed("csv", root, labels_csv=str(path))
        except UserError as error:
            seen["named"] += 1
            text = one_line(error)
        else:
            seen["read"] += 1
            for image in listing.images:
                assert image.path.resolve().is_relative_to(root.resolve())
            assert all(line.startswith("labels.csv, line ") for line in listing.problems)
            return
        assert text.startswith(f"{path}: ")

    attempt()
    assert seen["named"]
    assert seen["read"] or not header


FIELDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20).map(str.strip)


@FUZZ
@given(st.lists(st.lists(FIELDS, min_size=2, max_size=2).filter(any), max_size=8), st.sampled_from(",;\t"))
def test_what_a_spreadsheet_writes_comes_back(tmp_path_factory, rows, delimiter):
    path = tmp_path_factory.getbasetemp() / "spreadsheet.csv"
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=delimiter).writerows([["one", "two"], *rows])
    assert [[row["one"], row["two"]] for row in read_table(path)] == rows
