"""Colours of a map over its image, by hand."""

import numpy as np
import pytest

from descargan_tf.prediction.overlay import NEGATIVE_COLOUR, POSITIVE_COLOUR, overlay


def test_overlay_by_hand():
    image = np.array([[-1.0, 0.0, 1.0, 0.2]])
    np.testing.assert_array_equal(
        overlay(image, np.zeros_like(image)), np.rint((image + 1) * 127.5)[..., None].repeat(3, -1)
    )
    shown = overlay(image, np.array([[1.0, -1.0, 0.5, 7.0]]), scale=1.0)
    assert shown.dtype == np.uint8
    np.testing.assert_array_equal(shown[0, 0], POSITIVE_COLOUR)
    np.testing.assert_array_equal(shown[0, 1], NEGATIVE_COLOUR)
    np.testing.assert_array_equal(shown[0, 2], np.rint((np.array(POSITIVE_COLOUR) + 255) / 2))
    np.testing.assert_array_equal(shown[0, 3], POSITIVE_COLOUR)
    red, blue = overlay(np.zeros((1, 2)), np.array([[0.3, -0.3]]))[0].astype(int)
    assert red[0] > red[2]
    assert blue[2] > blue[0]


def test_overlay_refuses_what_it_cannot_draw():
    with pytest.raises(ValueError, match="two arrays"):
        overlay(np.zeros((4, 4)), np.zeros((4, 4, 1)))
    with pytest.raises(ValueError, match="scale must be positive, got 0"):
        overlay(np.zeros((4, 4)), np.zeros((4, 4)), scale=0)
