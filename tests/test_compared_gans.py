"""StarGAN, Fixed-Point GAN and VAGAN: their networks and losses against independent computations."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import oracles
import program_starts
import pytest
import tensorflow as tf

from descargan_tf import losses
from descargan_tf.data.images import Scaling, write_npy
from descargan_tf.evaluation import evaluator, figures, report
from descargan_tf.evaluation.validation import validate
from descargan_tf.methods.fpgan import FPGAN, FPGANSettings
from descargan_tf.methods.stargan import StarGAN, StarGANSettings
from descargan_tf.methods.vagan import VAGAN, VAGANSettings
from descargan_tf.models import stargan, vagan
from descargan_tf.prediction.files import predict_files
from descargan_tf.prediction.splits import predict_split
from descargan_tf.run_folder import configure
from descargan_tf.training.step import TrainStep
from descargan_tf.types import CLASS_NAMES, DISEASED, HEALTHY, Batch, Split

ROOT = Path(__file__).resolve().parent.parent
METHODS = {"stargan": (StarGAN, StarGANSettings), "fpgan": (FPGAN, FPGANSettings), "vagan": (VAGAN, VAGANSettings)}
TINY = {"image_size": 64, "generator_filters": 2, "discriminator_filters": 2}
EPSILON = 1e-7


def count(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def randomise(model, seed=0):
    """Weights of a trained network's size everywhere, biases and normalisation too."""
    rng = np.random.default_rng(seed)
    for v in model.variables:
        spread = 0.3 if len(v.shape) == 1 else 1 / np.sqrt(np.prod(v.shape[:-1]))
        offset = 1.0 if "gamma" in v.path or "variance" in v.path else 0.0
        v.assign(offset + np.abs(rng.normal(0, spread, v.shape)) * (1 if offset else rng.choice([-1, 1], v.shape)))


def images(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype("f")


# ---- networks


def test_parameter_counts_at_the_papers_size(shapes_alone):
    assert count(stargan.build_generator(image_size=256)) == 8_408_576
    assert count(stargan.build_discriminator(image_size=256)) == 44_784_576
    assert count(stargan.build_generator(image_size=256, label_planes=1, additive=True)) == 8_405_440
    assert count(stargan.build_discriminator(image_size=256, num_logits=1)) == 44_751_808
    assert count(vagan.build_generator(image_size=256)) == 462_305
    assert count(vagan.build_critic(image_size=256)) == 1_757_249


@pytest.mark.parametrize("name", METHODS)
def test_the_methods_defaults_are_the_sizes_of_the_programs(name):
    settings = METHODS[name][1]()
    expected = {"stargan": (256, 64, 64), "fpgan": (256, 64, 64), "vagan": (256, 16, 16)}[name]
    assert (settings.image_size, settings.generator_filters, settings.discriminator_filters) == expected


def convolve(x, kernel, strides=1, bias=0.0):
    """[H, W, C] with the zeros around it that keep (or halve) the size."""
    size = kernel.shape[0]
    before = (size - 1) // 2
    padded = np.pad(x, ((before, size - 1 - before),) * 2 + ((0, 0),))
    height, width = x.shape[0] // strides, x.shape[1] // strides
    out = np.zeros((height, width, kernel.shape[-1]))
    for i in range(height):
        for j in range(width):
            window = padded[i * strides : i * strides + size, j * strides : j * strides + size]
            out[i, j] = np.tensordot(window, kernel, 3)
    return out + bias


def convolve_transposed(x, kernel):
    """[H, W, C] to [2H, 2W, filters]: each value lays down the 4x4 kernel [4, 4, filters, C]; the rim is cut off."""
    height, width, _ = x.shape
    out = np.zeros((2 * height + 2, 2 * width + 2, kernel.shape[2]))
    for i in range(height):
        for j in range(width):
            out[2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += kernel @ x[i, j]
    return out[1:-1, 1:-1]


@pytest.mark.parametrize(("code", "additive"), [((1.0, 0.0), False), ((0.0, 1.0), False), ((1.0,), True)])
def test_stargans_generator_equals_an_independent_computation(code, additive):
    model = stargan.build_generator(image_size=16, filters=2, label_planes=len(code), additive=additive)
    randomise(model)
    image = images(16, 16, 1, seed=1)
    w = oracles.weights_of(model)

    def block(x, convolution, *args):
        return oracles.normalise(convolution(x, next(w), *args), next(w), next(w))

    x = np.concatenate([image, np.broadcast_to(code, (16, 16, len(code)))], -1)
    for strides in (1, 2, 2):
        x = oracles.relu(block(x, convolve, strides))
    for _ in range(6):
        x = x + block(oracles.relu(block(x, convolve)), convolve)
    for _ in range(2):
        x = oracles.relu(block(x, convolve_transposed))
    x = convolve(x, next(w))
    assert next(w, None) is None
    found = model({"image": image[None], "target": np.array([code], "f")})
    np.testing.assert_allclose(np.asarray(found)[0], np.tanh(image + x if additive else x), atol=2e-5)


def test_stargans_discriminator_equals_an_independent_computation():
    model = stargan.build_discriminator(image_size=128, filters=2)
    randomise(model)
    image = images(128, 128, 1, seed=2)
    w = oracles.weights_of(model.get_layer("trunk"))
    x = image
    for _ in range(6):
        x = convolve(x, next(w), 2, next(w))
        x = np.where(x > 0, x, 0.01 * x)
    assert next(w, None) is None
    (critic,), (classifier,) = (oracles.weights_of(model.get_layer(name)) for name in ("critic", "classifier"))
    found = model(image[None])
    np.testing.assert_allclose(np.asarray(found["critic"])[0], convolve(x, critic), rtol=1e-4, atol=1e-6)
    logits = np.tensordot(x, classifier, 3)  # its kernel has the size of the map, so there is one position
    np.testing.assert_allclose(np.asarray(found["logits"])[0], logits, rtol=1e-4, atol=1e-6)


def test_vagans_networks_equal_an_independent_computation():
    generator = vagan.build_generator(image_size=16, filters=2, inference_statistics="per_image")
    critic = vagan.build_critic(image_size=16, filters=2)
    randomise(generator)
    randomise(critic)
    image = images(16, 16, 1, seed=3)
    w = oracles.weights_of(generator)

    def block(x, convolution=convolve):
        return oracles.relu(oracles.normalise(convolution(x, next(w)), next(w), next(w), 1e-3))

    def join(y, skip):
        return np.concatenate([block(y, convolve_transposed), skip], -1)

    x0 = block(block(image))
    x1 = block(block(oracles.pool(x0)))
    x2 = block(block(oracles.pool(x1)))
    y = block(block(oracles.pool(x2)))
    for skip in (x2, x1):
        y = block(block(join(y, skip)))
    y = block(join(y, x0))
    y = convolve(y, next(w), 1, next(w))
    assert next(w, None) is None
    np.testing.assert_allclose(np.asarray(generator(image[None]))[0], np.tanh(image + y), atol=2e-5)

    w = oracles.weights_of(critic)
    x = image
    for number, convolutions in enumerate((1, 1, 2, 2, 3)):
        x = oracles.pool(x) if number else x
        for _ in range(convolutions):
            x = oracles.relu(convolve(x, next(w), 1, next(w)))
    x = convolve(x, next(w), 1, next(w))
    assert next(w, None) is None
    np.testing.assert_allclose(np.asarray(critic(image[None]))[0], x, rtol=1e-4, atol=1e-6)


def test_bfloat16_keeps_weights_and_outputs_in_float32():
    models = (
        stargan.build_generator(image_size=64, filters=2, precision="bfloat16"),
        stargan.build_discriminator(image_size=64, filters=2, precision="bfloat16"),
        vagan.build_generator(image_size=64, filters=2, precision="bfloat16"),
        vagan.build_critic(image_size=64, filters=2, precision="bfloat16"),
    )
    for model in models:
        assert {v.dtype for v in model.variables} == {"float32"}
        assert {out.dtype for out in keras.tree.flatten(model.output)} == {"float32"}
        layers = model.get_layer("trunk").layers if "trunk" in {layer.name for layer in model.layers} else model.layers
        assert any(layer.compute_dtype == "bfloat16" for layer in layers)


def test_layers_of_one_shape_start_with_different_weights():
    model = stargan.build_generator(image_size=16, filters=2)
    kernels = [np.asarray(w) for w in model.weights if tuple(w.shape) == (3, 3, 8, 8)]
    assert len(kernels) == 12
    assert len({kernel.tobytes() for kernel in kernels}) == 12


# ---- losses


@pytest.fixture(scope="module")
def methods():
    """Of few layers: above it is their networks that are tested, below what is done with them."""
    keras.utils.set_random_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        program_starts.leave_layers_out(patch.setattr)
        found = {name: method(settings(**TINY)) for name, (method, settings) in METHODS.items()}
    for method in found.values():
        for seed, network in enumerate(method.networks.values()):
            randomise(network, seed)
    return found


@pytest.fixture(scope="module")
def batch():
    return Batch(images(3, 64, 64, 1, seed=4), images(3, 64, 64, 1, seed=5))


def draw(method, phase):
    rng = np.random.default_rng(6)
    return {name: rng.uniform(0, 1, shape).astype("f") for name, shape in sorted(method.draws(phase, 6).items())}


def input_gradient(fn, x):
    with tf.GradientTape() as tape:
        x = tf.convert_to_tensor(x)
        tape.watch(x)
        y = fn(x)
    return tape.gradient(y, x)


def terms(method, phase, batch):
    phase = method.phases[phase]
    draws = draw(method, phase)
    found = method.losses(phase, batch, draws, input_gradient)
    assert found.keys() == method.weights(phase).keys()
    return {name: np.asarray(value, np.float64) for name, value in found.items()}, draws


def mean(score_map):
    return np.asarray(score_map, np.float64).mean((1, 2, 3))


def cross_entropy(logits, label):
    logits = np.asarray(logits, np.float64)
    return np.log(np.exp(logits).sum(1)) - logits[np.arange(len(logits)), label]


def l1(a, b):
    return np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).mean((1, 2, 3))


def penalty(discriminator, real, fake, t):
    """Of the gradient of the sum of the map, by hand."""
    gradient = input_gradient(lambda x: tf.reduce_sum(discriminator(x)["critic"]), t * real + (1 - t) * fake)
    return (np.sqrt(np.square(np.asarray(gradient, np.float64)).sum((1, 2, 3))) - 1) ** 2


def check(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-4, atol=1e-6, err_msg=name)


def one_hot(labels):
    return np.eye(2, dtype="f")[labels]


def plane(labels):
    return np.asarray(labels, "f")[:, None]


def translated(generator, image, target):
    return np.asarray(generator({"image": np.asarray(image), "target": target}))


LABELS = np.array([HEALTHY] * 3 + [DISEASED] * 3)


def test_stargans_losses(methods, batch):
    method = methods["stargan"]
    generator, discriminator = method.networks["generator"], method.networks["discriminator"]
    x = np.concatenate(batch)
    found, draws = terms(method, 0, batch)
    target = np.where(draws["target"] < 0.5, DISEASED, HEALTHY)
    assert 0 < (target == LABELS).sum() < 6  # some of either kind, so that the test sees both
    a = translated(generator, x, one_hot(target))
    expected = {
        "real": -mean(discriminator(x)["critic"]),
        "fake": mean(discriminator(a)["critic"]),
        "gradient_penalty": penalty(discriminator, x, np.asarray(a), draws["t"]),
        "classification": cross_entropy(discriminator(x)["logits"], LABELS),
    }
    check(found, expected)
    assert method.weights(method.phases[0]) == {
        "real": 1,
        "fake": 1,
        "gradient_penalty": 10,
        "classification": 1,
    }

    found, draws = terms(method, 1, batch)
    target = np.where(draws["target"] < 0.5, DISEASED, HEALTHY)
    a = translated(generator, x, one_hot(target))
    expected = {
        "adversarial": -mean(discriminator(a)["critic"]),
        "classification": cross_entropy(discriminator(a)["logits"], target),
        "reconstruction": l1(x, translated(generator, a, one_hot(LABELS))),
    }
    check(found, expected)
    assert method.weights(method.phases[1]) == {"adversarial": 1, "classification": 1, "reconstruction": 10}


def test_fpgans_losses(methods, batch):
    method = methods["fpgan"]
    generator, discriminator = method.networks["generator"], method.networks["discriminator"]
    x, other = np.concatenate(batch), 1 - LABELS

    def two_logits(images):  # a sigmoid of z is a softmax of (0, z)
        z = np.asarray(discriminator(images)["logits"])
        return np.concatenate([np.zeros_like(z), z], -1)

    found, draws = terms(method, 0, batch)
    a = translated(generator, x, plane(other))
    expected = {
        "real": -mean(discriminator(x)["critic"]),
        "fake": mean(discriminator(a)["critic"]),  # of translations into the other class alone
        "gradient_penalty": penalty(discriminator, x, np.asarray(a), draws["t"]),
        "classification": cross_entropy(two_logits(x), LABELS),
    }
    check(found, expected)

    found, _ = terms(method, 1, batch)
    same = translated(generator, x, plane(LABELS))
    expected = {"identity": l1(x, same)}
    for suffix, fake, label in (("", a, other), ("_same_class", same, LABELS)):
        expected |= {
            f"adversarial{suffix}": -mean(discriminator(fake)["critic"]),
            f"classification{suffix}": cross_entropy(two_logits(fake), label),
            f"reconstruction{suffix}": l1(x, translated(generator, fake, plane(LABELS))),
        }
    check(found, expected)
    weights = method.weights(method.phases[1])
    assert weights["identity"] == weights["reconstruction"] == weights["reconstruction_same_class"] == 10
    assert {weights[name] for name in weights if "adversarial" in name or "classification" in name} == {1}


def test_vagans_losses(methods, batch):
    method = methods["vagan"]
    generator, critic = method.networks["generator"], method.networks["discriminator"]
    y = generator(batch.diseased, training=True)
    found, draws = terms(method, 0, batch)
    x_hat = draws["t"][:3] * batch.healthy + (1 - draws["t"][:3]) * np.asarray(y)
    gradient = np.asarray(input_gradient(lambda x: tf.reduce_mean(critic(x), (1, 2, 3)), x_hat), np.float64)
    expected = {
        "real": -mean(critic(batch.healthy)),
        "fake": mean(critic(y)),
        "gradient_penalty": (np.sqrt(np.square(gradient).sum((1, 2, 3))) - 1) ** 2,
    }
    check(found, expected)
    assert method.weights(method.phases[0]) == {"real": 1, "fake": 1, "gradient_penalty": 10}
    found, _ = terms(method, 1, batch)
    check(found, {"adversarial": -mean(critic(y)), "map": l1(batch.diseased, y)})
    assert method.weights(method.phases[1]) == {"adversarial": 1, "map": 100}


def test_vagans_generator_never_sees_healthy_images(methods, batch):
    found, _ = terms(methods["vagan"], 1, batch)
    check(terms(methods["vagan"], 1, batch._replace(healthy=np.full_like(batch.healthy, np.nan)))[0], found)


@pytest.mark.usefixtures("shallow_here")
def test_vagans_betas_reach_its_optimisers(methods):
    method = methods["vagan"]
    step = TrainStep(method, method.networks["generator"], tf.distribute.get_strategy(), seed=0)
    assert {(o.beta_1, o.beta_2) for o in step.optimizers.values()} == {(0.0, 0.9)}


def test_absolute_difference_by_hand():
    a, b = np.array([[1, 2, 3, 4], [0, 0, 0, 0]], "f"), np.array([[1, 0, 3, -2], [0, 0, 0, 0]], "f")
    found = losses.absolute_difference(a.reshape(2, 2, 2, 1), b.reshape(2, 2, 2, 1))
    np.testing.assert_allclose(np.asarray(found), [2.0, 0.0])


# ---- answers


@pytest.mark.parametrize("name", METHODS)
def test_the_map_is_the_healthy_image_minus_the_input(methods, name):
    method, x = methods[name], tf.constant(images(3, 64, 64, 1, seed=7))
    prediction = method.predict(x)
    generator = method.networks["generator"]
    told = {
        "stargan": lambda: translated(generator, x, one_hot([HEALTHY] * 3)),
        "fpgan": lambda: translated(generator, x, plane([HEALTHY] * 3)),
        "vagan": lambda: generator(x, training=False),
    }[name]()
    np.testing.assert_allclose(prediction.healthy_image, told, atol=1e-5)
    np.testing.assert_allclose(prediction.anomaly_map, np.asarray(told) - np.asarray(x), atol=1e-5)
    np.testing.assert_allclose(prediction.anomaly_score, l1(told, x), rtol=1e-5)


def test_probabilities_come_from_the_classifier(methods):
    x = tf.constant(images(3, 64, 64, 1, seed=8))
    logits = {name: np.asarray(methods[name].networks["discriminator"](x)["logits"]) for name in ("stargan", "fpgan")}
    softmax = np.exp(logits["stargan"]) / np.exp(logits["stargan"]).sum(1, keepdims=True)
    np.testing.assert_allclose(methods["stargan"].predict(x).class_probabilities, softmax, rtol=1e-4)
    sigmoid = 1 / (1 + np.exp(-logits["fpgan"]))
    found = methods["fpgan"].predict(x).class_probabilities
    np.testing.assert_allclose(found, np.concatenate([1 - sigmoid, sigmoid], -1), rtol=1e-4)
    assert methods["vagan"].predict(x).class_probabilities is None


@pytest.mark.parametrize("name", ["stargan", "fpgan"])
def test_what_is_watched_of_a_translation(methods, batch, name):
    method = methods[name]
    found = {key: np.asarray(value) for key, value in method.monitor(batch).items()}
    x = tf.concat(batch, 0)
    a = method.translate(x)
    assert tuple(a) == CLASS_NAMES
    np.testing.assert_allclose(found["label_effect"], l1(a["healthy"], a["diseased"]), rtol=1e-4)
    called = np.asarray(method.predict(a["healthy"][3:]).class_probabilities)[:, HEALTHY] > 0.5
    np.testing.assert_array_equal(found["translation_success"], called.astype("f"))


def test_fpgan_without_a_change_returns_the_tanh_of_the_image(methods):
    method = FPGAN(methods["fpgan"].settings)
    last = method.networks["generator"].trainable_variables[-1]
    last.assign(tf.zeros_like(last))
    x = tf.constant(images(2, 64, 64, 1, seed=9))
    np.testing.assert_allclose(method.predict(x).healthy_image, np.tanh(x), atol=1e-6)


# ---- a method that names no class goes the whole way


@pytest.fixture(scope="module")
def split():
    labels = np.repeat([HEALTHY, DISEASED], [4, 3]).astype(np.int32)
    truth = np.zeros((7, 64, 64, 1), "f")
    truth[labels == DISEASED, :8] = 0.3
    return Split(images(7, 64, 64, 1, seed=10), labels, truth, [f"{i}.npy" for i in range(7)])


def test_a_method_without_classes_is_chosen_by_the_contrast_of_its_maps(methods, split):
    method = methods["vagan"]
    found = validate(method.predict, method.monitor, method.translate, split, 0.15, 4)
    square = np.square(np.asarray(method.predict(split.images).anomaly_map)).mean((1, 2, 3))
    contrast = square[split.labels == DISEASED].mean() / square[split.labels == HEALTHY].mean()
    assert found.selection == pytest.approx(contrast, rel=1e-4)
    assert found.scalars.keys() == {"mse_healthy", "map_contrast", "dice", "auroc_pixel", "mse_d_gt"}
    assert found.warnings == ()
    np.testing.assert_allclose(
        found.pictures["2_healthy_translation"],
        np.clip((np.asarray(method.predict(split.images[4:]).healthy_image) + 1) / 2, 0, 1),
        atol=1e-5,
    )


def test_a_method_without_classes_is_evaluated_and_reported(methods, split, tmp_path):
    prediction = predict_split(methods["vagan"].predict, split.images, 4)
    result = evaluator.evaluate_split(prediction, split, evaluator.calibrate(split), seed=0)
    scores = result["metrics"]["image_units"]
    for name in ("accuracy", "kappa", "auroc_image"):
        assert scores[name]["mean"] is None
        assert scores[name]["reason"] == evaluator.NO_PROBABILITY
    square = np.square(prediction.anomaly_map[:4]).mean()
    assert scores["mse_healthy"]["mean"] == pytest.approx(square, rel=1e-5)
    assert scores["auroc_score"]["mean"] is not None
    drawn = figures.draw_all(tmp_path / "figures", prediction, split, 0.15)
    report.write_report(tmp_path, result, drawn, {"method": "vagan"})
    assert evaluator.NO_PROBABILITY in (tmp_path / "report.md").read_text()


def test_a_method_without_classes_predicts_files(methods, split, tmp_path):
    write_npy(tmp_path / "a.npy", split.images[5, ..., 0])
    out = tmp_path / "out"
    scaling = Scaling(-1.0, 1.0)
    assert predict_files(methods["vagan"].predict, [tmp_path / "a.npy"], out, 64, scaling, "float32", 4) == []
    expected = methods["vagan"].predict(split.images[5:6])
    np.testing.assert_allclose(np.load(out / "a_map.npy"), np.asarray(expected.anomaly_map)[0, ..., 0], atol=1e-5)
    file, probability, score, label = (out / "predictions.csv").read_text().splitlines()[1].split(",")
    assert (file, probability, label) == ("a.npy", "", "")
    assert float(score) == pytest.approx(float(expected.anomaly_score[0]), abs=2e-6)


# ---- flagfiles


@pytest.mark.parametrize("name", METHODS)
def test_the_flagfile_pins_the_programs_numbers(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = configure(["main", f"--flagfile=configs/synthetic_{name}.flags"])
    settings = METHODS[name][1]()
    assert config.method == name
    assert {field: getattr(config, field) for field in dataclasses.asdict(settings)} == dataclasses.asdict(settings)
