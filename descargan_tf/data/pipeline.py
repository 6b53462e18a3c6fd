"""Training batches as tf.data: balanced, flipped, a function of (seed, number) alone."""

import tensorflow as tf

from descargan_tf.types import DISEASED, HEALTHY, Batch, Split


def training_batches(
    split: Split, batch_size: int, seed: int, *, flips: bool = True, start: int = 0
) -> tf.data.Dataset:
    """An endless dataset of balanced batches; element e of a call with start=s is element s + e of start=0.

    Every class is shuffled anew in each pass over its images, by itself, so the smaller class comes round more often.
    The images stay in memory (they are the cache) and are gathered from there.

    Args:
        split: both classes present.
        batch_size: images per element, even; a replica's share, not the global batch.
        seed: of order and flips.
        flips: mirror left-right and top-bottom, each with probability 1/2 (reference: D2.1).
        start: number of the first batch, for a resumed run.

    Returns:
        Elements Batch([batch_size / 2, H, W, 1], [batch_size / 2, H, W, 1]).
    """
    half = batch_size // 2
    images = [tf.constant(split.images[split.labels == label]) for label in (HEALTHY, DISEASED)]

    def draw(number, label):
        count = images[label].shape[0]
        position = number * half + tf.range(half, dtype=tf.int64)
        passes = position // count

        same = tf.zeros_like(passes)
        # The kernel of tf.random.experimental.index_shuffle: one key per index, where that takes one for all.
        order = tf.raw_ops.RandomIndexShuffle(
            index=position % count,
            seed=tf.stack([same + seed, same + label, passes], axis=1),
            max_index=tf.constant(count - 1, tf.int64),
            rounds=4,
        )
        batch = tf.gather(images[label], order)
        return flip(batch, number, label) if flips else batch

    def flip(batch, number, label):
        coins = tf.random.stateless_uniform((2, half, 1, 1, 1), [seed * 2 + label, number]) < 0.5
        batch = tf.where(coins[0], tf.reverse(batch, axis=[1]), batch)
        return tf.where(coins[1], tf.reverse(batch, axis=[2]), batch)

    return (
        tf.data.Dataset.counter(start)
        .map(
            lambda number: Batch(draw(number, HEALTHY), draw(number, DISEASED)),
            num_parallel_calls=1,
            deterministic=True,
        )
        .prefetch(4)
    )
