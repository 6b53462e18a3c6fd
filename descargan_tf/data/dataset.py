"""The data that a Config names: generated where they are missing, checked, loaded."""

import time
from pathlib import Path

from tqdm import tqdm

from descargan_tf.config import Config
from descargan_tf.data import folders, generation
from descargan_tf.data.digest import data_digest
from descargan_tf.data.images import Scaling
from descargan_tf.data.listing import list_images
from descargan_tf.data.synthetic import SyntheticSettings
from descargan_tf.errors import UserError
from descargan_tf.types import CLASS_NAMES, SPLITS, Split


class Dataset:
    """One data set, `--dataset=synthetic` or `folders`."""

    def __init__(self, config: Config):
        self._folder = config.data_dir
        self._image_size = config.image_size
        self._value_range = config.value_range
        self.is_synthetic = config.dataset == "synthetic"
        self._drawn = SyntheticSettings(
            seed=config.data_seed,
            image_size=config.image_size,
            num_train=config.num_train,
            num_validate=config.num_validate,
            num_test=config.num_test,
        )

    def generate(self) -> None:
        """Draw the paper's synthetic images, with a bar on the terminal.

        Raises:
            UserError: the folder exists, or cannot be written.
        """
        total = 2 * sum(self._drawn.count(split) for split in SPLITS)
        started = time.perf_counter()
        with tqdm(total=total, unit="image", disable=None, desc="generate") as bar:
            manifest = generation.generate(self._folder, self._drawn, progress=lambda done, _: bar.update(done - bar.n))
        seconds = time.perf_counter() - started
        print(f"{self._folder}: {total} images, {len(manifest['sha256'])} files, {seconds:.0f} s")

    def check(self, splits: tuple[str, ...] = SPLITS, scaling: Scaling | None = None) -> folders.DataSummary:
        """Generate what is missing, check everything, print what is there.

        Args:
            splits: that are to be read.
            scaling: a run's, where one is gone on with; None: the data's own.

        Raises:
            UserError: something is not as training or evaluation needs it.
        """
        value_range = f"{scaling.low!r},{scaling.high!r}" if scaling else self._value_range
        if self.is_synthetic:
            value_range = "-1,1"
            self._check_drawn()
        summary = folders.check_data(self._folder, self._image_size, value_range, splits)
        print("\n".join(summary.lines()), flush=True)
        return summary

    def _check_drawn(self):
        folder = Path(self._folder)
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            self.generate()
        manifest = generation.read_manifest(self._folder)
        if manifest is None:
            raise UserError(
                f"--data_dir={self._folder} exists and was not generated here (no {generation.MANIFEST}): "
                "name a folder that does not exist, or pass --dataset=folders to use it as it is."
            )
        generation.check_settings(self._folder, manifest, self._drawn)

    def load(self, split: str, scaling: Scaling) -> Split:
        """One split in memory."""
        return folders.load_split(self._folder, split, self._image_size, scaling)

    def has_split(self, split: str) -> bool:
        """Whether there is, or would be, such a split."""
        return self._drawn.count(split) > 0 if self.is_synthetic else (Path(self._folder) / split).is_dir()

    def counts(self, split: str) -> tuple[int, int]:
        """Healthy and diseased images that a split holds, or would hold; nothing is read or written."""
        if self.is_synthetic:
            return (self._drawn.count(split),) * 2
        paths = [Path(self._folder) / split / name for name in CLASS_NAMES]
        healthy, diseased = (len(list_images(path)[0]) if path.is_dir() else 0 for path in paths)
        return healthy, diseased

    def digest(self) -> str:
        """What names the data."""
        return data_digest(self._folder)
