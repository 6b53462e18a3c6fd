"""Which images make up which training batch, and how they are mirrored: numpy alone, so the same for every backend."""

from collections.abc import Sequence

import numpy as np

_PASSES_KEPT = 4


class Order:
    """Batches as numbers of images; a function of (seed, position in the stream) alone.

    Every class is shuffled anew in each pass over its images, by itself, so the smaller class comes round more often.

    Args:
        counts: images of each class.
        seed: of order and mirroring.
        flips: mirror along either axis, each with probability 1/2 (reference: D2.1).
    """

    def __init__(self, counts: Sequence[int], seed: int, *, flips: bool = True):
        self._counts, self._seed, self._flips = tuple(counts), seed, flips
        self._passes: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def batches(self, start: int, count: int, half: int) -> tuple[np.ndarray, np.ndarray]:
        """`count` batches of `half` images a class from number `start` on.

        Batches of one size follow each other without a gap, so two of half the size are one of the whole.

        Returns:
            Numbers of the images within their class, [count, K, half] int32, and whether they are mirrored top-bottom
            and left-right, [count, K, half, 2] bool.
        """
        found = [self._stretch(label, start * half, count * half) for label in range(len(self._counts))]
        chosen, mirrored = (np.stack(parts) for parts in zip(*found, strict=True))
        chosen = chosen.reshape(len(self._counts), count, half)
        mirrored = mirrored.reshape(len(self._counts), count, half, 2)
        return np.swapaxes(chosen, 0, 1), np.swapaxes(mirrored, 0, 1)

    def _stretch(self, label, start, length):
        size = self._counts[label]
        parts, position = [], start
        while position < start + length:
            order, mirrored = self._pass(label, position // size)
            first = position % size
            last = min(first + start + length - position, size)
            parts.append((order[first:last], mirrored[first:last]))
            position += last - first
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))

    def _pass(self, label, number):
        if (label, number) not in self._passes:
            # Sorted raw bits, not Generator.permutation, whose stream may change between versions of numpy.
            bits = np.random.Philox(key=[2 * self._seed + label, number])
            size = self._counts[label]
            order = np.argsort(bits.random_raw(size), kind="stable").astype(np.int32)
            mirrored = (bits.random_raw(2 * size) >> np.uint64(63)).astype(bool).reshape(size, 2) & self._flips
            while len(self._passes) >= _PASSES_KEPT:
                del self._passes[next(iter(self._passes))]
            self._passes[label, number] = order, mirrored
        return self._passes[label, number]
