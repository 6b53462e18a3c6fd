"""Trainings that come apart: told by their signs, put back to a sound state, and slowed."""

import dataclasses
import itertools
import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from toy_training import SETTINGS, Toy, fake_rounds, lines, scripted, trainer

from descargan_tf.errors import UserError
from descargan_tf.methods import monitoring
from descargan_tf.methods.descargan import DeScarGAN
from descargan_tf.training import checkpoint, loop, soundness
from descargan_tf.training.loop import Trainer
from descargan_tf.training.soundness import Soundness
from descargan_tf.training.step import TensorFlowEngine
from descargan_tf.types import DISEASED, HEALTHY, Split, Validation


def terms(real=1.0, fake=-1.0, generator=-1.0, penalty=0.1):
    return {
        "discriminator/real": -real,
        "discriminator/fake": fake,
        "discriminator/gradient_penalty": penalty,
        "generator/adversarial": -generator,
    }


def see(count, watch=None, noise=0.0, **values):
    """What is said of so many rounds, by the round it is said after."""
    watch = watch or Soundness(monitoring.critic_scores)
    rng = np.random.default_rng(0)
    said = {}
    for number in range(1, count + 1):
        found = watch.see(terms(**{name: value + noise * rng.normal() for name, value in values.items()}))
        if found:
            said[number] = found
    return said


def test_a_sound_training_is_left_alone():
    assert see(500, noise=0.5, real=1.0, fake=-1.0, generator=-0.8, penalty=0.1) == {}
    assert see(500, noise=0.5, real=0.0, fake=-0.1, generator=0.05, penalty=0.1) == {}  # above it, by less than noise
    assert see(500, real=1.0, fake=-1.0, generator=2.5) == {}  # by less than the critics tell real from fake


@pytest.mark.parametrize("fake", [-11.0, 0.5])
def test_translations_that_please_where_no_critic_sees_them(fake):
    """As seen at 256x256: -11 in the critics' own update, +28 in the generator's (both ways round)."""
    said = see(150, noise=1.0, real=1.0, fake=fake, generator=28.0)
    assert list(said) == [100, 150]  # two windows of fifty rounds
    assert said[100].startswith("the critics score the generator's translations 2")
    assert "above real images, where those of their own update are at" in said[100]


def test_a_penalty_that_stays_large():
    assert see(99, penalty=1.3) == {}
    assert see(100, penalty=1.3)[100] == "the gradient penalty stays at 1.3"
    assert see(200, penalty=1.0) == {}  # a critic that has no gradient yet
    watch = Soundness(monitoring.critic_scores)
    assert see(50, watch, penalty=5.0) == {}
    assert not watch.passed_a_window()
    assert see(49, watch, penalty=0.1) == {}
    assert not watch.passed_a_window()
    assert see(1, watch, penalty=0.1) == {}
    assert watch.passed_a_window()
    assert not watch.passed_a_window()  # asked already
    assert see(50, watch, penalty=5.0) == {}  # not one after the other


def test_a_term_that_is_not_finite_is_told_at_once():
    watch = Soundness(lambda _: {})
    assert watch.see({"a/x": 1.0}) is None
    assert watch.see({"a/x": 1.0, "a/y": math.inf}) == "a/y is inf"


# ---- critics that are dead

DEAD = "discriminator/gradient_penalty"


def watched(penalties, name=DEAD):
    """What is warned of, by the round after which it is; whether one is dead at the end."""
    watch, warned = Soundness(monitoring.critic_scores), {}
    for number, value in enumerate(penalties, 1):
        assert watch.see({**terms(), name: value}) is None  # no reason to go back or to stop
        for text in watch.warnings():
            warned[number] = text
    return warned, watch.scalars()


def test_a_critic_without_any_gradient_is_told_after_a_window_and_seldom_again():
    assert watched([1.0] * 49) == ({}, {"critics/dead": 0.0})
    warned, scalars = watched([0.2] * 7 + [1.0] * 1100)
    assert list(warned) == [57, 1057]
    assert warned[57].startswith(f"{DEAD} has been 1 for 50 rounds: this critic has no gradient any more")
    assert scalars == {"critics/dead": 1.0}


@pytest.mark.parametrize(("value", "dead"), [(0.9995, True), (1.0005, True), (0.998, False), (0.0, False)])
def test_near_enough_to_one(value, dead):
    warned, scalars = watched([value] * 50)
    assert (list(warned), scalars["critics/dead"]) == ([50] if dead else [], float(dead))


def test_one_round_with_a_gradient_is_life():
    assert watched(([1.0] * 49 + [0.9]) * 5) == ({}, {"critics/dead": 0.0})
    warned, scalars = watched([1.0] * 60 + [0.9] + [1.0] * 50)
    assert list(warned) == [50, 111]
    assert scalars == {"critics/dead": 1.0}


def test_of_several_critics_the_dead_one_is_named():
    warned, _ = watched([1.0] * 50, "other/gradient_penalty")
    assert next(iter(warned.values())).startswith("other/gradient_penalty has been 1")


def test_without_a_penalty_nothing_is_said_of_it():
    watch = Soundness(lambda _: {})
    for _ in range(60):
        watch.see({"a/total": 1.0})
    assert (watch.warnings(), watch.scalars()) == ([], {})


def test_a_dead_critic_in_the_log_and_as_a_scalar(tmp_path):
    dies = trainer(tmp_path, scripted(1.0), max_steps=120, log_every_steps=20, validate_every_steps=1000)
    fake_rounds(dies, lambda step: {DEAD: 1.0 if 10 < step <= 100 else 0.5}).run()
    log = (tmp_path / "train.log").read_text()
    assert log.count("WARNING") == 1
    assert f"step      60  WARNING: {DEAD} has been 1 for 50 rounds" in log
    assert [line["critics/dead"] for line in lines(tmp_path, "train")] == [0, 0, 1, 1, 1, 0]


# ---- in the loop


class Critics(Toy):
    """With terms that could be a critic's."""

    def critic_scores(self, terms):
        return {"real": 0.0, "fake": -1.0, "generator": terms["generator/match"]}


def recovering(run_dir, values, monkeypatch, window=2, **changes):
    monkeypatch.setattr(loop, "_SNAPSHOT_SECONDS", 0.0)
    monkeypatch.setattr(soundness, "_WINDOW", window)
    changes = {"max_steps": 12, "recoveries": 2, "validate_every_steps": 100, "checkpoint_every_steps": 2, **changes}
    return fake_rounds(trainer(run_dir, scripted(1.0, 1.0), method=Critics, **changes), values)


def test_it_goes_back_to_a_sound_state_and_on_at_lower_rates(tmp_path, monkeypatch):
    fails = [7]  # once
    factors = {}
    training = recovering(
        tmp_path,
        lambda step: {"generator/match": math.nan if step in fails and not fails.remove(step) else 0.5},
        monkeypatch,
    )
    whole, kernel = training.engine.train_step.round, training.engine.method.networks["generator"].weights[0]
    seen = {}

    def spy(batches, rate_factor):
        factors.setdefault(training.engine.step, []).append(float(rate_factor))
        seen.setdefault(training.engine.step, []).append(float(np.sum(kernel)))
        kernel.assign_add(np.ones(kernel.shape))
        return whole(batches, rate_factor)

    training.engine.train_step.round = spy
    assert training.run() == 12
    # Round 7 failed. Windows of two rounds ended with 2, 4 and 6; of the last two states the earlier is gone back to.
    assert [step for step, found in factors.items() if len(found) == 2] == [4, 5, 6]
    assert all(second == first for first, second in (seen[4], seen[5], seen[6]))
    assert factors[6][0] == pytest.approx(1.0)
    assert factors[6][1] == pytest.approx(0.7)
    assert factors[9] == [pytest.approx(0.7)]
    assert [line["step"] for line in lines(tmp_path, "train")] == list(range(1, 13))
    log = (tmp_path / "train.log").read_text()
    assert (
        "WARNING: generator/match is nan at step 7: the training has come apart. Back at step 4, with rates 0.70" in log
    )
    about = json.loads((tmp_path / "checkpoints" / "12" / "checkpoint.json").read_text())
    assert about["recoveries"] == 1


def test_a_resumed_run_knows_how_often_it_went_back(tmp_path, monkeypatch):
    fails = [3]
    recovering(
        tmp_path,
        lambda step: {"generator/match": math.inf if step in fails and not fails.remove(step) else 0.5},
        monkeypatch,
        max_steps=4,
    ).run()
    again = recovering(tmp_path, lambda step: {}, monkeypatch, max_steps=6)
    again.run()
    assert again._factor(0) == pytest.approx(0.7)
    assert checkpoint.describe(tmp_path / "checkpoints" / "6")["recoveries"] == 1


def test_checkpoints_of_what_came_apart_are_gone(tmp_path, monkeypatch):
    """So that a run that is killed then does not go on from them."""
    training = recovering(
        tmp_path,
        lambda step: {"generator/match": 5.0 if step > 100 and training._recoveries == 0 else -0.5},
        monkeypatch,
        max_steps=260,
        window=50,
        validate_every_steps=1000,
        keep_checkpoints=100,
        checkpoint_every_steps=10,
    )
    monkeypatch.setattr(training, "_save", spy_on(training._save, saved := []))
    training.run()
    assert training._recoveries == 1
    back = next(i for i, (a, b) in enumerate(itertools.pairwise(saved)) if int(b) < int(a))
    assert saved[back : back + 2] == [
        "190",
        "50",
    ]  # told after two bad windows; two before them had passed
    assert checkpoint.describe(tmp_path / "checkpoints" / "190")["recoveries"] == 1  # the later one


def spy_on(save, saved):
    def spied(name):
        if name.isdigit():
            saved.append(name)
        return save(name)

    return spied


def test_when_recoveries_are_used_up_it_stops(tmp_path, monkeypatch):
    training = recovering(tmp_path, lambda step: {"generator/match": math.nan if step == 3 else 0.5}, monkeypatch)
    with pytest.raises(UserError, match="at step 3: the training has come apart and is stopped, after 2 recoveries"):
        training.run()


# ---- provoked


def split_of_halves():
    """Diseased images are white on the left, healthy ones on the right."""
    labels = np.repeat([HEALTHY, DISEASED], 8).astype(np.int32)
    images = np.random.default_rng(0).uniform(-0.2, 0.2, (16, 64, 64, 1)).astype("f")
    images[:8, :, 32:] += 0.8
    images[8:, :, :32] += 0.8
    return Split(images, labels, None, [f"{i}.npy" for i in range(16)])


@pytest.mark.usefixtures("eager")
def test_rates_that_are_much_too_high_are_told_and_lowered(tmp_path, tiny_settings):
    """A real training, whose critics overflow within a few rounds at 0.7 times the rate too."""
    keras.utils.set_random_seed(0)
    rates = {"discriminator_learning_rate": 30.0, "discriminator_activation": "leaky_relu"}
    settings = dataclasses.replace(tiny_settings, critic_updates=1, **rates)
    engine = TensorFlowEngine(
        lambda: DeScarGAN(settings), tf.distribute.get_strategy(), split_of_halves(), batch_size=4, seed=0
    )
    rules = dataclasses.replace(SETTINGS, max_steps=40, decay_steps=0, recoveries=1, validate_every_steps=1000)
    rules = dataclasses.replace(rules, checkpoint_every_steps=1000, log_every_steps=1000)
    training = Trainer(tmp_path, engine, rules, lambda *_: Validation({}, 0.0, {}, ()))
    start = engine.arrays()
    with pytest.raises(
        UserError, match=r"is (nan|inf) at step \d+: the training has come apart and is stopped, after 1"
    ):
        training.run()
    assert "has come apart. Back at step 0, with rates 0.70" in (tmp_path / "train.log").read_text()
    engine.assign(start, 0, "the start")
    assert all(np.isfinite(value).all() for value in engine.arrays().values())


def test_fixed_statistics_survive_going_back(tmp_path, monkeypatch):
    fails = [9]
    training = recovering(
        tmp_path,
        lambda step: {"generator/match": math.nan if step in fails and not fails.remove(step) else 0.5},
        monkeypatch,
        fixed_statistics_from=0.5,
    )
    training.engine.estimate_and_fix_statistics = lambda: None  # a toy has none
    training.run()
    assert training._fixed_at == 6
    assert checkpoint.describe(tmp_path / "checkpoints" / "12")["fixed_statistics_at"] == 6
