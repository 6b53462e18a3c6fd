"""The data that a Config names: generated where they are missing, checked, loaded."""

import functools
import hashlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from descargan_tf.config import Config
from descargan_tf.data import digest, folders, generation, ground_truth, leaks, memory, prepared
from descargan_tf.data.examination import Picture
from descargan_tf.data.ground_truth import AUTO
from descargan_tf.data.images import Scaling, scale_pixels
from descargan_tf.data.listing import GROUND_TRUTH_FOLDER, list_data_set, list_images
from descargan_tf.data.reading import NUM_THREADS, read_all
from descargan_tf.data.synthetic import SyntheticSettings
from descargan_tf.errors import UserError
from descargan_tf.types import CLASS_NAMES, DIFFERENCE, DISEASED, DRAWN, HEALTHY, MASK, SPLITS, Split

_SAMPLE = 300  # images of a class and split that are looked at before training; each costs milliseconds
_NARROW_SHARE = 1 / 8  # of the prepared range, below which it is probably not the one that was meant
# What a preparation was told of ranges, and what is the matter where they are not filled.
_RANGES = {
    "value_range": "; if the files have fewer bits (12-bit: 0,4095), prepare them again with --value_range=low,high",
    "nifti_range": "; prepare the volumes again with another --nifti_range",
}
# Decisions of a preparation that prediction repeats; no path, and nothing else that a published model need not say.
_AS_PREPARED = ("source", "fit", "value_range", "slice_axis", "nifti_range")


class Dataset:
    """One data set in folders, drawn or one's own; `dataset_of` gives the one that a Config names."""

    def __init__(self, config: Config):
        self._folder = config.data_dir
        self._image_size = config.image_size
        self._value_range = config.value_range
        self._ground_truth = config.ground_truth if config.dataset == "folders" else AUTO
        self.is_synthetic = config.dataset in DRAWN
        self._drawn = SyntheticSettings(
            seed=config.data_seed,
            image_size=config.image_size,
            num_train=config.num_train,
            num_validate=config.num_validate,
            num_test=config.num_test,
            dataset=config.dataset if self.is_synthetic else DRAWN[0],
        )
        self._contents: dict[str, str] = {}  # of what was checked

    def generate(self) -> None:
        """Draw the images, with a bar on the terminal.

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
        every_image: bool = False,
    ) -> folders.DataSummary:
        """Generate what is missing, check everything, print what is there.

        Args:
            splits: that are to be read.
            scaling: a run's, where one is gone on with; None: the data's own.
            in_memory: splits that are to be loaded, and how often their images will be in memory at a time.
            every_image: look at the pixels of all, even where a sample of some hundred would do.

        Raises:
            UserError: something is not as training or evaluation needs it.
        """
        value_range = f"{scaling.low!r},{scaling.high!r}" if scaling else self._value_range
        if self.is_synthetic:
            value_range = "-1,1"
            self._check_drawn(in_memory or {})
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

    def _check_drawn(self, in_memory):
        folder = Path(self._folder)
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            counts = {split: self._drawn.count(split) for split in in_memory}
            memory.refuse_too_many_drawn(folder, counts, in_memory, self._image_size)
            self.generate()
        manifest = generation.read_manifest(self._folder)
        if manifest is None:
            raise UserError(
                f"--data_dir={self._folder} exists and was not generated here (no {generation.MANIFEST}): "
                "name a folder that does not exist, or pass --dataset=folders to use it as it is."
            )
        generation.check_settings(self._folder, manifest, self._drawn)

    def pictures(self, summary: folders.DataSummary) -> Iterator[Picture]:
        """Every image of a data set that was checked, one after another."""
        files = list_data_set(Path(self._folder), tuple(summary.ground_truths)).files
        for facts, pixels, _ in read_all(files, NUM_THREADS, progress=None):
            if pixels is None:
                raise UserError(f"--data_dir={self._folder} has changed while it was checked: {facts.unreadable[0]}")
            file = facts.file
            yield Picture(file.name, file.split, file.label, scale_pixels(pixels, summary.scaling, file.name))

    def num_without_patient(self) -> int:
        """Images of which nobody has said whose they are."""
        return 0 if self.is_synthetic else sum(sum(self.counts(split)) for split in SPLITS)

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

    def check(self, splits=SPLITS, scaling=None, in_memory=None, every_image=False) -> folders.DataSummary:
        """Look at its tables, the heads of its files and a sample of its images, print what is there.

        Raises:
            UserError: a part is missing or damaged, or a class of a split is empty.
        """
        if scaling is not None and scaling != prepared.SCALING:
            raise UserError(
                f"the run was trained on files of values {scaling.low:g} to {scaling.high:g}, and a prepared data set "
                f"holds 0 to {prepared.WHITE}: give the data of the run."
            )
        self._contents = {
            name: self._content(row)
            for split in splits
            for name, row in zip(self._prepared.names(split), self._prepared.rows(split), strict=True)
        }
        for split in splits:
            for label in (HEALTHY, DISEASED):
                if not self._rows(split, label):
                    raise UserError(
                        f"--data_dir={self._folder}: no {CLASS_NAMES[label]} image in {split}; both are needed."
                    )
        measured = self._measure(splits, None if every_image else _SAMPLE)
        sampled = [split for split in splits if not every_image and max(self.counts(split)) > _SAMPLE]
        if sampled and leaks.is_undecided(measured, sampled):  # then it would be luck whether a leak is told
            measured = self._measure(splits, None)
        classes = tuple(self._summarise(split, label, measured) for split in splits for label in (HEALTHY, DISEASED))
        rows = [row for split in splits for row in self._prepared.rows(split)]
        names = [name for split in splits for name in self._prepared.names(split)]
        findings = (
            *self._narrow_range_findings(measured),
            *(leaks.constant_findings(measured, names) if every_image else ()),
            *leaks.patient_findings(rows),
            *leaks.class_leak_findings(measured),
            *leaks.acquisition_findings(rows),
            *leaks.identical_file_findings(rows),
            *(leaks.identical_picture_findings(measured, rows, self._digests(splits)) if every_image else ()),
        )
        notes = [
            f"{count} {what} when the data were prepared"
            for name, what in (("failed", "raw files could not be used"), ("lost_masks", "masks became empty"))
            if (count := self._prepared.decisions.get(name, 0))
        ]
        summary = folders.DataSummary(
            root=self._folder,
            image_size=self._image_size,
            dtype="uint16",
            scaling=prepared.SCALING,
            ground_truths={split: self._ground_truth_of(split) for split in splits},
            classes=classes,
            warnings=(*notes, *findings),
            contents=self._contents,
            findings=findings,
            measured=measured,
        )
        print("\n".join(summary.lines()), flush=True)
        return summary

    def pictures(self, summary: folders.DataSummary) -> Iterator[Picture]:
        """Every image, one after another."""
        for split in summary.ground_truths:
            images = self._prepared.images(split)
            labels, names = self._prepared.labels(split).tolist(), self._prepared.names(split)
            for number, (name, label) in enumerate(zip(names, labels, strict=True)):
                yield Picture(name, split, label, images[number, ..., 0])

    def num_without_patient(self) -> int:
        """Images of which nobody has said whose they are."""
        return sum(not row["patient"] for split in SPLITS for row in self._prepared.rows(split))

    def load(self, split: str, scaling: Scaling) -> Split:
        """One split, its images on disk."""
        found = self._prepared
        truth = found.ground_truth(split)
        return Split(
            images=found.images(split),
            labels=found.labels(split),
            ground_truth=truth,
            names=found.names(split),
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

    def _measure(self, splits, sample):
        """The numbers of all images, in the order of the rows, or of a sample."""
        of_splits, of_labels, whole, beside = [], [], [], []
        for split in splits:
            images, truths = self._prepared.images(split), self._prepared.ground_truth(split)
            labels, is_known = self._prepared.labels(split), self._prepared.has_ground_truth(split)
            for label in (HEALTHY, DISEASED):
                members = np.flatnonzero(labels == label)
                if sample and len(members) > sample:
                    members = members[np.linspace(0, len(members) - 1, sample).astype(int)]
                for number in members:
                    image = images[number, ..., 0]
                    has_mask = label == DISEASED and truths is not None and is_known[number]
                    of_splits.append(split)
                    of_labels.append(label)
                    whole.append(leaks.statistics_of(image))
                    beside.append(leaks.outside_disease(image, truths[number, ..., 0]) if has_mask else [])
        return leaks.measured(of_splits, of_labels, whole, beside)

    def _digests(self, splits):
        """Of the pixels of each image, in the order of the rows."""
        stored = (self._prepared.images(split) for split in splits)
        return [
            hashlib.blake2b(images[n, ..., 0], digest_size=16).digest() for images in stored for n in range(len(images))
        ]

    def _narrow_range_findings(self, measured):
        low, high = measured.whole[:, 0].min(), measured.whole[:, 1].max()
        if high - low < 2 * _NARROW_SHARE:
            yield (
                f"all values fill {(high - low) / 2:.1%} of the range that the data were prepared with"
                + next((hint for asked, hint in _RANGES.items() if asked in self._prepared.decisions), "")
            )

    def _content(self, row):
        # What the stored pixels follow from.
        made_of = [row["sha256"], row["fit"], row["minimum"], row["maximum"], self._image_size]
        return digest.of_contents({row["source"]: str(made_of)})[:16]

    def _ground_truth_of(self, split):
        rows = self._rows(split, DISEASED)
        names = frozenset(f"{split}/{row['label']}/{row['source']}" for row in rows if row["ground_truth"] == "mask")
        return ground_truth.GroundTruth(MASK, "of a prepared data set", names, False, ()) if names else None

    def _rows(self, split, label):
        return [row for row in self._prepared.rows(split) if row["label"] == CLASS_NAMES[label]]

    def _summarise(self, split, label, measured):
        # Of the stored pixels that were looked at: raw files may each have a unit of their own.
        seen = measured.whole[(measured.splits == split) & (measured.labels == label)]
        rows = self._rows(split, label)
        return folders.ClassSummary(
            split=split,
            label=label,
            num_images=len(rows),
            minimum=round(prepared.SCALING.low + (float(seen[:, 0].min()) + 1) / prepared.SCALING.factor),
            maximum=round(prepared.SCALING.low + (float(seen[:, 1].max()) + 1) / prepared.SCALING.factor),
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
