"""Training batches as tf.data: balanced, flipped, a function of (seed, number) alone."""

import itertools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from descargan_tf.data.order import Order
from descargan_tf.data.prepared import StoredImages, select
from descargan_tf.types import CLASS_NAMES, DISEASED, HEALTHY, Batch, Split

_PLANNED = 64  # batches whose order is looked up at a time: Python is asked so many times less often


class Share(NamedTuple):
    """Which of every `of` batches that follow each other are wanted: `count` from number `first` on."""

    first: int
    count: int
    of: int


def training_batches(
    split: Split, batch_size: int, seed: int, *, flips: bool = True, start: int = 0, mine: Share | None = None
) -> tf.data.Dataset:
    """An endless dataset of balanced batches; element e of a call with start=s is element s + e of start=0.

    Images in memory stay there (they are the cache) and are gathered from there, as `order.Order` says; those of a
    prepared data set are read from its memory maps, batch by batch.

    Args:
        split: both classes present.
        batch_size: images per element, even; a replica's share, not the global batch.
        seed: of order and flips.
        flips: mirror left-right and top-bottom, each with probability 1/2 (reference: D2.1).
        start: number of the first batch, for a resumed run.
        mine: where other processes take the other batches; all by default.

    Returns:
        Elements Batch([batch_size / 2, H, W, 1], [batch_size / 2, H, W, 1]).
    """
    half = batch_size // 2
    if isinstance(split.images, StoredImages):
        return _from_disk(split, half, seed, flips, start, mine)
    images = [tf.constant(part) for part in _parts(split)]

    def plans():
        order = Order([len(part) for part in images], seed, flips=flips)
        for first in itertools.count(start, _PLANNED):
            chosen, mirrored = order.batches(first, _PLANNED, half)
            wanted = _wanted(first, mine)
            yield chosen[wanted], mirrored[wanted]

    @tf.autograph.experimental.do_not_convert  # it has no branch; to look for one takes longer than all the rest
    def gather(chosen, mirrored):
        return Batch(*(flip(tf.gather(images[c], chosen[c]), mirrored[c]) for c in (HEALTHY, DISEASED)))

    def flip(batch, mirrored):
        for axis in (1, 2):
            coin = tf.reshape(mirrored[:, axis - 1], (half, 1, 1, 1))
            batch = tf.where(coin, tf.reverse(batch, axis=[axis]), batch)
        return batch

    shape = (None, len(CLASS_NAMES), half)
    signature = tf.TensorSpec(shape, tf.int32), tf.TensorSpec((*shape, 2), tf.bool)
    return _untuned(tf.data.Dataset.from_generator(plans, output_signature=signature).unbatch().map(gather).prefetch(4))


def _untuned(dataset):
    """Here tf.data has nothing to tune. A thread would look, ever less often, and whoever gives up the iterator waits
    for it: it can miss that it is to end, and the wait was up to 40 seconds.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def _wanted(first, mine):
    numbers = np.arange(first, first + _PLANNED)
    return slice(None) if mine is None else (numbers - mine.first) % mine.of < mine.count


def _parts(split):
    return [select(split.images, np.asarray(split.labels) == label) for label in (HEALTHY, DISEASED)]


def _from_disk(split, half, seed, flips, start, mine):
    parts = _parts(split)

    def batches():
        order = Order([len(part) for part in parts], seed, flips=flips)
        for first in itertools.count(start, _PLANNED):
            wanted = _wanted(first, mine)
            planned = (plan[wanted] for plan in order.batches(first, _PLANNED, half))
            for chosen, mirrored in zip(*planned, strict=True):
                yield tuple(_mirrored(parts[c][chosen[c]], mirrored[c]) for c in (HEALTHY, DISEASED))

    shape = tf.TensorSpec((half, *split.images.shape[1:]), tf.float32)
    return _untuned(tf.data.Dataset.from_generator(batches, output_signature=(shape, shape)).map(Batch).prefetch(4))


def _mirrored(images, coins):
    for axis in (1, 2):
        coin = coins[:, axis - 1, None, None, None]
        images = np.where(coin, np.flip(images, axis), images)
    return images
