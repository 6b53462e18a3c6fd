"""Slices of NIfTI volumes as images: labels, patients, masks and ranges."""

import nibabel
import numpy as np
import pytest
from nifti_volumes import ORIENTATIONS, noise, write_volume
from raw_files import table

from descargan_tf import processes
from descargan_tf.errors import UserError
from descargan_tf.preparation import nifti
from descargan_tf.preparation.sources import Options, load, pseudonym
from descargan_tf.types import DISEASED, HEALTHY

KEY = b"key"
SHAPE = (6, 8, 10)


def listed(root, **options):
    return load("nifti").list(root, Options(key=KEY, **options))


def sources(listing):
    return [image.source for image in listing.images]


def mask(*slices, value=1):
    array = np.zeros(SHAPE, np.uint8)
    for index in slices:
        array[2:4, 3:5, index] = value
    return array


@pytest.fixture
def root(tmp_path):
    """One healthy and one diseased volume, each in an order of its own; three slices of the second are marked."""
    write_volume(tmp_path / "healthy" / "sub-01_ses-1_T1w.nii.gz", noise(SHAPE, 1), ORIENTATIONS[5])
    write_volume(tmp_path / "diseased" / "sub-02_T1w.nii", noise(SHAPE, 2), ORIENTATIONS[40])
    write_volume(tmp_path / "diseased" / "sub-02_T1w_mask.nii.gz", mask(4, 5, 6), ORIENTATIONS[11])
    return tmp_path


# ---- labels


def test_a_slice_is_what_its_folder_and_its_mask_say(root):
    listing = listed(root)
    assert listing.problems == []
    healthy, diseased = ([image for image in listing.images if image.label == label] for label in (HEALTHY, DISEASED))
    assert [image.source for image in healthy] == [f"healthy/sub-01_ses-1_T1w.nii.gz#slice={k}" for k in range(10)]
    assert [image.source for image in diseased] == [f"diseased/sub-02_T1w.nii#slice={k}" for k in (4, 5, 6)]
    assert [image.index for image in diseased] == [4, 5, 6]
    assert all(image.ground_truth == root / "diseased" / "sub-02_T1w_mask.nii.gz" for image in diseased)
    assert all(image.ground_truth is None for image in healthy)
    assert {image.view for image in listing.images} == {"axial"}
    assert listing.notes == [
        "2 volumes of 2 patients, axial slices 0.0:1.0: 7 of diseased volumes dropped as their mask marks nothing "
        "there, 3 diseased, 10 healthy"
    ]


def test_slices_of_a_diseased_volume_that_no_mask_marks_can_be_healthy_ones(root):
    listing = listed(root, unmarked_slices="healthy", slices="2:6")
    labels = {image.source.rpartition("/")[2]: image.label for image in listing.images if "diseased" in image.source}
    assert labels == {
        f"sub-02_T1w.nii#slice={index}": label
        for index, label in ((2, HEALTHY), (3, HEALTHY), (4, DISEASED), (5, DISEASED))
    }
    assert "2 of diseased volumes taken as healthy" in listing.notes[0]


def test_without_a_mask_every_slice_of_a_diseased_volume_is_diseased(root):
    (root / "diseased" / "sub-02_T1w_mask.nii.gz").unlink()
    assert [image.label for image in listed(root).images].count(DISEASED) == 10


def test_a_slice_that_shows_nothing_is_dropped(root):
    """Those beyond the head would be healthy ones alone, and give the class away."""
    array = noise(SHAPE)
    array[..., :3] = array[..., 9] = 0
    write_volume(root / "healthy" / "sub-01_ses-1_T1w.nii.gz", array, ORIENTATIONS[21])
    listing = listed(root)
    assert [image.index for image in listing.images if image.label == HEALTHY] == [3, 4, 5, 6, 7, 8]
    assert "4 dropped as they hold one value alone" in listing.notes[0]


@pytest.mark.parametrize(
    "name",
    [
        "diseased/BraTS_001_seg.nii.gz",
        "diseased/BraTS_001_flair_mask.nii",
        "diseased/ground_truth/BraTS_001_flair.nii.gz",
        "ground_truth/BraTS_001_flair.nii",
        "diseased/brats_001_SEG.NII.GZ",
        "diseased/Ground_Truth/BraTS_001_flair.nii",
    ],
)
def test_masks_are_found_where_they_may_lie(tmp_path, name):
    write_volume(tmp_path / "diseased" / "BraTS_001_flair.nii.gz", noise(SHAPE))
    write_volume(tmp_path / name, mask(3))
    listing = listed(tmp_path)
    assert [(image.index, image.ground_truth) for image in listing.images] == [(3, tmp_path / name)]
    assert not any("passed over" in note for note in listing.notes)


def test_splits_and_classes_are_found_anywhere_in_the_path(tmp_path):
    for name in ("site_a/train/healthy/a/x.nii", "test/diseased/y.nii.gz", "healthy/z.nii"):
        write_volume(tmp_path / name, noise(SHAPE))
    found = {image.source.partition("#")[0]: (image.split, image.label) for image in listed(tmp_path).images}
    assert found == {
        "site_a/train/healthy/a/x.nii": ("train", HEALTHY),
        "test/diseased/y.nii.gz": ("test", DISEASED),
        "healthy/z.nii": (None, HEALTHY),
    }


def test_a_table_gives_labels_patients_splits_and_masks(tmp_path):
    for name in ("a.nii.gz", "b.nii", "c.nii"):
        write_volume(tmp_path / "raw" / name, noise(SHAPE))
    write_volume(tmp_path / "raw" / "of b.nii", mask(7))
    rows = [
        ("a.nii.gz", "healthy", "P1", "train", ""),
        ("b.nii", "1", "P2", "test", "of b.nii"),
        ("c.nii", "diseased", "", "", ""),
        ("gone.nii", "0", "", "", ""),
    ]
    header = ("path", "label", "patient", "split", "ground_truth")
    listing = listed(tmp_path / "raw", labels_csv=str(table(tmp_path / "labels.csv", rows, header)), slices="7:9")
    assert [(image.source, image.label, image.split, image.patient) for image in listing.images] == [
        ("a.nii.gz#slice=7", HEALTHY, "train", pseudonym("P1", KEY)),
        ("a.nii.gz#slice=8", HEALTHY, "train", pseudonym("P1", KEY)),
        ("b.nii#slice=7", DISEASED, "test", pseudonym("P2", KEY)),
        ("c.nii#slice=7", DISEASED, None, pseudonym("c", KEY)),
        ("c.nii#slice=8", DISEASED, None, pseudonym("c", KEY)),
    ]
    assert listing.problems == [f"labels.csv, line 5: gone.nii: missing in {tmp_path / 'raw'}"]


def test_any_number_of_processes_lists_the_same(root, monkeypatch, kept_processes):
    (root / "healthy" / "cut.nii.gz").write_bytes((root / "healthy" / "sub-01_ses-1_T1w.nii.gz").read_bytes()[:-100])
    one = listed(root)
    assert len(one.problems) == 1
    monkeypatch.setattr(nifti, "_WORTH_PROCESSES", 0)
    monkeypatch.setattr(processes, "num_cores", lambda: 2)
    assert listed(root) == one


# ---- patients


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("sub-01_ses-2_T1w.nii.gz", "sub-01"),
        ("sub-01_T1w.nii.gz", "sub-01"),
        ("P7_ses1.nii", "P7"),
        ("P7_visit2_scan.nii", "P7"),
        ("BraTS20_Training_001_flair.nii.gz", "BraTS20_Training_001"),
        ("BraTS20_Training_001_t1ce.nii.gz", "BraTS20_Training_001"),
        ("IXI002-Guys-0828-T1.nii.gz", "IXI002-Guys-0828-T1"),
        ("_ses1.nii", "_ses1"),
    ],
)
def test_a_patient_is_what_the_name_says_before_session_and_kind(tmp_path, name, patient):
    write_volume(tmp_path / "healthy" / name, noise(SHAPE))
    assert {image.patient for image in listed(tmp_path).images} == {pseudonym(patient, KEY)}


def test_a_pattern_says_otherwise(tmp_path):
    write_volume(tmp_path / "healthy" / "IXI002-Guys-0828-T1.nii.gz", noise(SHAPE))
    write_volume(tmp_path / "healthy" / "other.nii.gz", noise(SHAPE))
    listing = listed(tmp_path, patient_pattern=r"(IXI\d+)-")
    assert {image.patient for image in listing.images} == {pseudonym("IXI002", KEY)}
    assert listing.problems == [r"healthy/other.nii.gz: --patient_pattern=(IXI\d+)- is not found in it"]
    listing = listed(tmp_path, patient_pattern=r"^.")
    assert {image.patient for image in listing.images} == {pseudonym("h", KEY)}
    with pytest.raises(UserError, match=r"--patient_pattern=\( is no regular expression"):
        listed(tmp_path, patient_pattern="(")


def test_no_name_is_kept_as_that_of_a_patient(root):
    assert not any("sub-" in image.patient + image.study for image in listed(root).images)


# ---- pixels


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_pixels_and_mask_are_those_of_the_slice_in_square_pixels(root, axis):
    options = Options(key=KEY, slice_axis=axis, nifti_range="0,500")
    number = {"sagittal": 0, "coronal": 1, "axial": 2}[axis]
    images = [image for image in load("nifti").list(root, options).images if image.label == DISEASED]
    assert images
    for image in images:
        values, low, high = nifti.read(image, options)
        assert (values.dtype, low, high) == (np.float32, 0, 500)
        plane = np.take(noise(SHAPE, 2), image.index, number).T[::-1, ::-1].clip(0, 500)
        marked = np.take(mask(4, 5, 6), image.index, number).T[::-1, ::-1]
        rows, columns = {"axial": (2, 1), "coronal": (3, 1), "sagittal": (3, 2)}[axis]
        shape = (plane.shape[0] * rows // columns, plane.shape[1])
        assert values.shape == shape
        truth = nifti.read_ground_truth(image, options)
        assert (truth.dtype, truth.shape) == (bool, shape)
        middles = np.arange(plane.shape[0]) * rows // columns
        if rows % columns == 0:  # each row became several; the middle one is itself
            np.testing.assert_array_equal(truth[middles], marked > 0)
            if (rows // columns) % 2:
                np.testing.assert_allclose(values[middles + rows // columns // 2], plane, atol=0.01)


def test_the_range_is_one_for_all_slices_of_a_volume(root):
    options = Options(key=KEY, nifti_range="1%,99%")
    images = [image for image in load("nifti").list(root, options).images if image.label == HEALTHY]
    ranges = {nifti.read(image, options)[1:] for image in images}
    low, high = np.percentile(noise(SHAPE, 1), (1, 99))
    assert len(ranges) == 1
    assert ranges.pop() == pytest.approx((low, high))
    for image in images:
        values = nifti.read(image, options).values
        assert values.min() >= np.float32(low)
        assert values.max() <= np.float32(high)


# ---- what is wrong


def test_bad_volumes_are_named_and_the_others_are_listed(root):
    healthy = root / "healthy"
    nibabel.Nifti1Image(np.zeros((4, 4, 4, 3), np.float32), np.eye(4)).to_filename(healthy / "four.nii")
    whole = (healthy / "sub-01_ses-1_T1w.nii.gz").read_bytes()
    (healthy / "cut.nii.gz").write_bytes(whole[:-100])
    array = noise(SHAPE).astype(np.float32)
    array[0, 0, 9] = np.nan
    write_volume(healthy / "nan.nii", array)
    (healthy / "none.nii").write_bytes(b"")
    write_volume(healthy / "contradiction.nii", noise(SHAPE))
    write_volume(healthy / "contradiction_mask.nii", mask(3))
    write_volume(root / "diseased" / "moved.nii", noise(SHAPE))
    write_volume(root / "diseased" / "moved_mask.nii", mask(3), spacing=(1, 1, 1))
    write_volume(root / "nowhere.nii", noise(SHAPE))
    listing = listed(root)
    assert len(listing.images) == 13
    problems = dict(line.split(": ", 1) for line in listing.problems)
    assert all("\n" not in line for line in listing.problems)
    assert set(problems) == {
        *(f"healthy/{name}" for name in ("four.nii", "cut.nii.gz", "nan.nii", "none.nii", "contradiction.nii")),
        "diseased/moved.nii",
        "nowhere.nii",
    }
    assert "4-D" in problems["healthy/four.nii"]
    assert "cannot be read" in problems["healthy/cut.nii.gz"]
    assert "NaN" in problems["healthy/nan.nii"]
    assert problems["healthy/contradiction.nii"] == "is healthy, and its mask contradiction_mask.nii marks slice 3"
    assert "moved_mask.nii has another shape or lies elsewhere" in problems["diseased/moved.nii"]
    assert problems["nowhere.nii"].startswith("in no folder healthy or diseased; move them")


def test_what_is_passed_over_is_counted(root):
    (root / "readme.txt").touch()
    write_volume(root / "healthy" / "lone_mask.nii", mask(1))
    write_volume(root / "healthy" / "sub-09_bold.nii", noise(SHAPE))
    nibabel.Nifti1Image(noise(SHAPE), None).to_filename(root / "healthy" / "guess_T1w.nii")
    listing = listed(root, volumes="*_T1w.nii*")
    assert not any("bold" in source for source in sources(listing))
    assert listing.notes[:2] == [
        "healthy/lone_mask.nii: masks of no volume that was chosen, passed over",
        "2 files that are no volume or not *_T1w.nii* by their names, passed over",
    ]
    assert listing.notes[3] == ("healthy/guess_T1w.nii: no orientation in the header (sform, qform), taken as LAS+")


def test_a_volume_that_has_none_of_the_slices_is_named(root):
    listing = listed(root, slices="50:60")
    assert "healthy/sub-01_ses-1_T1w.nii.gz: has 10 axial slices, none of them in --slices=50:60" in listing.problems
    assert listing.images == []


def test_a_folder_without_volumes_is_refused(tmp_path):
    (tmp_path / "healthy").mkdir()
    (tmp_path / "healthy" / "a.png").touch()
    with pytest.raises(UserError, match=r"no volume \* that ends in \.nii or \.nii\.gz lies in a folder healthy or"):
        listed(tmp_path)


@pytest.mark.parametrize(("flag", "value"), [("slices", "a"), ("nifti_range", "b")])
def test_flags_are_refused_before_anything_is_read(tmp_path, flag, value):
    with pytest.raises(UserError, match=f"--{flag}={value} is neither"):
        listed(tmp_path / "none", **{flag: value})
