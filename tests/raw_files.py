"""Small raw files in the layouts that sources read, for the tests of preparation."""

import csv

import numpy as np
from PIL import Image

from descargan_tf.preparation import sources
from descargan_tf.preparation.sources import Options


def picture(path, seed=0, shape=(40, 50), mode="L"):
    """Write noise as a picture; 16 bits with mode I;16, colour with RGB. Returns its array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    if mode == "I;16":
        array = random.integers(0, 65536, shape).astype(np.uint16)
    else:
        array = random.integers(0, 256, (*shape, 3) if mode == "RGB" else shape).astype(np.uint8)
    Image.fromarray(array).save(path)
    return array


def class_folders(root, per_class=6, suffix=".png"):
    """<root>/{healthy,diseased}/<number><suffix>, all of other shapes."""
    for label, name in enumerate(("healthy", "diseased")):
        for number in range(per_class):
            picture(root / name / f"{number:03d}{suffix}", 2 * number + label, (30 + number % 9, 40 - number % 11))
    return root


def table(path, rows, header=("path", "label")):
    """A table as spreadsheets write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


LABELS = ("No Finding", "Cardiomegaly", "Pleural Effusion", "Support Devices")
HEADER = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *LABELS)


def chexpert(root, rows, name="CheXpert-v1.0-small", called=None, files=True):
    """The collection's layout with noise for radiographs.

    `rows`: (split, patient, study, view file, Frontal or Lateral, AP or PA, *labels as in LABELS).
    """
    folder = root / name
    lines = {"train": [], "valid": []}
    for number, (split, patient, study, file, view, projection, *labels) in enumerate(rows):
        inner = f"{split}/patient{patient:05d}/study{study}/{file}.jpg"
        if files:
            picture(folder / inner, number, (39, 32))
        lines[split].append((f"{called or name}/{inner}", "Female", "68", view, projection, *labels))
    for split, found in lines.items():
        table(folder / f"{split}.csv", found, HEADER)
    return folder


def listed(name, root, **options):
    """What a source lists."""
    return sources.load(name).list(root, Options(key=b"k", **options))
