"""Folders and tables of raw images: what is found, as what, and what is said of the rest."""

import os
import sys

import numpy as np
import pytest
from dicom_writing import radiograph, write
from PIL import Image
from raw_files import class_folders, listed, picture, table

from descargan_tf.data.images import write_npy
from descargan_tf.errors import UserError
from descargan_tf.preparation import folder, sources
from descargan_tf.preparation.sources import Options, pseudonym
from descargan_tf.types import DISEASED, HEALTHY


def refusal(name, root, **options):
    with pytest.raises(UserError) as caught:
        listed(name, root, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def by_source(listing):
    return {image.source: image for image in listing.images}


# ---- the sources by name


def test_an_unknown_source_names_the_known():
    with pytest.raises(UserError, match="--source=dcm: known are folder, csv, chexpert, dicom, nifti"):
        sources.load("dcm")


@pytest.mark.parametrize(("name", "package"), [("dicom", "pydicom"), ("nifti", "nibabel")])
def test_a_package_that_is_not_there_is_named_with_how_to_install_it(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError) as caught:
        sources.load(name)
    assert str(caught.value) == (
        f"--source={name} needs the module {package}, which is not installed: pip install {package}, or pip install -r "
        "requirements-medical.txt for all of its kind."
    )


def test_a_pseudonym_is_the_same_for_a_key_and_says_nothing_without_it():
    assert pseudonym("Müller^Anna", b"key") == pseudonym("Müller^Anna", b"key")
    assert pseudonym("Müller^Anna", b"key") != pseudonym("Müller^Anna", b"other")
    assert pseudonym("", b"key") != pseudonym("0", b"key")
    assert len(pseudonym("name \udcfc that is no UTF-8", b"key")) == 16


# ---- folders


def test_two_folders_of_unlike_pictures_are_all_that_is_needed(tmp_path):
    class_folders(tmp_path, 3)
    picture(tmp_path / "healthy/colour.jpg", mode="RGB")
    picture(tmp_path / "diseased/deep.PNG", mode="I;16")
    (tmp_path / "healthy/Thumbs.db").write_bytes(b"x")
    (tmp_path / "healthy/.hidden.png").write_bytes(b"x")
    listing = listed("folder", tmp_path)
    found = by_source(listing)
    assert len(found) == 8
    assert found["healthy/colour.jpg"].label == HEALTHY
    assert found["diseased/deep.PNG"].label == DISEASED
    assert {image.split for image in listing.images} == {None}
    assert {image.patient for image in listing.images} == {""}
    assert listing.notes == [f"{tmp_path}: 1 files are no images by their names, and passed over"]
    assert not listing.problems


def test_a_folder_in_a_class_folder_is_a_patient(tmp_path):
    class_folders(tmp_path, 1)
    picture(tmp_path / "healthy/anna/a.png")
    picture(tmp_path / "diseased/anna/study2/b.png")
    found = by_source(listed("folder", tmp_path))
    assert found["healthy/anna/a.png"].patient == found["diseased/anna/study2/b.png"].patient == "anna"
    assert found["healthy/000.png"].patient == ""


def test_splits_that_are_there_are_kept(tmp_path):
    class_folders(tmp_path / "train", 2)
    class_folders(tmp_path / "test", 1)
    listing = listed("folder", tmp_path)
    assert {source: image.split for source, image in by_source(listing).items()} == {
        "train/healthy/000.png": "train",
        "train/healthy/001.png": "train",
        "train/diseased/000.png": "train",
        "train/diseased/001.png": "train",
        "test/healthy/000.png": "test",
        "test/diseased/000.png": "test",
    }


def test_masks_lie_beside_the_classes(tmp_path):
    class_folders(tmp_path, 3)
    picture(tmp_path / "diseased/p/000.png")
    for name in ("000.png", "p/000.tif", "001.npy", "001.png", "nobodys.png"):
        path = tmp_path / "ground_truth" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npy":
            write_npy(path, np.zeros((31, 39), np.uint8))
        else:
            Image.fromarray(np.eye(30, 40, dtype=np.uint8) * 255).save(path)
    listing = listed("folder", tmp_path)
    found = by_source(listing)
    assert found["diseased/000.png"].ground_truth == tmp_path / "ground_truth/000.png"
    assert found["diseased/p/000.png"].ground_truth == tmp_path / "ground_truth/p/000.tif"
    assert found["diseased/001.png"].ground_truth is None
    assert found["healthy/000.png"].ground_truth is None
    assert listing.notes == [
        f"{tmp_path}/ground_truth: 001 is there with two suffixes, and neither is used as ground truth",
        "ground_truth/nobodys.png: ground truth of no one diseased image, passed over",
    ]
    marked = folder.read_ground_truth(found["diseased/000.png"], Options())
    np.testing.assert_array_equal(marked, np.eye(30, 40, dtype=bool))


@pytest.mark.parametrize("source", ["folder", "dicom"])
def test_masks_that_are_used_for_nothing_are_told(tmp_path, source):
    if source == "folder":
        class_folders(tmp_path, 2)
    else:
        for name in ("healthy", "diseased"):
            write(tmp_path / name / "000.dcm", radiograph(np.zeros((8, 8), np.uint16), PatientID=name))
    for name in ("000.png", "001_mask.png", "001.jpg", "001.dcm"):
        picture(tmp_path / "ground_truth" / name) if name[-3:] != "dcm" else (tmp_path / "ground_truth" / name).touch()
    listing = listed(source, tmp_path)
    assert [image.source[:12] for image in listing.images if image.ground_truth] == ["diseased/000"]
    for said in (
        "ground_truth/001_mask.png: ground truth of no one diseased image, passed over",
        "ground_truth/001.dcm, ground_truth/001.jpg: passed over, as a ground truth ends in .npy .png .tif .tiff",
    ):
        assert said in listing.notes


def test_folders_that_are_not_there_are_named(tmp_path):
    (tmp_path / "normal").mkdir()
    assert refusal("folder", tmp_path).startswith(
        f"--input={tmp_path}: neither class folders nor splits; split folders train, validate, test missing"
    )
    class_folders(tmp_path / "inner/train", 1)
    (tmp_path / "inner/train/diseased/000.png").unlink()
    (tmp_path / "inner/train/diseased").rmdir()
    assert refusal("folder", tmp_path / "inner") == (
        f"class folder diseased missing in {tmp_path}/inner/train; found: healthy."
    )
    class_folders(tmp_path / "inner", 1)
    assert "holds both splits (train) and classes" in refusal("folder", tmp_path / "inner")


def test_colour_becomes_luminance_once(tmp_path):
    array = picture(tmp_path / "a.png", mode="RGB")
    values, low, high = folder.read_pixels(tmp_path / "a.png", "auto")
    assert (low, high, values.dtype) == (0, 255, np.uint8)
    luminance = array @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    assert np.abs(values - luminance).max() <= 0.51
    array = picture(tmp_path / "b.png", mode="I;16")
    values, low, high = folder.read_pixels(tmp_path / "b.png", "auto")
    np.testing.assert_array_equal(values, array)
    assert (low, high) == (0, 65535)
    assert folder.read_pixels(tmp_path / "b.png", "0,4095")[1:] == (0, 4095)


def test_a_link_to_a_folder_above_is_a_line_and_no_endless_walk(tmp_path):
    class_folders(tmp_path, 1)
    os.symlink(tmp_path / "healthy", tmp_path / "healthy/again")
    os.symlink(tmp_path, tmp_path / "diseased/all")
    os.symlink("nowhere", tmp_path / "diseased/gone.png")
    listing = listed("folder", tmp_path)
    assert listing.problems == [
        "healthy/again: a link to a folder that it lies in",
        "diseased/all: a link to a folder that it lies in",
    ]
    assert set(by_source(listing)) == {"healthy/000.png", "diseased/000.png", "diseased/gone.png"}  # the last is missed


# ---- tables


def test_a_table_says_all_of_an_image(tmp_path):
    picture(tmp_path / "in/ä, 1.png")
    picture(tmp_path / "in/b.png")
    picture(tmp_path / "in/masks/b.png")
    labels = table(
        tmp_path / "labels.csv",
        [
            ("ä, 1.png", "healthy", "Anna", "s1", "PA", "train", "", "x"),
            ("sub/../b.png", "Diseased", "Anna", "s2", "", "", "masks/b.png", "y"),
        ],
        ("path", "label", "patient", "study", "view", "split", "ground_truth", "remark"),
    )
    listing = listed("csv", tmp_path / "in", labels_csv=str(labels))
    first, second = listing.images
    assert first.source == "ä, 1.png"
    assert (first.label, first.view, first.split, first.ground_truth) == (HEALTHY, "PA", "train", None)
    assert (second.source, second.label, second.split) == ("b.png", DISEASED, None)
    assert second.ground_truth == tmp_path / "in/masks/b.png"
    assert first.patient == second.patient == pseudonym("Anna", b"k")
    assert first.study == pseudonym("s1", b"k") != second.study
    assert listing.notes == ["labels.csv: columns that say nothing here: remark"]


@pytest.mark.parametrize(
    "content",
    [
        b"path,label\r\na.png,healthy\r\n",
        b"\xef\xbb\xbfpath,label\na.png,0\n\n,\n",
        b'"path";"label"\r\n"a.png";"healthy"\r\n',
        b"label\tpath\rhealthy\ta.png",
        b" path , label \n a.png , HEALTHY \n",
        b"path,label\nsub\\..\\a.png,healthy",
        b"Path,LABEL,,\r\na.png,0.0,,\r\n",
    ],
)
def test_tables_of_all_writers_are_read(tmp_path, content):
    picture(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_bytes(content)
    listing = listed("csv", tmp_path, labels_csv=str(tmp_path / "labels.csv"))
    assert not listing.problems
    assert [(image.source, image.label) for image in listing.images] == [("a.png", HEALTHY)]
    assert not listing.notes


def test_columns_and_splits_are_known_in_any_case(tmp_path):
    """Patients that were passed over would be on two sides."""
    picture(tmp_path / "a.png")
    rows = [("a.png", "1.0", "Anna", "Train", "")]
    labels = table(tmp_path / "labels.csv", rows, ("Path", "Label", "PATIENT", "Split", "Remark"))
    listing = listed("csv", tmp_path, labels_csv=str(labels))
    (image,) = listing.images
    assert (image.label, image.patient, image.split) == (DISEASED, pseudonym("Anna", b"k"), "train")
    assert listing.notes == ["labels.csv: columns that say nothing here: Remark"]
    table(labels, [("a.png", "1", "Anna", "Berta")], ("path", "label", "Patient", "PATIENT"))
    assert refusal("csv", tmp_path, labels_csv=str(labels)).endswith("column patient is there twice")
    table(labels, [("a.png", "1", "Anna", "Berta")], ("path", "label", "patient", "Patient"))
    (image,) = listed("csv", tmp_path, labels_csv=str(labels)).images
    assert image.patient == pseudonym("Anna", b"k")


def test_what_is_wrong_with_a_row_is_a_line_that_names_it(tmp_path):
    picture(tmp_path / "in/a.png")
    picture(tmp_path / "secret.png")
    labels = table(
        tmp_path / "labels.csv",
        [
            ("a.png", "healthy", ""),
            ("a.png", "healthy", ""),
            ("b.png", "healthy", ""),
            ("../secret.png", "healthy", ""),
            (tmp_path / "secret.png", "healthy", ""),
            ("..\\secret.png", "healthy", ""),
            ("a.png", "ill", ""),
            ("", "healthy", ""),
            ("a.png", "healthy", "testing"),
            ("a.png", "healthy"),
            ("link.png", "healthy", ""),
            ("folder/secret.png", "healthy", ""),
            ("within/a.png", "healthy", ""),
        ],
        ("path", "label", "split"),
    )
    (tmp_path / "secret.png").touch()
    (tmp_path / "in/link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "in/folder").symlink_to(tmp_path)
    (tmp_path / "in/within").symlink_to(".")
    listing = listed("csv", tmp_path / "in", labels_csv=str(labels))
    root = tmp_path / "in"
    assert [image.source for image in listing.images] == ["a.png", "within/a.png"]
    led = f"a link leads out of {root}, to {tmp_path}/secret.png: bring the file in, or name the folder that it lies in"
    assert listing.problems == [
        "labels.csv, line 3: a.png: named in line 2 already",
        f"labels.csv, line 4: b.png: missing in {root}",
        f"labels.csv, line 5: ../secret.png leads out of {root}: it must be relative to it",
        f"labels.csv, line 6: {tmp_path}/secret.png leads out of {root}: it must be relative to it",
        f"labels.csv, line 7: ..\\secret.png leads out of {root}: it must be relative to it",
        "labels.csv, line 8: its label is none of healthy, diseased, 0, 1",
        "labels.csv, line 9: path is empty",
        "labels.csv, line 10: its split is none of train, validate, test, nor empty, where it is to be drawn",
        "labels.csv, line 11: 2 fields, but 3 columns",
        f"labels.csv, line 12: link.png: {led}",
        f"labels.csv, line 13: folder/secret.png: {led}",
    ]


@pytest.mark.parametrize("source", ["csv", "chexpert", "dicom", "nifti"])
def test_columns_that_were_taken_for_others_are_not_quoted(tmp_path, source):
    """A patient's name, date of birth and numbers in every place, under the columns' names and without them."""
    people = ("Doe^Jane", "../Doe^Jane", "/Doe^Jane", "C:\\Doe", "ACC-4711", "1950-02-03", "Doe,Jane", 'Doe "J" Jane')
    names = {
        "chexpert": ("Path", "Frontal/Lateral", "No Finding", "Pleural Effusion"),
        "dicom": ("accession", "label"),
    }.get(source, ("path", "label", "patient", "split", "ground_truth"))
    file, sound = "CheXpert-v1.0/train/patient00001/study1/view1.jpg", tmp_path / "a.png"
    picture(sound)
    good = {"path": "a.png", "label": "healthy", "accession": "A1", "ground_truth": "a.png", "Path": file}
    good |= {"Frontal/Lateral": "Frontal", "No Finding": "1", "Pleural Effusion": "1"}
    rows = [
        tuple(person if name == bad else good.get(name, "") for name in names) for person in people for bad in names
    ]
    rows += [(person,) * (len(names) + 1) for person in people]
    labels = table(tmp_path / "train.csv", rows, names)
    said = listed(source, tmp_path, labels_csv=str(labels))
    assert len(said.problems) >= len(people)
    texts = [*said.problems, *said.notes]
    for content in (people[:1] * len(names), people):
        table(labels, [], content)
        texts.append(refusal(source, tmp_path, labels_csv=str(labels)))
    for text in texts:
        for person in ("Doe", "Jane", "4711", "1950"):
            assert person not in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"path,class\na.png,0\n", "column label missing; there are: path, class"),
        (b"a.png,0\n", "columns path, label missing; is its first line a header?"),
        (b"path,class,class\na.png,0,0\n", "column label missing; there are: path, class, class"),
        (b"path,label,label\n", "column label is there twice"),
        (b"", "holds no header: the first line names the columns, such as path,label"),
        (b'path,label\n"a.png,0\n', "line 2: wrong quoting, or no text: unexpected end of data"),
        (b'path,label\n"a"b.png,0\n', "line 2: wrong quoting, or no text: ',' expected after '\"'"),
        ("path,label\n".encode("utf-16"), "is UTF-16; save it as CSV in UTF-8"),
    ],
)
def test_a_table_of_which_nothing_can_be_made_is_refused(tmp_path, content, message):
    (tmp_path / "labels.csv").write_bytes(content)
    assert refusal("csv", tmp_path, labels_csv=str(tmp_path / "labels.csv")).startswith(
        f"{tmp_path}/labels.csv: {message}"
    )


def test_a_table_must_be_there(tmp_path):
    assert refusal("csv", tmp_path) == "--source=csv needs --labels_csv=<table with the columns path and label>."
    assert "No such file" in refusal("csv", tmp_path, labels_csv=str(tmp_path / "none.csv"))
    assert refusal("csv", tmp_path, labels_csv=str(tmp_path)) == f"{tmp_path}: is no file; expected a table (CSV)"
