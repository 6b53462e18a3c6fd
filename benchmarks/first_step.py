"""How long until a training trains: python benchmarks/first_step.py

Starts --mode=train on drawn images in a process of its own, and prints the seconds since its start by part: imports,
the check and loading of the images, networks, and tracing and optimising of the graph, up to the moment at which the
first update begins to compute. configs/synthetic.flags (256x256, 64 and 32 filters), whose first round takes minutes on
a processor, is ended there; configs/quickstart.flags computes its round. Exit status 1 where the former takes longer
than the bound.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machine

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
BOUND_SECONDS = 60  # from the start of the program
PARTS = {
    "imported": "Python, TensorFlow",
    "data": "images checked and loaded",
    "networks": "networks, optimisers",
    "began": "tracing, optimising of the graph",
    "computed": "the first round",
}


def start(flagfile, folder, images, started, whole_round):
    """In this process: train until there is something to say, print it and end."""
    from descargan_tf import surroundings

    surroundings.settle()
    with surroundings.loading():
        import tensorflow as tf

        from descargan_tf.commands import train
        from descargan_tf.run_folder import configure
    from descargan_tf.methods.descargan import DeScarGAN
    from descargan_tf.training.step import TensorFlowEngine

    found = {}

    def happened(what):
        found.setdefault(what, time.time() - started)

    def end():
        os.write(1, json.dumps(found).encode() + b"\n")
        os._exit(0)  # from within the graph, too

    happened("imported")
    seed, losses, rounds = train.seed_initial_weights, DeScarGAN.losses, TensorFlowEngine.rounds

    def seeded(config):
        happened("data")
        seed(config)

    def marked(images):
        happened("began")
        if not whole_round:
            end()
        return images

    def losses_marked(self, phase, batch, draws, input_gradient):
        healthy = tf.py_function(marked, [batch.healthy], tf.float32)
        healthy.set_shape(batch.healthy.shape)
        return losses(self, phase, batch._replace(healthy=healthy), draws, input_gradient)

    def rounds_timed(self, factors):
        happened("networks")
        rounds(self, factors[:1])
        happened("computed")
        end()

    train.seed_initial_weights, DeScarGAN.losses, TensorFlowEngine.rounds = seeded, losses_marked, rounds_timed
    name = Path(flagfile).stem
    flags = [f"--flagfile={ROOT}/{flagfile}", f"--data_dir={folder}/{name}", f"--run_dir={folder}/{name}_run"]
    train.train(configure(["first_step", "--mode=train", *flags, f"--num_train={images}", "--precision=auto"]))


def measured(flagfile, folder, images, whole_round):
    """Seconds since the start of a process, by what happened."""
    draw = [f"--flagfile={ROOT}/{flagfile}", f"--data_dir={folder}/{Path(flagfile).stem}", f"--num_train={images}"]
    command = [sys.executable, "-m", "descargan_tf.main", *draw, "--mode=generate"]
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    given = {"flagfile": flagfile, "folder": folder, "images": images, "whole_round": whole_round}
    given["started"] = time.time()
    command = [sys.executable, __file__, "--start", json.dumps(given)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="training images of each class")
    parser.add_argument("--start", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.start:
        start(**json.loads(arguments.start))
    found = {}
    for flagfile, whole_round in (("configs/synthetic.flags", False), ("configs/quickstart.flags", True)):
        with tempfile.TemporaryDirectory() as folder:
            found[flagfile] = measured(flagfile, folder, arguments.images, whole_round)
    print(machine.about("tensorflow", "keras", "numpy"))
    print(f"Seconds, {arguments.images} training images of each class\n\n| | {' | '.join(found)} |\n|---|---:|---:|")
    before = dict.fromkeys(found, 0.0)
    for what, title in PARTS.items():
        cells = []
        for name, times in found.items():
            cells.append(f"{times[what] - before[name]:.1f}" if what in times else "")
            before[name] = times.get(what, 0.0)
        print(f"| {title} | {' | '.join(cells)} |")
    all_of_it = " | ".join(f"{times['began']:.1f}" for times in found.values())
    print(f"| until the first update computes | {all_of_it} |")
    began = found["configs/synthetic.flags"]["began"]
    if began > BOUND_SECONDS:
        print(f"MISSED: {began:.0f} s, more than {BOUND_SECONDS} s")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
