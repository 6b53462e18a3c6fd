"""From NIfTI volumes to maps on disk, with a stand-in for the model: a map lies on the voxels that it came from."""

import csv

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nifti_volumes import ORIENTATIONS, noise, write_volume

from descargan_tf.data.images import Scaling, write_png
from descargan_tf.data.nifti_files import AXES, Volume, parse_range, parse_slices
from descargan_tf.errors import UserError
from descargan_tf.prediction.files import find_inputs, predict_files
from descargan_tf.prediction.volumes import Slicing, num_slices
from descargan_tf.preparation.fitting import FITS
from descargan_tf.types import Prediction

SIZE = 64
SLICING = Slicing("axial", (0.0, 1.0), parse_range("0,1000"), "pad")


def find_bright(images):
    """What is brighter than the middle of the range is taken away; the more there is, the more diseased."""
    images = np.asarray(images)
    d = np.where(images > 0, -1.0, 0.0).astype(np.float32)
    p = np.minimum(1, 10 * np.abs(d).mean((1, 2, 3)))
    return Prediction(d, images + d, np.abs(d).mean((1, 2, 3)), np.stack([1 - p, p], 1))


def run(files, output_dir, slicing=SLICING, predict=find_bright, progress=None, batch_size=4):
    return predict_files(predict, files, output_dir, SIZE, Scaling(0, 255), "uint8", batch_size, progress, slicing)


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def head(shape=(12, 16, 10)):
    """Dark, but of more than one value in every slice."""
    return (noise(shape) % 100).astype(np.float32)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# ---- where maps lie


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_map_lies_on_the_voxels_that_it_came_from(tmp_path_factory, data):
    """A bright block in a dark volume, whatever the file's order, spacing and shape."""
    tmp_path = tmp_path_factory.mktemp("marker")
    shape = tuple(data.draw(st.integers(12, 48)) for _ in range(3))
    spacing = tuple(data.draw(st.sampled_from((0.7, 1.0, 1.4))) for _ in range(3))
    orientation = data.draw(st.sampled_from(ORIENTATIONS))
    axis, how = data.draw(st.sampled_from(list(AXES))), data.draw(st.sampled_from(FITS))
    inner = [count // 4 for count in shape] if how == "crop" else [0, 0, 0]
    begin = [data.draw(st.integers(low, count - 4 - low)) for low, count in zip(inner, shape, strict=True)]
    array = head(shape)
    block = tuple(slice(low, low + 4) for low in begin)
    array[block] = 1000
    suffix = data.draw(st.sampled_from((".nii", ".nii.gz")))
    write_volume(tmp_path / f"v{suffix}", array, orientation, spacing)
    assert run([tmp_path / f"v{suffix}"], tmp_path / "out", SLICING._replace(axis=axis, fit=how)) == []
    source, written = (nibabel.load(tmp_path / name) for name in (f"v{suffix}", "out/v_map.nii.gz"))
    np.testing.assert_array_equal(written.affine, source.affine)
    assert written.shape == source.shape
    found, wanted = -written.get_fdata(), source.get_fdata() == 1000
    if how == "crop" and not found.any():
        return  # the block lay in what was cut off
    weights = found / found.sum()
    places = np.indices(found.shape)
    middle = (places * weights).sum((1, 2, 3))
    expected = places[:, wanted].mean(1)
    if how != "crop":  # which may have cut off a part of it
        voxel = max(1.0, max(np.multiply(shape, spacing)) / SIZE / min(spacing))  # of the model, in the file's
        np.testing.assert_allclose(middle, expected, atol=0.5 * voxel)
    across = int(np.flatnonzero(nibabel.io_orientation(source.affine)[:, 0] == AXES[axis])[0])
    others = tuple(number for number in range(3) if number != across)
    assert not found.any(others)[~wanted.any(others)].any()  # in no slice but its own


def test_where_nothing_is_resampled_every_voxel_is_exact(tmp_path):
    array = (noise((SIZE, SIZE, 5)) % 1000).astype(np.float32)
    for orientation in ORIENTATIONS[::7]:
        source = write_volume(tmp_path / "v.nii", array, orientation, (1, 1, 3))
        run([tmp_path / "v.nii"], tmp_path / "out")
        signed = nibabel.load(tmp_path / "out" / "v_map.nii.gz").get_fdata()
        healthy = nibabel.load(tmp_path / "out" / "v_healthy.nii.gz").get_fdata()
        np.testing.assert_array_equal(signed, np.where(source.get_fdata() > 500, -1, 0))
        np.testing.assert_allclose(healthy, source.get_fdata() + signed * 500, atol=1e-3)


def test_slices_that_were_not_asked_for_are_0_and_the_original(tmp_path):
    array = head()
    array[5:9, 5:9] = 1000
    write_volume(tmp_path / "v.nii.gz", array, ORIENTATIONS[17])
    run([tmp_path / "v.nii.gz"], tmp_path / "out", SLICING._replace(slices=parse_slices("2:5")))
    source, signed, healthy = (
        Volume(path)
        for path in (tmp_path / "v.nii.gz", tmp_path / "out" / "v_map.nii.gz", tmp_path / "out" / "v_healthy.nii.gz")
    )
    for index in range(10):
        was_predicted = index in (2, 3, 4)
        assert signed.plane("axial", index).any() == was_predicted
        is_original = np.array_equal(source.plane("axial", index), healthy.plane("axial", index))
        assert is_original != was_predicted
    assert [row[0] for row in rows_of(tmp_path / "out" / "v_slices.csv")] == ["slice", "2", "3", "4"]


def test_slices_of_one_value_are_passed_over(tmp_path):
    array = head()
    array[..., [0, 7]] = 1000
    write_volume(tmp_path / "v.nii.gz", array)
    run([tmp_path / "v.nii.gz"], tmp_path / "out")
    assert [row[0] for row in rows_of(tmp_path / "out" / "v_slices.csv")[1:]] == list("12345689")
    assert not nibabel.load(tmp_path / "out" / "v_map.nii.gz").get_fdata().any()


# ---- what the model sees, and the tables


@pytest.mark.parametrize("axis", AXES)
def test_the_model_sees_what_preparation_makes(tmp_path, axis):
    """Bit for bit but for the 16 bits that a prepared data set has."""
    from descargan_tf.preparation import nifti
    from descargan_tf.preparation.fitting import fit
    from descargan_tf.preparation.sources import Options

    write_volume(tmp_path / "healthy" / "v.nii.gz", noise((12, 16, 10)), ORIENTATIONS[9], (1, 1.5, 4))
    seen = []

    def predict(images):
        seen.extend(np.asarray(images)[..., 0])
        return find_bright(images)

    rule = "2%,98%"
    slicing = Slicing(axis, (0.0, 1.0), parse_range(rule), "pad")
    run([tmp_path / "healthy" / "v.nii.gz"], tmp_path / "out", slicing, predict, batch_size=1)
    options = Options(image_size=SIZE, slice_axis=axis, nifti_range=rule)
    images = nifti.list(tmp_path, options).images
    assert len(images) == len(seen)
    for image, was_seen in zip(images, seen, strict=True):
        values, low, high = nifti.read(image, options)
        expected = fit((values - low) / (high - low), SIZE, "pad") * 2 - 1
        np.testing.assert_allclose(was_seen, expected, atol=1e-5)


def test_a_volume_is_as_diseased_as_its_worst_slice_and_scores_the_mean(tmp_path):
    array = head()
    array[4:8, 4:8, 3] = 1000
    array[:, :, 6] = 1000
    array[0, 0, 6] = 0
    write_volume(tmp_path / "v.nii.gz", array)
    write_volume(tmp_path / "w.nii", head())
    run(find_inputs(tmp_path), tmp_path / "out")
    table = rows_of(tmp_path / "out" / "predictions.csv")
    assert table[0] == ["file", "disease_probability", "anomaly_score", "predicted_class"]
    slices = rows_of(tmp_path / "out" / "v_slices.csv")[1:]
    probabilities, scores = (np.array([float(row[column]) for row in slices]) for column in (1, 2))
    assert sorted(np.flatnonzero(probabilities)) == [3, 6]
    assert [row[3] for row in slices] == ["diseased" if p > 0.5 else "healthy" for p in probabilities]
    assert table[1][0] == "v.nii.gz"
    assert float(table[1][1]) == probabilities.max() == 1
    assert float(table[1][2]) == pytest.approx(scores.mean(), abs=1e-6)
    assert table[1][3] == "diseased"
    assert table[2] == ["w.nii", "0.000000", "0.000000", "healthy"]


def test_pictures_and_volumes_lie_side_by_side(tmp_path):
    folder = tmp_path / "in"
    for name in ("a.nii", "a.nii.gz", "b.nii.gz", "b_mask.nii.gz", "b_Mask.NII.GZ", "lone_mask.nii"):
        write_volume(folder / name, head())
    write_png(folder / "a.png", np.zeros((SIZE, SIZE), np.uint8))
    files = find_inputs(folder)
    assert [file.name for file in files] == ["a.nii", "a.nii.gz", "a.png", "b.nii.gz", "lone_mask.nii"]
    done = []
    assert run(files, tmp_path / "out", progress=done.append) == []
    assert sum(done) == sum(num_slices(file, SLICING) for file in files if file.suffix != ".png") + 1 == 41
    wanted = [f"{stem}_{kind}" for stem in ("a_nii", "a_nii_gz", "b", "lone_mask") for kind in ("map", "healthy")]
    assert {f"{name}.nii.gz" for name in wanted} <= set(names_in(tmp_path / "out"))
    assert "a_png_map.npy" in names_in(tmp_path / "out")
    assert [row[0] for row in rows_of(tmp_path / "out" / "predictions.csv")[1:]] == [
        "a.png",
        "a.nii",
        "a.nii.gz",
        "b.nii.gz",
        "lone_mask.nii",
    ]
    assert [file.name for file in find_inputs(folder, "b*")] == ["a.png", "b.nii.gz"]


def test_a_method_without_a_healthy_image_or_a_map_writes_what_it_has(tmp_path):
    write_volume(tmp_path / "v.nii.gz", head())
    run([tmp_path / "v.nii.gz"], tmp_path / "a", predict=lambda x: find_bright(x)._replace(healthy_image=None))
    assert names_in(tmp_path / "a") == ["predictions.csv", "v_map.nii.gz", "v_slices.csv"]
    bare = {"healthy_image": None, "anomaly_map": None, "anomaly_score": None}
    run([tmp_path / "v.nii.gz"], tmp_path / "b", predict=lambda x: find_bright(x)._replace(**bare))
    assert names_in(tmp_path / "b") == ["predictions.csv", "v_slices.csv"]
    assert rows_of(tmp_path / "b" / "predictions.csv")[1] == ["v.nii.gz", "0.000000", "", "healthy"]


# ---- what is wrong


def test_a_bad_volume_is_named_and_the_others_are_done(tmp_path):
    write_volume(tmp_path / "good.nii.gz", head())
    raw = (tmp_path / "good.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(raw[: len(raw) // 2])
    nibabel.Nifti1Image(np.zeros((4, 4, 4, 2)), np.eye(4)).to_filename(tmp_path / "four.nii")
    array = head()
    array[3, 3, 9] = np.inf
    write_volume(tmp_path / "inf.nii", array)
    write_volume(tmp_path / "one.nii", np.full((4, 4, 4), 7, np.int16))
    failed = run(find_inputs(tmp_path), tmp_path / "out")
    assert [message.partition(": ")[0] for message in failed] == [
        str(tmp_path / name) for name in ("cut.nii.gz", "four.nii", "inf.nii", "one.nii")
    ]
    assert not any("\n" in message for message in failed)
    assert failed[3].endswith("none of its 4 axial slices is among those asked for and holds more than one value")
    assert names_in(tmp_path / "out") == [
        "good_healthy.nii.gz",
        "good_map.nii.gz",
        "good_slices.csv",
        "predictions.csv",
    ]
    assert [row[0] for row in rows_of(tmp_path / "out" / "predictions.csv")[1:]] == ["good.nii.gz"]


def test_results_are_not_laid_among_the_volumes(tmp_path):
    write_volume(tmp_path / "v.nii.gz", head())
    with pytest.raises(UserError, match="is the folder of the input"):
        run([tmp_path / "v.nii.gz"], tmp_path)
