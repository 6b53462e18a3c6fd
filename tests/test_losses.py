import numpy as np
import pytest
import tensorflow as tf

from descargan_tf import losses


def values(x):
    return np.asarray(x, np.float64)


def images(*rows):
    return tf.constant(np.array(rows, "f").reshape(len(rows), 2, 2, 1))


def test_scores_are_means_of_maps():
    maps = images([1, 2, 3, 6], [-1, 0, 0, 0])
    np.testing.assert_allclose(values(losses.score(maps)), [3.0, -0.25])
    np.testing.assert_allclose(values(losses.critic_real(maps)), [-3.0, 0.25])
    np.testing.assert_allclose(values(losses.critic_fake(maps)), [3.0, -0.25])
    np.testing.assert_allclose(values(losses.generator_adversarial(maps)), [-3.0, 0.25])


def test_mix_lies_between():
    real, fake = images([1, 1, 1, 1]), images([0, 0, 0, 4])
    np.testing.assert_allclose(values(losses.mix(real, fake, 0.25)).ravel(), [0.25, 0.25, 0.25, 3.25])
    np.testing.assert_allclose(values(losses.mix(real, fake, 1.0)), values(real))


def test_gradient_penalty_by_hand():
    # |(3, 4, 0, 0)| = 5, |(1, 0, 0, 0)| = 1, |0| = 0.
    found = losses.gradient_penalty(images([3, 4, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]))
    np.testing.assert_allclose(values(found), [16.0, 0.0, 1.0], atol=1e-5)


def test_gradient_penalty_of_a_linear_critic():
    w = tf.constant([[0.0], [2.0], [0.0], [1.0]])
    with tf.GradientTape() as outer:
        outer.watch(w)
        x = images([1, 2, 3, 4], [0, 0, 0, 0])
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = tf.reshape(x, (2, 4)) @ w
        penalty = losses.gradient_penalty(inner.gradient(y, x))
    norm = np.sqrt(5)
    np.testing.assert_allclose(values(penalty), [(norm - 1) ** 2] * 2, rtol=1e-5)
    # d/dw of 2 (|w| - 1)^2 = 4 (|w| - 1) w / |w|
    np.testing.assert_allclose(values(outer.gradient(penalty, w)), 4 * (norm - 1) / norm * values(w), rtol=1e-5)


def test_gradient_penalty_is_finite_where_the_gradient_vanishes():
    with tf.GradientTape() as tape:
        g = tf.zeros((1, 2, 2, 1))
        tape.watch(g)
        penalty = losses.gradient_penalty(g)
    assert np.isfinite(values(tape.gradient(penalty, g))).all()


def test_distances_by_hand():
    real, artificial = images([1, 2, 3, 4], [0, 0, 0, 0]), images([1, 2, 0, 0], [0, 0, 0, 0])
    np.testing.assert_allclose(values(losses.identity(real, artificial, "l2")), [5.0, 0.0], atol=1e-5)
    np.testing.assert_allclose(values(losses.reconstruction(real, artificial, "mse")), [6.25, 0.0])
    with pytest.raises(ValueError, match="expected one of"):
        losses.distance(real, artificial, "l1")


def test_l2_at_identity_has_a_finite_gradient():
    with tf.GradientTape() as tape:
        x = tf.ones((1, 2, 2, 1))
        tape.watch(x)
        y = losses.distance(tf.ones((1, 2, 2, 1)), x, "l2")
    assert np.isfinite(values(tape.gradient(y, x))).all()


def test_classification_by_hand():
    logits = tf.constant([[0.0, 0.0], [np.log(3.0), 0.0]])
    np.testing.assert_allclose(values(losses.classification(logits, 0)), [np.log(2), np.log(4 / 3)], rtol=1e-6)
    np.testing.assert_allclose(values(losses.classification(logits, 1)), [np.log(2), np.log(4)], rtol=1e-6)


def test_weights_of_equations_7_and_8():
    assert losses.generator_weights(1, 50, 50, 1) == {
        "adversarial": 1,
        "reconstruction": 50,
        "identity": 50,
        "classification": 1,
    }
    # Sect. 4: lambda_adv,d = 20, lambda_gp = 10, lambda_cls,d = 5; the penalty weighs 200 (D4.8).
    assert losses.discriminator_weights(20, 10, 5) == {
        "real": 20,
        "fake": 20,
        "gradient_penalty": 200,
        "classification": 5,
    }
