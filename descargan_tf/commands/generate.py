"""--mode=generate."""

import time

from tqdm import tqdm

from descargan_tf.config import Config
from descargan_tf.data import phantom_files
from descargan_tf.data.dataset import dataset_of
from descargan_tf.data.synthetic import SyntheticSettings


def generate(config: Config) -> int:
    """Write the synthetic data set, or the chest phantom's raw files."""
    if config.dataset == "chest_phantom":
        _generate_phantom(config)
    else:
        dataset_of(config).generate()
    return 0


def _generate_phantom(config):
    settings = SyntheticSettings(
        seed=config.data_seed,
        image_size=config.image_size,
        num_train=config.num_train,
        num_validate=config.num_validate,
        num_test=config.num_test,
    )
    started = time.perf_counter()
    with tqdm(unit="image", disable=None, desc="generate") as bar:

        def show(done, total):
            bar.total = total
            bar.update(done - bar.n)

        manifest = phantom_files.generate(config.data_dir, settings, progress=show)
    frontal = ", ".join(f"{count} {name}" for name, count in manifest["frontal"].items())
    print(
        f"{config.data_dir}: {manifest['patients']} patients, frontal views: {frontal}; {manifest['lateral']} lateral "
        f"views, {time.perf_counter() - started:.0f} s"
    )
    print(f"next: --mode=prepare --source=chexpert --input={config.data_dir} --data_dir=<folder to make>")
