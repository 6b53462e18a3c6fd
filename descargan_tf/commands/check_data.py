"""--mode=check_data."""

from descargan_tf import signals
from descargan_tf.config import Config
from descargan_tf.data import generation
from descargan_tf.data.dataset import dataset_of


@signals.leaving("not everything was checked")
def check_data(config: Config) -> int:
    """Read everything, say what is there."""
    dataset_of(config).check()
    manifest = generation.read_manifest(config.data_dir)
    if manifest:
        generation.verify_checksums(config.data_dir, manifest)
        print(f"all {len(manifest['sha256'])} files are as they were generated")
    return 0
