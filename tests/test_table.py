"""What results are called, and what their table says, for names as people choose them."""

import os
import unicodedata
from pathlib import Path

import pytest

from descargan_tf.errors import UserError
from descargan_tf.prediction.table import labels, output_names, refuse_folder_of_inputs, table_row, write_table

LONGEST = len("_healthy.npy")


def named(*files):
    files = [Path(file) for file in files]
    names = output_names(files)
    assert list(names) == files
    keys = {unicodedata.normalize("NFC", name).casefold() for name in names.values()}
    assert len(keys) == len(files), "some file systems would put one over the other"
    assert all(len(os.fsencode(name)) + LONGEST <= 255 for name in names.values())
    return list(names.values())


def test_a_stem_of_its_own_is_the_name():
    assert named("in/a.png", "in/b.png", os.fsdecode(b"in/M\xfc.png")) == ["a", "b", os.fsdecode(b"M\xfc")]


def test_other_suffixes_become_part_of_it():
    assert named("a.png", "a.npy", "b.png") == ["a_png", "a_npy", "b"]
    assert named("a.png", "a.npy", "a_png.tif") == ["a_png_2", "a_npy", "a_png"]


def test_the_same_name_in_several_folders_gets_the_folders_before_it():
    assert named("left/x.png", "right/x.png") == ["left_x", "right_x"]
    assert named("1/scans/x.png", "2/scans/x.png", "y.png") == ["1_scans_x", "2_scans_x", "y"]
    assert named("/data/a/x.png", "../b/x.png") == ["a_x", "b_x"]
    assert named("a/x.png", "a/x.jpg", "b/x.png") == ["a_x_png", "a_x_jpg", "b_x_png"]
    assert named("x.png", "a/x.png") == ["x", "a_x"]
    assert named("a/x.png", "b/x.png", "in/a_x.png") == ["a_x_2", "b_x", "a_x"]


def test_names_that_differ_in_case_or_form_alone_are_told_apart():
    assert named("in/a.png", "in/A.png") == ["a_png", "A_png_2"]
    composed, taken_apart = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    assert named(f"{composed}.png", f"{taken_apart}.png") == [f"{composed}_png", f"{taken_apart}_png_2"]


@pytest.mark.parametrize("letter", ["L", "é", "語", os.fsdecode(b"\xfc")])
def test_a_long_name_is_cut_and_stays_unique(letter):
    count = 251 // len(os.fsencode(letter))
    first, second = letter * count, letter * (count - 1) + "x"
    names = named(f"{first}.png", f"{second}.png", f"{'s' * 210}.png")
    assert names[2] == "s" * 210
    assert all(name.startswith(letter * 70) and name[-9] == "~" for name in names[:2])


def test_the_table_names_what_was_given(tmp_path):
    files = [Path("a/x.png"), Path("b/x.png"), Path("y, z.png"), Path(os.fsdecode(b"M\xfc.png"))]
    called = labels(files)
    assert list(called.values()) == ["a/x.png", "b/x.png", "y, z.png", r"M\xfc.png"]
    path = write_table(tmp_path, [table_row(called[file], 0.5, None, None) for file in files])
    assert path.read_text(encoding="utf-8").splitlines()[1:] == [
        "a/x.png,0.500000,,",
        "b/x.png,0.500000,,",
        '"y, z.png",0.500000,,',
        r"M\xfc.png,0.500000,,",
    ]


@pytest.mark.parametrize("output", ["in", "in/", "in/../in", "./in", "link"])
def test_the_folder_of_the_inputs_takes_no_results(tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path("in/a.npy").touch()
    Path("link").symlink_to("in")
    with pytest.raises(UserError, match=r"--output_dir=.* is the folder of the input in/a.npy: .*name another folder"):
        refuse_folder_of_inputs([Path("in/a.npy")], Path(output))


def test_nor_does_the_folder_that_an_input_is_a_link_into(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "real" / "a_map.npy").touch()
    (tmp_path / "in" / "a_map.npy").symlink_to(tmp_path / "real" / "a_map.npy")
    with pytest.raises(UserError, match="is the folder of the input"):
        refuse_folder_of_inputs([tmp_path / "in" / "a_map.npy"], tmp_path / "real")


@pytest.mark.parametrize("place", ["test/healthy", "train/ground_truth", "validate/../test/healthy"])
def test_nor_does_a_class_of_a_data_set(tmp_path, place):
    """The next evaluation would take maps for healthy images."""
    folder = tmp_path / place
    (tmp_path / "validate").mkdir()
    folder.mkdir(parents=True)
    inputs, results = [tmp_path / "in" / "a.npy"], ("a_map.npy", "a_healthy.npy", "a_overlay.png", "predictions.csv")
    for name in results:  # a folder of results may be called so
        (folder / name).touch()
    refuse_folder_of_inputs(inputs, folder)
    (folder / "b.png").touch()
    with pytest.raises(UserError, match=r"is a folder of a data set, which holds b.png: .*name another folder"):
        refuse_folder_of_inputs(inputs, folder)


def test_a_folder_within_or_around_the_inputs_is_not_read_and_takes_them(tmp_path):
    for output in (tmp_path, tmp_path / "in" / "results", tmp_path / "in2"):
        refuse_folder_of_inputs([tmp_path / "in" / "a.npy"], output)
