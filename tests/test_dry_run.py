"""How long a training will take, asked beforehand: an answer at once, from rounds that are short."""

import types

import keras
import numpy as np
import pytest

from descargan_tf.run_folder import configure
from descargan_tf.training import backends
from descargan_tf.types import Phase

PAPER = ("main", "--dataset=synthetic", "--run_dir=r")


def one_convolution(config):
    """A stand-in of a method: 9 multiplications a pixel, two phases."""
    image = keras.Input((config.image_size, config.image_size, 1))
    network = keras.Model(image, keras.layers.Conv2D(1, 3, padding="same", use_bias=False)(image))
    phases = (
        Phase(name="discriminator", trains="a", updates=config.critic_updates, learning_rate=0.1),
        Phase(name="generator", trains="a", updates=1, learning_rate=0.1),
    )
    return types.SimpleNamespace(networks={"a": network}, phases=phases)


@pytest.fixture
def timed(monkeypatch):
    """Engines whose rounds take two seconds by a clock of their own; what they were made for."""
    seen, clock = [], [0.0]
    monkeypatch.setattr(backends.time, "perf_counter", lambda: clock[0])

    class Engine:
        def __init__(self, config, split):
            seen.append((config, split))
            self.method = one_convolution(config)

        def rounds(self, factors):
            clock[0] += 2.0 * len(factors)

    return seen, Engine


@pytest.mark.parametrize("accelerated", [False, True])
def test_without_a_gpu_small_rounds_are_timed_and_counted_up(monkeypatch, timed, accelerated):
    seen, engine = timed
    monkeypatch.setattr(backends, "has_accelerator", lambda _: accelerated)
    config = configure([*PAPER, "--image_size=256", "--batch_size=40", "--critic_updates=5"])
    pace = backends.time_rounds(config, one_convolution(config), engine)
    ((small, split),) = seen
    if accelerated:
        assert (small, pace.seconds, str(pace)) == (config, 2.0, "2.0 s a round")
        return
    assert (small.image_size, small.batch_size, small.critic_updates) == (64, 4, 1)
    assert split.images.shape == (4, 64, 64, 1)
    np.testing.assert_array_equal(np.bincount(split.labels), [2, 2])
    # 16 times the pixels, 40 images for 4, 6 updates for 2.
    assert pace.seconds == pytest.approx(2.0 * 16 * 40 / 4 * 6 / 2)
    assert str(pace) == "about 960.0 s a round, an estimate from rounds of 2 updates with 4 images of 64x64"


def test_rounds_of_the_smallest_images_are_timed_as_they_are(monkeypatch, timed):
    seen, engine = timed
    monkeypatch.setattr(backends, "has_accelerator", lambda _: False)
    config = configure([*PAPER, "--image_size=64", "--batch_size=40", "--critic_updates=5"])
    pace = backends.time_rounds(config, one_convolution(config), engine)
    assert seen[0][0] == config
    assert (pace.seconds, pace.timed) == (2.0, "")


def test_a_method_without_critics_has_no_updates_to_leave_out(monkeypatch, timed):
    seen, engine = timed
    monkeypatch.setattr(backends, "has_accelerator", lambda _: False)
    config = configure([*PAPER, "--method=vae", "--image_size=128", "--batch_size=4"])

    def one_phase(own):
        method = one_convolution(types.SimpleNamespace(image_size=own.image_size, critic_updates=1))
        method.phases = method.phases[1:]
        return method

    monkeypatch.setattr(engine, "__init__", lambda self, own, split: setattr(self, "method", one_phase(own)))
    assert backends.time_rounds(config, one_phase(config), engine).seconds == pytest.approx(2.0 * 4)
    assert not seen
