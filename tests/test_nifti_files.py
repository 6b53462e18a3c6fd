"""NIfTI volumes by slices: where they lie, what they hold, and what is refused."""

import gzip
import re
import struct

import nibabel
import numpy as np
import pytest
from nifti_volumes import ORIENTATIONS, SPACING, canonical_image, noise, write_volume

from descargan_tf.data.nifti_files import (
    AXES,
    RangeRule,
    Volume,
    chosen_slices,
    in_square_pixels,
    is_mask,
    is_volume,
    open_volume,
    parse_range,
    parse_slices,
    stem_of,
)
from descargan_tf.errors import UserError

SUFFIXES = (".nii", ".nii.gz")


def refusal(path):
    with pytest.raises(UserError) as caught:
        Volume(path).plane("axial", 0)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


# ---- where slices lie


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_slice_is_the_same_however_the_file_keeps_its_voxels(tmp_path, suffix):
    canonical = noise()
    for orientation in ORIENTATIONS:
        path = tmp_path / f"volume{suffix}"
        write_volume(path, canonical, orientation)
        volume = Volume(path)
        for axis, number in AXES.items():
            assert volume.count(axis) == canonical.shape[number]
            for index in range(volume.count(axis)):
                expected = np.take(canonical, index, number).T[::-1, ::-1]
                np.testing.assert_array_equal(volume.plane(axis, index), expected)
        assert volume.spacing("axial") == pytest.approx((2, 1))
        assert volume.spacing("coronal") == pytest.approx((3, 1))
        assert volume.spacing("sagittal") == pytest.approx((3, 2))


def test_a_slice_is_seen_as_by_a_radiologist(tmp_path):
    """By millimetres: right, front and top of the patient, found through the affine of an LPS file."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    array = np.zeros((10, 12, 14), np.uint8)
    for value, place in enumerate(((4, 0, 0), (0, 5, 0), (0, 0, 6)), start=1):  # mm to the right, front and top
        affine[:3, 3] = 4, 5, -6
        x, y, z = np.rint(np.linalg.inv(affine) @ (*place, 1))[:3].astype(int)
        array[x, y, z] = value
    nibabel.Nifti1Image(array, affine).to_filename(tmp_path / "a.nii")
    volume = Volume(tmp_path / "a.nii")
    axial, coronal, sagittal = (
        volume.plane(axis, int(index)) for axis, index in (("axial", 6), ("coronal", 6), ("sagittal", 5))
    )
    assert axial.shape == (12, 10)
    assert np.argwhere(axial == 1)[0, 1] < 5  # the patient's right is on the left
    assert np.argwhere(axial == 2)[0, 0] < 6  # the front is up
    assert np.argwhere(coronal == 3)[0, 0] < 7  # the top is up
    assert np.argwhere(sagittal == 2)[0, 1] < 6  # the front is on the left


@pytest.mark.parametrize("axis", AXES)
def test_what_is_put_into_a_plane_lies_on_its_voxels(tmp_path, axis):
    for orientation in ORIENTATIONS[::5]:
        image = write_volume(tmp_path / "a.nii.gz", noise(), orientation)
        volume = Volume(tmp_path / "a.nii.gz")
        copy = np.zeros(volume.shape, np.float32)
        for index in range(volume.count(axis)):
            volume.plane_of(copy, axis, index)[...] = volume.plane(axis, index)
        np.testing.assert_array_equal(copy, image.get_fdata())


def test_a_slice_that_is_not_there_is_refused(tmp_path):
    write_volume(tmp_path / "a.nii", noise())
    with pytest.raises(UserError, match=r"a\.nii: has no axial slice 9; there are 9$"):
        Volume(tmp_path / "a.nii").plane("axial", 9)


def test_a_large_file_is_not_read_for_one_of_its_slices(tmp_path):
    """64 GB, nearly all of which is a hole in the file."""
    path = tmp_path / "large.nii"
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float64)
    header.set_data_shape((2000, 2000, 2000))
    header.set_sform(np.eye(4), code=1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    with open(path, "wb") as file:
        header.write_to(file)
        file.seek(352 + 8 * 2000 * 2000 * 1000)
        file.write(np.float64([7]).tobytes())
        file.truncate(352 + 8 * 2000**3)
    plane = Volume(path).plane("axial", 1000)
    assert plane.shape == (2000, 2000)
    assert (plane[-1, -1], plane.sum()) == (7, 7)  # from the left and behind, which are last


# ---- what they hold


def test_slope_and_intercept_are_applied(tmp_path):
    for suffix in SUFFIXES:
        image = canonical_image(noise((4, 4, 4)))
        image.header.set_slope_inter(0.5, -100)
        image.to_filename(tmp_path / f"a{suffix}")
        expected = nibabel.load(tmp_path / f"a{suffix}").get_fdata()[:, :, 1].T[::-1, ::-1]
        np.testing.assert_allclose(Volume(tmp_path / f"a{suffix}").plane("axial", 1), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "becomes"),
    [("u1", "uint8"), ("<u2", "uint16"), (">u2", "uint16"), (">i2", "float32"), ("<f8", "float32"), ("<i4", "float32")],
)
def test_values_are_kept_in_a_type_that_holds_them(tmp_path, dtype, becomes):
    array = noise((4, 4, 4)) % 250
    for suffix in SUFFIXES:
        header = nibabel.Nifti1Header(endianness=">" if dtype[0] == ">" else "<")
        image = nibabel.Nifti1Image(array.astype(dtype), np.eye(4), header)
        image.set_data_dtype(dtype)
        image.to_filename(tmp_path / f"a{suffix}")
        plane = Volume(tmp_path / f"a{suffix}").plane("axial", 2)
        assert plane.dtype == becomes
        np.testing.assert_array_equal(plane, array[:, :, 2].T[::-1, ::-1])


def test_a_fourth_dimension_of_one_is_none(tmp_path):
    array = noise((4, 5, 6))
    for suffix in SUFFIXES:
        nibabel.Nifti1Image(array[..., None], np.eye(4)).to_filename(tmp_path / f"a{suffix}")
        volume = Volume(tmp_path / f"a{suffix}")
        np.testing.assert_array_equal(volume.plane("axial", 3), array[:, :, 3].T[::-1, ::-1])
        volume.write(tmp_path / "out.nii.gz", np.ones(volume.shape, np.float32))
        assert nibabel.load(tmp_path / "out.nii.gz").shape == (4, 5, 6, 1)


def test_the_range_is_of_the_voxels_that_are_not_0(tmp_path):
    array = noise((10, 10, 10))
    array[:5] = 0
    array = array.astype(np.float32)
    write_volume(tmp_path / "a.nii.gz", array)
    volume = Volume(tmp_path / "a.nii.gz")
    expected = np.percentile(array[array != 0], (1, 99))
    assert volume.value_range(parse_range("1%,99%")) == pytest.approx(tuple(expected))
    assert volume.value_range(parse_range("-160,240")) == (-160, 240)


@pytest.mark.parametrize(("value", "named"), [(0, "every voxel is 0"), (3, "percentiles 0.5%,99.5% .* are both 3")])
def test_a_volume_without_a_range_is_refused(tmp_path, value, named):
    write_volume(tmp_path / "a.nii", np.full((4, 4, 4), value, np.int16))
    with pytest.raises(UserError, match=rf"a\.nii: {named}"):
        Volume(tmp_path / "a.nii").value_range(parse_range("0.5%,99.5%"))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_what_is_no_number_is_named(tmp_path, value):
    array = np.zeros((4, 4, 4))
    array[1, 2, 3] = value
    nibabel.Nifti1Image(array, np.eye(4)).to_filename(tmp_path / "a.nii.gz")
    volume = Volume(tmp_path / "a.nii.gz")
    assert not volume.plane("axial", 0).any()
    message = re.escape(f"{tmp_path}/a.nii.gz: holds NaN or infinity (in float32); replace them first")
    with pytest.raises(UserError, match=message):
        volume.plane("axial", 3)
    with pytest.raises(UserError, match=message):
        volume.value_range(parse_range("0%,100%"))


# ---- flags and names


def test_ranges_are_read():
    assert parse_range(" 0.5%, 99.5% ") == RangeRule(0.5, 99.5, True)
    assert parse_range("-160,240") == RangeRule(-160, 240, False)
    assert str(parse_range("-160,240")) == "-160,240"


@pytest.mark.parametrize("text", ["", "1", "1,2,3", "5%,7", "2,1", "1,1", "nan,2", "0,inf", "-1%,50%", "0%,101%"])
def test_other_ranges_are_refused(text):
    with pytest.raises(UserError, match=re.escape(f"--nifti_range={text} is neither two percentiles")):
        parse_range(text)


@pytest.mark.parametrize(
    ("text", "chosen"),
    [("2:5", range(2, 5)), ("8:20", range(8, 10)), ("0.0:1.0", range(10)), ("0.3:0.7", range(3, 7)), ("0:1", range(1))],
)
def test_slices_are_numbers_or_shares(text, chosen):
    assert chosen_slices(parse_slices(text), 10) == chosen


def test_shares_that_meet_have_no_slice_in_common_and_lose_none():
    for count in (1, 2, 7, 155):
        parts = [chosen_slices(parse_slices(text), count) for text in ("0.0:0.31", "0.31:0.5", "0.5:1.0")]
        assert [index for part in parts for index in part] == list(range(count))


@pytest.mark.parametrize("text", ["", "5", "5:5", "7:3", "-2:3", "0.5:1.5", "a:b", "1:2:3", "0.2:nan"])
def test_other_slices_are_refused(text):
    with pytest.raises(UserError, match=re.escape(f"--slices={text} is neither two numbers")):
        parse_slices(text)


def test_names_of_volumes():
    assert [is_volume(name) for name in ("a.nii", "b/a.NII.GZ", "a.gz", "a.img")] == [True, True, False, False]
    assert [stem_of(name) for name in ("x/a.b.nii.gz", "a.NII")] == ["a.b", "a"]
    assert [is_mask(name) for name in ("a_mask.nii", "a_Seg.nii.gz", "mask.nii")] == [True, True, False]


# ---- square pixels


def test_planes_of_unequal_spacing_are_brought_to_the_finer_one():
    plane = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert in_square_pixels(plane, (1, 1.005)) is plane
    assert in_square_pixels(plane, (3, 1)).shape == (9, 4)
    assert in_square_pixels(plane, (0.5, 2)).shape == (3, 16)
    np.testing.assert_allclose(in_square_pixels(plane, (3, 1))[1::3], plane, atol=1e-6)  # the middles of the old rows


# ---- masks


def test_whether_two_volumes_lie_on_each_other(tmp_path):
    for number, orientation in enumerate((ORIENTATIONS[0], ORIENTATIONS[29])):
        write_volume(tmp_path / f"{number}.nii", noise(), orientation)
    write_volume(tmp_path / "other.nii", noise((5, 7, 8)))
    shifted = canonical_image(noise())
    shifted.affine[0, 3] += 0.6
    nibabel.Nifti1Image(noise(), shifted.affine).to_filename(tmp_path / "shifted.nii")
    first, second, other, moved = (Volume(tmp_path / f"{name}.nii") for name in ("0", "1", "other", "shifted"))
    assert first.lies_on(second)
    assert second.lies_on(first)
    assert not first.lies_on(other)
    assert not first.lies_on(moved)


# ---- written back


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_has_the_affine_and_says_nothing_else(tmp_path, suffix, kind):
    source = kind.from_image(write_volume(tmp_path / "a.nii", noise(), ORIENTATIONS[13]))
    source.header["descrip"], source.header["cal_max"] = b"Jane Doe", 500
    source.set_qform(source.affine, 2)
    source.to_filename(tmp_path / "a.nii")
    volume = Volume(tmp_path / "a.nii")
    values = np.random.default_rng(0).normal(size=volume.shape).astype(np.float32)
    volume.write(tmp_path / f"out{suffix}", values)
    written = nibabel.load(tmp_path / f"out{suffix}")
    assert type(written) is kind
    np.testing.assert_array_equal(written.affine, source.affine)
    np.testing.assert_array_equal(written.get_fdata(dtype=np.float32), values)
    assert written.get_data_dtype() == np.float32
    for code in ("sform_code", "qform_code"):
        assert written.header[code] == nibabel.load(tmp_path / "a.nii").header[code]
    assert written.header.get_zooms() == source.header.get_zooms()
    raw = (tmp_path / f"out{suffix}").read_bytes()
    assert b"Jane" not in (gzip.decompress(raw) if suffix == ".nii.gz" else raw)
    assert written.header["cal_max"] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii", f"out{suffix}"]


def test_a_volume_is_kept_open_until_it_changes(tmp_path):
    write_volume(tmp_path / "a.nii.gz", noise())
    first = open_volume(tmp_path / "a.nii.gz")
    assert open_volume(tmp_path / "a.nii.gz") is first
    write_volume(tmp_path / "a.nii.gz", noise((3, 3, 3)))
    assert open_volume(tmp_path / "a.nii.gz").shape == (3, 3, 3)
    with pytest.raises(UserError, match=r"b\.nii: cannot be read: No such file"):
        open_volume(tmp_path / "b.nii")


# ---- bad files


def raw_header(path, **fields):
    """A file whose header is changed behind the library's back."""
    offsets = {"dim1": (42, "<h"), "dim3": (46, "<h"), "datatype": (70, "<h"), "magic": (344, "4s")}
    raw = bytearray(path.read_bytes() if path.suffix == ".nii" else gzip.decompress(path.read_bytes()))
    for name, value in fields.items():
        offset, kind = offsets[name]
        struct.pack_into(kind, raw, offset, value)
    path.write_bytes(raw if path.suffix == ".nii" else gzip.compress(raw))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("array", "named"),
    [
        (np.zeros((4, 4, 4, 3), np.float32), "holds several volumes (4-D): 4x4x4x3; expected three dimensions"),
        (np.zeros((4, 4), np.float32), "holds no volume: 4x4"),
        (np.zeros((4, 4, 4), np.complex64), "holds complex64, expected one gray value a voxel"),
        (np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "holds colours, expected one gray value"),
    ],
)
def test_what_is_no_gray_volume_is_named(tmp_path, suffix, array, named):
    path = tmp_path / f"a{suffix}"
    nibabel.Nifti1Image(array, np.eye(4)).to_filename(path)
    assert named in refusal(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_truncated_file_is_named_wherever_it_ends(tmp_path, suffix):
    write_volume(tmp_path / f"whole{suffix}", noise((16, 16, 16)))
    raw = (tmp_path / f"whole{suffix}").read_bytes()
    path = tmp_path / f"a{suffix}"
    for length in (1, 100, 347, 352, len(raw) // 2, len(raw) - 20):
        path.write_bytes(raw[:length])
        assert "truncated" in refusal(path) or "cannot be read" in refusal(path)
    path.write_bytes(b"")
    assert refusal(path).endswith(": is empty")


def test_other_content_is_named(tmp_path):
    for suffix in SUFFIXES:
        path = tmp_path / f"a{suffix}"
        path.write_bytes(np.random.default_rng(0).bytes(5000))
        assert "cannot be read" in refusal(path)
    path.write_bytes(gzip.compress(b"no volume" * 100))
    assert "cannot be read" in refusal(path)
    (tmp_path / "folder.nii").mkdir()
    assert refusal(tmp_path / "folder.nii").endswith("is no file")
    assert "cannot be read: No such file" in refusal(tmp_path / "none.nii")
    (tmp_path / "a.img").write_bytes(b"")
    assert "not a NIfTI file by its name; expected one of .nii, .nii.gz" in refusal(tmp_path / "a.img")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"dim1": 32000, "dim3": 32000}, "is this an image?"),
        ({"dim3": 32000}, "truncated: .* bytes cannot hold 5x7x32000 voxels of int16"),
        ({"dim3": 0}, ""),
        ({"dim3": -7}, ""),
        ({"datatype": 12345}, "cannot be read"),
        ({"magic": b"xxxx"}, "cannot be read"),
    ],
)
def test_a_header_that_lies_is_named(tmp_path, suffix, fields, named):
    path = tmp_path / f"a{suffix}"
    write_volume(path, noise())
    raw_header(path, **fields)
    assert re.search(named, refusal(path))


def test_an_affine_that_says_nothing_is_named(tmp_path):
    for affine in (np.diag([1.0, 0, 1, 1]), np.diag([1.0, np.nan, 1, 1])):
        image = canonical_image(noise())
        image.header.set_sform(affine, code=1)
        nibabel.Nifti1Image(noise(), None, image.header).to_filename(tmp_path / "a.nii")
        assert "its affine is singular or not finite" in refusal(tmp_path / "a.nii")


def test_a_guessed_orientation_is_known_for_one(tmp_path):
    nibabel.Nifti1Image(noise(), None).to_filename(tmp_path / "guess.nii")
    write_volume(tmp_path / "sure.nii", noise())
    assert not Volume(tmp_path / "guess.nii").states_orientation
    assert Volume(tmp_path / "sure.nii").states_orientation


def test_spacing_is_that_of_the_affine(tmp_path):
    write_volume(tmp_path / "a.nii", noise(), ORIENTATIONS[7], SPACING)
    assert Volume(tmp_path / "a.nii").spacing("coronal") == pytest.approx((SPACING[2], SPACING[0]))
