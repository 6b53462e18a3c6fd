"""Whether a data set fits into memory, asked before anything of it is read."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from descargan_tf.data.listing import Listing
from descargan_tf.errors import UserError
from descargan_tf.types import DISEASED

try:
    import resource
except ImportError:  # not a POSIX system, which has no such limit
    resource = None

_BYTES_PER_PIXEL = 4  # float32
_CGROUP_2 = Path("/sys/fs/cgroup")
_CGROUP_1 = Path("/sys/fs/cgroup/memory")


def needed(listing: Listing, copies: Mapping[str, float], image_size: int) -> int:
    """Bytes that splits take as arrays.

    Args:
        listing: of the data folder.
        copies: by split, how often its images are in memory at a time.
        image_size: pixels a side.
    """
    images = sum(copies.get(file.split, 0) for file in listing.files)
    # Ground truth of healthy images is zero, which the system gives no memory for until it is written to.
    truths = sum(1 for file in listing.files if copies.get(file.split) and file.label == DISEASED and file.ground_truth)
    return int((images + truths) * image_size**2 * _BYTES_PER_PIXEL)


def refuse_too_large(root: Path, listing: Listing, copies: Mapping[str, float], image_size: int) -> None:
    """Nothing, where the splits fit or where nobody knows what is free.

    Raises:
        UserError: with the size that is needed, and the free one.
    """
    counts = {split: sum(file.split == split for file in listing.files) for split in copies}
    _refuse(root, counts, needed(listing, copies, image_size), image_size)


def refuse_too_many_drawn(
    root: Path, per_class: Mapping[str, int], copies: Mapping[str, float], image_size: int
) -> None:
    """As `refuse_too_large`, of a data set that is still to be drawn.

    Args:
        root: of the data folder.
        per_class: by split, how many images of each class it is to have; a diseased one has a ground truth.
        copies: by split, how often its images are in memory at a time.
        image_size: pixels a side.
    """
    planes = sum(3 * per_class[split] * times for split, times in copies.items())
    counts = {split: 2 * per_class[split] for split in copies}
    _refuse(root, counts, int(planes * image_size**2 * _BYTES_PER_PIXEL), image_size)


def _refuse(root, counts, size, image_size):
    free = free_bytes()
    if free is None or size <= free:
        return
    named = ", ".join(f"{count:,} of {split}" for split, count in counts.items())
    raise UserError(
        f"data folder {root}: {named} images of {image_size}x{image_size} need {spoken(size)} of memory at a time, "
        f"and {spoken(free)} are free; use fewer or smaller images, or a machine with more memory"
    )


def free_bytes() -> int | None:
    """What the system, the container and this process' own limit leave; None where none of them says it."""
    return min((free for free in (_of_system(), _of_container(), _of_limit()) if free is not None), default=None)


def _of_system():
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _of_container():
    for folder, limit, used, cache in (
        (_CGROUP_2, "memory.max", "memory.current", "inactive_file"),
        (_CGROUP_1, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        with contextlib.suppress(OSError, ValueError):  # another version, or no limit: "max"
            found = int((folder / limit).read_text()) - int((folder / used).read_text())
            facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            return max(found + int(facts.get(cache, 0)), 0)  # pages of files are given back when asked for
    return None


def _of_limit():
    if resource is None:
        return None
    left = []
    for kind, column in ((resource.RLIMIT_AS, 0), (resource.RLIMIT_DATA, 5)):
        limit, _ = resource.getrlimit(kind)
        if limit == resource.RLIM_INFINITY:
            continue
        pages = 0
        with contextlib.suppress(OSError, ValueError):
            pages = int(Path("/proc/self/statm").read_text().split()[column])
        left.append(max(limit - pages * os.sysconf("SC_PAGE_SIZE"), 0))
    return min(left, default=None)


def limit_of_process() -> str:
    """What is to be said where this process has a limit of its own; empty where it has none.

    TensorFlow's kernels do not ask whether they were given memory: the system ends the process without a word.
    """
    free = _of_limit()
    if free is None:
        return ""
    return (
        f"this process may take {spoken(free)} more memory (ulimit -v, ulimit -d): should it end without a word or by "
        "a segmentation fault, that was not enough; what has been saved is whole, and the same command goes on"
    )


def spoken(size: int) -> str:
    """Bytes in words."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
