"""--mode=generate."""

from descargan_tf.config import Config
from descargan_tf.data.dataset import dataset_of


def generate(config: Config) -> int:
    """Write the synthetic data set."""
    dataset_of(config).generate()
    return 0
