"""A closer look at every image of a data set: what is nearly the same in two splits, and some images to be shown."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
from PIL import Image

from descargan_tf.data.near_duplicates import MAX_PAIRS, Fingerprint, Pair, fingerprint_of, near_duplicates
from descargan_tf.names import name_some, shown

_THREADS = 4
_TOGETHER = 64  # images in memory at a time
_SHOWN = 12  # of a class and split
_THUMBNAIL = 96  # pixels a side


class Picture(NamedTuple):
    """One image and where it belongs."""

    name: str  # relative to the data folder
    split: str
    label: int
    image: np.ndarray  # [S, S] float32 in [-1, 1]


class Examination(NamedTuple):
    """What was found."""

    names: list[str]
    pairs: list[Pair]  # by numbers of `names`
    thumbnails: dict[tuple[str, int], list[np.ndarray]]  # by split and label: [96, 96] uint8

    def findings(self) -> Iterator[str]:
        """Sentences, as those of `leaks`."""
        if not self.pairs:
            return
        named = name_some(
            (
                f"{shown(self.names[pair.first])} = {shown(self.names[pair.second])} ({pair.correlation:.3f})"
                for pair in self.pairs
            ),
            3,
        )
        count = "1 pair" if len(self.pairs) == 1 else f"{len(self.pairs)} pairs"
        more = " or more" if len(self.pairs) == MAX_PAIRS else ""
        yield (
            f"{count}{more} of nearly the same picture in different splits ({named}); results on them say nothing "
            "about new images: keep one of each, or all in one split"
        )


def examine(
    pictures: Iterable[Picture], counts: dict[tuple[str, int], int], progress: Callable[[int], object] | None = None
) -> Examination:
    """Look at each image once; 5 KiB are kept of it.

    Args:
        pictures: of the whole data set.
        counts: how many a split and label has, so that those to be shown are from all of it.
        progress: called with the number of images done since.
    """
    names: list[str] = []
    splits: list[str] = []
    fingerprints: list[Fingerprint | None] = []
    thumbnails: dict[tuple[str, int], list[np.ndarray]] = {place: [] for place in counts}
    wanted = {place: set(np.linspace(0, n - 1, min(n, _SHOWN)).astype(int).tolist()) for place, n in counts.items()}
    seen = dict.fromkeys(counts, 0)
    pictures = iter(pictures)
    with ThreadPoolExecutor(_THREADS) as pool:
        while some := list(islice(pictures, _TOGETHER)):
            fingerprints += pool.map(fingerprint_of, [picture.image for picture in some])
            for picture in some:
                place = picture.split, picture.label
                if seen[place] in wanted[place]:
                    thumbnails[place].append(_thumbnail(picture.image))
                seen[place] += 1
                names.append(picture.name)
                splits.append(picture.split)
            if progress:
                progress(len(some))
    return Examination(names, near_duplicates(fingerprints, splits), thumbnails)


def _thumbnail(image):
    small = Image.fromarray(image).resize((_THUMBNAIL,) * 2, Image.Resampling.BOX)
    return np.clip(np.rint((np.asarray(small) + 1) * 127.5), 0, 255).astype(np.uint8)
