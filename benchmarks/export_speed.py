"""An export against other engines, the same weights in each: python benchmarks/export_speed.py

Prints a Markdown table of milliseconds a call, for the whole of `serving_default` (trunk, healthy branch, classifier)
and for the healthy image alone, on as many cores as the process may use (`taskset -c 0,1` chooses). Within a row of the
table all engines are measured in turns, so that what else the machine does hits all alike. An engine that is not
installed is named and left out; this installs all of them:

    pip install -r requirements.txt -r requirements-formats.txt torch
"""

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # the tests' network has been lived in: see exports.lively_method
CORES = len(os.sched_getaffinity(0))

from descargan_tf import surroundings

surroundings.settle()
with surroundings.loading():
    import tensorflow as tf

import keras
import numpy as np
from exports import lively_method

from descargan_tf.data.images import Scaling
from descargan_tf.export import formats
from descargan_tf.export.bytes_input import FileRule
from descargan_tf.export.embedded.servable import Servable
from descargan_tf.export.reference import drawn_images
from descargan_tf.export.saved_model import FLOAT_SIGNATURE, Predictor, write_saved_model
from descargan_tf.methods.descargan import DeScarGAN
from descargan_tf.models.blocks import BatchNormalization, UpsampleConv2D
from descargan_tf.prediction.outputs import named_outputs

WHOLE, HEALTHY = "serving_default", "healthy image alone"
_LONGEST_SECONDS = 60  # for a call of a model server; a deadline must be given
_PAUSE_SECONDS = 0.1  # until the threads of the engine before have gone to sleep


class HealthyAlone(DeScarGAN):
    """Without its classifier."""

    def _probabilities(self, images):
        return None


@dataclasses.dataclass
class Engine:
    """A network in one engine: images [B, H, W, 1] to {output: array}."""

    name: str
    call: object
    milliseconds: list = dataclasses.field(default_factory=list)


def method_of(work, precision, arguments, size):
    """The paper's network, with statistics, scales and offsets as if it had been trained."""
    kind = DeScarGAN if work == WHOLE else HealthyAlone
    method = lively_method(
        kind=kind,
        image_size=size,
        generator_filters=arguments.filters,
        discriminator_filters=max(arguments.filters // 2, 1),
        precision=precision,
    )
    rng = np.random.default_rng(0)
    for network in method.networks.values():
        for layer in network._flatten_layers():
            if hasattr(layer, "kernel"):  # a bias of 0 is optimised away, which is another graph
                layer.bias.assign(rng.normal(0, 0.1, layer.bias.shape))
    return method


# ---- engines


def saved_models(work, folder, arguments, size):
    """What a model server runs, in a session as there."""
    for precision in ("float32", "bfloat16"):
        path = folder / precision / "1"
        method = method_of(work, precision, arguments, size)
        write_saved_model(path, Predictor(method, size), FileRule(Scaling(0, 255), "uint8"))
        servable = Servable("descargan", 1, path, warm_up=False)

        def call(images, servable=servable):
            return servable.run(FLOAT_SIGNATURE, {"image": images}, time.monotonic() + _LONGEST_SECONDS)

        yield Engine(f"SavedModel {precision}", call)


def pytorch(work, folder, arguments, size):
    """Plain modules in eager mode, channels last, without autograd."""
    import torch

    torch.set_num_threads(CORES)
    method = method_of(work, "float32", arguments, size)
    for dtype in (torch.float32, torch.bfloat16):
        network = pytorch_network(method, work == WHOLE).eval().to(dtype).to(memory_format=torch.channels_last)

        def call(images, network=network, dtype=dtype):
            with torch.inference_mode():
                x = torch.from_numpy(images).permute(0, 3, 1, 2).to(dtype)  # one channel: channels last already
                return {name: value.float().numpy() for name, value in network(x).items()}

        yield Engine(f"PyTorch eager {str(dtype).removeprefix('torch.')}", call)


def onnx_runtime(work, folder, arguments, size):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = CORES
    path = written(work, folder, arguments, size, "onnx")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    argument, names = session.get_inputs()[0].name, [output.name for output in session.get_outputs()]
    yield Engine("ONNX Runtime float32", lambda x: dict(zip(names, session.run(None, {argument: x}), strict=True)))


def openvino(work, folder, arguments, size):
    import openvino

    path = written(work, folder, arguments, size, "openvino")
    for hint, name in (("f32", "float32"), ("bf16", "bfloat16")):
        compiled = openvino.compile_model(
            str(path), "CPU", {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": CORES}
        )

        def call(images, compiled=compiled):
            return {key.get_any_name(): value for key, value in compiled([images]).items()}

        yield Engine(f"OpenVINO {name}", call)


ENGINES = {  # name -> how it is made, the packages that it needs, the one whose version is printed first
    "PyTorch": (pytorch, ("torch",)),
    "ONNX Runtime": (onnx_runtime, ("onnxruntime", "onnx", "tf2onnx")),
    "OpenVINO": (openvino, ("openvino",)),
}


def written(work, folder, arguments, size, name):
    """The file that --export_formats writes."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / formats.FORMATS[name].file
    formats.write_format(name, path, Predictor(method_of(work, "float32", arguments, size), size))
    return path


def pytorch_network(method, classifies):
    """The networks of the paper as anybody writes them in PyTorch, with the method's weights."""
    import torch
    from torch import nn
    from torch.nn import functional

    def block(n_in, n_out, activation=nn.ReLU):
        return nn.Sequential(nn.Conv2d(n_in, n_out, 3, padding=1), nn.BatchNorm2d(n_out, eps=1e-5), activation())

    def convolution(n_in, n_out):
        return nn.Sequential(nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU())

    def up(n_in, n_out):
        return nn.Sequential(nn.Upsample(scale_factor=2), block(n_in, n_out))

    class Trunk(nn.Module):
        def __init__(self, n):
            super().__init__()
            self.d0 = nn.Sequential(block(3, n), block(n, n))
            self.d1 = nn.Sequential(nn.MaxPool2d(2), block(n, 2 * n), block(2 * n, 2 * n))
            self.d2 = nn.Sequential(nn.MaxPool2d(2), block(2 * n, 4 * n), block(4 * n, 4 * n))
            self.d3 = nn.Sequential(nn.MaxPool2d(2), block(4 * n, 8 * n), block(8 * n, 8 * n))
            self.u3, self.c3 = up(8 * n, 4 * n), nn.Sequential(block(8 * n, 4 * n), block(4 * n, 4 * n))
            self.u2, self.c2 = up(4 * n, 2 * n), nn.Sequential(block(4 * n, 2 * n), block(2 * n, 2 * n))
            self.u1 = up(2 * n, n)

        def forward(self, x):
            label = torch.zeros(len(x), 2, *x.shape[2:], dtype=x.dtype)  # see DeScarGAN._planes
            x0 = self.d0(torch.cat([x, label], 1).contiguous(memory_format=torch.channels_last))
            x1 = self.d1(x0)
            x2 = self.d2(x1)
            y = self.c3(torch.cat([self.u3(self.d3(x2)), x2], 1))
            y = self.c2(torch.cat([self.u2(y), x1], 1))
            return self.u1(y)

    class Critic(nn.Sequential):
        def __init__(self, n):
            c, pool = convolution, lambda: nn.MaxPool2d(2)
            layers = [c(1, n), pool(), c(n, 2 * n), pool(), c(2 * n, 4 * n), c(4 * n, 4 * n), pool()]
            layers += [c(4 * n, 8 * n), c(8 * n, 8 * n), pool(), c(8 * n, 8 * n), c(8 * n, 8 * n), pool()]
            super().__init__(*layers, c(8 * n, 16 * n))

    class Classifier(nn.Module):
        def __init__(self, n, size):
            super().__init__()
            self.convolutions = nn.Sequential(convolution(16 * n, 16 * n), convolution(16 * n, 16 * n), nn.MaxPool2d(2))
            self.dense = nn.Sequential(nn.Linear(16 * n * (size // 64) ** 2, 64), nn.ReLU(), nn.Linear(64, 2))

        def forward(self, x):
            return self.dense(self.convolutions(x).permute(0, 2, 3, 1).flatten(1))

    class Whole(nn.Module):
        def __init__(self, s):
            super().__init__()
            self.trunk = Trunk(s.generator_filters)
            self.healthy = nn.Sequential(
                block(s.generator_filters, s.generator_filters), block(s.generator_filters, 1, nn.Tanh)
            )
            if classifies:
                self.critic_trunk = Critic(s.discriminator_filters)
                self.classifier = Classifier(s.discriminator_filters, s.image_size)

        def forward(self, x):
            healthy = self.healthy(self.trunk(x))
            change = healthy - x
            outputs = {"healthy_image": healthy, "anomaly_map": change}
            outputs = {name: value.permute(0, 2, 3, 1) for name, value in outputs.items()}
            outputs["anomaly_score"] = change.float().abs().mean((1, 2, 3))
            if classifies:
                logits = self.classifier(self.critic_trunk(x))
                outputs["disease_probability"] = functional.softmax(logits.float(), 1)[:, 1]
            return outputs

    network = Whole(method.settings)
    generator, discriminator = method.networks["generator"], method.networks["discriminator"]
    parts = [(network.trunk, generator.get_layer("trunk")), (network.healthy, generator.get_layer("healthy"))]
    if classifies:
        parts.append((network.critic_trunk, discriminator.get_layer("trunk")))
        parts.append((network.classifier, discriminator.get_layer("classifier")))
    for theirs, ours in parts:
        _copy_weights(ours, theirs)
    return network


def _copy_weights(ours, theirs):
    """Both hold their layers in the order that they are run in."""
    import torch
    from torch import nn

    layers = [layer for layer in ours.layers if layer.weights]
    modules = [module for module in theirs.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear)]
    for layer, module in zip(layers, modules, strict=True):
        if isinstance(layer, BatchNormalization):
            names = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
            values = {name: np.asarray(getattr(layer, ours_name)) for name, ours_name in names.items()}
        else:
            kernel = np.asarray(layer.kernel)
            is_upsampling = isinstance(layer, UpsampleConv2D)  # whose kernel is that of the convolution
            assert is_upsampling or isinstance(layer, keras.layers.Conv2D | keras.layers.Dense)
            order = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
            values = {"weight": kernel.transpose(order), "bias": np.asarray(layer.bias)}
        with torch.no_grad():
            for name, value in values.items():
                target = getattr(module, name)
                assert tuple(target.shape) == value.shape, f"{layer.name}: {target.shape} and {value.shape}"
                target.copy_(torch.from_numpy(np.array(value, np.float32)))


# ---- measuring


def measure(engines, images, arguments):
    """Milliseconds a call of each engine, in turns."""
    calls, clock = {}, time.process_time if arguments.cpu_time else time.perf_counter
    for engine in engines:
        engine.call(images)  # plans, and lays weights out
        started = clock()
        engine.call(images)
        calls[engine.name] = max(1, round(arguments.seconds / (clock() - started)))
        engine.milliseconds.clear()
    for turn in range(arguments.turns):
        for engine in engines if turn % 2 == 0 else reversed(engines):
            time.sleep(_PAUSE_SECONDS)
            engine.call(images)
            started = clock()
            for _ in range(calls[engine.name]):
                engine.call(images)
            engine.milliseconds.append(1000 * (clock() - started) / calls[engine.name])
    return {engine.name: statistics.median(engine.milliseconds) for engine in engines}


def differences(engines, images, live):
    """Largest absolute difference of any output from the live Keras model in float32."""
    expected = named_outputs(live.predict(tf.constant(images)))
    found = {}
    for engine in engines:
        answers = engine.call(images)
        found[engine.name] = max(
            float(np.abs(np.asarray(answers[name]).astype(np.float64) - np.asarray(value)).max())
            for name, value in expected.items()
        )
    return found


def parse_arguments():
    def numbers(text):
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=numbers, default=[64, 128, 256], help="pixels a side")
    parser.add_argument("--batches", type=numbers, default=[1, 4], help="images a call")
    parser.add_argument("--filters", type=int, default=64, help="of the generator's first layer; half in the critic's")
    parser.add_argument("--works", type=lambda text: text.split(","), default=[WHOLE, HEALTHY], help="of these two")
    parser.add_argument("--turns", type=int, default=7, help="of which the median is shown")
    parser.add_argument("--seconds", type=float, default=0.5, help="of an engine's turn, at least one call")
    parser.add_argument(
        "--cpu_time", action="store_true", help="count the processor's time: one core of a busy machine"
    )
    parser.add_argument("--without", default="", help="engines to leave out: " + ",".join(ENGINES))
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    tf.get_logger().setLevel("ERROR")  # that sessions are old
    tf.config.threading.set_intra_op_parallelism_threads(CORES)
    chosen, missing = {}, []
    for name, (build, packages) in ENGINES.items():
        absent = [package for package in packages if importlib.util.find_spec(package) is None]
        if absent:
            missing.append(f"{name} (not installed: {', '.join(absent)})")
        elif name not in arguments.without.split(","):
            chosen[name] = build
    packages = ["tensorflow", *(ENGINES[name][1][0] for name in chosen)]
    versions = [f"{package} {importlib.metadata.version(package)}" for package in packages]
    print(f"{CORES} cores, {arguments.filters} filters, {', '.join(versions)}")
    if missing:
        print(f"NOT MEASURED: {'; '.join(missing)}")
    columns = [(size, batch) for size in arguments.sizes for batch in arguments.batches]
    for work in arguments.works:
        times, worst = {}, {}
        for size in arguments.sizes:
            with tempfile.TemporaryDirectory() as folder:
                engines = list(saved_models(work, Path(folder) / "ours", arguments, size))
                for name, build in chosen.items():
                    engines += build(work, Path(folder) / name.split()[0], arguments, size)
                images = drawn_images(max(arguments.batches), size)
                found = differences(engines, images, method_of(work, "float32", arguments, size))
                worst = {name: max(value, worst.get(name, 0)) for name, value in found.items()}
                for batch in arguments.batches:
                    print(f"  {work}, {size} px, {batch} images", file=sys.stderr, flush=True)
                    for name, value in measure(engines, images[:batch], arguments).items():
                        times[name, size, batch] = value
        print_table(work, times, worst, columns)
    return check(worst)


def print_table(work, times, worst, columns):
    print(f"\n{work}: milliseconds a call (pixels a side, images a call)\n")
    heads = [f"{size} px, {batch}" for size, batch in columns]
    print(f"| engine | {' | '.join(heads)} | largest difference |")
    print(f"|---|{'---:|' * (len(columns) + 1)}")
    for name in worst:
        values = " | ".join(f"{times[name, *column]:.1f}" for column in columns)
        print(f"| {name} | {values} | {worst[name]:.1e} |")
    for precision in ("float32", "bfloat16"):
        for other in ("PyTorch eager", "ONNX Runtime", "OpenVINO"):
            if f"{other} {precision}" in worst:
                ratios = [times[f"SavedModel {precision}", *c] / times[f"{other} {precision}", *c] for c in columns]
                values = " | ".join(f"{ratio:.2f}" for ratio in ratios)
                print(f"| SavedModel / {other}, {precision} | {values} | |")
    sys.stdout.flush()


def check(worst):
    """The exit status: 1 where an engine does not compute the same network."""
    wrong = {name: value for name, value in worst.items() if value > (1e-3 if "float32" in name else 0.2)}
    for name, value in wrong.items():
        print(f"{name} computes something else: {value:.2g}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
