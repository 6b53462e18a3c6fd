"""The variational autoencoder: its networks and losses against independent computations, and what it answers."""

import keras
import numpy as np
import program_starts
import pytest
import tensorflow as tf
from scipy.stats import norm

from descargan_tf import losses
from descargan_tf.evaluation import evaluator, report
from descargan_tf.evaluation.validation import validate
from descargan_tf.methods.vae import VAE, VAESettings
from descargan_tf.models.blocks import BatchNormalization
from descargan_tf.models.vae import build_vae
from descargan_tf.prediction.splits import predict_split
from descargan_tf.training.step import TrainStep, input_gradient
from descargan_tf.types import Batch, Split

SLOPE = 0.2

pytestmark = pytest.mark.usefixtures("graphs_as_traced")


def count(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def randomise(model, seed=0):
    """Weights of a trained network's size everywhere, biases and normalisation too."""
    rng = np.random.default_rng(seed)
    for v in model.variables:
        spread = 0.3 if len(v.shape) == 1 else 1 / np.sqrt(np.prod(v.shape[:-1]))
        offset = 1.0 if "gamma" in v.path or "variance" in v.path else 0.0
        v.assign(offset + np.abs(rng.normal(0, spread, v.shape)) * (1 if offset else rng.choice([-1, 1], v.shape)))


def images(count, size=64, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, size, size, 1)).astype("f")


@pytest.fixture(scope="module")
def method():
    keras.utils.set_random_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        program_starts.leave_layers_out(patch.setattr)
        method = VAE(VAESettings(image_size=64, generator_filters=2, latent_units=5, generator_learning_rate=3e-3))
    randomise(method.networks["autoencoder"])
    return method


# ---- networks


@pytest.mark.usefixtures("shapes_alone")
def test_parameter_counts_at_the_papers_size():
    settings = VAESettings()
    network = build_vae(
        image_size=settings.image_size, filters=settings.generator_filters, latent_units=settings.latent_units
    )
    assert count(network.get_layer("encoder")) == 17_760_464
    assert count(network.get_layer("decoder")) == 9_142_450


def activate(x):
    return np.where(x > 0, x, SLOPE * x)


def convolve(x, kernel, strides):
    """[H, W, C] by 3x3; TensorFlow's zeros: all around for stride one, after the last row and column for two."""
    height, width, _ = x.shape
    before = 1 if strides == 1 else 0
    padded = np.pad(x, ((before, 1), (before, 1), (0, 0)))
    out = np.zeros((height // strides, width // strides, kernel.shape[-1]))
    for i in range(3):
        for j in range(3):
            out += padded[i : i + height : strides, j : j + width : strides] @ kernel[i, j]
    return out


def convolve_transposed(x, kernel):
    """[H, W, C] to [2H, 2W, filters]: each value lays down the kernel [3, 3, filters, C]; the last row is cut off."""
    height, width, _ = x.shape
    out = np.zeros((2 * height + 1, 2 * width + 1, kernel.shape[2]))
    for i in range(height):
        for j in range(width):
            out[2 * i : 2 * i + 3, 2 * j : 2 * j + 3] += kernel @ x[i, j]
    return out[:-1, :-1]


def convolution(model, channels, filters, strides=1, transposed=False):
    """The layer of this size; there is one."""
    kind = keras.layers.Conv2DTranspose if transposed else keras.layers.Conv2D
    shape = (3, 3, filters, channels) if transposed else (3, 3, channels, filters)
    found = [layer for layer in model.layers if isinstance(layer, kind) and layer.strides == (strides, strides)]
    (layer,) = (layer for layer in found if layer.kernel.shape == shape)
    return layer


def block(model, x, filters, strides=1, transposed=False):
    """A convolution, its normalisation and rectifier."""
    layer = convolution(model, x.shape[-1], filters, strides, transposed)
    kernel = np.asarray(layer.kernel, np.float64)
    x = convolve_transposed(x, kernel) if transposed else convolve(x, kernel, strides)
    after = layer._outbound_nodes[0].operation
    assert isinstance(after, BatchNormalization)
    gamma, beta, mean, variance = (np.asarray(w, np.float64) for w in after.weights)
    return activate((x + np.asarray(layer.bias) - mean) / np.sqrt(variance + 1e-5) * gamma + beta)


def residual(model, x, inner, outer, transposed=False):
    main = block(model, block(model, x, inner, 2, transposed), outer)
    return main + block(model, x, outer, 2, transposed)


def test_encoder_equals_an_independent_computation():
    encoder = build_vae(image_size=32, filters=2, latent_units=3).get_layer("encoder")
    randomise(encoder)
    image = images(1, 32)
    x = block(encoder, image[0], 2)
    for inner, outer in ((2, 4), (4, 8), (8, 16), (16, 32)):
        x = residual(encoder, x, inner, outer)
    assert x.shape == (2, 2, 32)
    found = encoder(image, training=False)
    for name in ("mean", "log_sigma"):
        kernel, bias = (np.asarray(w) for w in encoder.get_layer(name).weights)
        np.testing.assert_allclose(np.asarray(found[name])[0], x.reshape(-1) @ kernel + bias, rtol=1e-4, atol=1e-5)


def test_decoder_equals_an_independent_computation():
    decoder = build_vae(image_size=32, filters=2, latent_units=3).get_layer("decoder")
    randomise(decoder)
    code = np.random.default_rng(1).normal(size=(1, 3)).astype("f")
    (dense,) = (layer for layer in decoder.layers if isinstance(layer, keras.layers.Dense))
    first, last = convolution(decoder, 32, 16), convolution(decoder, 1, 2)
    dense, first, last = ([np.asarray(w, np.float64) for w in layer.weights] for layer in (dense, first, last))
    y = (code[0] @ dense[0] + dense[1]).reshape(2, 2, 32)
    y = activate(convolve(y, first[0], 1) + first[1])
    for inner, outer in ((16, 8), (8, 4), (4, 2), (2, 1)):
        y = residual(decoder, y, inner, outer, transposed=True)
    expected = (convolve(y, last[0], 1) + last[1])[..., :1]
    assert expected.shape == (32, 32, 1)
    np.testing.assert_allclose(np.asarray(decoder(code, training=False))[0], expected, rtol=1e-4, atol=2e-5)


def test_sigma_is_one_at_the_start():
    code = build_vae(image_size=64, filters=2, latent_units=3).get_layer("encoder")(100 * images(2))
    np.testing.assert_array_equal(np.asarray(code["log_sigma"]), 0)
    assert np.ptp(np.asarray(code["mean"])) > 0


def test_bfloat16_keeps_weights_codes_and_images_in_float32():
    network = build_vae(image_size=64, filters=2, latent_units=3, precision="bfloat16")
    assert {str(w.dtype) for w in network.weights} == {"float32"}
    assert {str(v.dtype) for v in network.get_layer("encoder").outputs} == {"float32"}
    assert network.output.dtype == "float32"
    computing = {layer.compute_dtype for layer in network.get_layer("encoder").layers if "conv" in layer.name}
    assert computing == {"bfloat16"}


# ---- losses


def test_squared_error_by_hand():
    real, artificial = np.zeros((2, 2, 2, 1), "f"), np.array([[1, 2, 3, 4], [0, 0, 0, -0.5]], "f").reshape(2, 2, 2, 1)
    np.testing.assert_allclose(np.asarray(losses.squared_error(real, artificial)), [30, 0.25])


def test_divergence_of_a_standard_normal_code_is_zero():
    np.testing.assert_array_equal(
        np.asarray(losses.divergence_from_standard_normal(np.zeros((2, 3)), np.zeros((2, 3)))), 0
    )


def test_divergence_equals_the_integral():
    mean, sigma = np.array([[0.3, -1.2], [2.0, 0.0]], "f"), np.array([[0.5, 1.5], [1.0, 0.1]], "f")
    z = np.linspace(-20, 20, 400_001)
    expected = np.zeros(2)
    for i in range(2):
        for m, s in zip(mean[i], sigma[i], strict=True):
            density = norm.pdf(z, m, s)
            expected[i] += np.trapezoid(density * (norm.logpdf(z, m, s) - norm.logpdf(z)), z)
    found = np.asarray(losses.divergence_from_standard_normal(mean, np.log(sigma)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def evaluate_losses(method, batch, uniform):
    return {
        k: np.asarray(v) for k, v in method.losses(method.phases[0], batch, {"code": uniform}, input_gradient).items()
    }


def test_terms_are_those_of_a_sampled_code(method):
    batch = Batch(images(3), images(3, seed=1))
    uniform = np.random.default_rng(2).uniform(0, 1, method.draws(method.phases[0], 6)["code"]).astype("f")
    assert uniform.shape == (6, 5)
    network = method.networks["autoencoder"]
    before = [np.asarray(w) for w in network.weights]
    found = evaluate_losses(method, batch, uniform)
    network.set_weights(before)  # the moving averages have moved

    code = {name: np.asarray(v) for name, v in network.get_layer("encoder")(batch.healthy, training=True).items()}
    z = code["mean"] + np.exp(code["log_sigma"]) * norm.ppf(uniform[:3])
    x_hat = np.asarray(network.get_layer("decoder")(z.astype("f"), training=True))
    network.set_weights(before)
    np.testing.assert_allclose(found["reconstruction"], np.square(batch.healthy - x_hat).sum((1, 2, 3)), rtol=1e-3)
    square, log = np.square(code["mean"]), code["log_sigma"]
    expected = 0.5 * (square + np.exp(2 * log) - 2 * log - 1).sum(1)
    np.testing.assert_allclose(found["divergence"], expected, rtol=1e-4)


def test_diseased_images_are_never_seen(method):
    uniform = np.random.default_rng(2).uniform(0, 1, (4, 5)).astype("f")
    before = [np.asarray(w) for w in method.networks["autoencoder"].weights]
    found = []
    for seed in (1, 2):
        found.append(evaluate_losses(method, Batch(images(2), images(2, seed=seed)), uniform))
        method.networks["autoencoder"].set_weights(before)
    for name, value in found[0].items():
        np.testing.assert_array_equal(value, found[1][name])


@pytest.mark.parametrize("value", [0.0, 2.0**-23, 0.25, 0.5, 1 - 2.0**-23])
def test_every_number_that_can_be_drawn_is_a_finite_noise(method, value):
    network = method.networks["autoencoder"]
    before = [np.asarray(w) for w in network.weights]
    found = evaluate_losses(method, Batch(images(1), images(1)), np.full((2, 5), value, "f"))
    network.set_weights(before)
    assert all(np.isfinite(v).all() for v in found.values())


def test_the_divergence_has_its_weight():
    method = VAE(VAESettings(image_size=64, generator_filters=2, latent_units=2, lambda_kl=0.3))
    assert method.weights(method.phases[0]) == {"reconstruction": 1.0, "divergence": 0.3}


# ---- training


def test_it_learns_to_rebuild_healthy_images():
    keras.utils.set_random_seed(0)
    settings = VAESettings(image_size=64, generator_filters=2, latent_units=4, generator_learning_rate=1e-2)
    method, predictor = VAE(settings), VAE(settings)
    step = TrainStep(method, predictor.networks["autoencoder"], tf.distribute.get_strategy(), seed=1)
    x = np.linspace(-0.5, 0.5, 64, dtype="f")
    healthy = np.stack([x[:, None] * np.ones(64, "f"), np.ones((64, 1), "f") * x])[..., None]  # two ramps
    batch = Batch(tf.constant(healthy.repeat(2, 0)), tf.constant(images(4)))
    found = [float(step.round((batch,))["autoencoder/reconstruction"]) for _ in range(80)]
    # Their mean, the best that a decoder without a code could do, is as far from each as half of their difference.
    without_code = np.square(healthy - healthy.mean(0)).sum((1, 2, 3)).mean()
    assert np.mean(found[-5:]) < 0.5 * without_code < found[0]


# ---- answers


def test_the_answer_is_the_image_of_the_mean_code(method):
    network, x = method.networks["autoencoder"], images(3, seed=4)
    code = network.get_layer("encoder")(x, training=False)["mean"]
    x_hat = np.asarray(network.get_layer("decoder")(code, training=False))
    assert np.abs(x_hat).max() > 1  # so that cutting matters
    found = method.predict(x)
    np.testing.assert_allclose(np.asarray(found.healthy_image), np.clip(x_hat, -1, 1), atol=1e-5)
    np.testing.assert_allclose(np.asarray(found.anomaly_map), np.clip(x_hat, -1, 1) - x, atol=1e-5)
    expected = np.abs(np.clip(x_hat, -1, 1) - x).mean((1, 2, 3))
    np.testing.assert_allclose(np.asarray(found.anomaly_score), expected, rtol=1e-4)
    assert found.class_probabilities is None


@pytest.fixture(scope="module")
def split():
    labels = np.repeat([0, 1], 5).astype(np.int32)
    r = images(10, seed=5)
    truth = np.where(labels[:, None, None, None] == 1, 0.3 * np.roll(r, 1, 1), 0).astype("f")
    return Split(r, labels, truth, [f"{i}.npy" for i in range(10)])


def test_the_best_checkpoint_is_chosen_by_the_contrast_of_its_maps(method, split):
    found = validate(method.predict, method.monitor, method.translate, split, 0.1, 4)
    square = np.square(np.asarray(method.predict(split.images).anomaly_map)).mean((1, 2, 3))
    assert found.selection == pytest.approx(square[5:].mean() / square[:5].mean(), rel=1e-4)
    assert found.warnings == ()
    assert list(found.pictures) == ["1_input", "2_healthy_translation", "4_signed_difference", "5_overlay"]


def test_what_it_does_not_say_is_not_available_in_the_report(method, split):
    prediction = predict_split(method.predict, split.images, 4)
    result = evaluator.evaluate_split(prediction, split, evaluator.calibrate(split), seed=0)
    scores = result["metrics"]["image_units"]
    for name in ("accuracy", "kappa", "auroc_image"):
        assert scores[name]["mean"] is None
        assert scores[name]["reason"] == "not available: the method gives no class probabilities"
    score = prediction.anomaly_score
    assert scores["auroc_score"]["mean"] == pytest.approx(np.mean(score[5:, None] > score[None, :5]))
    assert scores["dice"]["mean"] is not None
    assert "the method gives no class probabilities" in report.format_table(result)
