"""The data that a Config names: generated where they are missing, checked, loaded."""

import functools
import time
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from descargan_tf.config import Config
from descargan_tf.data import digest, folders, generation, ground_truth, prepared
from descargan_tf.data.ground_truth import AUTO
from descargan_tf.data.images import Scaling
from descargan_tf.data.listing import GROUND_TRUTH_FOLDER, list_data_set, list_images
from descargan_tf.data.synthetic import SyntheticSettings
from descargan_tf.errors import UserError
from descargan_tf.types import CLASS_NAMES, DIFFERENCE, DISEASED, HEALTHY, MASK, SPLITS, Split

# Decisions of a preparation that prediction repeats; no path, and nothing else that a published model need not say.
_AS_PREPARED = ("source", "fit", "value_range", "slice_axis", "nifti_range")


class Dataset:
    """One data set, `--dataset=synthetic` or `folders`; `dataset_of` gives the one that a Config names."""

    def __init__(self, config: Config):
        self._folder = config.data_dir
        self._image_size = config.image_size
        self._value_range = config.value_range
        self._ground_truth = config.ground_truth if config.dataset == "folders" else AUTO
        self.is_synthetic = config.dataset == "synthetic"
        self._drawn = SyntheticSettings(
            seed=config.data_seed,
            image_size=config.image_size,
            num_train=config.num_train,
            num_validate=config.num_validate,
            num_test=config.num_test,
        )
        self._contents: dict[str, str] = {}  # of what was checked

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

    def check(
        self,
        splits: tuple[str, ...] = SPLITS,
        scaling: Scaling | None = None,
        in_memory: Mapping[str, float] | None = None,
    ) -> folders.DataSummary:
        """Generate what is missing, check everything, print what is there.

        Args:
            splits: that are to be read.
            scaling: a run's, where one is gone on with; None: the data's own.
            in_memory: splits that are to be loaded, and how often their images will be in memory at a time.

        Raises:
            UserError: something is not as training or evaluation needs it.
        """
        value_range = f"{scaling.low!r},{scaling.high!r}" if scaling else self._value_range
        if self.is_synthetic:
            value_range = "-1,1"
            self._check_drawn()
        summary = folders.check_data(
            self._folder,
            self._image_size,
            value_range,
            splits,
            in_memory=in_memory,
            asked_ground_truth=self._ground_truth,
        )
        self._contents = summary.contents
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
        return folders.load_split(self._folder, split, self._image_size, scaling, asked_ground_truth=self._ground_truth)

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

    def digest(self, *splits: str) -> str:
        """What names some splits that were checked; of synthetic images the manifest, which is of all splits."""
        if self.is_synthetic:
            return digest.of_manifest(self._folder)
        return digest.of_contents(self._contents_of(splits))

    def is_known_as(self, name: str, *splits: str) -> bool:
        """Whether some splits that were checked have this digest, or had it in an older version."""
        return name == self.digest(*splits) or name in self._by_older_versions()

    def training_facts(self, summary: folders.DataSummary) -> dict:
        """What a run keeps of its data: what prediction must know, and what training read."""
        # Nothing is learned from ground truth, and no checkpoint chosen by it: it may come, go and change later.
        files = {
            name: content
            for name, content in self._contents_of(("train", "validate")).items()
            if not (name.split("/")[1] == GROUND_TRUTH_FOLDER or name.endswith("#ground_truth"))
        }
        name = self.digest("train", "validate")
        return {"scaling": summary.scaling, "dtype": summary.dtype, "digest": name, "files": files}

    def differences(self, before: dict, now: dict) -> list[str]:
        """Say in what the data of a run, `before`, are not those that were checked; both are `training_facts`."""
        found = [
            f"{name} is {before[name]} there and {now[name]} here"
            for name in ("scaling", "dtype")
            if before[name] != now[name]
        ]
        if "files" in before:
            changes = digest.changes(before["files"], now["files"])
            return [*found, changes] if changes else found
        if before.get("digest") != now["digest"] and before.get("digest") not in self._by_older_versions():
            found.append(
                "the run is of an older version, which kept one sum over the whole folder, so that no file can be named"
            )
        return found

    def _contents_of(self, splits):
        return {name: content for name, content in self._contents.items() if name.split("/")[0] in splits}

    def _by_older_versions(self):
        splits = [split for split in SPLITS if (Path(self._folder) / split).is_dir()]
        return digest.by_older_versions(self._folder, list_data_set(Path(self._folder), splits).files)


class PreparedDataset(Dataset):
    """One data set that --mode=prepare made, `--dataset=prepared`: images stay on disk until they are asked for."""

    def __init__(self, config: Config):
        super().__init__(config)
        if config.value_range != "auto":
            raise UserError(
                f"--value_range={config.value_range}: the range was settled when the data were prepared; "
                "leave the flag out, or give it to --mode=prepare."
            )
        if config.ground_truth == DIFFERENCE:
            raise UserError("--ground_truth=difference: a prepared data set holds masks; leave the flag out.")

    @functools.cached_property
    def _prepared(self):
        found = prepared.open_prepared(self._folder)
        if found.image_size != self._image_size:
            raise UserError(
                f"--data_dir={self._folder} was prepared at --image_size={found.image_size}, and "
                f"--image_size={self._image_size} is asked for: prepare it again, or give that size."
            )
        return found

    def generate(self) -> None:
        """UserError: it is made by --mode=prepare."""
        raise UserError("--dataset=prepared is made of raw files by --mode=prepare.")

    def check(self, splits=SPLITS, scaling=None, in_memory=None) -> folders.DataSummary:
        """Look at its tables and the heads of its files, print what is there; nothing is loaded.

        Raises:
            UserError: a part is missing or damaged, or a class of a split is empty.
        """
        if scaling is not None and scaling != prepared.SCALING:
            raise UserError(
                f"the run was trained on files of values {scaling.low:g} to {scaling.high:g}, and a prepared data set "
                f"holds 0 to {prepared.WHITE}: give the data of the run."
            )
        self._contents = {
            f"{split}/{row['label']}/{row['source']}": self._content(row)
            for split in splits
            for row in self._prepared.rows(split)
        }
        summary = folders.DataSummary(
            root=self._folder,
            image_size=self._image_size,
            dtype="uint16",
            scaling=prepared.SCALING,
            ground_truths={split: self._ground_truth_of(split) for split in splits},
            classes=tuple(self._summarise(split, label) for split in splits for label in (HEALTHY, DISEASED)),
            warnings=(),
            contents=self._contents,
        )
        print("\n".join(summary.lines()), flush=True)
        return summary

    def load(self, split: str, scaling: Scaling) -> Split:
        """One split, its images on disk."""
        found = self._prepared
        rows = found.rows(split)
        truth = found.ground_truth(split)
        return Split(
            images=found.images(split),
            labels=found.labels(split),
            ground_truth=truth,
            names=tuple(f"{split}/{row['label']}/{row['source']}" for row in rows),
            ground_truth_kind=MASK if truth is not None else DIFFERENCE,
            has_ground_truth=found.has_ground_truth(split),
        )

    def has_split(self, split: str) -> bool:
        """Whether there are images in it."""
        return bool(self._prepared.rows(split))

    def counts(self, split: str) -> tuple[int, int]:
        """Healthy and diseased images of a split."""
        labels = self._prepared.labels(split)
        return int((labels == HEALTHY).sum()), int((labels == DISEASED).sum())

    def training_facts(self, summary: folders.DataSummary) -> dict:
        """As `Dataset.training_facts`, with what prediction must do alike."""
        decisions = self._prepared.decisions
        made = {name: decisions[name] for name in _AS_PREPARED if name in decisions}
        return {**super().training_facts(summary), "preparation": made}

    def _content(self, row):
        # What the stored pixels follow from.
        made_of = [row["sha256"], row["fit"], row["minimum"], row["maximum"], self._image_size]
        return digest.of_contents({row["source"]: str(made_of)})[:16]

    def _ground_truth_of(self, split):
        rows = [row for row in self._prepared.rows(split) if row["label"] == CLASS_NAMES[DISEASED]]
        names = frozenset(f"{split}/{row['label']}/{row['source']}" for row in rows if row["ground_truth"] == "mask")
        return ground_truth.GroundTruth(MASK, "of a prepared data set", names, False, ()) if names else None

    def _summarise(self, split, label):
        rows = [row for row in self._prepared.rows(split) if row["label"] == CLASS_NAMES[label]]
        if not rows:
            raise UserError(f"--data_dir={self._folder}: no {CLASS_NAMES[label]} image in {split}; both are needed.")
        return folders.ClassSummary(
            split=split,
            label=label,
            num_images=len(rows),
            minimum=min(float(row["minimum"]) for row in rows),
            maximum=max(float(row["maximum"]) for row in rows),
            num_ground_truths=sum(row["ground_truth"] == "mask" for row in rows),
            num_ignored=0,
        )

    def _by_older_versions(self):
        return set()


def dataset_of(config: Config) -> Dataset:
    """The data set that a Config names.

    Raises:
        UserError: flags that this kind of data set does not have.
    """
    return (PreparedDataset if config.dataset == "prepared" else Dataset)(config)
