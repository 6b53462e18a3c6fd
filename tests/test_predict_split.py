"""A split in batches of one shape, with a stand-in for the model."""

import types

import numpy as np
import pytest
import tensorflow as tf

from descargan_tf.errors import UserError
from descargan_tf.prediction.splits import predict_split
from descargan_tf.training.backends import compiled_predict
from descargan_tf.types import Prediction

IMAGES = np.random.default_rng(0).uniform(-1, 1, (16, 64, 64, 1)).astype(np.float32)


@pytest.mark.parametrize("batch_size", [1, 5, 16, 40])
def test_batches_change_nothing_and_have_one_shape(batch_size):
    shapes, done = set(), []

    def predict(images):
        shapes.add(images.shape)
        return Prediction(images * 2, -images, images.mean((1, 2, 3)), None)

    answer = predict_split(predict, IMAGES, batch_size, lambda *pair: done.append(pair))
    assert shapes == {(batch_size, 64, 64, 1)}
    assert done[-1] == (16, 16)
    np.testing.assert_array_equal(answer.anomaly_map, IMAGES * 2)
    np.testing.assert_allclose(answer.anomaly_score, IMAGES.mean((1, 2, 3)))
    assert answer.class_probabilities is None


def test_nothing_to_predict_is_refused():
    with pytest.raises(UserError, match="0 images in batches of 4"):
        predict_split(lambda images: images, IMAGES[:0], 4)


@pytest.mark.parametrize("classifies", [True, False])
def test_without_maps_what_only_maps_need_is_not_computed(classifies):
    drawn = []

    def draw(images):
        drawn.append(len(images))
        return images * 2

    def predict(images):
        maps = tf.numpy_function(draw, [images], tf.float32, stateful=False)
        probabilities = tf.reduce_max(images, (2, 3)) if classifies else None
        return Prediction(maps, maps, tf.reduce_max(maps, (1, 2, 3)), probabilities)

    config, method = types.SimpleNamespace(backend="tensorflow"), types.SimpleNamespace(predict=predict)
    whole = compiled_predict(config, method)(IMAGES)
    assert drawn == [16]
    answer = compiled_predict(config, method, without_maps=True)(IMAGES)
    assert drawn == ([16] if classifies else [16, 16])
    assert answer.anomaly_map is None
    assert answer.healthy_image is None
    if classifies:
        assert answer.anomaly_score is None
        np.testing.assert_array_equal(answer.class_probabilities, whole.class_probabilities)
    else:
        np.testing.assert_array_equal(answer.anomaly_score, whole.anomaly_score)
