"""--mode=generate."""

from descargan_tf.config import Config
from descargan_tf.data.dataset import Dataset


def generate(config: Config) -> int:
    """Write the synthetic data set."""
    Dataset(config).generate()
    return 0
