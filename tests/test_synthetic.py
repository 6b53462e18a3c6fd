import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from sklearn.tree import DecisionTreeClassifier

from descargan_tf.data import synthetic
from descargan_tf.data.synthetic import Ellipse, Geometry, SyntheticSettings, Waves
from descargan_tf.errors import UserError
from descargan_tf.types import DISEASED, HEALTHY


def geometries(count, seed=0):
    return [synthetic.sample_geometry(np.random.default_rng([seed, i])) for i in range(count)]


@pytest.fixture(scope="module")
def examples():
    """400 images at 256, half of each class, with their geometry."""
    found = []
    for i in range(400):
        rng = np.random.default_rng([synthetic.VERSION, 7, 0, i])
        geometry = synthetic.sample_geometry(rng)
        image, label, ground_truth = synthetic.draw_example(7, "train", i, 256)
        found.append((geometry, image, label, ground_truth))
    return found


def test_parameters_follow_the_supplement():
    found = geometries(1500)
    a1, b1, g1 = (np.array([getattr(g.e1, name) for g in found]) for name in ("a", "b", "thickness"))
    a2, b2 = (np.array([getattr(g.e2, name) for g in found]) for name in ("a", "b"))
    # Standard error of a mean of N(mu, 1) over 1500 is 0.026; rejection shifts lengths by less than 0.1.
    for values, mean, deviation in ((a1, 40, 1), (b1, 20, 1), (a2, 70, 1), (b2, 35, 1), (g1, 5, 0.7)):
        assert abs(values.mean() - mean) < 0.2
        assert abs(values.std() - deviation) < 0.1
    for name, low, high in (("c1", 0.2, 0.35), ("c2", 0.35, 0.5)):
        f = np.array([getattr(g, name).frequency for g in found])
        h = np.array([getattr(g, name).height for g in found])
        assert low <= f.min() < low + 0.01
        assert high - 0.01 < f.max() <= high
        assert 0.2 <= h.min() < 0.21
        assert 0.39 < h.max() <= 0.4
    c1 = np.array([(g.c1.x, g.c1.y) for g in found])
    assert c1.min() >= 50
    assert c1.max() <= 200
    assert all((g.c2.x, g.c2.y) == (g.e2.x, g.e2.y) for g in found)
    # D1.15: the centre of c1 is not tied to that of e1, in either order of the axes.
    e1 = np.array([(g.e1.x, g.e1.y) for g in found])
    assert abs(np.corrcoef(c1[:, 0], e1[:, 0])[0, 1]) < 0.1
    assert abs(np.corrcoef(c1[:, 0], e1[:, 1])[0, 1]) < 0.1


def test_ellipses_are_apart_and_inside():
    # By filling, not by outlines: an independent judge of the rule.
    y, x = np.mgrid[-40:296, -40:296]
    for g in geometries(150):
        first, second = g.e1.contains(x, y), g.e2.contains(x, y)
        assert not (first & second).any()
        for filled in (first, second):
            rows, columns = np.nonzero(filled)
            assert min(rows.min(), columns.min()) - 40 >= 0
            assert max(rows.max(), columns.max()) - 40 <= 255


def test_one_ellipse_in_the_other_is_an_intersection():
    big, small = Ellipse(100, 100, 70, 35, 0.3, 5), Ellipse(100, 100, 30, 15, 0.3, 5)
    assert synthetic._intersect(big, small)
    assert synthetic._intersect(small, big)
    assert not synthetic._intersect(small, big._replace(x=180, y=180, phi=0.3 + math.pi / 2))


def test_waves_and_contours_have_the_printed_values():
    e1, e2 = Ellipse(60, 190, 40, 20, 0.0, 5.0), Ellipse(180, 100, 70, 35, math.pi / 2, 5.0)
    geometry = Geometry(e1, e2, Waves(100.0, 90.0, 0.25, 0.3), Waves(180.0, 100.0, 0.4, 0.2))
    image = synthetic.draw_image(geometry, 256, diseased=False)

    def scaled(raw):
        return (raw + 0.8) / 0.9 - 1

    # A background point, [row, column] = [y, x]: sin(t f) h of both systems, added.
    t1, t2 = math.hypot(20 - 100, 10 - 90), math.hypot(20 - 180, 10 - 100)
    assert image[10, 20] == pytest.approx(scaled(0.3 * math.sin(0.25 * t1) + 0.2 * math.sin(0.4 * t2)), abs=1e-5)
    # The middle of e1's band at the end of its long axis, and of e2's, which stands upright.
    assert image[190, 60 + 38] == pytest.approx(1.0, abs=1e-5)
    assert image[100 + 68, 180] == pytest.approx(1.0, abs=1e-5)
    assert image[190, 60 + 42] < 0.6  # outside the contour
    assert image[190, 60 + 32] < 0.6  # inside it


def test_deformation_is_the_normalised_gradient_of_the_gaussian():
    e1 = Ellipse(120.0, 100.0, 40, 20, 0.5, 5)
    y, x = np.mgrid[0:256, 0:256].astype(float)
    u, v = (x - 120) / 127.5, (y - 100) / 127.5
    gaussian = np.exp(-(u**2 + v**2) / (2 * 0.19**2)) / (2 * math.pi * 0.19**2)
    gy, gx = np.gradient(gaussian)
    scale = 0.1 * 127.5 / np.hypot(gx, gy).max()
    moved_x, moved_y = synthetic.displace(x, y, e1)
    # Sampling goes outwards, against the gradient, so the content shrinks (D1.20); 0.05 px is the finite difference.
    np.testing.assert_allclose(moved_x - x, -gx * scale, atol=0.05)
    np.testing.assert_allclose(moved_y - y, -gy * scale, atol=0.05)
    assert np.hypot(moved_x - x, moved_y - y).max() == pytest.approx(12.75, abs=0.01)


def test_diseased_image_is_the_healthy_one_resampled(examples):
    geometry = examples[1][0]
    healthy = synthetic.draw_image(geometry, 256, diseased=False)
    diseased = synthetic.draw_image(geometry, 256, diseased=True)
    y, x = np.mgrid[0:256, 0:256].astype(float)
    x, y = synthetic.displace(x, y, geometry.e1)
    resampled = map_coordinates(healthy, (y, x), order=3, mode="nearest")
    # Splines blur the contour's edges; the waves agree closely.
    assert np.median(np.abs(resampled - diseased)) < 1e-3
    assert np.mean(np.abs(resampled - diseased)) < 0.01
    area = [np.sum(im > 0.9) for im in (healthy, diseased)]
    assert area[1] < area[0]


def test_ground_truth_is_healthy_minus_diseased(examples):
    for geometry, image, label, ground_truth in examples[:10]:
        assert image.dtype == ground_truth.dtype == np.float32
        if label == HEALTHY:
            assert not ground_truth.any()
        else:
            healthy = synthetic.draw_image(geometry, 256, diseased=False)
            np.testing.assert_array_equal(ground_truth, healthy - image)
            y, x = np.mgrid[0:256, 0:256]
            far = np.hypot(x - geometry.e1.x, y - geometry.e1.y) > 100
            assert np.abs(ground_truth[far]).mean() < 0.002  # nothing but the disease changes (D1.22)


def test_no_single_number_tells_the_classes_apart(examples):
    """Traps D1.6 and D1.22: a threshold on the minimum classified the authors' images perfectly."""
    y, x = np.mgrid[0:256, 0:256]
    labels = np.array([label for _, _, label, _ in examples])
    features = {name: [] for name in ("min", "max", "border mean", "border sd", "energy far from e1")}
    for geometry, image, _, _ in examples:
        border = np.concatenate([image[:4].ravel(), image[-4:].ravel(), image[:, :4].ravel(), image[:, -4:].ravel()])
        far = np.hypot(x - geometry.e1.x, y - geometry.e1.y) > 100
        energy = np.square(np.diff(image, axis=1))[far[:, 1:]].mean()
        for name, value in zip(features, (image.min(), image.max(), border.mean(), border.std(), energy), strict=True):
            features[name].append(value)
    for name, values in features.items():
        column = np.array(values)[:, None]
        accuracy = DecisionTreeClassifier(max_depth=1).fit(column, labels).score(column, labels)
        assert accuracy < 0.6, name


def test_smaller_images_are_the_large_one_averaged():
    geometry = geometries(1)[0]
    large, small = (synthetic.draw_image(geometry, size, diseased=True) for size in (256, 64))
    np.testing.assert_allclose(small, large.reshape(64, 4, 64, 4).mean((1, 3)), atol=1e-6)


def test_an_example_depends_on_its_own_arguments_alone():
    first = synthetic.draw_example(0, "train", 5, 64)
    again = synthetic.draw_example(0, "train", 5, 64)
    np.testing.assert_array_equal(first[0], again[0])
    for other in ((1, "train", 5), (0, "test", 5), (0, "train", 7)):
        assert not np.array_equal(first[0], synthetic.draw_example(*other, 64)[0])


def test_any_number_of_workers_gives_the_same_bytes(tmp_path, synthetic_data):
    folder, settings = synthetic_data
    synthetic.generate(tmp_path / "two", settings, num_workers=2)
    names = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(tmp_path / "two") for p in (tmp_path / "two").rglob("*") if p.is_file())
    assert all((folder / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)


def test_classes_share_no_base_image(synthetic_data):
    folder, settings = synthetic_data
    for split in ("train", "validate", "test"):
        healthy = {p.stem for p in (folder / split / "healthy").iterdir()}
        diseased = {p.stem for p in (folder / split / "diseased").iterdir()}
        assert len(healthy) == len(diseased) == settings.count(split)
        assert not healthy & diseased
        assert {p.stem for p in (folder / split / "ground_truth").iterdir()} == diseased


def test_other_settings_are_refused_by_name(synthetic_data):
    folder, settings = synthetic_data
    manifest = synthetic.read_manifest(folder)
    synthetic.check_settings(folder, manifest, settings)
    synthetic.verify_checksums(folder, manifest)
    with pytest.raises(UserError, match=r"--data_seed is 3 there and 4 here; --num_test is 6 there and 7 here"):
        synthetic.check_settings(folder, manifest, SyntheticSettings(4, 64, 12, 6, 7))


def test_missing_and_damaged_files_are_found(tmp_path):
    settings = SyntheticSettings(0, 64, 2, 1, 1)
    synthetic.generate(tmp_path / "d", settings, num_workers=1)
    manifest = synthetic.read_manifest(tmp_path / "d")
    file = tmp_path / "d/train/healthy/00000.npy"
    np.save(file, np.zeros((64, 64), np.float32))
    with pytest.raises(UserError, match=r"train/healthy/00000\.npy"):
        synthetic.verify_checksums(tmp_path / "d", manifest)
    file.unlink()
    with pytest.raises(UserError, match=r"lacks 1 of its 12 files, train/healthy/00000\.npy"):
        synthetic.check_settings(tmp_path / "d", manifest, settings)
    (tmp_path / "d/manifest.json").write_text(json.dumps({"seed": 1}))
    with pytest.raises(UserError, match=r"manifest.json is not a manifest"):
        synthetic.read_manifest(tmp_path / "d")


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("x")
    with pytest.raises(UserError, match="already holds something"):
        synthetic.generate(tmp_path / "mine", SyntheticSettings(0, 64, 1, 1, 1))
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["file"]


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # ended, and nobody has asked how


@pytest.mark.skipif(sys.platform != "linux", reason="finds child processes in /proc")
@pytest.mark.parametrize("ended_by", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_program(tmp_path, ended_by):
    process = subprocess.Popen([sys.executable, "-c", generation(tmp_path / "data", num_workers=2)], cwd=os.getcwd())
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("data.partial/train/healthy/*.npy"))) < 40:  # more than one worker's task
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(workers) >= 2
    process.send_signal(ended_by)
    process.wait()
    deadline = time.monotonic() + 5
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers go on without their program"
        time.sleep(0.05)
    assert not (tmp_path / "data").exists()


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path, monkeypatch):
    write_bytes, written = Path.write_bytes, []

    def fill(path, content):
        if len(written) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path)
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(UserError) as caught:
        synthetic.generate(tmp_path / "data", SyntheticSettings(0, 64, 4, 1, 1), num_workers=1)
    assert str(caught.value) == (
        f"the data set could not be written to --data_dir={tmp_path / 'data'}: No space left on device. Nothing was "
        "left behind; free space or name another folder."
    )
    assert len(written) == 5
    assert not list(tmp_path.iterdir())


def generation(target, num_workers):
    """A program that draws more than any test waits for."""
    return (
        "from descargan_tf.data.synthetic import *\n"
        f"generate({str(target)!r}, SyntheticSettings(0, 64, 5000, 1, 1), num_workers={num_workers})"
    )


def test_a_killed_generation_leaves_nothing_that_passes_for_whole(tmp_path):
    target = tmp_path / "data"
    process = subprocess.Popen([sys.executable, "-c", generation(target, num_workers=1)], cwd=os.getcwd())
    partial = tmp_path / "data.partial"
    deadline = time.monotonic() + 60
    while not list(partial.glob("train/healthy/*.npy")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # While it lives, a second generation keeps its hands off.
    with pytest.raises(UserError, match=f"process {process.pid} is generating"):
        synthetic.generate(target, SyntheticSettings(0, 64, 1, 1, 1), num_workers=1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not target.exists()
    synthetic.generate(target, SyntheticSettings(0, 64, 1, 1, 1), num_workers=1)
    assert len(list((target / "train/healthy").iterdir())) == 1
    assert not partial.exists()


def test_diseased_label_is_one():
    assert [synthetic.draw_example(0, "test", i, 64)[1] for i in range(4)] == [HEALTHY, DISEASED] * 2
