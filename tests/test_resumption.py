"""A DeScarGAN's training, uninterrupted and interrupted: the same arrays, losses, files."""

import math
import re
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_training import (
    SCORES,
    SETTINGS,
    TERMS,
    TIMINGS,
    assert_same_checkpoint,
    assert_same_metrics,
    lines,
    make_split,
    names_in,
    on_round,
    send,
    trainer,
    watch,
)

from descargan_tf.methods.descargan import DeScarGAN, DeScarGANSettings
from descargan_tf.training import checkpoint
from descargan_tf.training.loop import Interrupted, Trainer

pytestmark = pytest.mark.usefixtures("shallow", "graphs_as_traced")


def descargan():
    settings = {"generator_filters": 2, "discriminator_filters": 2, "critic_updates": 1, "image_size": 64}
    rates = {"generator_learning_rate": 1e-3, "discriminator_learning_rate": 1e-3}
    return DeScarGAN(DeScarGANSettings(**settings, **rates))


@pytest.fixture(scope="module")
def images():
    return make_split(64)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, images):
    """A training after its five rounds, and the arrays that it began with."""
    keras.utils.set_random_seed(0)
    training = trainer(tmp_path_factory.mktemp("straight"), method=descargan, split=images, traced=True)
    start = training.engine.arrays()
    assert training.run() == 5
    return training, start


@pytest.fixture(scope="module")
def straight(uninterrupted):
    return uninterrupted[0].run_dir


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, images, uninterrupted):
    """Stopped by SIGTERM in round 3; then trained to the end by another engine.

    The first rounds are the uninterrupted training's own graph, begun again: to trace it takes most of the time. The
    last two are run line by line: the same operations, as graphs are run as traced.
    """
    run_dir = tmp_path_factory.mktemp("interrupted")
    whole, start = uninterrupted
    whole.engine.assign(start, 0, "the start")
    first = Trainer(run_dir, whole.engine, SETTINGS, watch(images))
    with pytest.raises(Interrupted) as caught:
        on_round(first, 3, send(signal.SIGTERM)).run()
    found = caught.value, names_in(run_dir / "checkpoints")
    keras.utils.set_random_seed(99)  # all that matters is in the checkpoint
    assert trainer(run_dir, method=descargan, split=images).run() == 5
    return run_dir, *found


def test_sigterm_saves_and_says_how_to_go_on(interrupted):
    _, stop, checkpoints = interrupted
    assert stop.status == 143
    assert str(stop) == "SIGTERM at step 3: saved; run the same command to go on"
    assert checkpoints == ["2", "3", "best"]


def test_a_resumed_training_equals_an_uninterrupted_one_in_every_array(straight, interrupted):
    assert_same_checkpoint(straight / "checkpoints" / "5", interrupted[0] / "checkpoints" / "5")
    assert_same_checkpoint(straight / "checkpoints" / "best", interrupted[0] / "checkpoints" / "best")


def test_a_resumed_training_logs_the_same_steps_and_losses(straight, interrupted):
    assert_same_metrics(straight, interrupted[0])
    assert "resuming at step 3" in (interrupted[0] / "train.log").read_text().splitlines()


def test_metrics_hold_every_raw_term_of_every_logged_step(straight):
    train = lines(straight, "train")
    assert [line["step"] for line in train] == [1, 2, 3, 4, 5]
    for line in train:
        assert set(line) == {"step", "group", *TIMINGS, *TERMS, *SCORES}
        assert all(math.isfinite(line[name]) for name in TERMS)
        assert line["critics/real"] == -line["discriminator/real"]
        assert line["critics/fake"] == line["discriminator/fake"]
        assert line["critics/generator"] == -line["generator/adversarial"]
        # The first round of a start is compilation: it has no pace.
        assert all(line[name] is None or 0 < line[name] < 1e6 for name in TIMINGS)
    assert len({line["generator/identity"] for line in train}) == 5
    validate = lines(straight, "validate")
    assert [line["step"] for line in validate] == [2, 4, 5]
    for line in validate:
        assert {"selection", "score", "unknown", "translation_success", "label_effect"} < set(line)
        assert line["selection"] == line["score"]
        assert line["unknown"] is None


def test_a_checkpoint_holds_networks_average_optimisers_step_and_seed(straight):
    arrays, about = checkpoint.load(straight / "checkpoints" / "5")
    assert {name.rsplit("/", 1)[0] for name in arrays} == {
        "networks/generator",
        "networks/discriminator",
        "averaged",
        "optimizers/generator",
        "optimizers/discriminator",
    }
    assert (about["step"], about["seed"]) == (5, 7)
    assert about["best_selection"] == max(line["selection"] for line in lines(straight, "validate"))
    counts = [int(arrays[f"optimizers/{name}/000"]) for name in ("discriminator", "generator")]
    assert counts == [5, 5]
    average = [name for name in arrays if name.startswith("averaged/")]
    live = [name.replace("averaged", "networks/generator") for name in average]
    assert any(not np.array_equal(arrays[a], arrays[b]) for a, b in zip(average, live, strict=True))


def test_the_last_checkpoints_and_the_best_are_kept(straight):
    assert names_in(straight / "checkpoints") == ["4", "5", "best"]
    best = checkpoint.load(straight / "checkpoints" / "best")[1]
    validate = lines(straight, "validate")
    assert best["best_selection"] == max(line["selection"] for line in validate)
    assert best["step"] == max(validate, key=lambda line: line["selection"])["step"]


def test_tensorboard_has_the_scalars_and_the_pictures(straight):
    boards = {}
    for group in ("train", "validate"):
        boards[group] = EventAccumulator(str(straight / group), size_guidance={"tensors": 0})
        boards[group].Reload()
    assert set(boards["train"].Tags()["tensors"]) == TERMS | TIMINGS | SCORES
    logged = {event.step: tf.make_ndarray(event.tensor_proto) for event in boards["train"].Tensors("generator/total")}
    assert list(logged) == [1, 2, 3, 4, 5]
    for line in lines(straight, "train"):
        assert logged[line["step"]] == pytest.approx(line["generator/total"], rel=1e-5)

    tags = set(boards["validate"].Tags()["tensors"])
    assert {"selection", "score", "translation_success", "label_effect", "input", "colour"} <= tags
    assert "unknown" not in tags
    pictures = boards["validate"].Tensors("colour")
    assert [event.step for event in pictures] == [2, 4, 5]
    width, height, *encoded = tf.make_ndarray(pictures[0].tensor_proto)
    assert (width, height, len(encoded)) == (b"8", b"8", 2)
    np.testing.assert_allclose(tf.io.decode_png(encoded[0]), 0.25 * 255, atol=1)
    assert boards["validate"].SummaryMetadata("colour").plugin_data.plugin_name == "images"


def test_the_log_shows_progress_validation_and_warnings(straight):
    log = (straight / "train.log").read_text()
    assert "step       3  discriminator" in log
    assert re.search(r"critics: real -?\d+\.\d{3}, fake -?\d+\.\d{3}, generator's -?\d+\.\d{3}  +", log)
    assert "images/s" in log
    assert "step       4  validation  score" in log
    assert "step       4  WARNING: look at this" in log
