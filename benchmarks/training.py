"""Training beside PyTorch, and how far from what the machine can do: python benchmarks/training.py

Prints a Markdown table: seconds a round (five updates of the critics and one of the generator, rules and arithmetic of
the authors' program on both sides), the ratio to the better of PyTorch's two lines, and the share of the machine's own
speed of convolutions that is reached. Each line is measured in a process of its own, one after the other, on as many
cores as the process may use (`taskset -c 0,1` chooses).

    --cost      a table and a plot of seconds a round and memory over image size, batch and filters
    --profile   where the time of a round goes, by operation; --profile_dir=<folder> keeps it for TensorBoard

PyTorch (`pip install torch`, a CPU build) is named and left out where it is missing.
"""

import argparse
import dataclasses
import importlib.util
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machine

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
CORES = len(os.sched_getaffinity(0))


@dataclasses.dataclass(frozen=True)
class Work:
    """What one process measures."""

    engine: str = "tensorflow"
    precision: str = "float32"
    size: int = 64
    batch: int = 10
    filters: int = 64
    rules: str = "program"
    critic_updates: int = 5
    repeats: int = 3
    profile: str = ""  # folder

    def measured(self):
        """The answer of a process of its own: {"seconds", "megabytes", ...}."""
        command = [sys.executable, __file__, "--work", json.dumps(dataclasses.asdict(self))]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])


def compute(work: Work) -> dict:
    """In this process."""
    if work.engine == "pytorch":
        import pytorch_step
        import torch

        torch.set_num_threads(CORES)
        seconds = pytorch_step.cycle_seconds(
            size=work.size,
            filters=work.filters,
            batch=work.batch,
            bfloat16=work.precision == "bfloat16",
            repeats=work.repeats,
            critic_updates=work.critic_updates,
        )
        found = {"seconds": seconds}
    elif work.engine == "ceiling":
        found = {"flops": convolution_rate(work.precision)}
    else:
        found = rounds(work)
    return {**found, "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6}


def rounds(work):
    """Of the product's own engine, input pipeline included."""
    from descargan_tf import surroundings

    surroundings.settle()
    with surroundings.loading():
        import tensorflow as tf
    import numpy as np

    from descargan_tf.hardware import keep_freed_memory
    from descargan_tf.run_folder import build_method, configure
    from descargan_tf.training.backends import engine_maker, seed_initial_weights
    from descargan_tf.types import Split

    keep_freed_memory()
    rules = "synthetic_reference" if work.rules == "program" else "synthetic"
    config = configure(
        [
            "training",
            f"--flagfile={ROOT}/configs/{rules}.flags",
            f"--image_size={work.size}",
            f"--batch_size={work.batch}",
            f"--generator_filters={work.filters}",
            f"--discriminator_filters={max(work.filters // 2, 1)}",
            f"--critic_updates={work.critic_updates}",
            f"--precision={work.precision}",
        ]
    )
    images = np.random.default_rng(0).uniform(-1, 1, (4 * work.batch, work.size, work.size, 1)).astype("float32")
    split = Split(images, np.repeat([0, 1], 2 * work.batch), None, [str(i) for i in range(len(images))])
    make_engine = engine_maker(config, build_method)
    seed_initial_weights(config)
    engine = make_engine(config, split)
    started = time.perf_counter()
    engine.rounds([1.0])
    first = time.perf_counter() - started
    times = []
    for _ in range(work.repeats):
        started = time.perf_counter()
        engine.rounds([1.0])
        times.append(time.perf_counter() - started)
    if work.profile:
        with tf.profiler.experimental.Profile(work.profile):
            engine.rounds([1.0])
    return {"seconds": statistics.median(times), "first": first, "flops": operations(engine)}


_CHANGING_VARIABLES = ("ResourceApplyAdam", "AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp")


def operations(engine):
    """Floating-point operations of the convolutions and matrix products of a round, by type: {"float32": n, ...}."""
    import tensorflow as tf

    batches = tuple(next(engine._batches) for _ in range(engine.method.batches_per_round))
    graph = engine.train_step.round.get_concrete_function(batches, tf.constant(1.0)).graph
    counted, done = {}, set()
    left = [operation for operation in graph.get_operations() if operation.type in _CHANGING_VARIABLES]
    left += [tensor.op for tensor in graph.outputs]
    while left:  # what is traced and then not asked for is not computed
        operation = left.pop()
        if operation in done:
            continue
        done.add(operation)
        left += [tensor.op for tensor in operation.inputs] + list(operation.control_inputs)
        if operation.type in ("Conv2D", "Conv2DBackpropInput"):
            kernel = operation.inputs[1].shape
            images = operation.outputs[0] if operation.type == "Conv2D" else operation.inputs[2]
        elif operation.type == "Conv2DBackpropFilter":
            kernel, images = operation.outputs[0].shape, operation.inputs[2]
        elif operation.type == "MatMul":
            factor = operation.inputs[0].shape
            kernel, images = [factor[0] if operation.get_attr("transpose_a") else factor[1]], operation.outputs[0]
        elif operation.type.endswith("PartitionedCall"):  # models/winograd.py: as much as the plain convolution
            tensors = [*operation.inputs, operation.outputs[0]]  # others are for a gradient that is not taken
            (kernel,) = [tensor.shape for tensor in tensors if tensor.shape[:2] == (3, 3)]
            first, second = (tensor for tensor in tensors if tensor.shape != kernel)
            images = next(t for t in (first, second) if t.shape[3] == kernel[3])
            if first.shape[1] != second.shape[1]:  # upsampled between: the transposed convolution's
                images, kernel = min(first, second, key=lambda t: t.shape[1]), [4, 4, kernel[3]]
        else:
            continue
        products = math.prod(images.shape) * math.prod(kernel[:3])
        name = images.dtype.name
        counted[name] = counted.get(name, 0) + 2 * products
    return counted


def convolution_rate(precision):
    """The most floating-point operations a second that TensorFlow reaches in a 3x3 convolution here."""
    from descargan_tf import surroundings

    surroundings.settle()
    with surroundings.loading():
        import tensorflow as tf

    best = 0.0
    for batch, side, channels in ((8, 64, 64), (8, 32, 128), (8, 64, 128), (8, 32, 256), (8, 16, 512)):
        x = tf.cast(tf.random.normal((batch, side, side, channels)), precision)
        kernel = tf.cast(tf.random.normal((3, 3, channels, channels)), precision)

        @tf.function(autograph=False)
        def convolve(x, kernel):
            return tf.nn.conv2d(x, kernel, 1, "SAME")

        convolve(x, kernel)
        for _ in range(10):
            started = time.perf_counter()
            convolve(x, kernel).numpy()
            best = max(best, 2 * batch * side**2 * 9 * channels**2 / (time.perf_counter() - started))
    return best


def profile_table(folder):
    """Where the time of a round went: [(operation, seconds of processor time, calls)], the longest first."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    (file,) = Path(folder).rglob("*.xplane.pb")
    space = xplane_pb2.XSpace()
    space.ParseFromString(file.read_bytes())
    spent = {}
    for plane in space.planes:
        if plane.name != "/host:CPU":
            continue
        kinds = {key: value.display_name for key, value in plane.event_metadata.items()}  # of operations alone
        for line in plane.lines:
            for event in line.events:
                if kind := kinds[event.metadata_id]:
                    seconds, calls = spent.get(kind, (0.0, 0))
                    spent[kind] = seconds + event.duration_ps / 1e12, calls + 1
    return sorted(((kind, *value) for kind, value in spent.items()), key=lambda row: -row[1])


def beside_pytorch(given):
    """The first table."""
    with_pytorch = importlib.util.find_spec("torch") is not None
    precisions = list(dict.fromkeys(["float32", given.precision]))
    ceiling = {p: Work("ceiling", p).measured()["flops"] for p in precisions}
    rates = ", ".join(f"{rate / 1e12:.2f} TFLOP/s in {precision}" for precision, rate in ceiling.items())
    print(f"fastest convolution: {rates}\n")
    print("| size, batch, filters | engine | s a round | images/s | times the better PyTorch | of the ceiling | MB |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for size, batch, filters in given.sizes:
        shape = {"size": size, "batch": batch, "filters": filters}
        shape["repeats"] = given.repeats or (3 if size <= 64 else 1)
        best = None
        works = [Work("pytorch", p, **shape) for p in ("float32", "bfloat16")] if with_pytorch else []
        works += [Work("tensorflow", p, **shape) for p in precisions]
        works += [Work("tensorflow", precisions[-1], rules="paper", **shape)]
        for work in works:
            found = work.measured()
            seconds, ratio, share = found["seconds"], "", ""
            if work.engine == "pytorch":
                best = min(best or seconds, seconds)
                name = f"PyTorch {work.precision}" + (", channels last" if work.precision == "bfloat16" else "")
            else:
                name = f"this program, {work.precision}"
                least = sum(count / ceiling[precision] for precision, count in found["flops"].items())
                share = f"{least / seconds:.0%}"
                if work.rules == "paper":
                    name += ", the paper's rules"
                elif best:
                    ratio = f"{best / seconds:.2f}"
            images = batch * (work.critic_updates + 1) / seconds
            row = f"{size}, {batch}, {filters} | {name} | {seconds:.2f} | {images:.1f} | {ratio} | {share}"
            print(f"| {row} | {found['megabytes']:.0f} |", flush=True)
    if not with_pytorch:
        print("NOT MEASURED: PyTorch (not installed)")


# What differs from `_MIDDLE`, one at a time; one update of the critics a round.
_MIDDLE = {"size": 64, "batch": 10, "filters": 16}
_COSTS = {"size": (64, 128, 256, 512), "batch": (2, 4, 10, 16, 32, 64), "filters": (16, 32, 64)}


def cost(given):
    """Seconds a round and memory over size, batch and filters, against the arithmetic; a plot into a file."""
    rows = []
    print("| size, batch, filters | GFLOP a round | s a round | GFLOP/s | MB |\n|---|---:|---:|---:|---:|")
    for name, values in _COSTS.items():
        for value in values:
            middle = {**_MIDDLE, "batch": 4} if name == "size" else _MIDDLE
            work = Work(precision=given.precision, rules="paper", critic_updates=1, **{**middle, name: value})
            found = work.measured()
            flops = sum(found["flops"].values())
            rows.append((name, value, flops, found["seconds"], found["megabytes"]))
            row = f"{work.size}, {work.batch}, {work.filters} | {flops / 1e9:.0f} | {found['seconds']:.3f}"
            print(f"| {row} | {flops / found['seconds'] / 1e9:.0f} | {found['megabytes']:.0f} |", flush=True)
    if given.plot:
        plot(rows, given.plot)


def plot(rows, file):
    """Seconds against arithmetic, a line for each of what was varied; dashed: as fast as the arithmetic grows."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), constrained_layout=True)
    for name in _COSTS:
        points = [row for row in rows if row[0] == name]
        flops, seconds = [row[2] / 1e9 for row in points], [row[3] for row in points]
        (line,) = axes.loglog(flops, seconds, "o-", label=f"{name} {points[0][1]} to {points[-1][1]}")
        axes.loglog(flops, [seconds[0] * f / flops[0] for f in flops], "--", color=line.get_color(), alpha=0.5)
    axes.set_xlabel("GFLOP a round (one update of either network)")
    axes.set_ylabel("seconds a round")
    axes.legend()
    figure.savefig(file, dpi=120)


def profile(given):
    """The second table: a round's operations."""
    size, batch, filters = given.sizes[0]
    with tempfile.TemporaryDirectory() as folder:
        folder = given.profile_dir or folder
        work = Work(precision=given.precision, size=size, batch=batch, filters=filters, repeats=1, profile=folder)
        seconds = work.measured()["seconds"]
        table = profile_table(folder)
    whole = sum(row[1] for row in table)
    print(f"{size}, {batch}, {filters}, {given.precision}: {seconds:.2f} s a round, {whole:.2f} s in operations\n")
    print("| operation | s | share | calls |\n|---|---:|---:|---:|")
    for kind, spent, calls in table[:15]:
        print(f"| {kind} | {spent:.3f} | {spent / whole:.1%} | {calls} |")


def parse(arguments):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--sizes", nargs="+", type=_shape, default=[(64, 10, 64), (256, 4, 64), (64, 10, 16)])
    parser.add_argument(
        "--repeats", type=int, help="rounds of which the median is taken (default: 3 at 64 pixels, else 1)"
    )
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--plot", help="file of --cost's plot")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--profile_dir", help="folder, kept: tensorboard --logdir=<folder> (pip install xprof)")
    return parser.parse_args(arguments)


def _shape(text):
    """As 64,10,64: size, batch, filters."""
    size, batch, filters = map(int, text.split(","))
    return size, batch, filters


def main(arguments=None):
    """The exit status."""
    given = parse(arguments)
    if given.work:
        print(json.dumps(compute(Work(**json.loads(given.work)))))
        return 0
    from descargan_tf import surroundings

    surroundings.settle()
    with surroundings.loading():
        from descargan_tf.hardware import fast_precision

    given.precision = fast_precision()
    packages = [name for name in ("tensorflow", "torch") if importlib.util.find_spec(name)]
    print(machine.about(*packages), flush=True)
    (profile if given.profile else cost if given.cost else beside_pytorch)(given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
