"""The training loop: what a run leaves behind, and that stopping it changes nothing.

`Toy` is a method of a few weights, for all that is of the loop alone; DeScarGAN itself is trained once uninterrupted
and once interrupted, and the two are compared.
"""

import dataclasses
import json
import math
import os
import re
import signal
import types
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from descargan_tf import signals
from descargan_tf.errors import UserError
from descargan_tf.methods.base import Method
from descargan_tf.methods.descargan import DeScarGAN, DeScarGANSettings
from descargan_tf.training import checkpoint
from descargan_tf.training.loop import Interrupted, LoopSettings, Trainer
from descargan_tf.training.step import TensorFlowEngine
from descargan_tf.types import DISEASED, HEALTHY, Batch, Phase, Prediction, Split, Validation

TERMS = {
    *(f"discriminator/{n}" for n in ("real", "fake", "gradient_penalty", "classification")),
    *(f"generator/{n}" for n in ("adversarial", "reconstruction", "identity", "classification")),
    *(f"{phase}/{n}" for phase in ("discriminator", "generator") for n in ("total", "gradient_norm")),
}
SCORES = {"critics/real", "critics/fake", "critics/generator", "critics/dead"}
TIMINGS = {"seconds_per_round", "images_per_second"}
AVERAGE_DECAY = 0.9
SETTINGS = LoopSettings(
    batch_size=4,
    seed=7,
    max_steps=5,
    decay_steps=2,
    log_every_steps=1,
    validate_every_steps=2,
    checkpoint_every_steps=2,
    keep_checkpoints=2,
)


class Toy(Method):
    """One 1x1 convolution against another."""

    averaged = "generator"

    def __init__(self):
        self.networks = {
            name: keras.Sequential([keras.Input((None, None, 1)), keras.layers.Conv2D(1, 1)])
            for name in ("generator", "discriminator")
        }
        self.phases = (
            Phase(name="discriminator", trains="discriminator", updates=2, learning_rate=1e-2),
            Phase(name="generator", trains="generator", updates=1, learning_rate=1e-2),
        )

    def weights(self, phase):
        return {"match": 1.0, "size": 0.5}

    def draws(self, phase, batch_size):
        return {"noise": (batch_size, 1, 1, 1)}

    def losses(self, phase, batch, draws, input_gradient):
        x = tf.concat([batch.healthy, batch.diseased], 0) + draws["noise"]
        fake = self.networks["generator"](x)
        score = self.networks["discriminator"](fake if phase.trains == "generator" else x)
        return {"match": tf.reduce_mean((score - 1) ** 2, (1, 2, 3)), "size": tf.reduce_mean(score**2, (1, 2, 3))}

    def predict(self, images):
        healthy = self.networks["generator"](images)
        d = healthy - images
        return Prediction(d, healthy, tf.reduce_mean(tf.abs(d), (1, 2, 3)), None)


def make_split(size, num_healthy=6, num_diseased=5):
    labels = np.repeat([HEALTHY, DISEASED], [num_healthy, num_diseased]).astype(np.int32)
    images = np.random.default_rng(0).uniform(-1, 1, (len(labels), size, size, 1)).astype(np.float32)
    return Split(images, labels, None, [f"{i}.npy" for i in range(len(labels))])


SMALL = make_split(8)


def watch(split):
    """A validation that asks the networks and shows two pictures."""

    def validate(predict, monitor, translate):
        prediction = predict(split.images[:2])
        monitored = {name: float(np.mean(value)) for name, value in monitor(Batch(*[split.images[:1]] * 2)).items()}
        score = float(np.mean(prediction.anomaly_score))
        pictures = {"input": split.images[:2] / 2 + 0.5, "colour": np.full((2, 8, 8, 3), 0.25, np.float32)}
        return Validation({"score": score, "unknown": None, **monitored}, score, pictures, ("look at this",))

    return validate


def scripted(*selections):
    """A validation that gives these selections, one after the other."""
    left = list(selections)
    return lambda *_: Validation({"calls_left": float(len(left))}, left.pop(0), {}, ())


def trainer(run_dir, validate=None, *, method=Toy, strategy=None, split=SMALL, **changes):
    run_dir.mkdir(exist_ok=True)
    settings = dataclasses.replace(SETTINGS, **changes)
    of_both = {"batch_size": settings.batch_size, "seed": settings.seed}
    engine = TensorFlowEngine(
        method, strategy or tf.distribute.get_strategy(), split, **of_both, average_decay=AVERAGE_DECAY
    )
    return Trainer(run_dir, engine, settings, validate or watch(split))


def on_round(training, number, act):
    """Call `act` just before round `number` (counted from 1 in this process)."""
    whole, count = training.engine.train_step.round, 0

    def counted(*args):
        nonlocal count
        count += 1
        if count == number:
            act()
        return whole(*args)

    training.engine.train_step.round = counted
    return training


def send(number):
    return lambda: os.kill(os.getpid(), number)


def fake_rounds(training, values=lambda step: {}):
    """Rounds that compute nothing: each loss is 1 but for what `values` says of a step."""
    train_step = training.engine.train_step
    names = [f"{phase.name}/{name}" for phase in training.engine.method.phases for name in ("match", "total")]

    def fake(batches, rate_factor):
        train_step.step.assign_add(1)
        return {**dict.fromkeys(names, 1.0), **values(training.engine.step)}

    train_step.round = fake
    return training


def lines(run_dir, group=None):
    found = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if group in (None, line["group"])]


def assert_same_metrics(a, b, group=None):
    """Same lines in the same order; TensorFlow may add up a logged total in another order in another trace."""
    first, second = lines(a, group), lines(b, group)
    assert [(line["step"], line["group"]) for line in first] == [(line["step"], line["group"]) for line in second]
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - TIMINGS - {"step", "group"}:
            assert other[name] == (None if one[name] is None else pytest.approx(one[name], rel=1e-6)), name


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_same_checkpoint(a, b):
    (first, about), (second, other) = checkpoint.load(a), checkpoint.load(b)
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)
    clock = {"written": "", "trained_seconds": 0}
    assert {**about, **clock} == {**other, **clock}


# ---- DeScarGAN, uninterrupted and interrupted


def descargan():
    settings = {"generator_filters": 2, "discriminator_filters": 2, "critic_updates": 1, "image_size": 64}
    rates = {"generator_learning_rate": 1e-3, "discriminator_learning_rate": 1e-3}
    return DeScarGAN(DeScarGANSettings(**settings, **rates))


@pytest.fixture(scope="module")
def images():
    return make_split(64)


@pytest.fixture(scope="module")
def straight(tmp_path_factory, images):
    run_dir = tmp_path_factory.mktemp("straight")
    keras.utils.set_random_seed(0)
    assert trainer(run_dir, method=descargan, split=images).run() == 5
    return run_dir


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, images):
    """Stopped by SIGTERM in round 3, of which the folder is copied; then trained to the end."""
    run_dir = tmp_path_factory.mktemp("interrupted")
    keras.utils.set_random_seed(0)
    first = on_round(trainer(run_dir, method=descargan, split=images), 3, send(signal.SIGTERM))
    with pytest.raises(Interrupted) as caught:
        first.run()
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


# ---- the loop alone


def test_toy_training_resumed_twice_equals_one_in_one_go(tmp_path):
    keras.utils.set_random_seed(1)
    trainer(tmp_path / "a", max_steps=9, checkpoint_every_steps=3).run()
    keras.utils.set_random_seed(1)
    for rounds in (3, 4):  # at steps 3 and 7, where no validation is due
        stopped = trainer(tmp_path / "b", max_steps=9, checkpoint_every_steps=3)
        with pytest.raises(Interrupted):
            on_round(stopped, rounds, send(signal.SIGINT)).run()
    trainer(tmp_path / "b", max_steps=9, checkpoint_every_steps=3).run()
    assert_same_checkpoint(tmp_path / "a" / "checkpoints" / "9", tmp_path / "b" / "checkpoints" / "9")
    assert_same_metrics(tmp_path / "a", tmp_path / "b")


def test_a_shortened_schedule_is_the_same_after_a_resumption(tmp_path):
    changes = {"max_steps": 5, "warmup_steps": 4, "decay_steps": 16, "checkpoint_every_steps": 5}
    said = "--max_steps=5 is too short for --warmup_steps=4 and --decay_steps=16: shortened in proportion, to 1 and 4 "
    keras.utils.set_random_seed(1)
    trainer(tmp_path / "a", **changes).run()
    keras.utils.set_random_seed(1)
    with pytest.raises(Interrupted):
        on_round(trainer(tmp_path / "b", **changes), 2, send(signal.SIGINT)).run()
    trainer(tmp_path / "b", **changes).run()
    assert_same_checkpoint(tmp_path / "a" / "checkpoints" / "5", tmp_path / "b" / "checkpoints" / "5")
    for folder, times in (("a", 1), ("b", 2)):  # in one line, each time that it begins
        assert (tmp_path / folder / "train.log").read_text().count(said) == times


def test_a_killed_training_goes_on_from_its_last_checkpoint_without_double_lines(tmp_path):
    keras.utils.set_random_seed(1)
    trainer(tmp_path / "a", max_steps=7, checkpoint_every_steps=3).run()

    def die():
        raise SystemExit

    keras.utils.set_random_seed(1)
    with pytest.raises(SystemExit):
        on_round(trainer(tmp_path / "b", max_steps=7, checkpoint_every_steps=3), 6, die).run()
    with open(tmp_path / "b" / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "gro')  # cut short
    trainer(tmp_path / "b", max_steps=7, checkpoint_every_steps=3).run()
    assert_same_metrics(tmp_path / "a", tmp_path / "b")
    for name in ("7", "best"):
        assert_same_checkpoint(tmp_path / "a" / "checkpoints" / name, tmp_path / "b" / "checkpoints" / name)


@pytest.mark.parametrize("step", [4, 5])
def test_an_interruption_where_a_validation_is_due_does_not_lose_it(tmp_path, step):
    keras.utils.set_random_seed(1)
    trainer(tmp_path / "a").run()
    keras.utils.set_random_seed(1)
    with pytest.raises(Interrupted):
        on_round(trainer(tmp_path / "b"), step, send(signal.SIGTERM)).run()
    trainer(tmp_path / "b").run()
    assert [line["step"] for line in lines(tmp_path / "b", "validate")] == [2, 4, 5]
    assert_same_metrics(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("number", "name", "status"),
    [(signal.SIGTERM, "SIGTERM", 143), (signal.SIGINT, "SIGINT", 130), (signal.SIGHUP, "SIGHUP", 129)],
)
def test_each_signal_saves_the_round_at_hand_and_gets_its_handler_back(tmp_path, capsys, number, name, status):
    before = [signal.getsignal(each) for each in signals.ENDINGS]
    stopped = fake_rounds(trainer(tmp_path, scripted(), validate_every_steps=50, max_steps=100))
    with pytest.raises(Interrupted) as caught:
        on_round(stopped, 8, send(number)).run()
    assert caught.value.status == status
    assert str(caught.value).startswith(f"{name} at step 8: saved")
    assert f"{name}: saving after this round" in capsys.readouterr().out
    assert checkpoint.load(tmp_path / "checkpoints" / "8")[1]["step"] == 8
    assert [signal.getsignal(each) for each in signals.ENDINGS] == before


def test_a_finished_run_says_that_nothing_is_to_do(tmp_path, capsys):
    fake_rounds(trainer(tmp_path, scripted(1, 2, 3))).run()
    before = (tmp_path / "metrics.jsonl").read_text()
    again = trainer(tmp_path, scripted())
    assert again.run() == 5
    assert "nothing to do: step 5 of --max_steps=5 is reached" in capsys.readouterr().out
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_a_training_ends_when_its_minutes_are_over_and_saves(tmp_path, capsys):
    training = trainer(tmp_path, max_steps=10**6, max_minutes=1e-9)
    assert training.run() == 1
    assert "--max_minutes=1e-09 are over: ends at step 1 of 1000000" in capsys.readouterr().out
    assert names_in(tmp_path / "checkpoints") == ["1", "best"]


def test_minutes_count_over_resumed_trainings(tmp_path, capsys):
    trainer(tmp_path, max_steps=2).run()
    about = json.loads((tmp_path / "checkpoints" / "2" / "checkpoint.json").read_text())
    used = about["trained_seconds"]
    assert used > 0
    # A little less: (used / 60) * 60 can round to more than used.
    assert trainer(tmp_path, max_steps=10**6, max_minutes=0.999 * used / 60).run() == 2
    assert "were used up by step 2" in capsys.readouterr().out


def test_a_finished_run_can_be_trained_longer(tmp_path):
    fake_rounds(trainer(tmp_path, scripted(1, 2, 3))).run()
    assert fake_rounds(trainer(tmp_path, scripted(4, 5), max_steps=7)).run() == 7
    assert [line["step"] for line in lines(tmp_path, "train")] == [1, 2, 3, 4, 5, 6, 7]


def test_the_best_is_the_one_of_the_largest_selection(tmp_path):
    run = fake_rounds(trainer(tmp_path, scripted(0.2, 0.9, 0.9, 0.4), max_steps=8, keep_checkpoints=1))
    run.run()
    assert names_in(tmp_path / "checkpoints") == ["8", "best"]
    about = checkpoint.load(tmp_path / "checkpoints" / "best")[1]
    assert (about["step"], about["best_selection"]) == (4, 0.9)  # of equal ones the first
    assert [line["selection"] for line in lines(tmp_path, "validate")] == [0.2, 0.9, 0.9, 0.4]


def test_a_resumed_run_does_not_forget_the_best(tmp_path):
    first = fake_rounds(trainer(tmp_path, scripted(0.9), max_steps=8))
    with pytest.raises(Interrupted):
        on_round(first, 3, send(signal.SIGTERM)).run()
    fake_rounds(trainer(tmp_path, scripted(0.2, 0.3, 0.8), max_steps=8)).run()
    assert checkpoint.load(tmp_path / "checkpoints" / "best")[1]["step"] == 2


def test_a_selection_that_is_not_a_number_never_wins(tmp_path):
    fake_rounds(trainer(tmp_path, scripted(math.nan, 0.1, math.nan))).run()
    assert checkpoint.load(tmp_path / "checkpoints" / "best")[1]["step"] == 4


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_with_step_and_term(tmp_path, value):
    diverging = fake_rounds(
        trainer(tmp_path, scripted(1.0, 1.0)), lambda step: {"generator/match": value} if step == 3 else {}
    )
    with pytest.raises(UserError) as caught:
        diverging.run()
    message = str(caught.value)
    assert message.startswith(f"generator/match is {value} at step 3: the training has come apart and is stopped. ")
    assert str(tmp_path / "checkpoints") in message
    assert names_in(tmp_path / "checkpoints") == ["2", "best"]
    assert [line["step"] for line in lines(tmp_path, "train")] == [1, 2]


def test_metrics_are_means_over_the_rounds_since_the_last_line(tmp_path):
    values = trainer(tmp_path, scripted(1.0), log_every_steps=3, validate_every_steps=9, max_steps=5)
    fake_rounds(values, lambda step: {"generator/match": float(step)}).run()
    assert [(line["step"], line["generator/match"]) for line in lines(tmp_path, "train")] == [(3, 2.0), (5, 4.5)]


def test_a_disk_that_fills_up_ends_the_run_with_one_clear_line(tmp_path, monkeypatch):
    stopped = fake_rounds(trainer(tmp_path, scripted(1.0, 2.0)))

    def fill(file, **_):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    stopped_at_four = on_round(stopped, 4, lambda: monkeypatch.setattr(np, "savez", fill))
    with pytest.raises(UserError, match="No space left on device"):
        stopped_at_four.run()
    assert names_in(tmp_path / "checkpoints") == ["2", "best"]
    assert checkpoint.load(tmp_path / "checkpoints" / "best")[1]["step"] == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full stands for a full disk")
@pytest.mark.parametrize("name", ["train.log", "metrics.jsonl"])
def test_a_log_that_cannot_be_written_is_the_users_error(tmp_path, name, monkeypatch):
    stopped = fake_rounds(trainer(tmp_path, scripted(1.0, 2.0, 3.0)))
    if name == "metrics.jsonl":
        monkeypatch.setattr("descargan_tf.training.writer.Writer._keep_until", lambda *_: None)  # /dev/full has no end
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left on device"):
        stopped.run()


def test_a_damaged_checkpoint_does_not_start_the_training_anew(tmp_path):
    fake_rounds(trainer(tmp_path, scripted(1, 2, 3))).run()
    (tmp_path / "checkpoints" / "5" / "state.npz").write_bytes(b"half")
    before = (tmp_path / "metrics.jsonl").read_text()
    with pytest.raises(UserError, match="5 is not a readable checkpoint"):
        trainer(tmp_path, scripted(), max_steps=9).run()
    assert (tmp_path / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize("batch_size", [2, 6, 9])
def test_a_batch_that_does_not_divide_over_the_devices_is_refused(tmp_path, two_replicas, batch_size):
    def untouched():
        raise AssertionError("refused before anything is built")

    with pytest.raises(UserError) as caught:
        trainer(tmp_path, method=untouched, strategy=two_replicas, batch_size=batch_size)
    assert str(caught.value).startswith(f"--batch_size={batch_size} cannot be split over 2 devices")
    assert str(caught.value).endswith("use a multiple of 4.")


def test_two_replicas_see_the_same_batches_after_a_resumption(tmp_path, two_replicas):
    def run(folder, seen, stop_at=None):
        training = fake_rounds(trainer(folder, scripted(1, 2, 3), strategy=two_replicas, batch_size=8))
        fake = training.engine.train_step.round

        def record(batches, rate_factor):
            assert len(batches) == 2  # as many as the phase of most updates wants
            local = [
                [np.asarray(x) for x in two_replicas.experimental_local_results(part)] for b in batches for part in b
            ]
            seen.append(local)
            return fake(batches, rate_factor)

        training.engine.train_step.round = record
        if stop_at:
            on_round(training, stop_at, send(signal.SIGTERM))
            with pytest.raises(Interrupted):
                training.run()
        else:
            training.run()

    straight, resumed = [], []
    run(tmp_path / "a", straight)
    run(tmp_path / "b", resumed, stop_at=3)
    run(tmp_path / "b", resumed)
    assert len(straight) == len(resumed) == 5
    for a, b in zip(straight, resumed, strict=True):
        for first, second in zip(a, b, strict=True):
            assert [x.shape for x in first] == [(2, 8, 8, 1)] * 2
            assert not np.array_equal(first[0], first[1])
            np.testing.assert_array_equal(first, second)


def test_the_rate_that_is_applied_is_the_schedules(tmp_path):
    """Adam's first steps have the size of the rate."""
    training = trainer(tmp_path, max_steps=10, warmup_steps=4, decay_steps=5)
    given = []
    whole = training.engine.train_step.round

    def spy(batches, rate_factor):
        before = [np.asarray(w) for w in training.engine.method.networks["generator"].weights]
        logs = whole(batches, rate_factor)
        after = training.engine.method.networks["generator"].weights
        moved = max(np.abs(np.asarray(b) - a).max() for a, b in zip(before, after, strict=True))
        given.append((float(rate_factor), moved))
        return logs

    training.engine.train_step.round = spy
    training.run()
    assert [factor for factor, _ in given] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    assert given[0][1] == pytest.approx(0.25e-2, rel=1e-3)
    assert given[-1][1] < given[3][1]


def test_with_a_time_limit_the_decay_ends_where_the_time_does(tmp_path, monkeypatch):
    training = trainer(tmp_path, max_steps=100, decay_steps=40, max_minutes=5)
    monkeypatch.setattr(training, "_seconds", lambda: 60.0)
    assert training._factor(99) > 0
    bar = types.SimpleNamespace(total=100)
    # 40 rounds in the four minutes left: 50 in all, the last 20 with falling rates
    training._expect_length(10, 6.0, bar)
    assert [training._factor(n) for n in (30, 40, 50)] == pytest.approx([1, 0.5, 0])
    assert bar.total == 50
    training._expect_length(10, 1.0, bar)  # never longer than --max_steps
    assert bar.total == 100
    assert [training._factor(n) for n in (60, 80, 100)] == pytest.approx([1, 0.5, 0])
    training._expect_length(10, None, bar)  # no pace known yet: as before
    assert training._length == 1.0


def test_a_time_limit_is_part_of_the_time_left(tmp_path, monkeypatch, capsys):
    training = trainer(tmp_path, max_steps=1000, max_minutes=2)
    monkeypatch.setattr(training, "_seconds", lambda: 20.0)
    assert training._seconds_left(1.0, 990) == 100.0
    assert training._seconds_left(0.05, 990) == pytest.approx(49.5)
    training._say_duration(1.0, 990)
    assert "--max_minutes=2 will end it after about 100 of them" in capsys.readouterr().out
