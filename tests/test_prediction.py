"""From files to maps on disk, with a stand-in for the model."""

import csv
import signal

import numpy as np
import pytest
from PIL import Image

from descargan_tf import signals
from descargan_tf.data import dicom_files
from descargan_tf.data.images import Scaling, write_npy, write_png
from descargan_tf.errors import UserError
from descargan_tf.prediction import files as files_module
from descargan_tf.prediction.files import find_inputs, predict_files
from descargan_tf.prediction.overlay import POSITIVE_COLOUR
from descargan_tf.types import Prediction

SIZE = 64
UNITS = Scaling(0, 255)
SUFFIXES = ("_healthy.npy", "_map.npy", "_overlay.png")


def fake_predict(images):
    """The healthy image is half of the input; an image is diseased by its mean."""
    images = np.asarray(images)
    p = np.clip((images.mean((1, 2, 3)) + 1) / 2, 0, 1)
    d = -images / 2
    return Prediction(d, images / 2, np.abs(d).mean((1, 2, 3)), np.stack([1 - p, p], 1))


def gray(value, size=SIZE, dtype=np.uint8):
    return np.full((size, size), value, dtype)


def run(files, output_dir, predict=fake_predict, scaling=UNITS, dtype="uint8", batch_size=4, progress=None):
    return predict_files(predict, files, output_dir, SIZE, scaling, dtype, batch_size, progress)


def rows_of(output_dir):
    with open(output_dir / "predictions.csv", newline="") as file:
        return list(csv.reader(file))


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(3):
        write_png(folder / f"scan {i}.png", gray(100 * i))
    return folder


# ---- finding


def test_a_folder_gives_its_image_files_by_name(inputs):
    (inputs / "notes.txt").touch()
    (inputs / ".hidden.png").touch()
    (inputs / "deeper").mkdir()
    assert find_inputs(inputs) == [inputs / f"scan {i}.png" for i in range(3)]


def test_a_file_gives_itself(inputs):
    assert find_inputs(str(inputs / "scan 1.png")) == [inputs / "scan 1.png"]


def test_missing_input_is_named(tmp_path):
    with pytest.raises(UserError, match=f"--input={tmp_path / 'none'} does not exist: name an image file or a folder"):
        find_inputs(tmp_path / "none")


def test_a_folder_without_images_says_what_is_read(tmp_path):
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.doc").touch()
    with pytest.raises(UserError) as caught:
        find_inputs(tmp_path)
    assert str(caught.value).startswith(f"--input={tmp_path} holds no image file (2 others): .npy, .png")
    (tmp_path / "c.DCM").touch()
    assert find_inputs(tmp_path) == [tmp_path / "c.DCM"]


def test_dicom_files_without_a_suffix_are_known_by_how_they_begin(tmp_path):
    for name in ("IM0001", "1.2.840.10008", "DICOMDIR", ".IM0002", "scan.png"):
        (tmp_path / name).write_bytes(bytes(128) + b"DICM")
    (tmp_path / "notes").write_text("no image")
    (tmp_path / "deeper").mkdir()
    assert find_inputs(tmp_path) == [tmp_path / name for name in ("1.2.840.10008", "IM0001", "scan.png")]
    assert [dicom_files.is_taken_for_dicom(file) for file in find_inputs(tmp_path)] == [True, True, False]


def test_dicom_files_are_for_models_of_prepared_images(tmp_path):
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")
    (failed,) = run(find_inputs(tmp_path), tmp_path / "out")
    assert failed.startswith(f"{tmp_path / 'IM0001'}: is DICOM, and the model was trained on a folder's uint8 files")
    assert "--mode=prepare" in failed


# ---- what is written


def test_every_file_gets_its_three_files_and_its_row(inputs, tmp_path):
    out = tmp_path / "a" / "b"
    assert run(find_inputs(inputs), out) == []
    wanted = [f"scan {i}{suffix}" for i in range(3) for suffix in SUFFIXES]
    assert names_in(out) == sorted([*wanted, "predictions.csv"])


def test_arrays_hold_the_healthy_image_and_the_signed_map_in_network_units(inputs, tmp_path):
    run(find_inputs(inputs), tmp_path / "out")
    for i in range(3):
        image = np.float32(200 * i / 255 - 1)
        healthy, signed = (np.load(tmp_path / "out" / f"scan {i}_{name}.npy") for name in ("healthy", "map"))
        for array in (healthy, signed):
            assert array.shape == (SIZE, SIZE)
            assert array.dtype == np.float32
        np.testing.assert_allclose(healthy, image / 2, atol=1e-6)
        np.testing.assert_allclose(signed, -image / 2, atol=1e-6)
        np.testing.assert_allclose(signed, healthy - image, atol=1e-6)


def test_csv_has_the_documented_columns_in_the_order_of_the_files(inputs, tmp_path):
    run(find_inputs(inputs), tmp_path / "out")
    head, *rows = rows_of(tmp_path / "out")
    assert head == ["file", "disease_probability", "anomaly_score", "predicted_class"]
    assert [row[0] for row in rows] == ["scan 0.png", "scan 1.png", "scan 2.png"]
    values = np.array([200 * i / 255 - 1 for i in range(3)])
    np.testing.assert_allclose([float(row[1]) for row in rows], (values + 1) / 2, atol=1e-5)
    np.testing.assert_allclose([float(row[2]) for row in rows], np.abs(values) / 2, atol=1e-5)
    assert [row[3] for row in rows] == ["healthy", "healthy", "diseased"]


def test_overlays_lie_on_the_same_fixed_scale_for_every_image(tmp_path):
    files = []
    for name, low in (("weak", -0.1), ("strong", -1.0)):
        image = np.full((SIZE, SIZE), low, np.float32)
        image[0] = 0
        files.append(tmp_path / f"{name}.npy")
        write_npy(files[-1], image)

    def predict(images):
        d = -np.asarray(images)  # 0.1 and 1.0 where the image is not 0
        return Prediction(d, images + d, np.abs(d).mean((1, 2, 3)), None)

    run(files, tmp_path / "out", predict, Scaling(-1, 1), "float32")
    weak, strong = (np.asarray(Image.open(tmp_path / "out" / f"{n}_overlay.png")) for n in ("weak", "strong"))
    assert weak.shape == (SIZE, SIZE, 3)
    assert (strong[1:] == POSITIVE_COLOUR).all()  # a map of 1 is opaque
    base = 0.9 * 127.5
    np.testing.assert_allclose(weak[5, 5], base + 0.1 * (np.array(POSITIVE_COLOUR) - base), atol=1)
    for picture in (weak, strong):
        np.testing.assert_allclose(picture[0, 0], 127.5, atol=1)  # a map of 0 is the gray image


def test_all_images_are_scaled_alike_and_as_in_training(tmp_path):
    write_png(tmp_path / "a.png", gray(1000, dtype=np.uint16))
    seen = []

    def predict(images):
        seen.append(np.asarray(images))
        return fake_predict(images)

    assert run([tmp_path / "a.png"], tmp_path / "out", predict, Scaling(0, 4000), "uint16") == []
    np.testing.assert_allclose(seen[0], -0.5, atol=1e-6)


@pytest.mark.parametrize("count", [1, 5, 70])
def test_batches_have_one_shape_and_progress_counts_every_file(tmp_path, count):
    for i in range(count):
        write_png(tmp_path / f"{i:03d}.png", gray(i))
    (tmp_path / "050x.png").write_bytes(b"broken")
    shapes, done = set(), []

    def predict(images):
        shapes.add(np.shape(images))
        return fake_predict(images)

    files = find_inputs(tmp_path)
    failed = run(files, tmp_path / "out", predict, batch_size=4, progress=done.append)
    assert len(failed) == 1
    assert sum(done) == len(files) == count + 1
    assert shapes == {(min(4, len(files)), SIZE, SIZE, 1)}
    rows = rows_of(tmp_path / "out")[1:]
    assert [row[0] for row in rows] == [f"{i:03d}.png" for i in range(count)]
    np.testing.assert_allclose([float(row[1]) for row in rows], np.arange(count) / 255, atol=1e-5)


def test_a_method_without_maps_gives_a_csv_alone(inputs, tmp_path):
    def predict(images):
        return fake_predict(images)._replace(anomaly_map=None, healthy_image=None, anomaly_score=None)

    run(find_inputs(inputs), tmp_path / "out", predict)
    assert names_in(tmp_path / "out") == ["predictions.csv"]
    assert rows_of(tmp_path / "out")[3] == ["scan 2.png", "0.784314", "", "diseased"]


def test_a_method_without_classes_leaves_those_columns_empty(inputs, tmp_path):
    run(find_inputs(inputs), tmp_path / "out", lambda x: fake_predict(x)._replace(class_probabilities=None))
    assert rows_of(tmp_path / "out")[1] == ["scan 0.png", "", "0.500000", ""]


def test_a_comma_in_a_name_stays_in_its_column(tmp_path):
    write_png(tmp_path / "a, b.png", gray(0))
    run([tmp_path / "a, b.png"], tmp_path / "out")
    assert rows_of(tmp_path / "out")[1][:2] == ["a, b.png", "0.000000"]


def test_predicting_again_replaces_what_was_there(inputs, tmp_path):
    run(find_inputs(inputs), tmp_path / "out")
    run(find_inputs(inputs / "scan 1.png"), tmp_path / "out")
    assert [row[0] for row in rows_of(tmp_path / "out")[1:]] == ["scan 1.png"]
    assert "scan 0_map.npy" in names_in(tmp_path / "out")


# ---- names that collide


def maps_by_value(out):
    return sorted(round(float(2 * -np.load(path)[0, 0] + 1) * 127.5) for path in out.glob("*_map.npy"))


def test_files_that_differ_in_their_suffix_alone_get_it_into_their_stem(tmp_path):
    write_png(tmp_path / "a.png", gray(10))
    write_npy(tmp_path / "a.npy", gray(20))
    write_png(tmp_path / "b.png", gray(30))
    assert run(find_inputs(tmp_path), tmp_path / "out") == []
    assert {p.name for p in (tmp_path / "out").glob("*_map.npy")} == {"a_npy_map.npy", "a_png_map.npy", "b_map.npy"}
    assert maps_by_value(tmp_path / "out") == [10, 20, 30]


def test_no_result_is_written_over_another(tmp_path):
    write_png(tmp_path / "a.png", gray(10))
    write_npy(tmp_path / "a.npy", gray(20))
    write_png(tmp_path / "a_png.png", gray(30))
    assert run(find_inputs(tmp_path), tmp_path / "out") == []
    assert maps_by_value(tmp_path / "out") == [10, 20, 30]


# ---- files that cannot be used


def break_with(folder, kind):
    """Write one bad file; what its message must say."""
    if kind == "no image":
        (folder / "scan 1.png").write_bytes(b"not a picture")
        return "PNG"
    if kind == "empty":
        (folder / "scan 1.png").write_bytes(b"")
        return "empty"
    if kind == "truncated":
        whole = (folder / "scan 2.png").read_bytes()
        (folder / "scan 1.png").write_bytes(whole[: len(whole) // 2])
        return "cannot be read"
    if kind == "size":
        write_png(folder / "scan 1.png", gray(0, 32))
        return "is 32x32 and the model takes 64x64"
    if kind == "dtype":
        write_png(folder / "scan 1.png", gray(0, dtype=np.uint16))
        return "holds uint16 and the model was trained on uint8"
    colours = np.zeros((SIZE, SIZE, 3), np.uint8)
    colours[..., 0] = 200
    write_png(folder / "scan 1.png", colours)
    return "colour"


@pytest.mark.parametrize("kind", ["no image", "empty", "truncated", "size", "dtype", "colour"])
def test_a_bad_file_is_named_and_the_others_are_done(inputs, tmp_path, kind):
    expected = break_with(inputs, kind)
    failed = run(find_inputs(inputs), tmp_path / "out")
    assert len(failed) == 1
    assert failed[0].startswith(f"{inputs / 'scan 1.png'}: ")
    assert expected in failed[0]
    assert "\n" not in failed[0]
    assert [row[0] for row in rows_of(tmp_path / "out")[1:]] == ["scan 0.png", "scan 2.png"]
    wanted = [f"scan {i}{suffix}" for i in (0, 2) for suffix in SUFFIXES]
    assert names_in(tmp_path / "out") == sorted([*wanted, "predictions.csv"])
    assert np.load(tmp_path / "out" / "scan 2_map.npy")[0, 0] == pytest.approx(-(400 / 255 - 1) / 2, abs=1e-6)


@pytest.mark.parametrize(("value", "named"), [(1.5, "values from"), (np.nan, "NaN or infinite")])
def test_values_outside_the_training_range_are_refused(tmp_path, value, named):
    image = np.zeros((SIZE, SIZE), np.float32)
    image[3, 3] = value
    np.save(tmp_path / "a.npy", image)
    np.save(tmp_path / "b.npy", np.zeros((SIZE, SIZE), np.float32))
    failed = run(find_inputs(tmp_path), tmp_path / "out", scaling=Scaling(-1, 1), dtype="float32")
    assert len(failed) == 1
    assert failed[0].startswith(f"{tmp_path / 'a.npy'}: ")
    assert named in failed[0]
    assert [row[0] for row in rows_of(tmp_path / "out")[1:]] == ["b.npy"]


def test_a_file_that_vanished_is_reported(inputs, tmp_path):
    files = find_inputs(inputs)
    files[1].unlink()
    failed = run(files, tmp_path / "out")
    assert len(failed) == 1
    assert "No such file" in failed[0]


def test_where_no_file_can_be_read_the_table_is_empty(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"nothing")
    assert len(run(find_inputs(tmp_path), tmp_path / "out")) == 2
    assert rows_of(tmp_path / "out") == [["file", "disease_probability", "anomaly_score", "predicted_class"]]


def test_an_output_that_cannot_be_written_leaves_the_inputs(inputs, tmp_path):
    (tmp_path / "out").write_text("a file in the way")
    with pytest.raises(FileExistsError):  # of which commands.predict makes a UserError
        run(find_inputs(inputs), tmp_path / "out")
    assert (tmp_path / "out").read_text() == "a file in the way"
    assert len(names_in(inputs)) == 3


# ---- what ends early


def ends_in_the_second_part(monkeypatch, end):
    monkeypatch.setattr(files_module, "_CHUNK", 2)
    calls = []

    def predict(images):
        calls.append(1)
        if len(calls) == 2:
            end()
        return fake_predict(images)

    return predict


@pytest.mark.parametrize("number", signals.ENDINGS, ids=signals.name_of)
def test_a_signal_leaves_a_table_of_what_was_done(inputs, tmp_path, monkeypatch, number):
    predict = ends_in_the_second_part(monkeypatch, lambda: signal.raise_signal(number))
    with pytest.raises(signals.Stopped) as caught, signals.raised():
        run(find_inputs(inputs), tmp_path / "out", predict)
    assert [row[0] for row in rows_of(tmp_path / "out")] == ["file", "scan 0.png", "scan 1.png"]
    name = signals.name_of(number)
    assert str(caught.value) == f"{name}: stopped; 2 of 3 images done: {tmp_path / 'out' / 'predictions.csv'}"


@pytest.mark.parametrize("error", [ZeroDivisionError, MemoryError, UserError])
def test_so_does_a_defect(inputs, tmp_path, monkeypatch, error):
    def fail():
        raise error

    with pytest.raises(error):
        run(find_inputs(inputs), tmp_path / "out", ends_in_the_second_part(monkeypatch, fail))
    assert len(rows_of(tmp_path / "out")) == 3


def test_before_anything_is_done_an_earlier_table_stays(inputs, tmp_path):
    run(find_inputs(inputs), tmp_path / "out")
    before = rows_of(tmp_path / "out")
    with pytest.raises(signals.Stopped, match=r"0 of 3 images done$"), signals.raised():
        run(find_inputs(inputs), tmp_path / "out", lambda _: signal.raise_signal(signal.SIGINT))
    assert rows_of(tmp_path / "out") == before
