import math

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from sklearn.tree import DecisionTreeClassifier

from descargan_tf.data import synthetic
from descargan_tf.data.synthetic import Ellipse, Geometry, Waves
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


def test_diseased_label_is_one():
    assert [synthetic.draw_example(0, "test", i, 64)[1] for i in range(4)] == [HEALTHY, DISEASED] * 2
