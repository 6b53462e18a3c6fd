"""Any height and width to a square: where pixels go, what they are worth, and that a mask goes with its image."""

import numpy as np
import pytest

from descargan_tf.preparation.fitting import CROP, FITS, PAD, STRETCH, fit, fit_mask, unfit


@pytest.mark.parametrize("how", FITS)
def test_a_square_of_the_right_size_keeps_every_bit(how):
    values = np.random.default_rng(0).random((32, 32), np.float32)
    np.testing.assert_array_equal(fit(values, 32, how), values)


@pytest.mark.parametrize("how", FITS)
@pytest.mark.parametrize("shape", [(320, 390), (390, 320), (7, 5), (1, 1), (1, 400), (400, 1), (2048, 3)])
def test_no_value_leaves_the_range_of_the_image(how, shape):
    values = np.random.default_rng(1).random(shape, np.float32) / 2 + 0.25
    square = fit(values, 64, how)
    assert square.shape == (64, 64)
    assert square.dtype == np.float32
    inside = square[square != 0]  # pad's bars
    assert inside.size
    assert inside.min() >= values.min() - 1e-6
    assert inside.max() <= values.max() + 1e-6


def test_a_smaller_image_is_an_average():
    """A chess board of single pixels is gray at a quarter of the size, not one of its colours."""
    board = (np.indices((128, 128)).sum(0) % 2).astype(np.float32)
    assert np.abs(fit(board, 32, STRETCH) - 0.5).max() < 0.01
    values = np.random.default_rng(2).random((256, 256), np.float32)
    assert fit(values, 32, STRETCH).mean() == pytest.approx(values.mean(), abs=1e-3)


def test_pad_keeps_all_and_the_proportions():
    square = fit(np.ones((32, 64), np.float32), 64, PAD)
    np.testing.assert_array_equal(square[16:48], 1)
    np.testing.assert_array_equal(square[:16], 0)
    np.testing.assert_array_equal(square[48:], 0)
    assert (fit(np.ones((128, 32), np.float32), 64, PAD)[:, 24:40] == 1).all()
    assert fit(np.ones((128, 32), np.float32), 64, PAD).sum() == 64 * 16


def test_crop_takes_the_middle_square():
    wide = np.repeat(np.arange(128, dtype=np.float32)[None] / 128, 64, axis=0)
    np.testing.assert_array_equal(fit(wide, 64, CROP), wide[:, 32:96])


def test_stretch_bends_all_of_it():
    wide = np.zeros((64, 128), np.float32)
    wide[:, :64] = 1
    bent = fit(wide, 64, STRETCH)
    np.testing.assert_allclose(bent[:, :31], 1, atol=1e-6)
    np.testing.assert_allclose(bent[:, 33:], 0, atol=1e-6)


@pytest.mark.parametrize("how", FITS)
def test_a_mask_goes_where_its_image_goes(how):
    image = np.zeros((300, 500), np.float32)
    image[120:200, 200:320] = 1
    mask = fit_mask(image > 0, 100, how)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1}
    np.testing.assert_array_equal(mask, fit(image, 100, how) >= 0.5)
    share = {PAD: 80 * 120 / 500**2, CROP: 80 * 120 / 300**2, STRETCH: 80 * 120 / (300 * 500)}[how]
    assert mask.mean() == pytest.approx(share, rel=0.1)


# ---- and back


@pytest.mark.parametrize("how", FITS)
@pytest.mark.parametrize("shape", [(64, 64), (40, 60), (61, 40), (130, 97), (301, 500)])
def test_what_is_laid_back_lies_where_it_came_from(how, shape):
    """A ramp down or across is the same ramp again, in all that was not cut off."""
    places = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    from_middle = np.abs(places - (np.reshape(shape, (2, 1, 1)) - 1) / 2)
    kept = (from_middle <= (min(shape) - 1) / 2).all(0) if how == CROP else np.ones(shape, bool)
    for ramp in places / 500:
        back = unfit(fit(ramp, 64, how), *shape, how)
        assert back.shape == shape
        assert not back[~kept].any()
        pixels = (back - ramp)[kept] * 500
        assert abs(pixels.mean()) < 1e-3  # nowhere to one side
        assert np.median(np.abs(pixels)) < 0.03
        assert np.abs(pixels).max() < max(1, max(shape) / 64)  # at the border there is nothing further out to average


@pytest.mark.parametrize("how", FITS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (3, 200), (200, 3)])
def test_the_thinnest_images_are_laid_back_too(how, shape):
    back = unfit(fit(np.ones(shape, np.float32), 64, how), *shape, how)
    assert back.shape == shape
    assert set(np.unique(back)) <= {0, 1}
    assert how == CROP or back.all()
