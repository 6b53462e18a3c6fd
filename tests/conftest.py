"""Two logical CPUs for every test: what is distributed is tested as such."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@pytest.fixture(scope="session")
def two_replicas():
    """One strategy for all tests: a second one would reuse the first one's collective keys in this process."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture
def tiny_settings():
    """A DeScarGAN of a few thousand weights at 64x64."""
    from descargan_tf.methods.descargan import DeScarGANSettings

    return DeScarGANSettings(
        image_size=64,
        generator_filters=2,
        discriminator_filters=2,
        critic_updates=2,
        generator_learning_rate=1e-3,
        discriminator_learning_rate=1e-3,
        distance="mse",
    )


@pytest.fixture(scope="session")
def synthetic_data(tmp_path_factory):
    """A generated data set of 64x64 images, 12 / 6 / 6 per class, and its settings."""
    from descargan_tf.data import synthetic

    settings = synthetic.SyntheticSettings(seed=3, image_size=64, num_train=12, num_validate=6, num_test=6)
    folder = tmp_path_factory.mktemp("data") / "synthetic_64"
    synthetic.generate(folder, settings, num_workers=1)
    return folder, settings
