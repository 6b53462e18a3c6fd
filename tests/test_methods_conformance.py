"""What every method must do, whatever it is: a row for each entry of METHODS, added by adding a method, and one for the
method that docs/adding_a_method.md shows.

Tracing a round takes most of the time, so each method is trained once and the tests of a row share what came of it.
"""

import dataclasses
import functools
import json
import math
import re
import shutil
import sys
import types
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from descargan_tf.config import Config
from descargan_tf.data.images import Scaling
from descargan_tf.evaluation.validation import validate
from descargan_tf.export import saved_model
from descargan_tf.export.bytes_input import FileRule
from descargan_tf.inference import networks
from descargan_tf.methods import METHODS, Entry
from descargan_tf.run_folder import configure
from descargan_tf.training import checkpoint
from descargan_tf.training.loop import LoopSettings, Trainer
from descargan_tf.training.step import TensorFlowEngine, TrainStep
from descargan_tf.types import DECISION, DISEASED, HEALTHY, Batch, Split

pytestmark = pytest.mark.usefixtures("graphs_as_traced", "shallow")

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "adding_a_method.md"


def method_of_the_page():
    """Class and settings of its block of Python that defines a method."""
    text = PAGE.read_text()
    (block,) = [found for found in re.finditer(r"```python\n(.*?)```", text, re.DOTALL) if "(Method):" in found[1]]
    # Lines keep the numbers that they have on the page, where tracebacks and tf.function look for them.
    code = "\n" * text[: block.start(1)].count("\n") + block[1]
    module = types.ModuleType("method_of_the_page")
    sys.modules[module.__name__] = module  # dataclasses look there
    exec(compile(code, str(PAGE), "exec"), module.__dict__)
    return Entry(method=module.Autoencoder, settings=module.AutoencoderSettings)


ROWS = {**METHODS, "of the page": method_of_the_page()}
LOOP = LoopSettings(
    batch_size=4,
    seed=7,
    max_steps=3,
    log_every_steps=1,
    validate_every_steps=3,
    checkpoint_every_steps=1,
    keep_checkpoints=3,
)


def tiny(name):
    """The method's settings with little in them: what is small is found by the names of its fields."""
    settings = ROWS[name].settings
    changes = {"image_size": 64}
    for field in dataclasses.fields(settings):
        if field.name.endswith(("filters", "units")):
            changes[field.name] = 2
        elif field.name.endswith("blocks"):
            changes[field.name] = "1,1"
        elif field.name.endswith("learning_rate"):
            changes[field.name] = 1e-3
        elif field.name.endswith("updates"):
            changes[field.name] = 1
    return settings(**changes)


def build(name):
    return ROWS[name].method(tiny(name))


def make_split():
    labels = np.repeat([HEALTHY, DISEASED], [6, 5]).astype(np.int32)
    images = np.random.default_rng(0).uniform(-1, 1, (len(labels), 64, 64, 1)).astype(np.float32)
    truth = np.where(labels[:, None, None, None] == DISEASED, np.roll(images, 1, 1) - images, 0).astype(np.float32)
    return Split(images, labels, truth, [f"{i}.npy" for i in range(len(labels))])


SPLIT = make_split()


class Trained(NamedTuple):
    """A trainer after its three rounds."""

    trainer: Trainer
    lines: list  # of metrics.jsonl
    in_training_mode: set  # ids of the layers that a round calls so
    saved: Path  # its checkpoints


@pytest.fixture(scope="module", params=list(ROWS))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def trained(name, tmp_path_factory, shallow):
    def watch(predict, monitor, translate):
        return validate(predict, monitor, translate, SPLIT, 0.5, 4)

    keras.utils.set_random_seed(0)
    run_dir = tmp_path_factory.mktemp(name)
    engine = TensorFlowEngine(
        lambda: build(name), tf.distribute.get_strategy(), SPLIT, batch_size=4, seed=LOOP.seed, average_decay=0.9
    )
    trainer = Trainer(run_dir, engine, LOOP, watch)
    called = set()
    for network in engine.method.networks.values():
        for layer in leaves(network):
            if layer.non_trainable_weights:
                layer.call = spied(layer, called)
    assert trainer.run() == 3
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return Trained(trainer, lines, called, run_dir / "checkpoints")


@pytest.fixture(scope="module")
def method(trained):
    return trained.trainer.engine.method


def leaves(network):
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from leaves(layer)
        else:
            yield layer


def spied(layer, called):
    call = layer.call

    @functools.wraps(call)
    def spy(*args, **kwargs):
        if kwargs.get("training"):
            called.add(id(layer))
        return call(*args, **kwargs)

    return spy


# ---- what a method says of itself


def test_settings_are_flags(name):
    flags = {field.name: field for field in dataclasses.fields(Config)}
    for field in dataclasses.fields(ROWS[name].settings):
        assert field.name in flags, "a setting without a flag cannot be set"
        assert type(field.default) is flags[field.name].metadata["flag"].kind, field.name


@pytest.mark.parametrize(("kind", "base"), [("synthetic", "synthetic_base"), ("quick", "quick_base")])
@pytest.mark.parametrize("row", METHODS)
def test_a_flagfile_makes_it(row, kind, base, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = f"configs/{kind}_{row}.flags"
    if row == "descargan":  # the rows of the paper's method are its own files, which the others do not inherit
        base = {"synthetic": "synthetic", "quick": "synthetic_64"}[kind]
    lines = [line for line in Path(path).read_text().splitlines() if line and not line.startswith("#")]
    assert lines[:2] == [f"--flagfile={base}.flags", f"--method={row}"]
    assert configure(["main", f"--flagfile={path}"]).method == row


def test_networks_and_phases_fit_together(method):
    assert method.averaged in method.networks
    assert {phase.trains for phase in method.phases} == set(method.networks)
    assert len({phase.name for phase in method.phases}) == len(method.phases)


# ---- training


def test_the_round_is_traced_once(trained):
    assert trained.trainer.engine.train_step.round.experimental_get_tracing_count() == 1


def test_every_term_is_finite_and_weighed(trained, method):
    train = [line for line in trained.lines if line["group"] == "train"]
    assert [line["step"] for line in train] == [1, 2, 3]
    timings = {"step", "group", "seconds_per_round", "images_per_second"}
    for line in train:
        for phase in method.phases:
            weights = method.weights(phase)
            total = sum(weight * line[f"{phase.name}/{term}"] for term, weight in weights.items())
            assert line[f"{phase.name}/total"] == pytest.approx(total, rel=1e-3, abs=1e-4)
            assert line[f"{phase.name}/gradient_norm"] > 0
        terms = {f"{p.name}/{t}" for p in method.phases for t in (*method.weights(p), "total", "gradient_norm")}
        scores = method.critic_scores(line)
        assert set(scores) in (set(), {"real", "fake", "generator"})
        assert {name: line[f"critics/{name}"] for name in scores} == scores
        penalised = any(name.endswith("/gradient_penalty") for name in terms)
        alarms = {"critics/dead"} if penalised else set()
        assert set(line) - timings == terms | alarms | {f"critics/{name}" for name in scores}
        assert all(math.isfinite(line[term]) for term in terms)


def test_validation_chooses_by_a_finite_number(trained):
    (found,) = [line for line in trained.lines if line["group"] == "validate"]
    assert math.isfinite(found["selection"])
    assert checkpoint.load(trained.saved / "best")[1]["best_selection"] == found["selection"]


def test_a_phase_moves_its_own_variables_alone(trained, method):
    """At learning rates of zero but for its own; and statistics move, of the layers called in training mode alone."""
    step = trained.trainer.engine.train_step
    rates = {phase.name: phase.learning_rate for phase in method.phases}
    batches = tuple(Batch(*SPLIT.images[:4].reshape(2, 2, 64, 64, 1)) for _ in range(step.method.batches_per_round))
    for phase in method.phases:
        for other, optimizer in step.optimizers.items():
            optimizer.learning_rate = rates[other] if other == phase.name else 0.0
        before = values(method.networks)
        step.round(tensors(batches), tf.constant(1.0))
        moved = {key for key, value in values(method.networks).items() if not np.array_equal(value, before[key])}

        # Adam moves what has a momentum; there is none where no gradient ever was, as behind rectifiers that are dead.
        network, optimizer = method.networks[phase.trains], step.optimizers[phase.name]
        trainable = [i for i, weight in enumerate(network.weights) if weight.trainable]
        alive = [np.any(np.asarray(momentum)) for momentum in optimizer._momentums]
        expected = {(phase.trains, i) for i, lives in zip(trainable, alive, strict=True) if lives}
        assert len(expected) > len(trainable) / 2
        for key, other in method.networks.items():
            index = {id(weight): i for i, weight in enumerate(other.weights)}
            for layer in leaves(other):
                if id(layer) in trained.in_training_mode:
                    expected |= {(key, index[id(weight)]) for weight in layer.non_trainable_weights}
        assert moved == expected
    for other, optimizer in step.optimizers.items():
        optimizer.learning_rate = rates[other]


def values(networks):
    return {(key, i): np.asarray(w) for key, network in networks.items() for i, w in enumerate(network.weights)}


def tensors(batches):
    return tuple(Batch(*map(tf.constant, batch)) for batch in batches)


def test_a_resumed_training_equals_an_uninterrupted_one_in_every_array(trained, method, tmp_path):
    """With everything overwritten before: all that matters is in the checkpoint."""
    trainer = trained.trainer
    shutil.copytree(trained.saved / "2", tmp_path / "checkpoints" / "2")
    networks = [*method.networks.values(), trainer.engine.predictor.networks[method.averaged]]
    for variable in [
        v for source in (*networks, *trainer.engine.train_step.optimizers.values()) for v in source.variables
    ]:
        variable.assign(np.ones(variable.shape))
    trainer.run_dir = tmp_path
    assert trainer.run() == 3
    first, _ = checkpoint.load(trained.saved / "3")
    second, _ = checkpoint.load(tmp_path / "checkpoints" / "3")
    assert first.keys() == second.keys()
    for key, array in first.items():
        np.testing.assert_array_equal(array, second[key], err_msg=key)
    assert trainer.engine.train_step.round.experimental_get_tracing_count() == 1


PENALISED = [row for row, entry in METHODS.items() if hasattr(entry.settings, "lambda_gp")]


@pytest.mark.parametrize(("row", "replicas"), [*((row, "one") for row in PENALISED), ("descargan", "two")])
def test_the_penalised_critic_is_float32_whatever_the_precision(row, replicas, two_replicas):
    """Trap D5.6. Its scores, and what the weights of the network that is trained learn from them."""
    strategy = two_replicas if replicas == "two" else tf.distribute.get_strategy()
    x = tf.constant(SPLIT.images[:4])

    def penalised(method):
        return next(phase for phase in method.phases if "gradient_penalty" in method.weights(phase))

    @tf.autograph.experimental.do_not_convert
    def scores_and_gradients(method):
        phase = penalised(method)
        variables = [v.value for v in method.networks[phase.trains].trainable_variables]
        draws = {name: tf.fill(shape, 0.5) for name, shape in method.draws(phase, 4).items()}
        found = []

        def input_gradient(fn, at):
            with tf.GradientTape() as tape:
                scores = fn(x)
            # The classifier has no part in it.
            found.append((scores, tape.gradient(scores, variables, unconnected_gradients="zero")))
            return tf.zeros_like(at)

        method.losses(phase, Batch(*tf.split(x, 2)), draws, input_gradient)
        return found[0]

    answers = {}
    for precision in ("float32", "bfloat16"):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            method = METHODS[row].method(dataclasses.replace(tiny(row), precision=precision))
        answer = strategy.run(scores_and_gradients, args=(method,))
        answers[precision] = [a for v in tf.nest.flatten(answer) for a in strategy.experimental_local_results(v)]
    weights = method.networks[penalised(method).trains].trainable_variables
    assert len(answers["float32"]) > strategy.num_replicas_in_sync * len(weights)  # and scores
    for expected, found in zip(answers["float32"], answers["bfloat16"], strict=True):
        assert found.dtype == "float32"
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert any(np.any(value) for value in answers["bfloat16"][1:])


def test_two_replicas_equal_one_on_the_same_global_batch(trained, name, two_replicas):
    # At rates of zero gradients are compared, which are in Adam's momenta: its step is as long for rounding alone.
    one = trained.trainer.engine.train_step
    with two_replicas.scope():
        method = build(name)
        two = TrainStep(method, method.networks[method.averaged], two_replicas, LOOP.seed)
    for key, network in one.method.networks.items():
        method.networks[key].set_weights(network.get_weights())
    for key, optimizer in one.optimizers.items():
        for theirs, ours in zip(two.optimizers[key].variables, optimizer.variables, strict=True):
            theirs.assign(ours)
        optimizer.learning_rate = two.optimizers[key].learning_rate = 0.0
    two.step.assign(one.step)

    rng = np.random.default_rng(1)
    shape = (one.method.batches_per_round, 2, 2, 64, 64, 1)
    batches = [Batch(*images) for images in rng.uniform(-1, 1, shape).astype("f")]

    def share(images):
        return two_replicas.experimental_distribute_values_from_function(
            lambda context: tf.constant(images[context.replica_id_in_sync_group :][:1])
        )

    tf.config.run_functions_eagerly(True)  # quicker than tracing, for a single round
    try:
        second = two.round(tuple(Batch(*map(share, batch)) for batch in batches))
    finally:
        tf.config.run_functions_eagerly(False)
    first = one.round(tensors(batches), tf.constant(1.0))
    # Rounding makes maxima of poolings and signs before rectifiers change places, and with them parts of a gradient.
    for key, value in first.items():
        tolerance = 0.03 if key.endswith("gradient_norm") else 1e-3
        assert float(second[key]) == pytest.approx(float(value), rel=tolerance, abs=1e-4), key
    for key, optimizer in one.optimizers.items():
        a, b = (
            np.concatenate([np.asarray(m, np.float64).ravel() for m in o._momentums])
            for o in (optimizer, two.optimizers[key])
        )
        gradient_norm = float(first[f"{key}/gradient_norm"])
        assert np.linalg.norm(a - b) < 0.1 * (1 - optimizer.beta_1) * gradient_norm
    for key, network in one.method.networks.items():
        for ours, theirs in zip(network.weights, method.networks[key].weights, strict=True):
            copies = [np.asarray(copy) for copy in two_replicas.experimental_local_results(theirs.value)]
            np.testing.assert_array_equal(copies[0], copies[1], err_msg=ours.path)
            if not ours.trainable:
                np.testing.assert_allclose(copies[0], np.asarray(ours), rtol=1e-3, atol=1e-4, err_msg=ours.path)


# ---- answers


def test_any_number_of_images_is_answered_each_by_itself(method):
    predict = tf.function(method.predict, input_signature=[tf.TensorSpec((None, 64, 64, 1))])
    images = SPLIT.images[4:7]
    together = predict(tf.constant(images))
    assert predict.experimental_get_tracing_count() == 1
    for field, value in together._asdict().items():
        if value is None:
            continue
        alone = [np.asarray(getattr(predict(tf.constant(images[i : i + 1])), field))[0] for i in range(3)]
        # Other batch sizes run other convolution kernels.
        np.testing.assert_allclose(np.asarray(value), alone, atol=2e-4, err_msg=field)
        assert np.asarray(value).dtype == np.float32
    assert predict.experimental_get_tracing_count() == 1

    expected = {
        "anomaly_map": (3, 64, 64, 1),
        "healthy_image": (3, 64, 64, 1),
        "anomaly_score": (3,),
        "class_probabilities": (3, 2),
    }
    assert {k: v.shape for k, v in together._asdict().items() if v is not None}.items() <= expected.items()
    if together.healthy_image is not None:
        np.testing.assert_allclose(together.anomaly_map, np.asarray(together.healthy_image) - images, atol=1e-6)
    if together.class_probabilities is not None:
        np.testing.assert_allclose(np.asarray(together.class_probabilities).sum(1), 1, rtol=1e-5)
        assert np.asarray(together.class_probabilities).min() >= 0


@pytest.mark.parametrize("fewest", [1, 1000])
def test_its_networks_for_inference_answer_as_the_live_ones(method, fewest, monkeypatch):
    monkeypatch.setattr(networks, "_FEWEST_CHANNELS", {2: fewest, 4: fewest})
    images = SPLIT.images[4:7]
    monkeypatch.setattr(networks, "_FEWEST_PIXELS", fewest)
    predict = networks.for_inference(method).predict
    compiled = tf.function(networks.image_by_image(predict))
    answers = (compiled if fewest == 1 else predict)(tf.constant(images))  # once is enough to trace it
    for field, expected in method.predict(tf.constant(images))._asdict().items():
        found = getattr(answers, field)
        if expected is None:
            assert found is None
        else:
            np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max() + 1e-6, err_msg=field)


def test_the_exported_signature_answers_as_the_live_model(method, tmp_path, monkeypatch):
    # The other signature is the same for every method, most of the file and for test_export_bytes.py.
    monkeypatch.setattr(
        saved_model, "decode_images", lambda files, size, rule: tf.zeros((tf.size(files), size, size, 1))
    )
    for drawn in ("overlay_png", "map_png"):
        monkeypatch.setattr(saved_model, drawn, lambda images, *_: tf.fill(tf.shape(images)[:1], ""))
    rule = FileRule(Scaling(-1.0, 1.0), "float32")
    saved_model.write_saved_model(tmp_path / "1", saved_model.Predictor(method, 64), rule)
    signature = tf.saved_model.load(str(tmp_path / "1")).signatures[saved_model.FLOAT_SIGNATURE]
    for images in (SPLIT.images[4:7], SPLIT.images[:1]):
        expected = {
            key: value for key, value in method.predict(tf.constant(images))._asdict().items() if value is not None
        }
        if "class_probabilities" in expected:
            probability = np.asarray(expected.pop("class_probabilities"))[:, DISEASED]
            expected |= {"disease_probability": probability, "predicted_class": probability > DECISION}
        found = signature(image=tf.constant(images))
        assert found.keys() == expected.keys()
        found = {key: np.asarray(value) for key, value in found.items()}
        if "predicted_class" in found:  # after three rounds a probability may be a half, but for rounding
            told = np.abs(found["disease_probability"] - DECISION) > 1e-3
            found["predicted_class"] = np.where(told, found["predicted_class"], expected["predicted_class"])
            assert np.all((found["disease_probability"] > DECISION) == found["predicted_class"], where=told)
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], np.asarray(value), atol=5e-4, err_msg=key)
