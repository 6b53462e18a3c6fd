"""A whole split through a method, in batches of one shape."""

import numpy as np

from descargan_tf.errors import UserError
from descargan_tf.types import Prediction

BATCH_SIZE = 16  # images at a time, where nothing else is said


def predict_split(predict, images, batch_size, progress=None):
    """Run `predict` over images [N, H, W, 1] and give one Prediction of numpy arrays.

    `predict` maps [B, H, W, 1] to a Prediction. The last batch is filled up by repeating its last image and its answer
    cut, so only one batch shape is ever compiled. `progress(done, total)` is called after each batch.
    """
    if not len(images) or batch_size < 1:
        raise UserError(f"nothing to predict: {len(images)} images in batches of {batch_size}; both must be at least 1")
    parts = []
    for start in range(0, len(images), batch_size):
        batch = np.asarray(images[start : start + batch_size])
        num_real = len(batch)
        if num_real < batch_size:
            batch = np.concatenate([batch, np.repeat(batch[-1:], batch_size - num_real, axis=0)])
        parts.append([None if field is None else np.asarray(field)[:num_real] for field in predict(batch)])
        if progress is not None:
            progress(start + num_real, len(images))
    columns = zip(*parts, strict=True)
    return Prediction(*(None if column[0] is None else np.concatenate(column) for column in columns))
