import numpy as np
import pytest

from descargan_tf.data import order
from descargan_tf.data.order import Order
from descargan_tf.data.pipeline import Share, training_batches
from descargan_tf.data.prepared import StoredImages
from descargan_tf.types import DISEASED, HEALTHY, Split


@pytest.fixture
def split():
    """Every pixel of image i is i, but for two corners that tell which way it is mirrored."""
    count = 11
    images = np.tile(np.arange(count, dtype="f")[:, None, None, None], (1, 8, 8, 1))
    images[:, 0, 0] += 0.25
    images[:, 0, -1] += 0.5
    labels = np.array([HEALTHY] * 6 + [DISEASED] * 5, np.int32)
    return Split(images, labels, None, tuple(map(str, range(count))))


def take(dataset, count):
    return [[np.asarray(part) for part in batch] for batch in dataset.take(count)]


def test_halves_hold_their_class_and_every_image_comes_once_a_pass(split):
    batches = take(training_batches(split, 4, seed=0, flips=False), 15)
    healthy = np.concatenate([b[0][:, 4, 4, 0] for b in batches]).astype(int)
    diseased = np.concatenate([b[1][:, 4, 4, 0] for b in batches]).astype(int)
    for start in range(0, 30, 6):
        assert sorted(healthy[start : start + 6]) == list(range(6))
    for start in range(0, 30, 5):
        assert sorted(diseased[start : start + 5]) == list(range(6, 11))
    assert any(not np.array_equal(healthy[:6], healthy[s : s + 6]) for s in range(6, 30, 6))


def test_a_batch_is_a_function_of_seed_and_number(split):
    whole = take(training_batches(split, 4, seed=5), 8)
    resumed = take(training_batches(split, 4, seed=5, start=3), 5)
    for a, b in zip(whole[3:], resumed, strict=True):
        np.testing.assert_array_equal(a, b)
    other = take(training_batches(split, 4, seed=6), 8)
    assert any(not np.array_equal(a, b) for a, b in zip(whole, other, strict=True))


@pytest.mark.parametrize("on_disk", [False, True])
def test_nothing_is_tuned(split, on_disk, tmp_path):
    """The thread that would do it is waited for, up to a minute, where an iterator is given up."""
    if on_disk:
        np.save(tmp_path / "a.npy", np.zeros((11, 8, 8), np.uint16))
        split = split._replace(images=StoredImages([(tmp_path / "a.npy", np.arange(11))], 8, 1.0, 0.0))
    assert training_batches(split, 4, seed=0).options().autotune.enabled is False


def test_shares_of_two_replicas_make_up_the_batch_of_one(split):
    one = take(training_batches(split, 4, seed=1), 4)
    two = take(training_batches(split, 2, seed=1), 8)
    for number, batch in enumerate(one):
        for label in (HEALTHY, DISEASED):
            shares = np.concatenate([two[2 * number][label], two[2 * number + 1][label]])
            np.testing.assert_array_equal(batch[label], shares)


@pytest.mark.parametrize("workers", [2, 3])
def test_processes_take_every_batch_once(split, workers):
    replicas = 2 * workers  # two devices each
    whole = take(training_batches(split, 2, seed=1, start=replicas), 30 * replicas)
    for worker in range(workers):
        mine = take(training_batches(split, 2, seed=1, start=replicas, mine=Share(2 * worker, 2, replicas)), 60)
        for number, batch in enumerate(mine):
            expected = whole[number // 2 * replicas + 2 * worker + number % 2]
            for part, other in zip(batch, expected, strict=True):
                np.testing.assert_array_equal(part, other)


def test_all_four_mirrorings_occur_as_often(split):
    corners = {(0, 0): 0, (0, 7): 0, (7, 0): 0, (7, 7): 0}
    batches = take(training_batches(split, 8, seed=2), 100)
    for image in np.concatenate([b[0] for b in batches]):
        plain = image[4, 4, 0]
        found = [place for place in corners if image[place] == plain + 0.25]
        assert len(found) == 1
        row, column = found[0]
        assert image[row, 7 - column] == plain + 0.5
        corners[found[0]] += 1
    assert all(70 <= n <= 130 for n in corners.values())  # 400 images; four standard deviations


def test_batches_do_not_depend_on_how_many_are_planned_at_a_time(split):
    dataset = take(training_batches(split, 6, seed=3, start=60), 10)  # over the end of a plan
    classes = [split.images[split.labels == label] for label in (HEALTHY, DISEASED)]
    for number, batch in enumerate(dataset, 60):
        chosen, mirrored = Order([6, 5], 3).batches(number, 1, 3)
        for label, images in enumerate(classes):
            for image, i, (rows, columns) in zip(batch[label], chosen[0, label], mirrored[0, label], strict=True):
                np.testing.assert_array_equal(image, images[i][:: -1 if rows else 1, :: -1 if columns else 1])


def test_the_order_is_the_sorted_bits_of_philox():
    """What a run saw must not change with numpy: its bit generators are fixed, its permutations are not."""
    chosen, mirrored = Order([6, 5], 3).batches(2, 1, 6)  # healthy: the third pass; diseased: positions 12 to 17
    bits = np.random.Philox(key=[6, 2])
    np.testing.assert_array_equal(chosen[0, HEALTHY], np.argsort(bits.random_raw(6)))
    np.testing.assert_array_equal(mirrored[0, HEALTHY].ravel(), bits.random_raw(12) >= 2**63)
    passes = [np.argsort(np.random.Philox(key=[7, n]).random_raw(5)) for n in (2, 3)]
    np.testing.assert_array_equal(chosen[0, DISEASED], [*passes[0][2:], *passes[1][:3]])


def test_only_a_few_passes_are_remembered():
    plan = Order([3, 7], 0)
    first = plan.batches(0, 1, 2)
    plan.batches(1, 500, 2)
    assert len(plan._passes) == order._PASSES_KEPT
    np.testing.assert_array_equal(first[0], plan.batches(0, 1, 2)[0])
