"""The exported signatures: what they answer, what they refuse, and what they are made of."""

import os
import re
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from exports import SIZE, UINT8, OnlyClasses, encoded, lively_method, write_export

from descargan_tf.errors import UserError
from descargan_tf.export import reference, saved_model, verify, warmup
from descargan_tf.prediction.files import predict_files
from descargan_tf.prediction.overlay import overlay
from descargan_tf.types import Prediction

pytestmark = pytest.mark.usefixtures("shallow")

STATISTICS = ("moving", "per_image")
FLOAT_OUTPUTS = {"anomaly_map", "healthy_image", "anomaly_score", "disease_probability", "predicted_class"}
# An operation that is not here must be known to be one of every TensorFlow Serving, and then be put here.
OPERATIONS = """
    Abs AddV2 All Any Assert BiasAdd BroadcastTo Cast ConcatV2 Const Conv2D Conv2DBackpropInput DecodeJpeg
    DecodePng DecodeRaw EncodePng EnsureShape Equal ExpandDims Fill FloorDiv FloorMod Greater GreaterEqual
    Identity If IsFinite Less LessEqual LogicalAnd LogicalNot LogicalOr MatMul Max MaxPool Maximum Mean
    MergeV2Checkpoints Min Minimum Mul NoOp NotEqual Pack Pad PartitionedCall Placeholder RealDiv Relu
    Reshape RestoreV2 ReverseV2 Round SaveV2 ScaleAndTranslate Select SelectV2 Shape ShardedFilename Size Softmax
    Squeeze
    StatefulPartitionedCall StatelessIf StatelessWhile StaticRegexFullMatch StridedSlice StringJoin StringLength
    Sub Substr Sum Tanh TensorListFromTensor TensorListGetItem TensorListReserve TensorListSetItem
    TensorListStack Transpose While
"""


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """(method, folder, signatures) by the kind of statistics."""
    made = {}
    for statistics in STATISTICS:
        # As configs/synthetic.flags, and as configs/synthetic_64.flags: each activation in one of the two.
        activation = "leaky_relu" if statistics == "per_image" else "relu"
        method = lively_method(batch_norm=statistics, discriminator_activation=activation)
        folder = write_export(tmp_path_factory.mktemp(statistics) / "1", method)
        made[statistics] = method, folder, tf.saved_model.load(str(folder)).signatures
    return made


@pytest.fixture(params=STATISTICS)
def exported(exports, request):
    return exports[request.param]


@pytest.fixture
def moving(exports):
    return exports["moving"]


def images_like(count, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, SIZE, SIZE, 1)).astype(np.float32)


def ask(signatures, images):
    answers = signatures["serving_default"](image=tf.constant(images))
    return {name: value.numpy() for name, value in answers.items()}


def ask_bytes(signatures, files):
    answers = signatures["serving_bytes"](image_bytes=tf.constant(files))
    return {name: value.numpy() for name, value in answers.items()}


# ---- what they answer


def test_the_signatures_are_those_that_are_documented(moving):
    _, _, signatures = moving
    assert set(signatures) == {"serving_default", "serving_bytes"}
    shapes = {}
    for name, argument in (("serving_default", "image"), ("serving_bytes", "image_bytes")):
        (found,) = signatures[name].structured_input_signature[1].values()
        assert found.name == argument
        shapes[name] = (found.shape.as_list(), found.dtype)
    assert shapes["serving_default"] == ([None, SIZE, SIZE, 1], tf.float32)
    assert shapes["serving_bytes"] == ([None], tf.string)
    outputs = signatures["serving_default"].structured_outputs
    assert set(outputs) == FLOAT_OUTPUTS
    assert set(signatures["serving_bytes"].structured_outputs) == FLOAT_OUTPUTS | {
        "overlay_png_bytes",
        "anomaly_map_png_bytes",
    }
    found = {name: (spec.dtype.name, spec.shape.as_list()) for name, spec in outputs.items()}
    for name in ("anomaly_map", "healthy_image"):
        assert found[name] == ("float32", [None, SIZE, SIZE, 1])
    for name in ("anomaly_score", "disease_probability"):
        assert found[name] == ("float32", [None])
    assert found["predicted_class"] == ("int64", [None])


def test_they_answer_as_the_method(exported):
    method, _, signatures = exported
    images = images_like(5)
    expected = method.predict(tf.constant(images))
    found = ask(signatures, images)
    np.testing.assert_allclose(found["healthy_image"], expected.healthy_image, atol=1e-4)
    np.testing.assert_allclose(found["anomaly_map"], found["healthy_image"] - images, atol=1e-6)
    np.testing.assert_allclose(found["anomaly_score"], np.abs(found["anomaly_map"]).mean((1, 2, 3)), atol=1e-6)
    probability = np.asarray(expected.class_probabilities)[:, 1]
    np.testing.assert_allclose(found["disease_probability"], probability, atol=1e-4)
    np.testing.assert_array_equal(found["predicted_class"], (found["disease_probability"] > 0.5).astype(np.int64))
    assert found["disease_probability"].std() > 1e-4  # else the line above says nothing


def test_an_image_has_one_answer_alone_and_in_any_company(exported):
    _, _, signatures = exported
    images = images_like(4)
    others = images_like(4, seed=9) * np.float32(0.1)
    others[1] = images[1]
    together, elsewhere, alone = (ask(signatures, batch) for batch in (images, others, images[1:2]))
    for name in FLOAT_OUTPUTS:
        np.testing.assert_allclose(elsewhere[name][1], together[name][1], rtol=0, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(alone[name][0], together[name][1], rtol=0, atol=5e-5, err_msg=name)
    assert np.abs(elsewhere["healthy_image"][0] - together["healthy_image"][0]).max() > 0.01


def test_files_are_answered_as_by_predict(moving, tmp_path):
    method, _, signatures = moving
    rng = np.random.default_rng(3)
    smooth = (127 + 90 * np.sin(np.arange(SIZE)[:, None] / 7) * np.cos(np.arange(SIZE) / 5)).astype(np.uint8)
    files = {
        "noise.png": encoded(rng.integers(0, 256, (SIZE, SIZE), dtype=np.uint8)),
        "smooth.jpg": encoded(smooth, "JPEG"),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    paths, out = [tmp_path / name for name in files], tmp_path / "out"

    def predict(batch):
        return method.predict(tf.constant(batch))

    assert predict_files(predict, paths, out, SIZE, UINT8.scaling, "uint8", 2) == []
    found = ask_bytes(signatures, list(files.values()))
    rows = (out / "predictions.csv").read_text().splitlines()[1:]
    for i, path in enumerate(paths):
        np.testing.assert_allclose(found["anomaly_map"][i, ..., 0], np.load(out / f"{path.stem}_map.npy"), atol=1e-4)
        healthy = np.load(out / f"{path.stem}_healthy.npy")
        np.testing.assert_allclose(found["healthy_image"][i, ..., 0], healthy, atol=1e-4)
        _, probability, score, name = rows[i].split(",")
        assert found["disease_probability"][i] == pytest.approx(float(probability), abs=1e-4)
        assert found["anomaly_score"][i] == pytest.approx(float(score), abs=1e-4)
        assert ("healthy", "diseased")[found["predicted_class"][i]] == name
        picture = tf.io.decode_png((out / f"{path.stem}_overlay.png").read_bytes()).numpy().astype(int)
        ours = tf.io.decode_png(found["overlay_png_bytes"][i]).numpy().astype(int)
        assert np.abs(ours - picture).max() <= 1


def test_pictures_are_those_of_the_report(moving):
    _, _, signatures = moving
    pixels = np.random.default_rng(4).integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
    found = ask_bytes(signatures, [encoded(pixels)])
    signed = found["anomaly_map"][0, ..., 0]
    assert signed.min() < -0.2
    assert signed.max() > 0.2
    image = (pixels / 127.5 - 1).astype(np.float32)
    for name, ground in (("overlay_png_bytes", image), ("anomaly_map_png_bytes", np.ones_like(image))):
        picture = tf.io.decode_png(found[name][0]).numpy()
        np.testing.assert_array_equal(picture, overlay(ground, signed), err_msg=name)


def test_files_of_other_sizes_and_depths_may_share_a_request(moving):
    _, _, signatures = moving
    small, large = (np.full(shape, 77, np.uint8) for shape in ((20, 30), (200, 100)))
    files = [encoded(small), encoded(large.astype(np.uint16) * 257), encoded(large, "JPEG")]
    found = ask_bytes(signatures, files)
    assert found["healthy_image"].shape == (3, SIZE, SIZE, 1)
    expected = ask(signatures, np.full((1, SIZE, SIZE, 1), 77 / 127.5 - 1, np.float32))
    for i in range(3):
        np.testing.assert_allclose(found["healthy_image"][i], expected["healthy_image"][0], atol=1e-5)


# ---- what they refuse


@pytest.fixture(scope="module")
def unguarded(exports):
    """The score's graph as in a server: nobody looks at the placeholder's static shape."""
    _, folder, _ = exports["moving"]
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph)
    with graph.as_default():
        image = tf.compat.v1.placeholder(tf.float32, None)
        name = "serving_default_image:0"
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(folder), input_map={name: image})
        signature = loaded.signature_def["serving_default"]
        assert signature.inputs["image"].name == name
    yield lambda given: session.run(signature.outputs["anomaly_score"].name, {image: given})
    session.close()


@pytest.mark.parametrize(
    "shape", [(), (SIZE,), (SIZE, SIZE), (SIZE, SIZE, 1), (1, 8, 8, 1), (1, SIZE, SIZE, 3), (1, SIZE, SIZE, 1, 1)]
)
def test_another_shape_is_refused_and_nothing_crashes(unguarded, shape):
    """Without a guard inside the graph a rank below 4 ends the process."""
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        unguarded(np.zeros(shape, np.float32))
    assert "is not compatible with expected shape [?,64,64,1]" in caught.value.message


def test_values_of_another_scale_are_refused(moving):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[0\] \[255\] \[leave \[-1, 1\]; scale as in training"):
        ask(moving[2], np.linspace(0, 255, SIZE * SIZE, dtype=np.float32).reshape(1, SIZE, SIZE, 1))
    huge = np.zeros((1, SIZE, SIZE, 1), np.float32)
    huge[0, 3, 4] = -3e38
    with pytest.raises(tf.errors.InvalidArgumentError, match="image: values"):
        ask(moving[2], huge)


def test_numbers_that_are_none_count_as_mid_gray(moving):
    images = images_like(2)
    images[0, 5, 6], images[0, 7, 8], images[1, 9, 10] = np.nan, np.inf, -np.inf
    found = ask(moving[2], images)
    expected = ask(moving[2], np.where(np.isfinite(images), images, 0).astype(np.float32))
    for name in FLOAT_OUTPUTS:
        assert np.isfinite(found[name]).all()
        np.testing.assert_array_equal(found[name], expected[name])


def test_one_bad_file_refuses_the_request_by_its_reason(moving):
    with pytest.raises(tf.errors.InvalidArgumentError, match="Unknown image file format"):
        ask_bytes(moving[2], [encoded(np.zeros((SIZE, SIZE), np.uint8)), b"no picture"])


# ---- what they are made of


def test_the_operations_are_those_of_every_server(exported):
    method, folder, _ = exported
    expected = set(OPERATIONS.split())
    if method.settings.batch_norm == "per_image":
        expected |= {"Rsqrt", "SquaredDifference", "StopGradient"}
    if method.settings.discriminator_activation == "leaky_relu":
        expected |= {"LeakyRelu"}
    assert verify.graph_operations(folder) == sorted(expected)


def test_a_server_loads_and_runs_it_without_complaint(moving):
    """TensorFlow's optimisers say on standard error what they cannot do with a graph; then it runs unoptimised."""
    code = "import sys, pathlib; from descargan_tf import surroundings\n"
    code += "with surroundings.loading(): from descargan_tf.export.embedded.servable import Servable\n"
    code += "Servable('m', 1, pathlib.Path(sys.argv[1]))"
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, moving[1]], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    complaints = [line for line in done.stderr.splitlines() if re.match(r"[WE]\d{4} ", line) and "cuda" not in line]
    assert complaints == []


def test_the_shape_guard_is_the_first_operation_on_the_image(moving):
    graph = moving[2]["serving_default"].graph
    (image,) = (op.outputs[0] for op in graph.get_operations() if op.type == "Placeholder" and "image" in op.name)
    consumers = image.consumers()
    while len(consumers) == 1 and consumers[0].type == "StatefulPartitionedCall":
        inner = next(
            f for f in graph.as_graph_def().library.function if f.signature.name == consumers[0].get_attr("f").name
        )
        argument = inner.signature.input_arg[0].name
        consumers = [node for node in inner.node_def if any(i.split(":")[0] == argument for i in node.input)]
        assert [node.op for node in consumers] == ["EnsureShape"]
        return
    assert [op.type for op in consumers] == ["EnsureShape"]


def test_only_what_prediction_needs_is_exported(moving):
    """Neither the branch to diseased images nor the critics: their weights are nowhere in the graph."""
    method, folder, _ = moving
    content = (folder / "saved_model.pb").read_bytes()
    names = [kernel.path for kernel in method.networks["discriminator"].get_layer("critic_healthy").trainable_weights]
    assert names
    size = {name: network.count_params() for name, network in method.networks.items()}
    critics = sum(
        method.networks["discriminator"].get_layer(f"critic_{c}").count_params() for c in ("healthy", "diseased")
    )
    assert len(content) < 4 * (sum(size.values()) - critics) + 400_000
    assert b"diseased" not in content
    assert b"critic" not in content


def test_channels_first_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(saved_model.keras.config, "image_data_format", lambda: "channels_first")
    with pytest.raises(UserError, match='serving needs "channels_last"'):
        saved_model.write_saved_model(tmp_path, saved_model.Predictor(OnlyClasses(), SIZE), UINT8)


def loaded_once(folder, monkeypatch):
    """Its signatures, which `verify` then takes too: loading and optimising them again is most of what it does."""
    loaded = tf.saved_model.load(str(folder))
    monkeypatch.setattr(tf.saved_model, "load", lambda _: loaded)
    return loaded.signatures


def test_what_a_method_does_not_say_is_left_out(tmp_path, monkeypatch):
    folder = write_export(tmp_path / "1", OnlyClasses())
    signatures = loaded_once(folder, monkeypatch)
    images = images_like(2)
    found = ask(signatures, images)
    assert set(found) == {"disease_probability", "predicted_class"}
    np.testing.assert_allclose(found["disease_probability"], 1 / (1 + np.exp(-images.mean((1, 2, 3)))), atol=1e-6)
    files, _ = reference.encode(images, UINT8)
    assert set(ask_bytes(signatures, files)) == {"disease_probability", "predicted_class"}
    verify.verify(folder)


# ---- bfloat16


def test_bfloat16_stays_inside(moving, tmp_path, monkeypatch):
    folder = write_export(tmp_path / "1", lively_method(precision="bfloat16"), UINT8, "bfloat16", moving[0])
    for spec in loaded_once(folder, monkeypatch)["serving_default"].structured_outputs.values():
        assert spec.dtype in (tf.float32, tf.int64)
    result = verify.verify(folder)
    assert result["measure"] == "root mean square"
    assert 1e-6 < result["differences"]["serving_default"]["anomaly_map"] < 0.1


# ---- warm-up and verification


def test_warm_up_requests_are_those_of_the_serving_api(moving):
    apis = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    path = moving[1] / "assets.extra" / "tf_serving_warmup_requests"
    logs = [apis.PredictionLog.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(path))]
    assert [log.WhichOneof("log_type") for log in logs] == ["predict_log"] * 2
    requests = [log.predict_log.request for log in logs]
    assert [r.model_spec.name for r in requests] == ["descargan"] * 2
    assert [r.model_spec.signature_name for r in requests] == ["serving_default", "serving_bytes"]
    images = tf.make_ndarray(requests[0].inputs["image"])
    np.testing.assert_array_equal(images, reference.drawn_images(2, SIZE))
    (content,) = tf.make_ndarray(requests[1].inputs["image_bytes"])
    assert content[:4] == b"\x89PNG"
    again = warmup.read_requests(moving[1])
    assert [r.signature for r in again] == ["serving_default", "serving_bytes"]
    np.testing.assert_array_equal(again[0].inputs["image"], images)


def test_requests_of_the_serving_api_are_read(tmp_path):
    apis = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    log = apis.PredictionLog()
    log.predict_log.request.model_spec.name = "m"
    log.predict_log.request.model_spec.version.value = 3
    log.predict_log.request.model_spec.signature_name = "s"
    log.predict_log.request.inputs["x"].CopyFrom(tf.make_tensor_proto([b"\0a", b""]))
    path = tmp_path / warmup.FILE
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(log.SerializeToString())
    (request,) = warmup.read_requests(tmp_path)
    assert (request.model, request.signature, list(request.inputs["x"])) == ("m", "s", [b"\0a", b""])


def test_verification_finds_the_export_right(exported, monkeypatch):
    method, folder, signatures = exported
    monkeypatch.setattr(tf.saved_model, "load", lambda _: types.SimpleNamespace(signatures=signatures))
    result = verify.verify(folder)
    assert (result["num_images"], result["num_warmup_requests"], result["measure"]) == (4, 2, "largest")
    assert result["bound"] == (1e-4 if method.settings.batch_norm == "moving" else 1e-3)
    for outputs in result["differences"].values():
        assert set(outputs) >= FLOAT_OUTPUTS
        for name, difference in outputs.items():
            assert difference <= (1 if name.endswith("_bytes") else result["bound"])


@pytest.fixture
def copied(moving, tmp_path, monkeypatch):
    """A folder whose reference and requests can be changed; the SavedModel stays as it is, and is loaded already."""
    monkeypatch.setattr(tf.saved_model, "load", lambda _: types.SimpleNamespace(signatures=moving[2]))
    return shutil.copytree(moving[1], tmp_path / "1")


def change_reference(folder, key, change):
    path = folder / verify.REFERENCE
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays[key] = change(arrays[key])
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("key", "change", "words"),
    [
        (
            "serving_default/outputs/anomaly_map",
            lambda a: a + 2e-4,
            "serving_default: anomaly_map differs from the live",
        ),
        ("serving_default/outputs/anomaly_score", lambda a: np.append(a[:-1], a[-1] + 1e-3), "anomaly_score differs"),
        (
            "serving_default/outputs/healthy_image",
            lambda a: a[..., 0],
            "healthy_image is (5, 64, 64, 1), expected (5, 64",
        ),
        (
            "serving_bytes/outputs/overlay_png_bytes",
            lambda a: a[:, ::-1],
            "overlay_png_bytes differs from the live model",
        ),
        (
            "serving_default/outputs/predicted_class",
            lambda a: 1 - a,
            "predicted_class differs from the live model by 1",
        ),
    ],
)
def test_verification_finds_another_answer(copied, key, change, words):
    change_reference(copied, key, change)
    with pytest.raises(UserError) as caught:
        verify.verify(copied)
    assert words in str(caught.value)


def test_verification_runs_the_warm_up_requests(copied):
    warmup.write_requests(
        copied, [warmup.Request("m", "serving_default", {"image": np.full((1, 64, 64, 1), 9.0, "f")})]
    )
    with pytest.raises(UserError, match=r"serving_default fails: .*\[leave \[-1, 1\]"):
        verify.verify(copied)
    warmup.write_requests(copied, [warmup.Request("m", "serving_other", {})])
    with pytest.raises(UserError, match="has no signature serving_other, only serving_default, serving_bytes"):
        verify.verify(copied)


def test_verification_refuses_what_servers_cannot_repeat(tmp_path):
    class Noisy(OnlyClasses):
        def predict(self, images):
            p = tf.random.uniform((tf.shape(images)[0],))
            return Prediction(None, None, None, tf.stack([1 - p, p], axis=1))

    saved_model.write_saved_model(tmp_path, saved_model.Predictor(Noisy(), SIZE), UINT8)
    with pytest.raises(UserError, match="TensorFlow Serving cannot run, or not repeat, RandomUniform in its graph"):
        verify.verify(tmp_path)


def test_verify_on_the_command_line(moving, copied, tmp_path, capsys):
    assert verify.main([str(moving[1])]) == 0
    out = capsys.readouterr().out
    assert "4 images answered as by the live model: difference" in out
    assert "2 warm-up requests replayed" in out
    (copied / verify.REFERENCE).unlink()
    assert verify.main([str(tmp_path / "none"), str(copied)]) == 1
    err = capsys.readouterr().err.splitlines()
    assert err[0] == f"error: {tmp_path / 'none'} holds no SavedModel: No such file or directory."
    assert f"{copied} is not an export of this program" in err[1]
