"""Predictors with two kinds of statistics, for weights that were trained so."""

import dataclasses

import exports
import keras
import numpy as np
import pytest
import tensorflow as tf

from descargan_tf import run_folder
from descargan_tf.errors import UserError
from descargan_tf.methods.two_statistics import KEEPING, TwoStatistics, of_one_kind
from descargan_tf.run_folder import configure


def test_two_kinds_of_statistics_are_weighed_with_the_classifiers_probability():
    method = exports.lively_method(kind=TwoStatistics)
    images = np.random.default_rng(5).uniform(-1, 1, (3, 64, 64, 1)).astype("float32")
    head = method.networks["discriminator"].get_layer("classifier").layers[-1]
    head.kernel.assign(head.kernel * 2 / np.std(np.diff(logits(method, images), axis=1)))
    head.bias.assign(head.bias - np.mean(logits(method, images), axis=0))
    p = np.exp(logits(method, images))
    p = (p / p.sum(1, keepdims=True))[:, 1]
    assert p.min() < 0.4
    assert p.max() > 0.6
    answers = {}
    for label, name in enumerate(("healthy", "diseased")):
        target = np.eye(2, dtype="float32")[[label] * 3]
        for kind in ("generator", KEEPING):
            out = method.networks[kind]({"image": images, "target": target}, training=False)
            answers[name, kind] = keras.ops.convert_to_numpy(out[name])
    share = p[:, None, None, None]
    a_h = share * answers["healthy", "generator"] + (1 - share) * answers["healthy", KEEPING]
    a_p = (1 - share) * answers["diseased", "generator"] + share * answers["diseased", KEEPING]
    assert np.abs(answers["healthy", "generator"] - answers["healthy", KEEPING]).max() > 0.05
    images_in = tf.constant(images)
    found = method.predict(images_in)
    np.testing.assert_allclose(found.healthy_image, a_h, atol=1e-5)
    np.testing.assert_allclose(found.anomaly_map, a_h - images, atol=1e-5)
    np.testing.assert_allclose(found.anomaly_score, np.abs(a_h - images).mean((1, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(found.class_probabilities[:, 1], p, atol=1e-5)
    translated = method.translate(images_in)
    np.testing.assert_allclose(translated["healthy"], a_h, atol=1e-5)
    np.testing.assert_allclose(translated["diseased"], a_p, atol=1e-5)


def logits(method, images):
    keep = np.ones((len(images), 64), "float32")
    return keras.ops.convert_to_numpy(method.networks["discriminator"]({"image": images, "keep": keep})["logits"])


def test_they_are_not_trained():
    with pytest.raises(UserError, match="--batch_norm=two_kinds is for weights"):
        configure(["main", "--dataset=synthetic", "--run_dir=runs/never", "--batch_norm=two_kinds"])


def test_they_are_of_one_method():
    config = configure(["main", "--mode=generate", "--method=vagan", "--batch_norm=two_kinds", "--image_size=64"])
    assert isinstance(run_folder.build_method(dataclasses.replace(config, method="descargan")), TwoStatistics)
    with pytest.raises(UserError, match="--method=vagan has no such weights"):
        run_folder.build_method(config)


def test_statistics_to_train_on_are_those_of_both_kinds_together():
    rng = np.random.default_rng(0)
    kept, translated = rng.normal(1, 2, (500, 3)), rng.normal(-1, 1, (500, 3))
    weights = {"generator/a/kernel": np.ones(3), f"{KEEPING}/a/kernel": np.ones(3)}
    for name, x in (("generator", translated), (KEEPING, kept)):
        weights |= {f"{name}/a/moving_mean": x.mean(0), f"{name}/a/moving_variance": x.var(0)}
    found, both = of_one_kind(weights), np.concatenate([kept, translated])
    assert sorted(found) == ["generator/a/kernel", "generator/a/moving_mean", "generator/a/moving_variance"]
    np.testing.assert_allclose(found["generator/a/moving_mean"], both.mean(0))
    np.testing.assert_allclose(found["generator/a/moving_variance"], both.var(0))
