"""Where the time of an evaluation goes: python benchmarks/evaluation.py

Draws images, makes a run folder with a network of the paper's size (the published weights) and
evaluates it by --mode=evaluate: predictions, both protocols, bootstrap, figures, report. Prints seconds by part and the
largest memory of the process; exit status 1 where 400 test images take longer than the bound.

    --checkpoint=pretrained/synthetic256    published weights in place of the run
"""

import argparse
import contextlib
import functools
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machine

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
BOUND_SECONDS = 90  # of 400 images at 256x256 on two cores
WEIGHTS = ROOT / "pretrained" / "synthetic256"


class Clock:
    """Seconds by part; what a part calls of another part counts there alone."""

    def __init__(self):
        self.seconds, self._open = {}, []

    def of(self, part, function):
        """The same function, timed."""

        @functools.wraps(function)
        def timed(*args, **kwargs):
            started = time.perf_counter()
            self._open.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                took = time.perf_counter() - started
                self.seconds[part] = self.seconds.get(part, 0.0) + took - self._open.pop()
                if self._open:
                    self._open[-1] += took

        return timed


def make_run(arguments, folder):
    """A run folder as a training leaves it, in a process of its own: its memory is not the evaluation's."""
    from descargan_tf import surroundings

    surroundings.settle()
    with surroundings.loading():
        from descargan_tf import flags, run_folder
    from descargan_tf.hardware import fast_precision
    from descargan_tf.training import checkpoint
    from descargan_tf.training.engine import state_arrays

    precision = fast_precision() if arguments.precision == "auto" else arguments.precision
    config = run_folder.configure(
        [
            "evaluation",
            f"--flagfile={ROOT}/configs/synthetic.flags",
            *data_flags(arguments, folder),
            f"--run_dir={folder}/run",
            f"--init_from={WEIGHTS}",
            "--discriminator_activation=leaky_relu",
            f"--precision={precision}",
        ]
    )
    method, _ = run_folder.begun(config)
    run_dir = run_folder.make(config)
    (run_dir / run_folder.RUN_FLAGS).write_text(flags.lines(config))
    (run_dir / run_folder.DATA_FACTS).write_text(json.dumps({"scaling": [-1, 1], "dtype": "float32"}))
    arrays = state_arrays(method, method.networks[method.averaged], {})
    checkpoint.save(run_dir / run_folder.CHECKPOINTS / "best", arrays, {"step": 0})


def data_flags(arguments, folder):
    """The synthetic images of both splits."""
    validate = 0 if arguments.checkpoint else arguments.validate
    counts = ["--num_train=1", f"--num_validate={validate}", f"--num_test={arguments.test}"]
    return ["--dataset=synthetic", f"--data_dir={folder}/data", f"--image_size={arguments.size}", *counts]


def evaluate(arguments, folder):
    """Seconds by part, "all" among them."""
    clock, started = Clock(), time.perf_counter()
    from descargan_tf import surroundings

    surroundings.settle()
    with surroundings.loading():
        from descargan_tf import run_folder
        from descargan_tf.commands import evaluate as command
    from descargan_tf.data.dataset import Dataset
    from descargan_tf.evaluation import decisions, evaluator, figures, metrics, report

    clock.seconds["start: Python, TensorFlow"] = time.perf_counter() - started
    parts = {
        "networks and weights": [(run_folder, "restore")],
        "images: check, read": [(run_folder, "prepare"), (Dataset, "load")],
        "predictions": [(command, "_predicted")],
        "thresholds": [(evaluator, "calibrate"), (decisions, "choose")],
        "measures": [(evaluator, "evaluate_split")],
        "bootstrap": [(metrics, "bootstrap_interval"), (metrics, "bootstrap_image_level")],
        "figures and report": [(figures, "draw_all"), (figures, "write_samples"), (report, "write_report")],
    }
    for part, places in parts.items():
        for place, name in places:
            setattr(place, name, clock.of(part, getattr(place, name)))
    if arguments.checkpoint:
        chosen = [f"--checkpoint={arguments.checkpoint}", f"--run_dir={folder}/run", *data_flags(arguments, folder)]
        if arguments.precision != "auto":
            chosen.append(f"--precision={arguments.precision}")
    else:
        chosen = ["--checkpoint=best", f"--run_dir={folder}/run"]
    config = run_folder.configure(["evaluation", "--mode=evaluate", *chosen])
    with contextlib.redirect_stdout(io.StringIO()):
        command.evaluate(config)
    everything = time.perf_counter() - started
    clock.seconds["rest"] = everything - sum(clock.seconds.values())
    return clock.seconds | {"all": everything}, config.precision


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="pixels a side")
    parser.add_argument("--test", type=int, default=200, help="test images of each class")
    parser.add_argument("--validate", type=int, default=20, help="validation images of each class, for the thresholds")
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--checkpoint", default="", help="published weights")
    parser.add_argument("--make_run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make_run:
        make_run(arguments, arguments.make_run)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        draw = [sys.executable, "-m", "descargan_tf.main", "--mode=generate", *data_flags(arguments, folder)]
        subprocess.run(draw, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        if not arguments.checkpoint:
            subprocess.run([sys.executable, __file__, *sys.argv[1:], f"--make_run={folder}"], check=True)
        seconds, precision = evaluate(arguments, folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(machine.about("tensorflow", "keras", "numpy"))
    count = 2 * arguments.test
    print(f"{count} test images of {arguments.size}x{arguments.size}, {precision}\n\n| part | seconds |\n|---|---:|")
    print("\n".join(f"| {part} | {value:.1f} |" for part, value in seconds.items()))
    print(f"\n{1000 * seconds['predictions'] / count:.0f} ms of prediction an image; at most {peak:,.0f} MiB of memory")
    if count == 400 and arguments.size == 256 and seconds["all"] > BOUND_SECONDS:
        print(f"MISSED: {seconds['all']:.0f} s, more than {BOUND_SECONDS} s")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
