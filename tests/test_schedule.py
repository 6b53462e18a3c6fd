"""How learning rates go over a training, by hand."""

import pytest

from descargan_tf.training.schedule import Schedule


def factors(schedule, steps, *args):
    return [schedule.factor(step, *args) for step in steps]


def test_learning_rates_fall_to_zero_at_the_end():
    assert factors(Schedule(10, decay=4), (0, 5, 6, 7, 8, 9, 10, 11)) == [1, 1, 1, 0.75, 0.5, 0.25, 0, 0]


def test_a_schedule_that_is_longer_than_the_training_is_shortened_in_proportion():
    # 2.5 rounds up, 7.5 down.
    assert factors(Schedule(10, warmup=20, decay=60), (0, 1, 2, 3, 5, 9)) == pytest.approx(
        [0.4, 0.8, 1, 7 / 7.5, 5 / 7.5, 1 / 7.5]
    )
    assert factors(Schedule(10, decay=2000), (0, 5, 9)) == pytest.approx([1, 0.5, 0.1])
    assert Schedule(100, warmup=200, decay=2500).shortened == (
        "--max_steps=100 is too short for --warmup_steps=200 and --decay_steps=2500: shortened in proportion, to 7 and "
        "93 rounds"
    )
    assert Schedule(100, decay=2000).shortened == (
        "--max_steps=100 is too short for --decay_steps=2000: shortened in proportion, to 100 rounds"
    )
    assert Schedule(2700, warmup=200, decay=2500).shortened == ""
    assert Schedule(1).shortened == ""
    # Where both fit exactly nothing changes at once.
    close = factors(Schedule(2699, warmup=200, decay=2500), range(0, 2700, 50))
    assert close == pytest.approx(factors(Schedule(2700, warmup=200, decay=2500), range(0, 2700, 50)), abs=2e-3)


def test_learning_rates_rise_from_zero():
    schedule = Schedule(100, warmup=5)
    assert factors(schedule, (0, 1, 4, 5, 99)) == pytest.approx([0.2, 0.4, 1, 1, 1])


def test_a_shorter_training_decays_over_the_same_share_of_it():
    assert factors(Schedule(20, decay=8), (0, 6, 7, 8, 9, 10, 11), 0.5) == [1, 1, 0.75, 0.5, 0.25, 0, 0]


def test_rates_rise_again_over_a_hundred_rounds_under_fixed_statistics():
    assert factors(Schedule(1000), (300, 349, 399, 400), 1.0, 300) == pytest.approx([0.01, 0.5, 1, 1])
    assert Schedule(1000, decay=1000).factor(500, 1.0, 450) == pytest.approx(0.51 * 0.5)
